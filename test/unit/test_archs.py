# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The models against a second, explicit forward pass, and their parameter names, on which old checkpoints depend."""

import pytest
import torch
import torch.nn.functional as F

import archs
from archs import NestedUNet, UNet

ENCODER = ["conv0_0", "conv1_0", "conv2_0", "conv3_0", "conv4_0"]
UNET_BLOCKS = [*ENCODER, "conv3_1", "conv2_2", "conv1_3", "conv0_4"]
NESTED_BLOCKS = [
    *ENCODER,
    *["conv0_1", "conv1_1", "conv2_1", "conv3_1"],
    *["conv0_2", "conv1_2", "conv2_2"],
    *["conv0_3", "conv1_3"],
    "conv0_4",
]
HEADS = ["final1", "final2", "final3", "final4"]
# class, deep supervision, blocks, heads, parameters for 1 class and 3 channels
NETS = [
    pytest.param(UNet, False, UNET_BLOCKS, ["final"], 7_852_545, id="UNet"),
    pytest.param(NestedUNet, False, NESTED_BLOCKS, ["final"], 9_163_329, id="NestedUNet"),
    pytest.param(NestedUNet, True, NESTED_BLOCKS, HEADS, 9_163_428, id="NestedUNet-deep"),
]


def block(weights: dict, name: str, x: torch.Tensor, training: bool) -> torch.Tensor:
    for k in (1, 2):
        x = F.conv2d(x, weights[f"{name}.conv{k}.weight"], weights[f"{name}.conv{k}.bias"], padding=1)
        mean, var = weights[f"{name}.bn{k}.running_mean"], weights[f"{name}.bn{k}.running_var"]
        scale, shift = weights[f"{name}.bn{k}.weight"], weights[f"{name}.bn{k}.bias"]
        if training:  # the batch's own statistics
            mean = var = None
        x = F.relu(F.batch_norm(x, mean, var, scale, shift, training=training, eps=1e-5))
    return x


def down(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, kernel_size=2, stride=2)


def up(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="bilinear", align_corners=True)


