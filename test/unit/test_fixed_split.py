# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""train.py, val.py and demo.py with a split that the user chose."""

import csv
import re
from pathlib import Path

import pytest
import torch
from conftest import TINY
from test_nuclei import write_raw

import dataset
import demo
import options
import pthtar2onnx
import train
import val
from infer import preprocess
from runtime.errors import InputError

IDS = [f"disc{k:02d}" for k in range(15)]
FILES = ("--train_ids", "train.txt", "--val_ids", "val.txt")
BEST = "models/run/model_best.pth.tar"


def write_ids(train_ids: list[str], val_ids: list[str]) -> None:
    for name, ids in (("train.txt", train_ids), ("val.txt", val_ids)):
        Path(name).write_text("".join(f"{img_id}.png\n" for img_id in ids))


def train_here(*flags: str) -> dict:
    train.main(options.parse_train(["inputs/discs", *TINY, "--epochs", "1", "--name", "run", *flags]))
    return torch.load("models/run/checkpoint.pth.tar", weights_only=True)


def scored(folder: str) -> set[str]:
    return {path.stem for path in Path(folder, "0").glob("*.jpg")}


def test_every_command_uses_the_recorded_split(home, capsys):
    write_ids(IDS[:8], IDS[12:])
    checkpoint = train_here(*FILES)
    assert "8 images to train, 3 to validate" in capsys.readouterr().out
    assert checkpoint["data"]["split"] == {"train": IDS[:8], "val": IDS[12:]}
    for name in ("train.txt", "val.txt"):
        Path(name).unlink()

    val.main(options.parse_val(["--name", "run", "--num_workers", "0"]))
    shown = capsys.readouterr().out
    assert scored("outputs/run") == set(IDS[12:])
    line = re.search(r"\[AVG-IOU\].*", shown)[0]
    train.main(options.parse_train(["inputs/discs", *TINY, "--evaluate", "--resume", BEST]))
    assert line in capsys.readouterr().out
    for flags in ([], ["--instances"]):
        demo.main(options.parse_demo(["--name", "run", "--num_workers", "0", "--output", "pictures", *flags]))
        assert "the 3 images of the validation split" in capsys.readouterr().out

    resumed = train_here("--resume", "auto", "--epochs", "2", "--resume_anyway")
    assert resumed["epoch"] == 2 and resumed["data"] == checkpoint["data"]
    write_ids(IDS[:8], IDS[11:])
    with pytest.raises(InputError, match="val images 3 there and 4 here"):
        train_here("--resume", "auto", *FILES)


def test_an_export_does_not_guess_the_split(home):
    """It would be scored on images of the training."""
    write_ids(IDS[:8], IDS[12:])
    train_here(*FILES)
    pthtar2onnx.main(options.parse_export(["--name", "run", "--output", "net.onnx"]))
    with pytest.raises(InputError, match=r"^net.onnx: its net was trained on a split of its own.*--input \("):
        demo.main(options.parse_demo(["--onnx", "net.onnx", "--data_path", "inputs/discs"]))
    with pytest.raises(InputError, match=r"^net.onnx: its net was trained on a split of its own"):
        preprocess.main(options.parse_infer_preprocess(["--onnx", "net.onnx", "--data_path", "inputs/discs"]))
    flags = ["--onnx", "net.onnx", "--data_path", "inputs/discs", "--val_ids", "val.txt"]
    preprocess.main(options.parse_infer_preprocess(flags))
    with open("infer_data/inputs/list.csv") as file:
        assert [row["id"] for row in csv.DictReader(file)] == IDS[12:]
    image = next(Path("inputs/discs/images").iterdir())
    demo.main(options.parse_demo(["--onnx", "net.onnx", "--input", str(image), "--output", "pictures"]))


