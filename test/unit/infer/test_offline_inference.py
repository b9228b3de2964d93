# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""infer/ from images to IoU, with onnxruntime in place of an Ascend card; the IoU is that of val.py."""

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from conftest import NARROW, random_net, run, write_dataset
from helpers.steep_net import steepen

from imaging import augment
from imaging.reader import read_image

PREPROCESS = ("infer/preprocess.py", "--onnx", "net.onnx", "--data_path", "inputs/discs")
PYACL = {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "standin_acl")}
IOU = re.compile(r"^IoU: ([\d.]+)$", re.MULTILINE)


def succeed(script: str, *flags: object, cwd: Path, **environment: str) -> str:
    result = run(script, *flags, cwd=cwd, **NARROW, **environment)
    assert result.returncode == 0, result.stdout
    return result.stdout


def refuse(script: str, *flags: object, cwd: Path, **environment: str) -> str:
    """Run a script that must fail; returns its last line."""
    result = run(script, *flags, cwd=cwd, **NARROW, **environment)
    assert result.returncode and "Traceback" not in result.stdout, result.stdout
    return result.stdout.strip().splitlines()[-1]


def table(path: str | Path) -> list[dict[str, str]]:
    """Read a CSV file."""
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def export(home: Path, arch: str = "UNet", classes: int = 1, deep_supervision: bool = False, **config) -> None:
    """Write a model called `net`, and its export net.onnx with open batch size."""
    net = random_net(arch, classes, deep_supervision)
    image = augment.val_transform(32, 48)(image=read_image(home / "inputs/discs/images/disc00.png"))["image"]
    steepen(net, torch.from_numpy(augment.to_input(image)[None]))
    config = {"dataset": "discs", "input_h": 32, "input_w": 48, "batch_size": 16, "arch": arch, **config}
    folder = home / "models" / "net"
    folder.mkdir(parents=True)
    torch.save({"state_dict": net.state_dict(), "epoch": 1, "config": config}, folder / "model_best.pth.tar")
    succeed("pthtar2onnx.py", "--name", "net", "--dynamic", "--output", "net.onnx", cwd=home)


def save_mean(path: str, shape: tuple[int, ...]) -> None:
    """Write an ONNX file that computes a single byte from images of this shape."""
    image, value = (onnx.helper.make_tensor_value_info(*about) for about in (("x", 1, shape), ("y", 2, ())))
    nodes = [
        onnx.helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        onnx.helper.make_node("Cast", ["mean"], ["y"], to=2),
    ]
    graph = onnx.helper.make_graph(nodes, "mean", [image], [value])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=7)
    onnx.save(model, path)


@pytest.fixture
def exported(home, narrow):
    export(home)
    return home


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize(
    "arch, classes, deep_supervision, uint8",
    [
        ("UNet", 1, False, False),
        ("UNet", 2, False, True),
        ("NestedUNet", 1, True, True),
        ("NestedUNet", 2, True, False),
    ],
)
def test_iou_is_that_of_val(tmp_path, narrow, batch_size, arch, classes, deep_supervision, uint8):
    """Also with a last batch that is not full, and with AIPP's arithmetic."""
    write_dataset(tmp_path / "inputs" / "discs", count=90, classes=classes)  # 18 of them validate
    export(tmp_path, arch, classes, deep_supervision)
    data = ("--data_path", "inputs/discs")
    succeed("infer/preprocess.py", "--onnx", "net.onnx", *data, *(["--uint8"] if uint8 else []), cwd=tmp_path)
    text = succeed("infer/infer_om.py", "--stand_in", "net.onnx", "--batch_size", batch_size, cwd=tmp_path)
    heads = 4 if deep_supervision else 1
    assert f"{heads} output" in text
    outputs = {path.name for path in (tmp_path / "infer_data" / "outputs").iterdir()}
    assert outputs == {"inputs_checksum.txt", *(f"{k:06d}_{head}.bin" for k in range(18) for head in range(heads))}
    batch = ("--batch_size", batch_size)
    found = succeed("infer/postprocess.py", *batch, cwd=tmp_path)
    wanted = succeed("val.py", "--name", "net", *data, *batch, "--num_workers", 0, cwd=tmp_path)
    iou = float(IOU.findall(found)[-1])
    assert 0 < iou < 1 and iou == pytest.approx(float(IOU.findall(wanted)[-1]), abs=1e-4)
    mine, theirs = (table(tmp_path / f"{folder}/metrics.csv") for folder in ("infer_data/masks", "outputs/net"))
    assert len(mine) == len(theirs) == 18 * classes
    for row, other in zip(mine, theirs):
        assert (row["id"], row["class"]) == (other["id"], other["class"])
        assert float(row["iou"]) == pytest.approx(float(other["iou"]), abs=2e-3)  # a pixel may lie on the threshold
    assert (tmp_path / "infer_data" / "masks" / str(classes - 1) / f"{mine[0]['id']}_mask.png").is_file()


