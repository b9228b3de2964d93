# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The command lines of the Ascend edition's launchers since October 2024: parsed, and run on a stand-in NPU.

They are written after the description of this edition and after the lines of the edition before it.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import NARROW, ROOT, STANDIN_NPU, free_port, needs_compiler, run_side_by_side, write_dataset

import options

LINES = {
    "performance_1p": (
        "--device_id 0 --bin_mode 0 --start_step 20 --stop_step 30 --profiling False DATA --optimizer Adam --epochs 5 "
        "--batch_size 512 --lr 1e-3 --num_workers 4 --precision_mode allow_mix_precision --performance"
    ),
    "full_1p": (
        "--device_id 0 DATA --optimizer Adam --epochs 100 --batch_size 16 --lr 1e-3 --num_workers 4 "
        "--precision_mode allow_mix_precision"
    ),
    # the launchers start these lines for each RANK from 0 to 7, without torchrun
    "performance_8p": (
        "DATA --batch_size 512 --optimizer Adam --lr 1e-3 --min_lr 1e-5 --device npu --epochs 5 --num_gpus 8 "
        "--num_workers 8 --rank_id RANK --precision_mode allow_mix_precision --performance"
    ),
    "full_8p": (
        "DATA --batch_size 128 --optimizer Adam --lr 1e-3 --min_lr 1e-5 --device npu --num_gpus 8 --num_workers 8 "
        "--rank_id RANK --precision_mode allow_mix_precision"
    ),
}
COMMON = {"data_path": "DATA", "optimizer": "Adam", "lr": 1e-3, "min_lr": 1e-5, "amp": None, "opt_level": "O2"}
ONE = {"device": "auto", "device_id": 0, "num_gpus": 1, "num_workers": 4, "rank_id": 0}
EIGHT = {"device": "npu", "num_gpus": 8, "num_workers": 8, "rank_id": 3}
SPEED = {"performance": True, "augmentation": "turns", "batch_size": 512, "epochs": 5}
ACCURACY = {"performance": False, "augmentation": "published", "epochs": 100}
MEANT = {
    "performance_1p": COMMON | ONE | SPEED | {"profiling": "False", "start_step": 20, "stop_step": 30, "bin_mode": 0},
    "full_1p": COMMON | ONE | ACCURACY | {"batch_size": 16},
    "performance_8p": COMMON | EIGHT | SPEED,
    "full_8p": COMMON | EIGHT | ACCURACY | {"batch_size": 128},
}


@pytest.mark.parametrize("launcher", LINES)
def test_what_the_lines_mean(launcher: str) -> None:
    args = vars(options.parse_train(LINES[launcher].replace("RANK", "3").split()))
    assert {name: args[name] for name in MEANT[launcher]} == MEANT[launcher]


@pytest.mark.parametrize("before, after", [("True", "False"), ("False", "True")])
def test_their_edit_of_the_source_changes_nothing(tmp_path: Path, before: str, after: str) -> None:
    """With --precision_mode must_keep_origin_dtype, they replace the default of --amp by sed, and set it back later."""
    source = shutil.copy(ROOT / "train.py", tmp_path)
    edit = f"s|'--amp', default={before}|'--amp', default={after}|g"
    subprocess.run(["sed", "-i", edit, source], check=True)
    assert Path(source).read_bytes() == (ROOT / "train.py").read_bytes()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder with 640 tiny images, of which 512 train: one batch of the speed run."""
    folder = tmp_path_factory.mktemp("current")
    write_dataset(folder / "inputs" / "discs", count=640, side=16)
    return folder


@needs_compiler
@pytest.mark.parametrize(
    "launcher, ranks, epochs, steps, batch_size",
    [
        ("performance_1p", 1, 5, 1, 512),
        ("full_1p", 1, 1, 32, 16),
        ("performance_8p", 8, 5, 1, 512),
        ("full_8p", 8, 1, 4, 128),
    ],
)
def test_the_lines_train(images: Path, launcher: str, ranks: int, epochs: int, steps: int, batch_size: int) -> None:
    """The flags that are appended make the nets fast: small inputs and, for the accuracy runs, one epoch."""
    line = LINES[launcher].replace("DATA", "inputs/discs") + f" --input_h 16 --input_w 16 --name {launcher}"
    line += " --epochs 1" if "full" in launcher else ""
    environment = {"PYTHONPATH": str(STANDIN_NPU), "STANDIN_NPU_COUNT": "8", "MASTER_PORT": free_port(), **NARROW}
    each = [(line.replace("RANK", str(rank)).split(), environment) for rank in range(ranks)]
    results = run_side_by_side(ROOT / "train.py", each, cwd=images)
    assert [result.returncode for result in results] == [0] * ranks, results[-1].stdout
    printed = results[0].stdout
    processes = f", {ranks} processes" if ranks > 1 else ""
    assert f"UNet on npu:0{processes}, O2, float16: 512 images to train, 128 to validate" in printed
    times = re.findall(rf"^Epoch: \[(\d)\]\[ *\d+/{steps}\]\tTime +(\S+) ", printed, re.MULTILINE)
    assert [int(epoch) for epoch, _ in times] == [epoch for epoch in range(1, epochs + 1) for _ in range(steps)]
    speeds = [float(text) for text in re.findall(r"^\[npu id: 0 \] \* FPS@all (\S+)$", printed, re.MULTILINE)]
    scores = [float(text) for text in re.findall(r"^\[npu id: 0 \] \[AVG-IOU\] \* Iou (\S+)$", printed, re.MULTILINE)]
    assert len(speeds) == len(scores) == epochs
    if "performance" in launcher:  # the only step of an epoch counts
        seconds = [float(time) for _, time in times]
        assert speeds == pytest.approx([batch_size / time for time in seconds], rel=0.001 / min(seconds))
    for other in results[1:]:
        assert not re.search("FPS|AVG|Epoch:|Test", other.stdout)
    log = pd.read_csv(images / "models" / launcher / "log.csv")
    assert log.val_iou.tolist() == pytest.approx(scores, abs=5e-5)