def head(weights: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def unet(w: dict, x: torch.Tensor, training: bool) -> list[torch.Tensor]:
    a = block(w, "conv0_0", x, training)
    b = block(w, "conv1_0", down(a), training)
    c = block(w, "conv2_0", down(b), training)
    d = block(w, "conv3_0", down(c), training)
    e = block(w, "conv4_0", down(d), training)
    d = block(w, "conv3_1", torch.cat((d, up(e)), dim=1), training)
    c = block(w, "conv2_2", torch.cat((c, up(d)), dim=1), training)
    b = block(w, "conv1_3", torch.cat((b, up(c)), dim=1), training)
    a = block(w, "conv0_4", torch.cat((a, up(b)), dim=1), training)
    return [head(w, "final", a)]


def nested_unet(w: dict, x: torch.Tensor, training: bool) -> list[torch.Tensor]:
    a0 = block(w, "conv0_0", x, training)
    b0 = block(w, "conv1_0", down(a0), training)
    c0 = block(w, "conv2_0", down(b0), training)
    d0 = block(w, "conv3_0", down(c0), training)
    e0 = block(w, "conv4_0", down(d0), training)
    a1 = block(w, "conv0_1", torch.cat((a0, up(b0)), dim=1), training)
    b1 = block(w, "conv1_1", torch.cat((b0, up(c0)), dim=1), training)
    c1 = block(w, "conv2_1", torch.cat((c0, up(d0)), dim=1), training)
    d1 = block(w, "conv3_1", torch.cat((d0, up(e0)), dim=1), training)
    a2 = block(w, "conv0_2", torch.cat((a0, a1, up(b1)), dim=1), training)
    b2 = block(w, "conv1_2", torch.cat((b0, b1, up(c1)), dim=1), training)
    c2 = block(w, "conv2_2", torch.cat((c0, c1, up(d1)), dim=1), training)
    a3 = block(w, "conv0_3", torch.cat((a0, a1, a2, up(b2)), dim=1), training)
    b3 = block(w, "conv1_3", torch.cat((b0, b1, b2, up(c2)), dim=1), training)
    a4 = block(w, "conv0_4", torch.cat((a0, a1, a2, a3, up(b3)), dim=1), training)
    if "final1.weight" in w:
        return [head(w, name, a) for name, a in zip(HEADS, (a1, a2, a3, a4))]
    return [head(w, "final", a4)]


def randomize(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Set every parameter and statistic to random values: the initial ones of BatchNorm would hide swapped layers."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if value.ndim == 4:
            noise *= (2 / value[0].numel()) ** 0.5  # keeps the size of activations from layer to layer
        elif name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
            noise = 0.5 + noise.abs()
        value.copy_(noise)
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize("cls, deep, blocks, heads, count", NETS)
def test_parameters(cls: type, deep: bool, blocks: list[str], heads: list[str], count: int) -> None:
    """Names and their order: the optimizer state in an old checkpoint belongs to parameters by position."""
    model = cls(1, deep_supervision=deep)
    assert sum(p.numel() for p in model.parameters()) == count
    layers = [f"{name}.{layer}" for name in blocks for layer in ("conv1", "bn1", "conv2", "bn2")] + heads
    assert [name for name, _ in model.named_parameters()] == [f"{x}.{y}" for x in layers for y in ("weight", "bias")]
    buffers = [f"{x}.{y}" for x in layers if ".bn" in x for y in ("running_mean", "running_var", "num_batches_tracked")]
    assert [name for name, _ in model.named_buffers()] == buffers
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()} | set(buffers)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("cls, deep, blocks, heads, count", NETS)
def test_forward(cls: type, deep: bool, blocks: list[str], heads: list[str], count: int, training: bool) -> None:
    model = cls(2, 4, deep_supervision=deep).double().train(training)
    weights = randomize(model, seed=len(blocks) + len(heads))
    x = torch.randn(2, 4, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        output = model(x)
        expected = (unet if cls is UNet else nested_unet)(weights, x, training)
    assert isinstance(output, list if deep else torch.Tensor)
    outputs = output if deep else [output]
    assert len(outputs) == len(expected) == len(heads)
    for ours, theirs in zip(outputs, expected):
        assert ours.shape == (2, 2, 32, 48)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert theirs.std() > 0.01  # constant outputs would prove nothing


@pytest.mark.parametrize("cls, deep, blocks, heads, count", NETS)
def test_every_parameter_is_used(cls: type, deep: bool, blocks: list[str], heads: list[str], count: int) -> None:
    model = cls(1, deep_supervision=deep)
    output = model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    sum(x.square().sum() for x in (output if deep else [output])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    # BatchNorm cancels the bias of the convolution before it; all other gradients must not be zero
    zero = {name for name, p in model.named_parameters() if not p.grad.any()}
    assert not {name for name in zero if not name.endswith(("conv1.bias", "conv2.bias"))}


def test_unet_refuses_deep_supervision() -> None:
    with pytest.raises(ValueError, match=r"UNet.*NestedUNet"):
        UNet(1, deep_supervision=True)


@pytest.mark.parametrize("cls", [UNet, NestedUNet])
@pytest.mark.parametrize("value", [0, -3, 1.0, True, None, "2"])
@pytest.mark.parametrize("name", ["num_classes", "input_channels"])
def test_sizes_are_checked(cls: type, name: str, value: object) -> None:
    with pytest.raises(ValueError) as error:
        cls(**{"num_classes": 1, "input_channels": 3} | {name: value})
    assert name in str(error.value) and repr(value) in str(error.value)


@pytest.mark.parametrize(
    "shape, named",
    [
        ((1, 4, 32, 32), "(1, 4, 32, 32)"),
        ((1, 1, 32, 32), "(1, 1, 32, 32)"),
        ((3, 32, 32), "(3, 32, 32)"),
        ((1, 3, 100, 96), "100×96"),
        ((1, 3, 96, 100), "96×100"),
        ((1, 3, 8, 8), "8×8"),
        ((1, 3, 0, 16), "0×16"),
    ],
)
@pytest.mark.parametrize("cls", [UNet, NestedUNet])
def test_input_is_checked(cls: type, shape: tuple[int, ...], named: str) -> None:
    with torch.device("meta"):  # the check needs no weights, so that they need no memory
        model = cls(1)
    with pytest.raises(ValueError) as error:
        model(torch.zeros(shape, device="meta"))
    assert named in str(error.value)


@pytest.mark.parametrize("classes, channels", [(1, 3), (3, 1), (11, 4)])
@pytest.mark.parametrize("cls, deep, blocks, heads, count", NETS)
def test_a_model_is_rebuilt_from_its_weights(
    cls: type, deep: bool, blocks: list[str], heads: list[str], count: int, classes: int, channels: int
) -> None:
    model = cls(classes, channels, deep_supervision=deep).eval()
    assert archs.describe(model.state_dict()) == {
        "arch": cls.__name__,
        "num_classes": classes,
        "input_channels": channels,
        "deep_supervision": deep,
    }
    back = archs.from_state_dict(model.state_dict()).eval()
    assert type(back) is cls and back.num_classes == classes and back.input_channels == channels
    x = torch.randn(1, channels, 16, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(back(x), model(x), rtol=0, atol=0)


def without(state: dict, *names: str) -> dict:
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda s: {}, id="empty"),
        pytest.param(lambda s: {"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}, id="another model"),
        pytest.param(lambda s: {f"module.{k}": v for k, v in s.items()}, id="prefixed"),
        pytest.param(lambda s: without(s, "final.weight"), id="no head"),
        pytest.param(lambda s: without(s, "conv0_0.conv1.weight"), id="no stem"),
        pytest.param(lambda s: without(s, "conv2_2.bn1.running_mean"), id="missing"),
        pytest.param(lambda s: s | {"conv9_9.weight": torch.zeros(1)}, id="extra"),
        pytest.param(lambda s: s | {"conv4_0.conv1.weight": torch.zeros(256, 256, 3, 3)}, id="narrow"),
        pytest.param(lambda s: s | {f"{h}.weight": s["final.weight"] for h in HEADS}, id="UNet with four heads"),
        pytest.param(lambda s: s | {"final.weight": torch.zeros(0, 32, 1, 1)}, id="no classes"),
        pytest.param(lambda s: s | {"final.weight": torch.tensor(1.0)}, id="scalar head"),
        pytest.param(lambda s: s | {"conv0_0.conv1.weight": torch.zeros(32)}, id="flat stem"),
    ],
)
def test_foreign_weights_are_refused(spoil) -> None:
    state = UNet(1).state_dict()
    with pytest.raises(ValueError) as error:
        archs.from_state_dict(spoil(dict(state)))
    assert 20 < len(str(error.value)) < 500 and "\n" not in str(error.value)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_pruned_net_is_one_head_and_computes_what_that_needs(level: int) -> None:
    torch.manual_seed(0)
    net, x = NestedUNet(2, deep_supervision=True).eval(), torch.randn(2, 3, 32, 48)
    pruned, computed = archs.PrunedNestedUNet(net, level), []
    for name, module in net.named_children():
        module.register_forward_hook(lambda *_, name=name: computed.append(name))
    found = pruned(x)
    assert {name for name in computed if name.startswith("final")} == {f"final{level}"}
    # the nodes of UNet++ up to the anti-diagonal of the head
    wanted = {name for name in NESTED_BLOCKS if sum(map(int, name.removeprefix("conv").split("_"))) <= level}
    assert {name for name in computed if name.startswith("conv")} == wanted
    assert torch.equal(found, net(x)[level - 1])
    assert (pruned.num_classes, pruned.input_channels) == (2, 3)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    "net, level",
    [
        (lambda: UNet(1), 1),
        (lambda: NestedUNet(1), 1),
        (lambda: NestedUNet(1, deep_supervision=True), 0),
        (lambda: NestedUNet(1, deep_supervision=True), 5),
    ],
)
def test_there_is_no_such_head(net, level: int) -> None:
    with pytest.raises(ValueError, match=rf"^head {level}: pruning needs a NestedUNet with deep supervision"):
        archs.PrunedNestedUNet(net(), level)
