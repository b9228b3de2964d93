# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""demo.py --onnx: the pictures of the checkpoint, from exports of fixed and of open size; refused files."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pandas as pd
import pytest
import tifffile
import torch
from conftest import random_net, run, run_afresh, write_dataset
from helpers.steep_net import steepen
from onnx import TensorProto, helper

import archs
import demo
import engine
import options
import pthtar2onnx
from runtime.distributed import init_runtime
from runtime.errors import InputError
from runtime.onnx_model import OnnxModel

pytestmark = pytest.mark.usefixtures("narrow")


def contrasting(classes: int = 1, deep_supervision: bool = False) -> torch.nn.Module:
    """Return a net whose probabilities are on both sides of 0.5."""
    net = random_net("NestedUNet" if deep_supervision else "UNet", classes, deep_supervision)
    torch.manual_seed(1)
    return steepen(net, torch.randn(2, 3, 96, 96) / 255)


def export(net: torch.nn.Module, *flags: str, config: dict | None = None) -> None:
    torch.save({"epoch": 1, "state_dict": net.state_dict()} | ({"config": config} if config else {}), "net.pth.tar")
    pthtar2onnx.main(options.parse_export(["--checkpoint", "net.pth.tar", "--output", "net.onnx", *flags]))


def segment(*flags: str) -> None:
    demo.main(options.parse_demo(["--num_workers", "0", *flags]))


def assert_same_pictures(classes: int, count: int, levels: int = 1) -> None:
    """Compare out/torch and out/onnx: probabilities within some gray levels, masks except for pixels near 0.5."""
    for k in range(classes):
        paths = sorted((Path("out/torch") / str(k)).iterdir())
        assert len(paths) == 2 * count
        for path in paths:
            ours, theirs = (cv2.imread(str(p), 0).astype(int) for p in (path, f"out/onnx/{k}/{path.name}"))
            if path.suffix == ".jpg":
                assert np.abs(ours - theirs).max() <= levels, path
            else:
                assert (ours != theirs).mean() < 0.002, path
    assert pd.read_csv("out/torch/nuclei.csv").id.tolist() == pd.read_csv("out/onnx/nuclei.csv").id.tolist()


@pytest.mark.parametrize(
    "flags", [(), ("--batch_size", "2"), ("--dynamic",), ("--uint8",), ("--uint8", "--batch_size", "2"), ("--fp16",)]
)
def test_pictures_are_those_of_the_checkpoint(home, flags):
    """Of five images; with a fixed batch of two, the last batch is padded."""
    export(contrasting(), *flags)
    inputs = ["--input", *sorted(map(str, (home / "inputs/discs/images").iterdir()))[:5]]
    segment("--resume", "net.pth.tar", *inputs, "--output", "out/torch")
    segment("--onnx", "net.onnx", *inputs, "--output", "out/onnx")
    assert_same_pictures(1, 5, levels=8 if "--fp16" in flags else 1)  # JPEG changes them further
    levels = [cv2.imread(str(path), 0) for path in (home / "out/onnx/0").glob("*_mask.png")]
    assert {0, 255} == set(np.unique(levels)), "a net without nuclei would prove nothing"


@pytest.mark.parametrize("more", [(), ("--uint8",)])
@pytest.mark.parametrize("flags", [("--batch_size", "4", "--input_h", "32", "--input_w", "48"), ("--dynamic",)])
def test_the_validation_split_of_two_classes_and_four_heads(home, capsys, flags, more):
    write_dataset(home / "inputs" / "pairs", classes=2)
    export(contrasting(2, deep_supervision=True), *flags, *more)
    split, size = ("--data_path", "inputs/pairs"), ("--input_h", "32", "--input_w", "48")
    segment("--resume", "net.pth.tar", *split, *size, "--output", "out/torch")
    segment("--onnx", "net.onnx", *split, *size, "--output", "out/onnx")
    assert_same_pictures(2, 3)
    ious = [line for line in capsys.readouterr().out.splitlines() if "AVG-IOU" in line]
    assert len(ious) == 2 and float(ious[0].split()[7]) == pytest.approx(float(ious[1].split()[7]), abs=2e-3)


@pytest.mark.parametrize("normalization", ["standard", "image"])
def test_bytes_of_any_size(home, capsys, normalization):
    """The file pads them after it has normalized them, as demo.py does with the checkpoint."""
    config = {"normalization": normalization, "divide_twice": normalization == "standard"}
    net = contrasting() if normalization == "standard" else steepen(random_net(), torch.randn(2, 3, 96, 96))
    export(net, "--uint8", "--dynamic", config=config)
    inputs = ["--input", *sorted(map(str, (home / "inputs/discs/images").iterdir()))[:3]]
    size = ("--input_h", "41", "--input_w", "50")
    segment("--resume", "net.pth.tar", *inputs, *size, "--output", "out/torch")
    segment("--onnx", "net.onnx", *inputs, *size, "--output", "out/onnx")
    assert_same_pictures(1, 3)
    assert "by onnxruntime; input 41×50" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [("--dynamic",), ("--dynamic", "--uint8")])
