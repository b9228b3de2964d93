# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Every command that takes a checkpoint scores it as its training did; explicit flags win over recorded ones."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from conftest import NARROW_WIDTHS, TINY, no_curves, write_dataset

import archs
import demo
import options
import pthtar2onnx
import train
import val
from runtime import run_files

pytestmark = pytest.mark.usefixtures("narrow", "unplotted")

MODEL = "models/run/model_best.pth.tar"
RECIPE = ("--num_classes", "2", "--normalization", "image", "--divide_twice", "False", "--loss", "BCEDiceLoss")
DATA = ("--dataset", "cells", "--img_ext", ".bmp", "--mask_ext", ".tif")
RECORDED = {
    **{"batch_size": "2", "img_ext": ".bmp", "mask_ext": ".tif", "normalization": "image", "loss": "BCEDiceLoss"},
    **{"input_h": "32", "input_w": "32", "divide_twice": "False"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, tuple[str, str]]:
    """Train a net of two classes on 32×32 images; returns the folder, and the loss and IoU of the last validation.

    Batches of 2 are the shares of 2 processes of a batch of 4, which is what the checkpoint then records.
    """
    home = tmp_path_factory.mktemp("trained")
    folder = write_dataset(home / "inputs" / "cells", count=25, classes=2)
    for extension, pattern in ((".bmp", "images/*.png"), (".tif", "masks/*/*.png")):
        for path in folder.glob(pattern):
            cv2.imwrite(str(path.with_suffix(extension)), cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
            path.unlink()
    size = ("--input_h", "32", "--input_w", "32", "--batch_size", "2", "--num_workers", "0")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
        patch.chdir(home)
        patch.setattr(archs, "WIDTHS", NARROW_WIDTHS)
        patch.setattr(run_files, "plot_curves", no_curves)
        train.main(options.parse_train([*size, *RECIPE, *DATA, "--lr", "2e-2", "--epochs", "3", "--name", "run"]))
    checkpoint = torch.load(home / "models/run/checkpoint.pth.tar", weights_only=True)
    checkpoint["config"]["batch_size"], checkpoint["processes"] = 4, 2
    torch.save(checkpoint, home / MODEL)
    return home, scores_in(output.getvalue())[0]


@pytest.fixture
def scored(trained, home) -> tuple[str, str]:
    """Copy the trained net and its data to `home`, as tests change them; returns the scores of its last validation."""
    folder, found = trained
    shutil.copytree(folder, home, dirs_exist_ok=True)
    return found


def scores(capsys) -> tuple[tuple[str, str], dict[str, str]]:
    """Return scores_in what was printed since the last call."""
    return scores_in(capsys.readouterr().out)


def scores_in(out: str) -> tuple[tuple[str, str], dict[str, str]]:
    """Return the loss and IoU of the last validation that was printed, and what its one line took from training."""
    loss = re.findall(r"^Test: .*\tLoss \S+ \((\S+)\)", out, re.MULTILINE)[-1]
    iou = re.findall(r"\[AVG-IOU\] \* Iou (\S+)$", out, re.MULTILINE)[-1]
    lines = re.findall(r"^as in training: (.*)$", out, re.MULTILINE)
    assert len(lines) <= 1
    return (loss, iou), dict(part.split(" ") for part in ", ".join(lines).split(", ") if part)


def evaluate(*flags: str) -> None:
    train.main(options.parse_train(["--evaluate", "--resume", MODEL, "--num_workers", "0", *flags]))


def score(*flags: str) -> None:
    val.main(options.parse_val(["--name", "run", "--num_workers", "0", *flags]))


def segment(*flags: str) -> None:
    demo.main(options.parse_demo(["--name", "run", "--num_workers", "0", *flags]))


def segment_export(*flags: str) -> None:
    demo.main(options.parse_demo(["--onnx", "net.onnx", "--num_workers", "0", *flags]))


COMMANDS = {"train.py --evaluate": evaluate, "val.py": score, "demo.py": segment}


def test_all_commands_score_as_training_did(scored, capsys):
    assert 0.05 < float(scored[1]) < 0.95, "a net that sees all or nothing would prove nothing"
    for name, command in COMMANDS.items():
        command()
        assert scores(capsys) == (scored, RECORDED), name
    pthtar2onnx.main(options.parse_export(["--name", "run", "--output", "net.onnx"]))
    line = "as in training: normalization image, divide_twice False, input_h 32, input_w 32\n"
    assert line in capsys.readouterr().out
    segment_export("--data_path", "inputs/cells")
    found, taken = scores(capsys)
    assert [float(text) for text in found] == pytest.approx([float(text) for text in scored], abs=1.5e-4)
    assert taken == RECORDED


def test_given_flags_win_over_recorded_ones(scored, capsys):
    """A batch of 4 and a size of 48×64; the size of an export is that of pthtar2onnx.py."""
    size = ("--input_h", "48", "--input_w", "64")
    left = {name: value for name, value in RECORDED.items() if name not in ("batch_size", "input_h", "input_w")}
    evaluate("--batch_size", "4", *size)
    expected, taken = scores(capsys)
    assert taken == left and expected[1] != scored[1]
    for command in (score, segment):
        command("--batch_size", "4", *size)
        assert scores(capsys) == (expected, left)
    pthtar2onnx.main(options.parse_export(["--name", "run", "--output", "net.onnx", *size]))
    assert "as in training: normalization image, divide_twice False\n" in capsys.readouterr().out
    segment_export("--data_path", "inputs/cells", "--batch_size", "4")
    found, taken = scores(capsys)
    assert [float(text) for text in found] == pytest.approx([float(text) for text in expected], abs=1.5e-4)
    assert taken == left | {"input_h": "48", "input_w": "64"}


@pytest.mark.parametrize(
    "flags",
    [("--batch_size", "5"), ("--input_h", "16"), ("--normalization", "standard"), ("--loss", "LovaszHingeLoss")],
    ids=" ".join,
)
def test_each_recorded_flag_counts(scored, capsys, flags):
    """Scores with another value differ, so the tests above would notice a flag that is not honored."""
    evaluate(*flags)
    found, taken = scores(capsys)
    assert found != scored and taken.keys() == RECORDED.keys() - {flags[0].removeprefix("--")}


def test_extensions_can_be_given(scored, home, capsys):
    """Here the images have been converted since."""
    for path in (home / "inputs" / "cells" / "images").iterdir():
        cv2.imwrite(str(path.with_suffix(".png")), cv2.imread(str(path)))
        path.unlink()
    for command in COMMANDS.values():
        command("--img_ext", ".png")
        found, taken = scores(capsys)
        assert found == scored and "img_ext" not in taken and taken["mask_ext"] == ".tif"


# --- --pretrained ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, taken",
    [
        (TINY[:4], {"normalization": "image", "divide_twice": False}),
        ((), {"normalization": "image", "divide_twice": False, "input_h": 16, "input_w": 16}),
        ((*TINY[:4], "--divide_twice", "True"), {"normalization": "image"}),
        ((*TINY[:4], "--normalization", "standard", "--divide_twice", "True"), {}),
        (("--recipe", "fast"), {"input_h": 16, "input_w": 16}),
    ],
    ids=["faithful", "its size", "one given", "all given", "fast"],
)
def test_pretrained_takes_over_how_images_are_prepared(home, capsys, given, taken):
    """From a run of the recipe fast, of which nothing else is taken over."""
    train.main(options.parse_train(["inputs/discs", *TINY, "--recipe", "fast", "--epochs", "1", "--name", "fast"]))
    capsys.readouterr()
    flags = ["inputs/discs", "--batch_size", "4", "--num_workers", "0", "--epochs", "1", "--name", "new", *given]
    flags += ["--pretrained", "--resume", "models/fast/checkpoint.pth.tar"]
    expected = vars(options.parse_train(flags)) | taken
    train.main(options.parse_train(flags))
    lines = re.findall(r"^as in training: (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert lines == ([", ".join(f"{name} {value}" for name, value in taken.items())] if taken else [])
    assert yaml.safe_load((home / "models" / "new" / "config.yml").read_text()) == expected
    if not given:
        assert (expected["augmentation"], expected["ema"]) == ("published", 0)


def test_weights_of_the_published_recipe_for_a_run_of_the_fast_one(home, capsys):
    """The defaults of a recipe give way to what a checkpoint records, and that is printed too."""
    train.main(options.parse_train(["inputs/discs", *TINY, "--epochs", "1", "--name", "faithful"]))
    flags = ["inputs/discs", *TINY, "--epochs", "1", "--name", "new", "--recipe", "fast"]
    capsys.readouterr()
    train.main(options.parse_train([*flags, "--pretrained", "--resume", "models/faithful/checkpoint.pth.tar"]))
    assert "as in training: normalization standard, divide_twice True\n" in capsys.readouterr().out
    config = yaml.safe_load((home / "models" / "new" / "config.yml").read_text())
    assert (config["normalization"], config["divide_twice"], config["ema"]) == ("standard", True, 0.99)


def test_a_recorded_skip_bad_counts(home, capsys):
    """A model that was trained without its unreadable images can be scored without them."""
    _, val_ids = train.dataset.split_ids([f"disc{number:02d}" for number in range(15)])
    (home / "inputs" / "discs" / "images" / f"{val_ids[0]}.png").write_bytes(b"no image")
    train.main(options.parse_train(["inputs/discs", *TINY, "--epochs", "1", "--name", "run", "--skip_bad"]))
    expected = scores(capsys)[0]
    for name, command in COMMANDS.items():
        command()
        found, taken = scores(capsys)
        assert found == expected and taken["skip_bad"] == "True", name


def test_a_run_from_pretrained_weights_resumes_with_its_own_input(home, capsys):
    """The flags that it took over from the weights need not be given again."""
    size = ("--input_h", "32", "--input_w", "32", "--batch_size", "4", "--num_workers", "0")
    fast = ["inputs/discs", *size, "--recipe", "fast", "--ema", "0.9", "--epochs", "1", "--name", "fast"]
    train.main(options.parse_train(fast))
    flags = ["inputs/discs", "--batch_size", "4", "--num_workers", "0", "--scheduler", "ConstantLR", "--name", "run"]
    weights = ["--pretrained", "--resume", "models/fast/model_best.pth.tar"]
    train.main(options.parse_train([*flags, "--epochs", "1", *weights]))
    capsys.readouterr()
    train.main(options.parse_train([*flags, "--epochs", "2", "--resume", "auto"]))
    out = capsys.readouterr().out
    assert "as in training: normalization image, divide_twice False, input_h 32, input_w 32" in out
    assert "resuming models/run/checkpoint.pth.tar after 1 epochs" in out
    config = yaml.safe_load((home / "models" / "run" / "config.yml").read_text())
    assert (config["normalization"], config["divide_twice"], config["input_h"]) == ("image", False, 32)


def test_evaluation_uses_the_data_of_the_training(scored, home, capsys):
    """Without a data path it is the recorded one, which is printed; a folder that is gone is named."""
    evaluate()
    assert "epochs trained, on inputs/cells" in capsys.readouterr().out
    (home / "inputs" / "cells").rename(home / "inputs" / "moved")
    evaluate("inputs/moved")
    assert scores(capsys)[0] == scored