def test_evaluation_may_choose_other_images(home, capsys):
    train_here()
    chosen = [part[0] for part in dataset.split_ids(IDS)]
    write_ids([], chosen)
    warning = "warning: the model was trained on 1 of the 2 images to validate, so the scores include training images\n"
    capsys.readouterr()
    val.main(options.parse_val(["--name", "run", "--num_workers", "0", "--val_ids", "val.txt"]))
    assert scored("outputs/run") == {*chosen} and warning in capsys.readouterr().out
    train.main(options.parse_train(["inputs/discs", *TINY, "--evaluate", "--resume", BEST, "--val_ids", "val.txt"]))
    assert warning in capsys.readouterr().out


def test_the_usual_split_in_files_gives_the_same_weights(home):
    write_ids(*dataset.split_ids(IDS))
    usual, fixed = train_here(), train_here(*FILES)
    assert "split" not in usual["data"] and fixed["data"].pop("split")
    assert usual["data"] == fixed["data"]
    for name, weights in usual["state_dict"].items():
        assert torch.equal(weights, fixed["state_dict"][name]), name


def test_a_new_run_from_weights_has_its_own_split(home, capsys):
    """A warning says how many of its validation images the weights have seen."""
    usual = dataset.split_ids(IDS)[1]
    seen = [*usual[:1], *(img_id for img_id in IDS if img_id not in usual)]
    write_ids(seen, usual[1:])
    train_here(*FILES)
    capsys.readouterr()
    assert "split" not in train_here("--pretrained", "--resume", BEST)["data"]
    assert f"warning: the model was trained on 1 of the {len(usual)} images to validate" in capsys.readouterr().out
    train_here("--pretrained", "--resume", BEST)
    assert "warning: the model was trained on" not in capsys.readouterr().out


def test_a_raw_set_is_split_as_recorded(bright, capsys):
    write_raw(Path("raw"))
    path = Path("models/bright/model_best.pth.tar")
    recorded = {"split": {"train": ["n0", "n1"], "val": ["n5", "n7", "n2"]}}
    torch.save(torch.load(path, weights_only=False) | {"data": recorded}, path)
    flags = ["--name", "bright", "--raw", "raw", "--num_workers", "0"]
    val.main(options.parse_val(flags))
    assert "data: raw, 3 images to validate" in capsys.readouterr().out
    Path("val.txt").write_text("n3\n\nn4.png\n")
    val.main(options.parse_val([*flags, "--val_ids", "val.txt"]))
    assert "data: raw, 2 images to validate" in capsys.readouterr().out
    torch.save(torch.load(path, weights_only=False) | {"data": {"split": {"train": ["gone"], "val": ["n5"]}}}, path)
    with pytest.raises(InputError, match=r"^raw: the model records its split, but its image gone is not there"):
        val.main(options.parse_val(flags))


@pytest.mark.parametrize(
    ("parse", "flags", "words"),
    [
        (options.parse_train, ["--train_ids", "a"], "--train_ids and --val_ids belong together"),
        (options.parse_train, ["--val_ids", "a"], "--train_ids and --val_ids belong together"),
        (options.parse_train, ["--evaluate", "--resume", "x", "--train_ids", "a"], "belong together"),
        (options.parse_train, ["--train_ids", "a", "--val_ids="], "--val_ids lacks its value"),
        (options.parse_train, ["--inner_split", "--train_ids", "a", "--val_ids", "b"], "--inner_split divides"),
        (options.parse_val, ["--train_ids", "a"], "--train_ids needs --val_ids"),
        (options.parse_val, ["--val_ids="], "--val_ids lacks its value"),
        (options.parse_val, ["--val_ids", "a", "--all"], "--all scores every image"),
        (options.parse_val, ["--val_ids", "a", "--tune"], "--tune with --val_ids needs --train_ids"),
    ],
)
def test_flags_that_exclude_each_other(capsys, parse, flags, words):
    with pytest.raises(SystemExit):
        parse(flags)
    assert words in capsys.readouterr().err
