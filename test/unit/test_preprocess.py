# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""preprocess_dsb2018.py as a command: its errors, and synthetic data from start to end."""

import re

import pytest
from conftest import run


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--input", "nowhere"), r"\[Error\] nowhere: no such file or folder; give the raw set's path"),
        (("--input", "text.zip"), r"\[Error\] text\.zip: not a readable zip"),
        (("--input", "empty"), r"\[Error\] empty: no <id>/images/<id>\.png and <id>/masks/\*\.png in there"),
        ((), r"\[Error\] inputs/stage1_train\.zip: no such file or folder"),
        (("--synthetic", "1"), "'1' is not a whole number of at least 2"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, flags, message):
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "empty").mkdir()
    result = run("preprocess_dsb2018.py", *flags, cwd=tmp_path)
    assert result.returncode != 0 and "Traceback" not in result.stdout
    assert re.search(message, result.stdout), result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "text.zip"]


def test_synthetic_set_from_nothing_to_prepared(tmp_path):
    result = run("preprocess_dsb2018.py", "--synthetic", "6", cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert len(list((tmp_path / "inputs/synthetic/stage1_train").iterdir())) == 6
    assert len(list((tmp_path / "inputs/synthetic_96/masks/0").glob("*.png"))) == 6
    assert not (tmp_path / "inputs/dsb2018_96").exists(), "synthetic data have a folder of their own"
    again = run("preprocess_dsb2018.py", "--synthetic", "6", cwd=tmp_path)
    assert again.returncode == 0 and "is already prepared, with 6 of 6 images" in again.stdout
    other = run("preprocess_dsb2018.py", "--synthetic", "7", cwd=tmp_path)
    assert other.returncode == 1 and "holds 6 images already; remove it, or pass --synthetic 6" in other.stdout
