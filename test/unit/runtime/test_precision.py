# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Mixed precision on the CPU, which uses bfloat16 as half precision, against loops written out here."""

import copy

import pytest
import torch
from conftest import TINY, random_net, weights_of
from torch import Tensor, nn

import archs
import options
import train as train_script
from runtime import precision_levels
from runtime.distributed import Runtime, init_runtime
from runtime.precision import adam, choose_opt_level, prepare
from runtime.precision_levels import Precision, to_half

CPU = init_runtime("cpu")
LEVELS = ("O0", "O1", "O2", "O3")


def small_net() -> nn.Module:
    """Return a small net of the same kinds of layers as the real ones."""
    torch.manual_seed(1)
    convolutions = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
    return nn.Sequential(
        convolutions[0], nn.BatchNorm2d(8), nn.ReLU(), convolutions[1], nn.BatchNorm2d(4), nn.ReLU(), convolutions[2]
    )


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of 4 random images and masks."""
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(4, 3, 8, 8, generator=generator), torch.rand(4, 1, 8, 8, generator=generator).round())
        for _ in range(count)
    ]


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(output, target)


def prepared(level: str, model: nn.Module, loss_scale: float = 128.0, kind: type = torch.optim.Adam) -> Precision:
    """Return the model prepared for a level, with a new optimizer."""
    return prepare(model, kind(model.parameters(), lr=1e-2), CPU, level, loss_scale)


def train(precision: Precision, data: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Do a step for each batch; returns the losses."""
    losses = []
    for images, target in data:
        loss = loss_of(precision.model(images), target)
        precision.step(loss)
        losses.append(loss.item())
    return losses


def changing_tensors(precision: Precision) -> list[Tensor]:
    """Return copies of all tensors that a step can change."""
    state = precision.optimizer.state_dict()["state"]
    tensors = [*precision.model.parameters(), *precision.weights().values()]
    tensors += [value for own in state.values() for value in own.values()]
    return [tensor.detach().clone() for tensor in tensors if isinstance(tensor, Tensor)]


def equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(x, y) for x, y in zip(some, others))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_o2_steps_on_fp32_masters(kind):
    precision = prepared("O2", small_net(), kind=kind)
    # the reference has two nets: one holds the fp32 masters, the other computes
    masters, computing = small_net(), small_net()
    for module in computing:
        if isinstance(module, nn.Conv2d):
            module.to(torch.bfloat16)
    optimizer = kind(masters.parameters(), lr=1e-2)
    for images, target in batches(6):
        output = computing(images.bfloat16()).float()
        computing.zero_grad()
        (loss_of(output, target) * 128).backward()
        for master, own in zip(masters.parameters(), computing.parameters()):
            master.grad = own.grad.float() / 128
        optimizer.step()
        with torch.no_grad():
            for master, own in zip(masters.parameters(), computing.parameters()):
                own.copy_(master)

        train(precision, [(images, target)])
        found = precision.weights()
        for name, master in masters.named_parameters():
            assert torch.equal(found[name], master), name
        assert equal(list(precision.model.parameters()), list(computing.parameters()))
    assert not torch.equal(precision.model[0].weight.float(), masters[0].weight), "the weights are rounded"


def test_o2_types():
    precision = prepared("O2", archs.UNet(1, 3))
    for name, module in precision.model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.dtype == module.bias.dtype == torch.bfloat16, name
        elif isinstance(module, nn.BatchNorm2d):
            tensors = module.weight, module.bias, module.running_mean, module.running_var
            assert {tensor.dtype for tensor in tensors} == {torch.float32}, name
    optimized = {p.dtype for group in precision.optimizer.param_groups for p in group["params"]}
    assert optimized == {torch.float32} and precision.model(torch.rand(2, 3, 16, 16)).dtype == torch.float32
    assert {v.dtype for v in precision.weights().values()} == {torch.float32, torch.int64}
    assert precision.weights().keys() == archs.UNet(1, 3).state_dict().keys()