def test_nuclei_at_the_scale_of_the_training(home, flags):
    """Such a net gets images of all sizes, which an export of fixed size cannot take."""
    config = {"crop_diameter": 20.0, "normalization": "image", "divide_twice": False}
    net = steepen(random_net(), torch.randn(2, 3, 96, 96))
    export(net, *flags, config=config)
    inputs = ["--input", *sorted(map(str, (home / "inputs/discs/images").iterdir()))[:3]]
    segment("--resume", "net.pth.tar", *inputs, "--diameter", "15", "--output", "out/torch")
    segment("--onnx", "net.onnx", *inputs, "--diameter", "15", "--output", "out/onnx")
    for path in Path("out/torch/labels").iterdir():
        ours, theirs = (tifffile.imread(p) for p in (path, f"out/onnx/labels/{path.name}"))
        assert ((ours > 0) != (theirs > 0)).mean() < 0.002
    export(net, config=config)
    with pytest.raises(
        InputError, match=r"^net\.onnx: its net needs images scaled to nuclei of 20 pixels, but takes a"
    ):
        segment("--onnx", "net.onnx", *inputs, "--output", "out/fixed")


def open_model(height: int = 96, width: int = 96) -> OnnxModel:
    model = OnnxModel(Path("net.onnx"))
    model.set_size(height, width, archs.STRIDE)
    return model


@pytest.mark.parametrize("flags, side", [((), 96), (("--batch_size", "3"), 96), (("--dynamic",), 50)])
def test_probabilities_are_those_of_the_checkpoint(home, flags, side):
    net = contrasting(2)
    export(net, *flags)
    exported = open_model(side, side)
    assert (exported.num_classes, exported.size) == (2, (side, side))
    batches = [torch.randn(n, 3, side, side) / 255 for n in (5, 1)]
    expected = list(engine.predict(engine.Padded(net), batches, init_runtime("cpu")))
    for ours, theirs in zip(exported.predict(batch.numpy() for batch in batches), expected, strict=True):
        assert ours.dtype == np.float32 and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for batch, theirs in zip(batches, expected):
        ours = torch.sigmoid(engine.ExportedNet(exported)(batch))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_size(home, capsys):
    """An export of fixed size keeps it; one of open size has, by default, that of the training."""
    export(contrasting(), "--input_h", "32")
    model = open_model(64, 64)
    assert (model.size, model.fixed_size, model.any_size) == ((32, 96), [32, 96], False)
    images = ("--onnx", "net.onnx", "--input", "inputs/discs/images", "--output", "out")
    with pytest.raises(InputError, match=r"^--input_w 64: net\.onnx was exported for 96 alone; leave the flag out, or"):
        segment(*images, "--input_h", "32", "--input_w", "64")
    segment(*images, "--input_h", "32")
    assert "by onnxruntime; input 32×96" in capsys.readouterr().out
    export(contrasting(), "--dynamic", "--input_h", "32")
    assert open_model(50, 70).size == (50, 70) and open_model().any_size
    for flags, size in (((), "32×96"), (("--input_w", "70"), "32×70"), (("--input_h", "50"), "50×96")):
        segment(*images, *flags)
        assert f"by onnxruntime; input {size}" in capsys.readouterr().out


def test_a_fixed_size_that_does_not_fit(home):
    """As windows of a large image, which are square."""
    export(contrasting(), "--input_h", "32", "--input_w", "48")
    large = cv2.resize(cv2.imread("inputs/discs/images/disc00.png"), (200, 150))
    cv2.imwrite("large.png", large)
    with pytest.raises(InputError, match=r"^net\.onnx: takes images of 32×48 alone, not 48×48; export the net with"):
        segment("--onnx", "net.onnx", "--input", "large.png", "--instances", "--tile", "64", "--overlap", "16")
    export(contrasting(), "--input_h", "48", "--input_w", "48")
    segment("--onnx", "net.onnx", "--input", "large.png", "--instances", "--tile", "64", "--overlap", "16")


