# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Bundles: what is in one, its program run as it stands, demo.py --bundle, edited and damaged bundles."""

import json
import re
import stat
import zipfile
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from conftest import random_net, run_afresh
from helpers.steep_net import steepen

import demo
import options
import pthtar2onnx
from exporting.bundle import read_bundle, scores_of
from imaging import augment
from runtime.errors import InputError

pytestmark = pytest.mark.usefixtures("narrow")
PREPARATIONS = [("standard", True), ("standard", False), ("image", True), ("image", False)]
HISTORY = [{"epoch": 0, "val_iou": 0.7}, {"epoch": 1, "lr": 1e-3, "iou": 0.9, "val_iou": 0.8, "val_dice": 0.85}]


def save(normalization: str = "image", divide_twice: bool = False, **more) -> None:
    """Write a checkpoint of a net whose masks of disc00.png hold nuclei and background."""
    config = {"normalization": normalization, "divide_twice": divide_twice, "input_h": 32, "input_w": 48}
    image = augment.val_transform(32, 48, normalization)(image=cv2.imread("inputs/discs/images/disc00.png"))["image"]
    net = steepen(random_net(), torch.from_numpy(augment.to_input(image, divide_twice))[None])
    state = {"epoch": 2, "state_dict": net.state_dict(), "config": config | more.pop("config", {}), "best_iou": 0.8}
    torch.save(state | more, "net.pth.tar")


def bundle(*flags: str) -> dict:
    """Write model.zip; returns the contents of its model.json."""
    pthtar2onnx.main(options.parse_export(["--checkpoint", "net.pth.tar", "--bundle", "model.zip", *flags]))
    with zipfile.ZipFile("model.zip") as archive:
        return json.loads(archive.read("model.json"))


def segment(*flags: str) -> None:
    demo.main(options.parse_demo(["--input", "inputs/discs/images", "--num_workers", "0", *flags]))