def test_o0_is_plain_training_bit_for_bit():
    torch.manual_seed(3)
    model = archs.UNet(1, 3)
    reference = copy.deepcopy(model)
    data = [(torch.rand(2, 3, 16, 16), torch.rand(2, 1, 16, 16).round()) for _ in range(3)]
    precision = prepare(model, adam(model.parameters(), CPU, "O0", lr=1e-3, weight_decay=1e-4), CPU, "O0", 128.0)
    losses = train(precision, data)
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3, weight_decay=1e-4)
    for (images, target), loss in zip(data, losses):
        optimizer.zero_grad()
        expected = loss_of(reference(images), target)
        expected.backward()
        optimizer.step()
        assert expected.item() == loss
    assert all(torch.equal(value, precision.weights()[name]) for name, value in reference.state_dict().items())
    assert precision.state_dict() == {}


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("loss_scale", [128.0, -1.0])
def test_an_overflow_changes_nothing_but_a_dynamic_scale(level, loss_scale):
    precision = prepared(level, small_net(), loss_scale)
    data = batches(4)
    train(precision, data[:2])
    images, target = data[2]
    loss = loss_of(precision.model(images), target)
    before, scale = changing_tensors(precision), precision.state_dict()["loss_scaler0"]["loss_scale"]
    assert scale == (128.0 if loss_scale == 128 else 2.0**16)
    skipped = precision.step(loss + precision.model[-1].bias.float().sum() * 1e39)  # a single gradient overflows
    assert skipped == 1 and equal(before, changing_tensors(precision))
    state = precision.state_dict()["loss_scaler0"]
    assert state == {"loss_scale": scale if loss_scale == 128 else scale / 2, "unskipped": 0}
    images, target = data[3]
    assert precision.step(loss_of(precision.model(images), target)) == 0
    assert not equal(before, changing_tensors(precision))


class Accelerator(Runtime):
    """Computes on the CPU, but claims that reading a number would wait for the device."""

    is_accelerator, half_dtype = True, torch.bfloat16


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("overflowing", [0, 2])
def test_an_accelerator_undoes_the_step_that_the_cpu_leaves_out(level, kind, overflowing):
    """Also if it is the first step, after which the optimizer has a state; the next steps are the same."""
    found = []
    for device in (CPU, Accelerator(torch.device("cpu"))):
        model = small_net()
        settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        precision = prepare(model, kind(model.parameters(), lr=1e-2, **settings), device, level, 128.0)
        skipped = []
        for step, (images, target) in enumerate(batches(5)):
            loss = loss_of(precision.model(images), target)
            if step == overflowing:
                loss = loss + precision.model[-1].bias.float().sum() * 1e39
            skipped.append(int(precision.step(loss)))
        assert skipped == [int(step == overflowing) for step in range(5)]
        assert precision.state_dict()["loss_scaler0"]["unskipped"] == 4 - overflowing
        found.append(changing_tensors(precision))
    assert equal(*found)


def test_a_dynamic_scale_doubles_after_clean_steps(monkeypatch):
    monkeypatch.setattr(precision_levels, "GROWTH_INTERVAL", 3)
    precision = prepared("O1", small_net(), -1.0)
    seen = []
    for batch in batches(7):
        train(precision, [batch])
        seen.append(precision.state_dict()["loss_scaler0"])
    assert [own["loss_scale"] / 2**16 for own in seen] == [1, 1, 2, 2, 2, 4, 4]
    assert [own["unskipped"] for own in seen] == [1, 2, 0, 1, 2, 0, 1]


def test_a_dynamic_scale_has_a_maximum(monkeypatch):
    monkeypatch.setattr(precision_levels, "GROWTH_INTERVAL", 1)
    precision = prepared("O2", small_net(), -1.0)
    train(precision, batches(1) * 10)
    assert precision.state_dict()["loss_scaler0"] == {"loss_scale": 2.0**24, "unskipped": 0}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_scale", [128.0, -1.0])
def test_training_continues_from_its_state_bit_for_bit(level, loss_scale):
    data = batches(6)
    precision = prepared(level, small_net(), loss_scale)
    train(precision, data[:3])
    weights, optimizer, scale = copy.deepcopy(
        (precision.weights(), precision.optimizer.state_dict(), precision.state_dict())
    )
    losses = train(precision, data[3:])

    model = small_net()
    model.load_state_dict(weights)
    resumed = prepared(level, model, loss_scale)
    resumed.optimizer.load_state_dict(optimizer)
    resumed.load_state_dict(scale)
    assert resumed.state_dict() == scale
    assert train(resumed, data[3:]) == losses and equal(changing_tensors(precision), changing_tensors(resumed))


