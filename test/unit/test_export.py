# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""pthtar2onnx.py: names, sizes, open axes, heads, metadata, bytes, half precision; a failure leaves the old file."""

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import random_net, run
from helpers.steep_net import steepen

import archs
import engine
import options
import pthtar2onnx
from exporting.graph import BytesToProbabilities, build_graph
from imaging.instances import SplitSettings
from runtime.errors import InputError


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda net: torch.save({"epoch": 1, "state_dict": net.state_dict()}, "net.pth.tar")


def export(*flags: str) -> None:
    pthtar2onnx.main(options.parse_export(["--checkpoint", "net.pth.tar", *flags]))


def shape(value) -> list:
    """Return the axes of an input or output: numbers, or names if they are open."""
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_the_defaults(checkpoint):
    """Of a checkpoint that records nothing."""
    checkpoint(random_net())
    export()
    model = onnx.load("UNet_npu8p.onnx")
    assert [(i.name, shape(i)) for i in model.graph.input] == [("actual_input_1", [1, 3, 96, 96])]
    assert [(o.name, shape(o)) for o in model.graph.output] == [("output1", [1, 1, 96, 96])]
    assert model.opset_import[0].version == 11


def test_the_size_is_that_of_the_training(tmp_path, monkeypatch, capsys):
    """The metadata tell it, and how images are prepared and scored."""
    monkeypatch.chdir(tmp_path)
    config = {"input_h": 32, "input_w": 48, "normalization": "image", "divide_twice": False, "batch_size": 8}
    state = {"epoch": 1, "state_dict": random_net().state_dict(), "config": config, "processes": 2}
    torch.save(state, "net.pth.tar")
    for flags, size in (((), (32, 48)), (("--input_w", "64"), (32, 64)), (("--dynamic",), ("height", "width"))):
        export("--output", "net.onnx", *flags)
        model = onnx.load("net.onnx")
        assert tuple(shape(model.graph.input[0])[2:]) == size
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        width = "64" if flags[:1] == ("--input_w",) else "48"
        assert metadata == {
            **{"input_h": "32", "input_w": width, "normalization": "image", "divide_twice": "False"},
            **{"batch_size": "4", "loss": "LovaszHingeLoss", "inner_split": "False", "skip_bad": "False"},
            **{"img_ext": ".png", "mask_ext": ".png", "channel": "0", "dense_masks": "False", "crop_diameter": "0.0"},
        }
        line = re.search(r"^as in training: (.*)$", capsys.readouterr().out, re.MULTILINE)[1]
        assert ("input_w 48" in line) == (width == "48") and "normalization image, divide_twice False" in line


@pytest.mark.parametrize("classes, deep_supervision", [(1, True), (2, False)])
def test_heads_classes_and_open_axes(checkpoint, classes, deep_supervision):
    net = random_net("NestedUNet", classes, deep_supervision)
    checkpoint(net)
    export("--dynamic", "--output", "out/net.onnx", "--input_h", "32", "--input_w", "32", "--opset", "13")
    session = onnxruntime.InferenceSession("out/net.onnx")
    x = torch.randn(3, 3, 48, 64) / 255
    with torch.no_grad():
        expected = net(x)
    expected = expected if deep_supervision else [expected]
    names = [f"output{k + 1}" for k in range(len(expected))]
    assert [o.name for o in session.get_outputs()] == names
    for a, b in zip(session.run(names, {"actual_input_1": x.numpy()}), expected):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-4)


def test_a_model_that_differs_from_torch_does_not_replace_the_target(checkpoint, monkeypatch):
    checkpoint(random_net())
    (old := pthtar2onnx.Path("net.onnx")).write_text("the old one")
    monkeypatch.setattr(pthtar2onnx, "largest_difference", lambda *args: 2e-4)
    with pytest.raises(InputError, match=r"differs from torch by more than 0\.0001; net\.onnx is left as it was"):
        export("--output", "net.onnx", "--input_h", "16", "--input_w", "16")
    assert old.read_text() == "the old one" and sorted(p.name for p in old.parent.iterdir()) == [
        "net.onnx",
        "net.pth.tar",
    ]


