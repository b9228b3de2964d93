# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The tools for accuracy: analysis of errors, the table, the plot, the commands of the runs."""

import argparse
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, TINY, random_net

import options
import train
import val
from benchmarks import accuracy_errors, accuracy_table
from runtime.errors import InputError


def mask(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Return a 32×64 mask of boxes: (top, bottom, left, right), as in slices."""
    found = np.zeros((32, 64), bool)
    for top, bottom, left, right in boxes:
        found[top:bottom, left:right] = True
    return found


TWO = (4, 12, 4, 12), (4, 12, 14, 22)  # two nuclei, two pixels apart


CASES = {  # prediction, truth, number of pixels by kind
    "right": (mask(*TWO), mask(*TWO), {}),
    "missed": (mask(TWO[0]), mask(*TWO), {"missed": 64}),
    "a quarter": (
        mask(TWO[0], (4, 6, 14, 22)),
        mask(*TWO),
        {"outline, too little": 6 * 2 + 6, "deeper": 48 - 18},
    ),
    "invented": (mask(TWO[0], (20, 30, 40, 50)), mask(TWO[0]), {"invented": 100}),
    "merged": (mask((4, 12, 4, 22)), mask(*TWO), {"merged": 16}),
    "a gap that stays open": (mask((4, 12, 4, 13), TWO[1]), mask(*TWO), {"outline, too much": 8}),
    "three pixels apart": (mask((4, 12, 4, 23)), mask(TWO[0], (4, 12, 15, 23)), {"merged": 24}),
    "four pixels apart": (
        mask((4, 12, 4, 24)),
        mask(TWO[0], (4, 12, 16, 24)),
        {"outline, too much": 16, "deeper": 16},
    ),
    "too large": (mask((3, 13, 3, 13)), mask(TWO[0]), {"outline, too much": 36}),
    "too small": (mask((5, 11, 5, 11)), mask(TWO[0]), {"outline, too little": 28}),
    "far too large": (mask((4, 12, 4, 16)), mask(TWO[0]), {"outline, too much": 8, "deeper": 24}),
    "at the border": (mask((0, 8, 0, 8)), mask((0, 9, 0, 8)), {"outline, too little": 8}),
    "empty": (mask(), mask(), {}),
    "nothing found": (mask(), mask(TWO[0]), {"missed": 64}),
    "no background": (~mask(), ~mask(), {}),
}


@pytest.mark.parametrize("predicted, true, expected", CASES.values(), ids=CASES)
def test_kinds_of_error(predicted, true, expected) -> None:
    found = {kind: int(pixels.sum()) for kind, pixels in accuracy_errors.kinds_of_error(predicted, true).items()}
    assert {kind: count for kind, count in found.items() if count} == expected


def test_each_wrong_pixel_is_of_exactly_one_kind() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        blurred = [cv2.GaussianBlur(rng.normal(size=(48, 64)), (0, 0), 2) > 0.05 for _ in range(2)]
        kinds = list(accuracy_errors.kinds_of_error(*blurred).values())
        assert np.array_equal(np.sum(kinds, 0), blurred[0] ^ blurred[1])


def test_batch_iou() -> None:
    rng = np.random.default_rng(0)
    predicted, true = rng.random((2, 10, 8, 8)) > 0.4
    predicted[8:] = true[8:] = False  # no nuclei, and none predicted, counts as right
    ious = [(p & t).sum() / (p | t).sum() for p, t in zip(np.split(predicted[:8], 2), np.split(true[:8], 2))]
    expected = np.average([*ious, 1], weights=[4, 4, 2])
    assert accuracy_errors.batch_iou(predicted, true, 4) == pytest.approx(expected, abs=1e-5)


def test_errors_on_one_side() -> None:
    """Each image has 64 true pixels: one has 36 surplus pixels, one 28 missing, one 8 of each."""
    true = np.array([mask(TWO[0])] * 3)
    predicted = np.array([mask((3, 13, 3, 13)), mask((5, 11, 5, 11)), mask((4, 12, 5, 13))])
    images = pd.DataFrame({"iou": [0.64, 0.5625, 56 / 72], "kind": ["a", "b", "b"]})
    table = accuracy_errors.by_kind_of_image(images, predicted, true)
    assert table["one-sided"].tolist() == pytest.approx([1, 28 / 44, 64 / 80])
    assert table["of all errors"].tolist() == pytest.approx([36 / 80, 44 / 80, 1])
    assert table.loc["a", ["area found ÷ true, 10 %", "90 %"]].tolist() == pytest.approx([100 / 64] * 2)
    assert table.loc["b", "area found ÷ true, 10 %"] == pytest.approx(36 / 64 + 0.1 * 28 / 64)
    errors = accuracy_errors.by_kind_of_error(predicted, true, 16)
    assert errors["of all errors"].sum() == pytest.approx(1)
    assert errors.loc["outline, too much", "batch IoU without it"] == pytest.approx(156 / 192)


@pytest.mark.parametrize(
    "background, nuclei, expected",
    [
        ((9, 9, 9), 120, "fluorescence"),
        ((228,) * 3, 90, "bright field, gray"),
        ((220, 150, 190), 90, "stained, in color"),
    ],
)
def test_modality(background, nuclei, expected) -> None:
    image = np.full((96, 96, 3), background, np.uint8)
    image[10:20, 10:40] = nuclei
    assert accuracy_errors.modality(image) == expected


@pytest.mark.usefixtures("narrow", "unplotted")
def test_tables_of_a_run(home, capsys) -> None:
    """Both tables agree with what training and val.py printed."""
    flags = ["inputs/discs", *TINY, "--epochs", "2", "--name", "run", "--seed", "9", "--ema", "0.5"]
    train.main(options.parse_train(flags))
    val.main(options.parse_val(["--name", "run", "--num_workers", "0"]))
    iou = re.search(r"^IoU: (\S+)$", capsys.readouterr().out, re.MULTILINE)[1]
    accuracy_errors.main(argparse.Namespace(name="run", output="outputs", data_path=None))
    assert f"batch IoU {iou}\n" in capsys.readouterr().out

    accuracy_table.main(argparse.Namespace(names=["run"], plot=Path("plots/curves.png")))
    log = pd.read_csv("models/run/log.csv")
    last, best = 100 * log["val_iou"].iloc[-1], log["val_iou"].idxmax()
    expected = f"| run | 9 | 2 | {last:.2f} | {100 * log['val_iou'][best]:.2f} ({best + 1}) | "
    assert expected in capsys.readouterr().out
    assert cv2.imread("plots/curves.png").shape == (450, 900, 3)


def test_missing_results_are_named(home) -> None:
    with pytest.raises(InputError, match=r"models/run: no log\.csv"):
        accuracy_table.main(argparse.Namespace(names=["run"], plot=None))
    with pytest.raises(InputError, match="models/run"):
        accuracy_errors.main(argparse.Namespace(name="run", output="outputs", data_path=None))
    run = Path("models/run")
    run.mkdir(parents=True)
    torch.save({"state_dict": random_net().state_dict(), "epoch": 1}, run / "checkpoint.pth.tar")
    (run / "log.csv").write_text("epoch,val_iou\n0,0.5\n")
    with pytest.raises(InputError, match="models/run: of an older edition"):
        accuracy_table.main(argparse.Namespace(names=["run"], plot=None))


def test_commands_of_accuracy_sh() -> None:
    """Each run has its own name and known flags; it is in a table, and evaluated unless it uses the inner split."""
    parsers = {"train.py": options.parse_train, "val.py": options.parse_val}
    lines = (ROOT / "benchmarks" / "accuracy.sh").read_text(encoding="utf-8").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("python ")]
    parsed = [(script, parsers[script](flags)) for script, *flags in commands if script in parsers]
    runs = [args for script, args in parsed if script == "train.py" and not args.evaluate]
    trained = [args.name for args in runs]
    evaluated = {args.name for script, args in parsed if script == "val.py"}
    outer = {args.name for args in runs if not args.inner_split}
    assert len(set(trained)) == len(trained) >= 10 and evaluated == outer
    tables = [flags for script, *flags in commands if script == "benchmarks/accuracy_table.py"]
    names = [flag for flags in tables for flag in flags if flag not in ("--plot", "docs/accuracy.png")]
    assert sorted(names) == sorted(trained)
    assert {flags[0] for script, *flags in commands if script == "benchmarks/accuracy_errors.py"} <= outer


def test_commands_of_nuclei_sh() -> None:
    """Each run is trained on data that the script prepares, tuned, and scored at native resolution."""
    parsers = {
        "train.py": options.parse_train,
        "val.py": options.parse_val,
        "preprocess_dsb2018.py": options.parse_preprocess,
    }
    lines = (ROOT / "benchmarks" / "nuclei.sh").read_text(encoding="utf-8").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("python ")]
    parsed = [(script, parsers[script](flags)) for script, *flags in commands]
    prepared = {args.output: 2 if args.borders else 1 for script, args in parsed if script == "preprocess_dsb2018.py"}
    trained = {args.name: args for script, args in parsed if script == "train.py"}
    assert {args.data_path: args.num_classes for args in trained.values()} == prepared
    assert {args.name for script, args in parsed if script == "val.py" and args.tune and args.raw} == trained.keys()