def test_an_export_that_records_nothing_has_the_default_size(home, capsys):
    """As one of an earlier version of pthtar2onnx.py."""
    export(contrasting(), "--dynamic")
    graph = onnx.load("net.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, "net.onnx")
    segment("--onnx", "net.onnx", "--input", "inputs/discs/images", "--output", "out")
    out = capsys.readouterr().out
    assert "by onnxruntime; input 96×96" in out and "as in training" not in out


def test_metadata_that_are_unknown_are_refused(home):
    export(contrasting())
    graph = onnx.load("net.onnx")
    helper.set_model_props(graph, {"normalization": "clahe"})
    onnx.save(graph, "net.onnx")
    with pytest.raises(InputError, match=r"^net\.onnx: records normalization as 'clahe', which is not known here"):
        segment("--onnx", "net.onnx", "--input", "inputs/discs/images", "--output", "out")
    assert not (home / "out").exists()


def one_node(kind: str, inputs: list, outputs: list, **attributes) -> bytes:
    """Return an ONNX file of a single operator; inputs and outputs are (type, shape)."""
    values = [
        [helper.make_tensor_value_info(f"{role}{k}", *value) for k, value in enumerate(group)]
        for role, group in (("in", inputs), ("out", outputs))
    ]
    names = [[value.name for value in group] for group in values]
    graph = helper.make_graph([helper.make_node(kind, *names, **attributes)], "graph", *values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


IMAGES = (TensorProto.FLOAT, [1, 3, 32, 32])
OPEN = (TensorProto.FLOAT, ["n", "c", "h", "w"])
REFUSED = {
    "another format": (b"\x80 not ONNX at all", "onnxruntime cannot read it as an ONNX file"),
    "empty": (b"", "onnxruntime cannot read it as an ONNX file"),
    "one channel": (
        one_node("Relu", [(TensorProto.FLOAT, [1, 1, 32, 32])], [(TensorProto.FLOAT, [1, 1, 32, 32])]),
        "its net takes 1 channels, but images are read with 3",
    ),
    "two inputs": (one_node("Add", [IMAGES, IMAGES], [IMAGES]), "does not take a batch of float32 or uint8 images"),
    "half precision": (
        one_node("Relu", [(TensorProto.FLOAT16, IMAGES[1])], [(TensorProto.FLOAT16, IMAGES[1])]),
        "does not take a batch of float32 or uint8 images",
    ),
    "a classifier": (
        one_node("GlobalAveragePool", [IMAGES], [(TensorProto.FLOAT, [1, 3, 1, 1])]),
        "its last output is 1×3×1×1 for 32×32 images",
    ),
    "vectors": (
        one_node("Flatten", [IMAGES], [(TensorProto.FLOAT, [1, 3072])]),
        "its last output is 1×3072 for 32×32 images",
    ),
    "unable to run": (one_node("DepthToSpace", [OPEN], [OPEN], blocksize=5), "onnxruntime cannot run its net"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_files(home, what):
    data, reason = REFUSED[what]
    (home / "net.onnx").write_bytes(data)
    with pytest.raises(InputError) as error:
        segment("--onnx", "net.onnx", "--input", "inputs/discs/images", "--output", "out")
    assert str(error.value).startswith(f"net.onnx: {reason}") and "\n" not in str(error.value)
    assert not (home / "out").exists()


def test_a_net_with_an_open_number_of_channels_gets_three(home):
    (home / "net.onnx").write_bytes(one_node("Relu", [OPEN], [OPEN]))
    assert open_model().num_classes == 3


def test_errors_as_a_user_sees_them(home):
    result = run("demo.py", "--onnx", "nowhere.onnx", cwd=home)
    assert result.returncode == 1 and result.stdout == "[Error] nowhere.onnx: No such file or directory\n"
    (home / "net.onnx").write_bytes(
        onnx.load_from_string(one_node("Relu", [IMAGES], [IMAGES])).SerializeToString()[:-9]
    )
    result = run("demo.py", "--onnx", "net.onnx", cwd=home)
    assert result.returncode == 1 and result.stdout.startswith("[Error] net.onnx: onnxruntime cannot read it")
    assert len(result.stdout.splitlines()) == 1


def test_an_export_segments_files_without_torch(home):
    """With a torch that cannot be imported; the pictures are the same. The validation split needs torch."""
    export(contrasting(), "--dynamic")
    (home / "broken" / "torch").mkdir(parents=True)
    (home / "broken" / "torch" / "__init__.py").write_text("raise ImportError('there is no torch here')\n")
    inputs = ["--onnx", "net.onnx", "--input", *sorted(map(str, (home / "inputs/discs/images").iterdir()))[:5]]
    segment(*inputs, "--output", "out/torch")
    result = run_afresh("demo.py", *inputs, "--output", "out/onnx", cwd=home, PYTHONPATH=str(home / "broken"))
    assert result.returncode == 0 and "5 images segmented" in result.stdout, result.stdout
    assert_same_pictures(1, 5)
    result = run_afresh("demo.py", "--onnx", "net.onnx", cwd=home, PYTHONPATH=str(home / "broken"))
    assert result.returncode == 1 and "there is no torch here" in result.stdout