def rewrite(change, source: str = "model.zip", target: str = "changed.zip") -> None:
    """Copy a bundle; change: gets the members by name, and may change them."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def edit(change) -> None:
    """Copy the bundle; change: gets the contents of model.json, and may change them."""

    def edit_json(members: dict) -> None:
        about = json.loads(members["model.json"])
        change(about)
        members["model.json"] = json.dumps(about).encode()

    rewrite(edit_json)


def run_program(folder: Path) -> np.ndarray:
    """Run the program of a README.txt as it stands, on image.png; returns its mask."""
    program = re.search(r"^  import.*?\n\n", (folder / "README.txt").read_text(), re.MULTILINE | re.DOTALL)[0]
    lines = [line.strip() for line in program.splitlines()[:-1]]
    assert 6 <= len(lines) <= 10
    (folder / "run.py").write_text("\n".join(lines))
    result = run_afresh(folder / "run.py", cwd=folder)
    assert result.returncode == 0, result.stdout
    mask = cv2.imread(str(folder / "mask.png"), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(mask)) == {0, 255}
    return mask > 0


def test_what_is_in_a_bundle(home):
    save(history=HISTORY, instances={"threshold": 0.6}, scores={"mean_ap": 0.5, "note": "text"}, optimizer={})
    about = bundle("--uint8", "--fp16", "--dynamic")
    with zipfile.ZipFile("model.zip") as archive:
        assert archive.namelist() == ["README.txt", "model.json", "DATA_LICENSE.txt", "model.onnx"]
        assert {stat.S_IMODE(member.external_attr >> 16) for member in archive.infolist()} == {0o644}
        session = onnxruntime.InferenceSession(archive.read("model.onnx"))
    assert session.get_inputs()[0].type == "tensor(uint8)"
    assert about["scores"] == {"epochs": 2, "best_val_iou": 0.8, "val_iou": 0.8, "val_dice": 0.85, "mean_ap": 0.5}
    assert about["instances"]["threshold"] == 0.6 and about["settings"]["input_w"] == 48
    assert about["model"]["arch"] == "UNet" and about["model"]["outputs"] == ["output1"]
    assert not {"normalization", "divide_twice", "data_path"} & about["settings"].keys()
    assert "0.85" in zipfile.ZipFile("model.zip").read("README.txt").decode()
    assert {path.name for path in home.iterdir()} == {"inputs", "net.pth.tar", "model.zip"}


def test_equal_models_give_equal_bundles(home):
    save()
    bundle()
    first = Path("model.zip").read_bytes()
    bundle()
    assert Path("model.zip").read_bytes() == first


@pytest.mark.parametrize(
    "config, words",
    [
        ({}, "CC0 1.0"),
        ({"data_path": "/some/where/dsb2018_native"}, "CC0 1.0"),
        ({"data_path": "inputs/liver {study}"}, "'liver {study}'. The license of these images"),
        ({"dataset": "mine"}, "'mine'. The license of these images"),
    ],
)
def test_the_license_of_the_data(home, config, words):
    save(config=config)
    bundle()
    text = zipfile.ZipFile("model.zip").read("DATA_LICENSE.txt").decode()
    assert words in " ".join(text.split()) and "/some/where" not in text


@pytest.mark.parametrize(
    "flags, preparation",
    [
        *(((), preparation) for preparation in PREPARATIONS),
        *((("--uint8",), preparation) for preparation in PREPARATIONS),
        *(((*flags, "--batch_size", "2"), ("image", False)) for flags in ((), ("--uint8",))),
        *(((*flags, "--dynamic", "--fp16"), ("image", False)) for flags in ((), ("--uint8",))),
    ],
)
def test_the_program_in_the_readme_gives_the_mask_of_demo(home, flags, preparation):
    """It runs as it stands, in a folder with the unpacked bundle, and has ten lines."""
    save(*preparation)
    bundle(*flags)
    with zipfile.ZipFile("model.zip") as archive:
        archive.extractall("unpacked")
    readme = Path("unpacked/README.txt").read_text()
    assert "python demo.py --bundle model.zip --input path/to/images --output outputs/mine" in readme
    image = cv2.resize(cv2.imread("inputs/discs/images/disc00.png"), (100, 70))
    cv2.imwrite("unpacked/image.png", image)
    mask = run_program(home / "unpacked")
    demo.main(options.parse_demo(["--bundle", "model.zip", "--input", "unpacked/image.png", "--output", "out"]))
    probability = cv2.imread("out/0/image.jpg", cv2.IMREAD_UNCHANGED)
    assert mask.shape == probability.shape == (32, 48)
    # JPEG changes gray levels by a few
    clear = np.abs(probability.astype(int) - 127) > 8
    assert clear.mean() > 0.2 and (mask == (probability > 127))[clear].all()


@pytest.mark.parametrize("flags", [(), ("--uint8",)])
def test_the_program_of_a_net_for_one_scale(home, flags, capsys):
    """Of 20 pixels, which is also the diameter that the program assumes: the image keeps its size."""
    save(config={"crop_diameter": 20.0})
    with pytest.raises(InputError, match=r"^net\.pth\.tar: its net needs images .* of 20 pixels, .*; add --dynamic$"):
        bundle(*flags)
    bundle("--dynamic", *flags)
    with zipfile.ZipFile("model.zip") as archive:
        archive.extractall("unpacked")
    image = cv2.resize(cv2.imread("inputs/discs/images/disc00.png"), (96, 64))
    cv2.imwrite("unpacked/image.png", image)
    net = random_net()
    net.load_state_dict(torch.load("net.pth.tar", weights_only=True)["state_dict"])
    x = (image.astype(float) - image.mean()) / (image.std() + 1e-4)
    with torch.no_grad():
        logits = net(torch.from_numpy(x.transpose(2, 0, 1)[None]).float())[0, 0].numpy()
    clear = np.abs(logits) > 0.01
    assert clear.mean() > 0.9 and (run_program(home / "unpacked") == (logits > 0))[clear].all()
    capsys.readouterr()
    pthtar2onnx.main(options.parse_export(["--checkpoint", "net.pth.tar", "--output", "net.onnx", *flags]))
    assert "of 20 pixels, so of all sizes; add --dynamic if demo.py is to use the file\n" in capsys.readouterr().out


def test_demo_takes_settings_from_model_json(home, capsys):
    """Those for nuclei, which may have been edited, and those for images; flags win."""
    save(instances={"threshold": 0.6, "min_area": 7})
    bundle("--dynamic")
    segment("--bundle", "model.zip", "--instances", "--output", "out")
    out = capsys.readouterr().out
    assert "model: model.zip/model.onnx, by onnxruntime; input 32×48" in out
    assert "as in training: normalization image, divide_twice False, input_h 32, input_w 48" in out
    assert "nuclei by threshold 0.6, border_threshold 0.5" in out and "min_area 7" in out
    edit(lambda about: (about["instances"].update(min_area=5), about["settings"].update(input_h=40)))
    segment("--bundle", "changed.zip", "--instances", "--threshold", "0.55", "--output", "out")
    out = capsys.readouterr().out
    assert "nuclei by threshold 0.55" in out and "min_area 5" in out and "input 40×48" in out


def test_the_pictures_are_those_of_the_onnx_file(home):
    save()
    bundle()
    zipfile.ZipFile("model.zip").extract("model.onnx")
    segment("--bundle", "model.zip", "--output", "out/bundle")
    segment("--onnx", "model.onnx", "--output", "out/onnx")
    for path in Path("out/onnx").rglob("*.*"):
        assert (Path("out/bundle") / path.relative_to("out/onnx")).read_bytes() == path.read_bytes()
    assert len(pd.read_csv("out/bundle/nuclei.csv")) == 15


CHANGED = {
    "no model.onnx": (lambda members: members.pop("model.onnx"), "changed.zip: holds no model.onnx; give a bundle"),
    "no model.json": (lambda members: members.pop("model.json"), "changed.zip: holds no model.json; give a bundle"),
    "no ONNX": (
        lambda members: members.update({"model.onnx": b"x"}),
        "changed.zip/model.onnx: onnxruntime cannot read it as an ONNX file",
    ),
    "no JSON": (
        lambda members: members.update({"model.json": b"{"}),
        "changed.zip/model.json: not readable as JSON",
    ),
    "nested JSON": (
        lambda members: members.update({"model.json": b"[" * 60_000}),
        "changed.zip/model.json: not readable as JSON",
    ),
    "long JSON": (
        lambda members: members.update({"model.json": b" " * 100_000}),
        "changed.zip/model.json: 100000 bytes, but at most 65536 are read",
    ),
    "a list": (lambda members: members.update({"model.json": b"[]"}), "changed.zip/model.json: not the settings of a"),
    "another format": (
        lambda members: members.update({"model.json": b'{"format": 2, "settings": {}}'}),
        "changed.zip/model.json: not the settings of a bundle of format 1; give a bundle that pthtar2onnx.py wrote",
    ),
    "a member outside": (
        lambda members: members.update({"../model.onnx": b"x"}),
        "changed.zip: refused, nothing of it was read: its member '../model.onnx' leads out of its folder; give a",
    ),
}


@pytest.mark.parametrize("what", CHANGED)
def test_bundles_that_are_refused(home, what):
    save()
    bundle()
    change, reason = CHANGED[what]
    rewrite(change)
    with pytest.raises(InputError) as error:
        segment("--bundle", "changed.zip", "--output", "out")
    assert str(error.value).startswith(reason) and "\n" not in str(error.value)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"settings": {"normalization": "clahe"}}, "records normalization as 'clahe', which is not known here"),
        ({"settings": {"input_h": None}}, "records input_h as 'None', which is not known here"),
        ({"settings": {"input_h": {"a": 1}}}, "records input_h as "),
        ({"settings": {"divide_twice": 1}}, "records divide_twice as '1', which is not known here"),
        ({"instances": {"threshold": "high"}}, "its settings for nuclei are not known here"),
        ({"instances": {"treshold": 0.5}}, "its settings for nuclei are not known here"),
        ({"instances": [1]}, "its settings for nuclei are not known here"),
        ({"instances": {"threshold": float("nan")}}, "its settings for nuclei are not known here"),
    ],
)
def test_settings_that_are_refused(home, change, reason):
    save()
    bundle()
    edit(lambda about: about.update(change))
    with pytest.raises(InputError, match=rf"^changed\.zip/model\.onnx: {re.escape(reason)}"):
        segment("--bundle", "changed.zip", "--instances", "--output", "out")
    assert not Path("out").exists()


def test_what_is_no_bundle(home):
    for path, reason in (("nowhere.zip", "No such file or directory"), ("inputs", "not a regular file; give one")):
        with pytest.raises(InputError, match=rf"^{path}: {reason}$"):
            read_bundle(Path(path))
    Path("text.zip").write_text("no zip at all")
    with pytest.raises(
        InputError, match=r"^text\.zip: not a readable zip .*; give a bundle that pthtar2onnx\.py wrote$"
    ):
        read_bundle(Path("text.zip"))


def test_a_damaged_bundle(home):
    """Each of the members has a checksum."""
    save()
    bundle()
    content = bytearray(Path("model.zip").read_bytes())
    content[len(content) // 2] ^= 1
    Path("damaged.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"^damaged\.zip/model\.onnx: cannot be read \(.*\); give a bundle"):
        read_bundle(Path("damaged.zip"))


@pytest.mark.parametrize(
    "history", [None, 5, [], [7], [{"val_iou": "x", 3: 1, "val_dice": float("inf")}], {"val_iou": 1}]
)
def test_scores_of_odd_checkpoints(history):
    assert scores_of({"epoch": 3, "best_iou": None, "history": history}) == {"epochs": 3}


def test_a_failure_leaves_the_old_bundle(home, monkeypatch):
    save()
    Path("model.zip").write_text("the old one")
    monkeypatch.setattr(pthtar2onnx, "largest_difference", lambda *args: 1)
    with pytest.raises(InputError, match=r"differs from torch by more than 0\.0001; model\.zip is left as it was"):
        bundle()
    assert Path("model.zip").read_text() == "the old one"