def test_images_without_masks(exported):
    """The masks have the size of the images."""
    for name, size in (("a", (40, 60)), ("b.c", (33, 21))):
        cv2.imwrite(f"{name}.png", np.full((*size, 3), 90, np.uint8))
    succeed("infer/preprocess.py", "--onnx", "net.onnx", "--input", "a.png", "b.c.png", cwd=exported)
    rows = table("infer_data/inputs/list.csv")
    assert [(row["index"], row["bin"], row["id"], row["height"], row["width"]) for row in rows] == [
        ("0", "000000.bin", "a", "40", "60"),
        ("1", "000001.bin", "b.c", "33", "21"),
    ]
    assert Path("infer_data/inputs/bin/000000.bin").stat().st_size == 3 * 32 * 48 * 4
    succeed("infer/infer_om.py", "--stand_in", "net.onnx", "--batch_size", 4, cwd=exported)
    assert "IoU" not in succeed("infer/postprocess.py", cwd=exported)
    assert cv2.imread("infer_data/masks/0/a_mask.png").shape[:2] == (40, 60)
    assert cv2.imread("infer_data/masks/0/b.c_mask.png").shape[:2] == (33, 21)


def test_ais_bench_gets_the_folder_and_the_batch_size(exported):
    """A package that notes its arguments and copies a stand-in's outputs takes the place of ais_bench."""
    succeed(*PREPROCESS, cwd=exported)
    succeed("infer/infer_om.py", "--stand_in", "net.onnx", "--output", "expected", cwd=exported)
    package = exported / "packages"
    (package / "ais_bench").mkdir(parents=True)
    (package / "aclruntime.py").touch()
    (package / "ais_bench" / "__init__.py").touch()
    (package / "ais_bench" / "__main__.py").write_text(
        "import json, pathlib, shutil, sys\n"
        "flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "pathlib.Path('flags.json').write_text(json.dumps(flags))\n"
        "if flags['--device'] == '1': sys.exit(3)\n"
        "target = pathlib.Path(flags['--output'], flags['--output_dirname'])\n"
        "[shutil.copy(path, target) for path in pathlib.Path('expected').iterdir()]\n"
    )
    Path("net.om").touch()
    path = {"PYTHONPATH": str(package)}
    flags = ("--model", "net.om", "--batch_size", "8", "--output", "out")
    succeed("infer/infer_om.py", *flags, cwd=exported, **path)
    assert json.loads(Path("flags.json").read_text()) == {
        **{"--model": "net.om", "--input": "infer_data/inputs/bin", "--output": str(exported)},
        **{"--output_dirname": "out", "--outfmt": "BIN", "--batchsize": "8", "--device": "0"},
    }
    line = refuse("infer/infer_om.py", *flags[:-1], "o2", "--device_id", 1, cwd=exported, **path)
    assert line == "[Error] ais_bench ended with status 3; its messages are above"