def test_o3_is_half_throughout():
    precision = prepared("O3", small_net())
    train(precision, batches(2))
    assert {p.dtype for p in precision.model.state_dict().values()} == {torch.bfloat16, torch.int64}
    assert precision.model(batches(1)[0][0]).dtype == torch.float32
    assert {v.dtype for v in precision.weights().values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_mixed_precision_learns_like_fp32(level):
    """The losses of 30 steps on one batch are close to those of O0."""
    data = batches(1) * 30
    found, expected = train(prepared(level, small_net()), data), train(prepared("O0", small_net()), data)
    assert expected[-1] < 0.9 * expected[0] and found[-1] == pytest.approx(expected[-1], rel=0.03)


def test_all_heads_of_deep_supervision_give_fp32():
    for level in LEVELS:
        net = archs.NestedUNet(1, 3, deep_supervision=True)
        output = prepared(level, net).model(torch.rand(2, 3, 16, 16))
        assert [head.dtype for head in output] == [torch.float32] * 4, level


@pytest.mark.parametrize(
    "amp, precision_mode, level",
    [
        (None, "allow_mix_precision", "O0"),
        (True, "allow_mix_precision", "O2"),
        (False, "allow_mix_precision", "O0"),
        (None, "must_keep_origin_dtype", "O0"),
    ],
)
def test_level_on_the_cpu(amp, precision_mode, level):
    assert choose_opt_level(amp, "O2", precision_mode, CPU) == level


@pytest.mark.usefixtures("narrow", "unplotted")
def test_a_level_can_continue_from_the_checkpoint_of_another(home, capsys):
    """The file always holds fp32 weights."""
    flags = ["inputs/discs", *TINY, "--batch_size", "6", "--name", "run", "--amp", "--scheduler", "ConstantLR"]
    checkpoint = home / "models" / "run" / "checkpoint.pth.tar"
    for epoch, level in enumerate(("O2", "O0", "O1", "O2", "O3"), 1):
        more = ("--resume", str(checkpoint)) if epoch > 1 else ()
        train_script.main(options.parse_train([*flags, "--opt-level", level, "--epochs", str(epoch), *more]))
        assert f"UNet on cpu, {'fp32' if level == 'O0' else level + ', bfloat16'}" in capsys.readouterr().out
        state = torch.load(checkpoint, weights_only=True)
        assert state["epoch"] == epoch and ("amp" in state) == (level != "O0")
        assert {value.dtype for value in weights_of(checkpoint).values()} == {torch.float32, torch.int64}
    steps = torch.load(checkpoint, weights_only=True)["optimizer"]["state"][0]["step"]
    assert int(steps) == 10, "the optimizer's steps of all five epochs"


def test_the_amp_entry_of_the_old_edition_is_loaded():
    precision = prepared("O2", small_net(), -1.0)
    precision.load_state_dict({"loss_scaler0": {"loss_scale": 4096.0, "unskipped": 2003}})
    train(precision, batches(1))
    assert precision.state_dict() == {"loss_scaler0": {"loss_scale": 4096.0, "unskipped": 4}}
    static = prepared("O2", small_net(), 128.0)
    static.load_state_dict({"loss_scaler0": {"loss_scale": 4096.0, "unskipped": 2003}})
    assert static.state_dict()["loss_scaler0"]["loss_scale"] == 128.0, "a static scale is that of this run's flag"


@pytest.mark.usefixtures("narrow")
def test_to_half_computes_in_half_precision():
    """Against rounded weights: convolutions in bfloat16, BatchNorm in fp32, outputs in fp32."""
    model, images = random_net(), torch.randn(2, 3, 32, 32)
    expected = model(images)
    half = to_half(copy.deepcopy(model), CPU)
    for name, module in half.named_modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            dtype = torch.bfloat16 if isinstance(module, nn.Conv2d) else torch.float32
            assert module.weight.dtype == module.bias.dtype == dtype, name
    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data, module.bias.data = module.weight.bfloat16().float(), module.bias.bfloat16().float()
    found = half(images)
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    # the activations are rounded to eight bits too
    torch.testing.assert_close(found, rounded(images), rtol=0, atol=0.02 * expected.abs().max().item())


@pytest.mark.parametrize(
    "capabilities, warns", [({"avx512_bf16": True}, False), ({"bf16": True}, False), ({"avx2": True}, True)]
)
def test_slow_half_precision_is_warned_of(capabilities, warns, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    for level in ("O0", "O2"):
        model = nn.Conv2d(3, 1, 1)
        prepare(model, torch.optim.Adam(model.parameters()), CPU, level, 128.0)
        warned = "mixed precision is slower than fp32 here" in capsys.readouterr().out
        assert warned == (warns and level != "O0")