def test_without_a_trained_model(tmp_path):
    result = run("pthtar2onnx.py", cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stdout
    assert "models/dsb2018_96_UNet_woDS: no model_best.pth.tar or model.pth there; train it first" in result.stdout
    assert not list(tmp_path.iterdir())


def test_batch_norm_is_folded_into_the_convolutions(checkpoint):
    checkpoint(random_net())
    export("--dynamic", "--output", "net.onnx")
    kinds = {node.op_type for node in onnx.load("net.onnx").graph.node}
    assert "Conv" in kinds and "BatchNormalization" not in kinds


# --- one head of a net with deep supervision --------------------------------------------------------------------------


def blocks_of_head(level: int) -> set[str]:
    """Return the blocks of UNet++ up to the diagonal of a head (Zhou et al. 2018, figure 3)."""
    return {f"conv{row}_{column}" for row in range(5) for column in range(5 - row) if row + column <= level}


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_pruned_export_is_one_head(checkpoint, level):
    net = random_net("NestedUNet", 2, deep_supervision=True)
    checkpoint(net)
    export("--prune_level", str(level), "--dynamic", "--output", "net.onnx", "--input_h", "32", "--input_w", "32")
    session = onnxruntime.InferenceSession("net.onnx")
    assert [output.name for output in session.get_outputs()] == ["output1"]
    assert session.get_modelmeta().custom_metadata_map["prune_level"] == str(level)
    x = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        expected = net(x)[level - 1].numpy()
    np.testing.assert_allclose(session.run(None, {"actual_input_1": x.numpy()})[0], expected, atol=1e-4)
    graph = onnx.load("net.onnx").graph
    needed = [block for block in net.named_children() if block[0] in {*blocks_of_head(level), f"final{level}"}]
    weights = sum(parameter.numel() for _, block in needed for parameter in block.parameters())
    norms = sum(2 * (block.bn1.weight.numel() + block.bn2.weight.numel()) for name, block in needed if "conv" in name)
    # BatchNorm is part of the convolutions
    assert sum(np.prod(weight.dims) for weight in graph.initializer) == weights - norms
    assert sum(node.op_type == "Conv" for node in graph.node) == 2 * len(blocks_of_head(level)) + 1


@pytest.mark.parametrize("arch, deep_supervision", [("UNet", False), ("NestedUNet", False)])
def test_a_net_with_one_head_cannot_be_pruned(checkpoint, arch, deep_supervision):
    checkpoint(random_net(arch, 1, deep_supervision))
    with pytest.raises(
        InputError, match=r"^--prune_level 2: net\.pth\.tar holds a net with a single head; leave the flag"
    ):
        export("--prune_level", "2", "--output", "net.onnx")
    assert not pthtar2onnx.Path("net.onnx").exists()


# --- bytes in, probabilities out; half precision ----------------------------------------------------------------------

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def prepared(images: np.ndarray, normalization: str, divide_twice: bool) -> np.ndarray:
    """Prepare images, uint8 (N, H, W, 3), by the formulas of docs/ascend.md in double precision."""
    x = images.astype(np.float64)
    if normalization == "image":
        m, s = (f(x, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
        x = np.clip((x - m) / (s + 1e-4), -20, 20)
    else:
        x = (x / 255 - MEAN) / STD
    return (x / 255 if divide_twice else x).transpose(0, 3, 1, 2)


def varied_images(*shape: int) -> np.ndarray:
    """Return images, uint8 (N, H, W, 3): noise, a constant, and one with a single bright pixel."""
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    images[1::3] = 77
    images[2::3] = 3
    images[2::3, 5, 6] = 255
    return images


def probabilities(net: torch.nn.Module, images: np.ndarray, *preparation) -> list[np.ndarray]:
    """Return the probabilities of each head in double precision."""
    with torch.no_grad():
        outputs = engine.Padded(net.double())(torch.from_numpy(prepared(images, *preparation)))
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    return [torch.sigmoid(output).numpy() for output in outputs]


def save(net: torch.nn.Module, normalization: str, divide_twice: bool, **more) -> None:
    config = {"normalization": normalization, "divide_twice": divide_twice, "input_h": 32, "input_w": 48}
    torch.save({"epoch": 1, "state_dict": net.state_dict(), "config": config, **more}, "net.pth.tar")


def steep(arch: str = "UNet", deep_supervision: bool = False, scale: float = 1.0) -> torch.nn.Module:
    net = random_net(arch, 2, deep_supervision)
    torch.manual_seed(1)
    return steepen(net, torch.randn(2, 3, 96, 96) * scale)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("normalization", ["standard", "image"])
@pytest.mark.parametrize("divide_twice", [True, False])
@pytest.mark.parametrize("flags", [("--batch_size", "3"), ("--dynamic",), ("--dynamic", "--opset", "17")])
def test_bytes_in_and_probabilities_out(checkpoint, normalization, divide_twice, flags):
    """Images of any size if the axes are open; one is constant, so that its standard deviation is 0."""
    net = steep(scale=1 / 255 if divide_twice else 1)
    save(net, normalization, divide_twice)
    export("--uint8", "--output", "net.onnx", *flags)
    session = onnxruntime.InferenceSession("net.onnx")
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, output.name) == ("actual_input_1", "tensor(uint8)", "output1")
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["output"] == "probability" and not {"normalization", "divide_twice"} & metadata.keys()
    for shape in ((3, 32, 48),) if "--dynamic" not in flags else ((3, 32, 48), (1, 41, 50), (6, 16, 200)):
        images = varied_images(*shape)
        (found,) = session.run(None, {"actual_input_1": images})
        (expected,) = probabilities(net, images, normalization, divide_twice)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.ptp(expected) > 0.05, "a net that answers nothing would prove nothing"


@pytest.mark.parametrize("normalization", ["standard", "image"])
def test_values_of_a_large_image(normalization):
    """Float32 is exact enough for the mean of millions of pixels; the net here is the identity."""
    images = np.random.default_rng(1).integers(200, 256, (1, 1500, 2001, 3)).astype(np.uint8)
    model = BytesToProbabilities(torch.nn.Identity(), normalization, False, any_size=True)
    graph = build_graph(model, torch.from_numpy(images[:, :32, :48].copy()), 11, dynamic=True)
    (found,) = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"actual_input_1": images})
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-prepared(images, normalization, False))), atol=1e-6)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("flags", [(), ("--uint8",), ("--dynamic",), ("--uint8", "--dynamic"), ("--prune_level", "2")])
def test_half_precision_inside(checkpoint, flags):
    """Each convolution computes in float16; inputs and outputs stay; probabilities differ by less than 0.01."""
    net = steep("NestedUNet", deep_supervision=True)
    save(net, "image", False)
    images = varied_images(1, 32, 48)
    files = {}
    for more in ((), ("--fp16",)):
        export("--output", "net.onnx", *flags, *more)
        files[more] = pthtar2onnx.Path("net.onnx").stat().st_size
    model = onnx.load("net.onnx")
    onnx.checker.check_model(model, full_check=True)
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert {types[node.output[0]] for node in convolutions} == {onnx.TensorProto.FLOAT16}
    weights = {weight.name: weight.data_type for weight in model.graph.initializer}
    assert {weights[name] for node in convolutions for name in node.input[1:]} == {onnx.TensorProto.FLOAT16}
    assert files[("--fp16",)] < 0.75 * files[()]
    x = images if "--uint8" in flags else prepared(images, "image", False).astype(np.float32)
    found = onnxruntime.InferenceSession("net.onnx").run(None, {"actual_input_1": x})
    expected = probabilities(net, images, "image", False)
    expected = expected[1:2] if "--prune_level" in flags else expected
    assert {values.dtype for values in found} == {np.dtype(np.float32)}
    for values, wanted in zip(found, expected, strict=True):
        values = values if "--uint8" in flags else 1 / (1 + np.exp(-values))
        difference = np.abs(values - wanted).max()
        assert 1e-6 < difference < 0.01