@pytest.mark.parametrize("arch, deep_supervision, batch_size", [("UNet", False, 1), ("NestedUNet", True, 16)])
def test_pyacl_writes_what_onnxruntime_writes(home, narrow, arch, deep_supervision, batch_size):
    """A stand-in for pyACL runs an ONNX file of fixed size in place of the .om file."""
    export(home, arch, 1, deep_supervision)
    succeed(*PREPROCESS, cwd=home)
    batch = ("--batch_size", batch_size)
    succeed("infer/infer_om.py", "--stand_in", "net.onnx", *batch, "--output", "expected", cwd=home)
    succeed("pthtar2onnx.py", "--name", "net", *batch, "--output", "net.om", cwd=home)
    flags = ("--model", "net.om", *batch, "--device_id", 3, "--output", "out")
    text = succeed("infer/infer_om.py", *flags, cwd=home, **PYACL, ASCEND_DEVICE_ID="5" if batch_size == 1 else "")
    assert (
        f"acl: device {5 if batch_size == 1 else 3}\n" in text
        and "acl: 0 objects are left" in text
        and "by pyacl" in text
    )
    names = sorted(path.name for path in Path("expected").iterdir())
    assert names == sorted(path.name for path in Path("out").iterdir())
    for name in filter(re.compile(r"\d+_\d+\.bin").fullmatch, names):
        one, other = (np.fromfile(Path(folder, name), "<f4") for folder in ("expected", "out"))
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_errors_of_pyacl_get_a_sentence(exported):
    succeed(*PREPROCESS, cwd=exported)
    succeed("pthtar2onnx.py", "--name", "net", "--batch_size", 4, "--output", "net.om", cwd=exported)
    infer = ("infer/infer_om.py", "--model", "net.om", "--batch_size")
    calls = ("init", "rt.set_device", "mdl.load_from_file", "mdl.get_input_dims", "rt.malloc", "rt.memcpy")
    for name in (*calls, "mdl.execute"):
        line = refuse(*infer, 4, cwd=exported, **PYACL, ACL_FAILS=name)
        assert line.startswith(f"[Error] net.om: acl.{name} failed with code 507011"), line
    size = 3 * 32 * 48 * 4
    line = refuse(*infer, 2, cwd=exported, **PYACL)
    sentence = f"[Error] net.om: takes {4 * size} bytes for a batch of {{}}, but gets {{}} for one of {{}}; give the "
    assert line.startswith(sentence.format(4, 2 * size, 2))
    flags = ("--name", "net", "--batch_size", 1, "--input_h", 64, "--input_w", 96, "--output", "net.om")
    succeed("pthtar2onnx.py", *flags, cwd=exported)  # one image has as many bytes as four of the usual size
    assert refuse(*infer, 4, cwd=exported, **PYACL).startswith(sentence.format(1, 4 * size, 4))
    save_mean("net.om", (4, 3, 32, 48))
    line = refuse(*infer, 4, cwd=exported, **PYACL)
    assert line == "[Error] net.om: has no output for each image; give an .om file of infer/atc.sh"
    Path("acl.py").write_text("raise ImportError('libascendcl.so: cannot open shared object file')")
    line = refuse(*infer, 4, cwd=exported, PYTHONPATH=".")
    assert line.startswith("[Error] pyACL cannot be imported (libascendcl.so: cannot open")
    assert not Path("infer_data/outputs").exists()


