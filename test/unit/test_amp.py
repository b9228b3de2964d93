"""Mixed precision on the CPU, where half is bfloat16, against loops written out here."""

import copy

import pytest
import torch
from conftest import random_net, weights_of
from torch import nn

import amp
import archs
import options
import runtime as rt
import train as train_script

CPU = rt.init("cpu")
LEVELS = ("O0", "O1", "O2", "O3")


def small_net() -> nn.Module:
    """What the nets are made of, in small."""
    torch.manual_seed(1)
    convolutions = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
    return nn.Sequential(
        convolutions[0], nn.BatchNorm2d(8), nn.ReLU(), convolutions[1], nn.BatchNorm2d(4), nn.ReLU(), convolutions[2]
    )


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draws = torch.Generator().manual_seed(2)
    return [
        (torch.randn(4, 3, 8, 8, generator=draws), torch.rand(4, 1, 8, 8, generator=draws).round())
        for _ in range(count)
    ]


def loss_of(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(output, target)


def prepared(level: str, model: nn.Module, loss_scale: float = 128.0, kind: type = torch.optim.Adam) -> amp.Precision:
    return amp.prepare(model, kind(model.parameters(), lr=1e-2), CPU, level, loss_scale)


def train(precision: amp.Precision, data) -> list[float]:
    losses = []
    for images, target in data:
        loss = loss_of(precision.model(images), target)
        precision.step(loss)
        losses.append(loss.item())
    return losses


def everything(precision: amp.Precision) -> list[torch.Tensor]:
    """Copies of all that a step can change."""
    state = precision.optimizer.state_dict()["state"]
    tensors = [*precision.model.parameters(), *precision.weights().values()]
    tensors += [value for own in state.values() for value in own.values()]
    return [tensor.detach().clone() for tensor in tensors if isinstance(tensor, torch.Tensor)]


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(x, y) for x, y in zip(some, others))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_o2_is_a_loop_over_fp32_masters(kind):
    precision = prepared("O2", small_net(), kind=kind)
    # the reference: one net in fp32 that holds the masters, one that computes
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
            kept = module.weight, module.bias, module.running_mean, module.running_var
            assert {tensor.dtype for tensor in kept} == {torch.float32}, name
    stepped_on = {p.dtype for group in precision.optimizer.param_groups for p in group["params"]}
    assert stepped_on == {torch.float32} and precision.model(torch.rand(2, 3, 16, 16)).dtype == torch.float32
    assert {v.dtype for v in precision.weights().values()} == {torch.float32, torch.int64}
    assert precision.weights().keys() == archs.UNet(1, 3).state_dict().keys()


def test_o0_is_plain_training_bit_for_bit():
    torch.manual_seed(3)
    one = archs.UNet(1, 3)
    other, data = copy.deepcopy(one), [(torch.rand(2, 3, 16, 16), torch.rand(2, 1, 16, 16).round()) for _ in range(3)]
    precision = amp.prepare(one, amp.adam(one.parameters(), CPU, "O0", lr=1e-3, weight_decay=1e-4), CPU, "O0", 128.0)
    losses = train(precision, data)
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-3, weight_decay=1e-4)
    for (images, target), loss in zip(data, losses):
        optimizer.zero_grad()
        expected = loss_of(other(images), target)
        expected.backward()
        optimizer.step()
        assert expected.item() == loss
    assert all(torch.equal(value, precision.weights()[name]) for name, value in other.state_dict().items())
    assert precision.state_dict() == {}


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("loss_scale", [128.0, -1.0])
def test_an_overflow_changes_nothing_but_the_dynamic_scale(level, loss_scale):
    precision = prepared(level, small_net(), loss_scale)
    data = batches(4)
    train(precision, data[:2])
    images, target = data[2]
    loss = loss_of(precision.model(images), target)
    before, scale = everything(precision), precision.state_dict()["loss_scaler0"]["loss_scale"]
    assert scale == (128.0 if loss_scale == 128 else 2.0**16)
    skipped = precision.step(loss + precision.model[-1].bias.float().sum() * 1e39)  # of all gradients one overflows
    assert skipped == 1 and equal(before, everything(precision))
    state = precision.state_dict()["loss_scaler0"]
    assert state == {"loss_scale": scale if loss_scale == 128 else scale / 2, "unskipped": 0}
    (batch,) = data[3:]
    assert precision.step(loss_of(precision.model(batch[0]), batch[1])) == 0
    assert not equal(before, everything(precision))


