"""pthtar2onnx.py: names, sizes, open axes, heads, metadata; a failure leaves the old file."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import random_net, run

import options
import pthtar2onnx
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
            **{"img_ext": ".png", "mask_ext": ".png", "channel": "0", "dense_masks": "False"},
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