@pytest.mark.usefixtures("narrow")
def test_weights_that_half_precision_cannot_hold(checkpoint, capsys):
    net = random_net()
    with torch.no_grad():
        net.conv0_0.conv2.weight.mul_(1e6)
        net.conv0_0.bn2.running_var.fill_(1e-3)
    save(net, "image", False)
    with pytest.raises(
        InputError, match=r"differs from torch by more than 0\.01; net\.onnx is left as it was; leave out"
    ):
        export("--fp16", "--output", "net.onnx")
    assert not pthtar2onnx.Path("net.onnx").exists()


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("flag", ["--uint8", "--bundle"])
def test_nets_for_other_channels_cannot_take_pictures(checkpoint, flag):
    torch.manual_seed(0)
    checkpoint(archs.UNet(1, 4).eval())
    export("--output", "net.onnx")
    flags = (flag, "net.zip") if flag == "--bundle" else (flag,)
    with pytest.raises(InputError, match=rf"^{flag}: the net in net\.pth\.tar takes 4 channels, not 3; leave it out$"):
        export(*flags)


# --- tuned thresholds -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("narrow")
def test_settings_for_nuclei_are_recorded(checkpoint):
    save(random_net(), "image", False, instances={"threshold": 0.55, "min_area": 12})
    export("--output", "net.onnx")
    metadata = onnxruntime.InferenceSession("net.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["instances"]) == SplitSettings(threshold=0.55, min_area=12)._asdict()


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("value", [5, [0.5], {"threshold": "0.5"}, {"threshold": float("nan")}, {1: 0.5}, {"color": 1}])
def test_settings_for_nuclei_that_are_unknown_are_refused(checkpoint, value):
    save(random_net(), "image", False, instances=value)
    with pytest.raises(InputError, match=r"^net\.pth\.tar: its settings for nuclei are not known here"):
        export("--output", "net.onnx")
    assert not pthtar2onnx.Path("net.onnx").exists()