def test_a_dynamic_scale_doubles_after_clean_steps(monkeypatch):
    monkeypatch.setattr(amp, "CLEAN_STEPS_TO_GROW", 3)
    precision = prepared("O1", small_net(), -1.0)
    seen = []
    for batch in batches(7):
        train(precision, [batch])
        seen.append(precision.state_dict()["loss_scaler0"])
    assert [own["loss_scale"] / 2**16 for own in seen] == [1, 1, 2, 2, 2, 4, 4]
    assert [own["unskipped"] for own in seen] == [1, 2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_scale", [128.0, -1.0])
def test_a_run_goes_on_from_its_state_as_if_nothing_had_happened(level, loss_scale):
    data = batches(6)
    precision = prepared(level, small_net(), loss_scale)
    train(precision, data[:3])
    saved = copy.deepcopy((precision.weights(), precision.optimizer.state_dict(), precision.state_dict()))
    losses = train(precision, data[3:])

    model = small_net()
    model.load_state_dict(saved[0])
    again = prepared(level, model, loss_scale)
    again.optimizer.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    assert again.state_dict() == saved[2]
    assert train(again, data[3:]) == losses and equal(everything(precision), everything(again))


def test_a_dynamic_scale_has_a_highest(monkeypatch):
    monkeypatch.setattr(amp, "CLEAN_STEPS_TO_GROW", 1)
    precision = prepared("O2", small_net(), -1.0)
    train(precision, batches(1) * 10)
    assert precision.state_dict()["loss_scaler0"] == {"loss_scale": 2.0**24, "unskipped": 0}


def test_o3_is_half_throughout():
    precision = prepared("O3", small_net())
    train(precision, batches(2))
    assert {p.dtype for p in precision.model.state_dict().values()} == {torch.bfloat16, torch.int64}
    assert precision.model(batches(1)[0][0]).dtype == torch.float32
    assert {v.dtype for v in precision.weights().values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_mixed_precision_learns_what_fp32_learns(level):
    """Losses of 30 steps on one batch, against O0's."""
    data = batches(1) * 30
    found, expected = train(prepared(level, small_net()), data), train(prepared("O0", small_net()), data)
    assert expected[-1] < 0.9 * expected[0] and found[-1] == pytest.approx(expected[-1], rel=0.03)


def test_deep_supervision_gives_fp32_heads():
    for level in LEVELS:
        net = archs.NestedUNet(1, 3, deep_supervision=True)
        output = prepared(level, net).model(torch.rand(2, 3, 16, 16))
        assert [head.dtype for head in output] == [torch.float32] * 4, level


@pytest.mark.parametrize(
    "wanted, mode, on_cpu",
    [
        (None, "allow_mix_precision", "O0"),
        (True, "allow_mix_precision", "O2"),
        (False, "allow_mix_precision", "O0"),
        (None, "must_keep_origin_dtype", "O0"),
    ],
)
def test_level(wanted, mode, on_cpu):
    assert amp.choose_level(wanted, "O2", mode, CPU) == on_cpu


@pytest.mark.usefixtures("narrow", "unplotted")
def test_checkpoints_pass_between_levels(home, capsys):
    """Each level goes on from what another left; the file always holds fp32 weights."""
    flags = [
        "inputs/discs",
        "--input_h",
        "16",
        "--input_w",
        "16",
        "-b",
        "6",
        "--num_workers",
        "0",
        "--name",
        "run",
        "--amp",
        "--scheduler",
        "ConstantLR",
    ]
    checkpoint = home / "models" / "run" / "checkpoint.pth.tar"
    for epoch, level in enumerate(("O2", "O0", "O1", "O2", "O3"), 1):
        more = ("--resume", str(checkpoint)) if epoch > 1 else ()
        train_script.main(
            options.parse_train([*flags, "--name", "run", "--opt-level", level, "--epochs", str(epoch), *more])
        )
        assert f"UNet on cpu, {'fp32' if level == 'O0' else level + ', bfloat16'}" in capsys.readouterr().out
        state = torch.load(checkpoint, weights_only=True)
        assert state["epoch"] == epoch and ("amp" in state) == (level != "O0")
        assert {value.dtype for value in weights_of(checkpoint).values()} == {torch.float32, torch.int64}
    clean = torch.load(checkpoint, weights_only=True)["optimizer"]["state"][0]["step"]
    assert int(clean) == 10, "the optimiser's steps of all five epochs"


def test_an_amp_entry_of_the_old_edition_is_taken_over():
    precision = prepared("O2", small_net(), -1.0)
    precision.load_state_dict({"loss_scaler0": {"loss_scale": 4096.0, "unskipped": 2003}})
    train(precision, batches(1))
    assert precision.state_dict() == {"loss_scaler0": {"loss_scale": 4096.0, "unskipped": 4}}
    static = prepared("O2", small_net(), 128.0)
    static.load_state_dict({"loss_scaler0": {"loss_scale": 4096.0, "unskipped": 2003}})
    assert static.state_dict()["loss_scaler0"]["loss_scale"] == 128.0, "a static scale is this run's flag"


@pytest.mark.usefixtures("narrow")
def test_halved_net_computes_in_half_precision():
    """Against rounding written out: convolutions of bfloat16 numbers, BatchNorm of fp32 ones, outputs fp32."""
    model, images = random_net(), torch.randn(2, 3, 32, 32)
    expected = model(images)
    halved = amp.halve(copy.deepcopy(model), CPU)
    for name, module in halved.named_modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            wanted = torch.bfloat16 if isinstance(module, nn.Conv2d) else torch.float32
            assert module.weight.dtype == module.bias.dtype == wanted, name
    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data, module.bias.data = module.weight.bfloat16().float(), module.bias.bfloat16().float()
    found = halved(images)
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    # each activation is rounded besides, to eight bits
    torch.testing.assert_close(found, rounded(images), rtol=0, atol=0.02 * expected.abs().max().item())


@pytest.mark.parametrize(
    "multiplies, warned", [({"avx512_bf16": True}, False), ({"bf16": True}, False), ({"avx2": True}, True)]
)
def test_slow_half_precision_is_told_of(multiplies, warned, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: multiplies)
    for level in ("O0", "O2"):
        model = nn.Conv2d(3, 1, 1)
        amp.prepare(model, torch.optim.Adam(model.parameters()), CPU, level, 128.0)
        told = "mixed precision is slower than fp32 here" in capsys.readouterr().out
        assert told == (warned and level != "O0")