def test_bad_input_gets_a_sentence(exported):
    infer = ("infer/infer_om.py", "--stand_in", "net.onnx")
    assert "name the folder that infer/preprocess.py wrote" in refuse(*infer, cwd=exported)
    succeed(*PREPROCESS, cwd=exported)
    assert "already exists" in refuse(*PREPROCESS, cwd=exported)
    settings = Path("infer_data/inputs/settings.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"more": 1}))  # as a later version may write it
    Path("net.om").touch()
    line = refuse("infer/infer_om.py", "--model", "net.om", "--output", "x", cwd=exported)
    assert line.startswith("[Error] not installed: ais_bench and pyacl; install the wheels")
    line = refuse("infer/infer_om.py", "--model", "net.om", "--tool", "pyacl", "--output", "x", cwd=exported)
    assert line.startswith("[Error] not installed: pyacl; run `source <CANN>/set_env.sh`")
    assert "give --model FILE.om" in refuse("infer/infer_om.py", cwd=exported)
    assert "is missing" in refuse("infer/postprocess.py", cwd=exported)
    for flag in ("--uint8", "--fp16"):  # of a fixed size
        succeed("pthtar2onnx.py", "--name", "net", "--output", "fixed.onnx", flag, cwd=exported)
        line = refuse("infer/infer_om.py", "--stand_in", "fixed.onnx", "--batch_size", 2, cwd=exported)
        assert line.startswith("[Error] --stand_in fixed.onnx: does not take float32 inputs of 2×3×32×48; export it")
    succeed(*infer, cwd=exported)
    Path("infer_data/outputs/000001_0.bin").write_bytes(b"1234")
    assert "4 bytes, but 1×32×48 float32 numbers are 6144" in refuse("infer/postprocess.py", cwd=exported)
    Path("infer_data/outputs/000001_0.bin").unlink()
    assert "000001_0.bin: is missing" in refuse("infer/postprocess.py", cwd=exported)
    Path("infer_data/inputs/list.csv").write_text("index,bin\n0,../x.bin\n")
    assert "not the list that infer/preprocess.py writes" in refuse("infer/postprocess.py", cwd=exported)
    settings.write_text("{}")
    assert "not the settings that infer/preprocess.py writes" in refuse("infer/postprocess.py", cwd=exported)
    flags = ("infer/preprocess.py", "--output", "other", "--onnx", "net.onnx")
    assert "not a multiple of 16" in refuse(*flags, "--input_h", 40, cwd=exported)
    assert "none.onnx" in refuse(*flags[:-1], "none.onnx", cwd=exported)
    flags = (*flags[:3], "--onnx", "net.onnx", "--input")
    assert "no image there" in refuse(*flags, "none.png", cwd=exported)
    Path("a_broken.png").write_bytes(b"no image")
    assert "a_broken.png" in refuse(*flags, "inputs/discs/images", "a_broken.png", cwd=exported)
    assert not Path("other").exists()  # so that the command can be repeated


def test_outputs_of_other_images_are_refused(exported):
    """Also if there are as many of them. Outputs that ais_bench wrote without infer_om.py are accepted."""
    for name, value in (("a", 90), ("b", 200)):
        cv2.imwrite(f"{name}.png", np.full((32, 48, 3), value, np.uint8))
        succeed("infer/preprocess.py", "--onnx", "net.onnx", "--input", f"{name}.png", "--output", name, cwd=exported)
    succeed("infer/infer_om.py", "--stand_in", "net.onnx", "--input", "a", cwd=exported)
    line = refuse("infer/postprocess.py", "--input", "b", cwd=exported)
    assert line == "[Error] infer_data/outputs: holds the outputs of other inputs than b; run infer/infer_om.py again"
    succeed("infer/postprocess.py", "--input", "a", cwd=exported)
    Path("infer_data/outputs/inputs_checksum.txt").unlink()
    succeed("infer/postprocess.py", "--input", "b", cwd=exported)


def test_networks_that_aipp_cannot_serve(home, narrow):
    export(home, normalization="image")
    for script in (("infer/preprocess.py", "--uint8"), ("infer/write_aipp.py",)):
        assert "which AIPP cannot compute" in refuse(*script, "--onnx", "net.onnx", cwd=home)
    succeed(*PREPROCESS, cwd=home)
