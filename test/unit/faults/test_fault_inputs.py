# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The harness for mutated files: a seed always gives the same file, and each kind of fault is recognized."""

import io
from random import Random

import cv2
import numpy as np
import pytest
import torch
from faults import inputs, mutations

PNG = cv2.imencode(".png", np.arange(256, dtype=np.uint8).reshape(16, 16))[1].tobytes()
TIFF = cv2.imencodemulti(".tif", [np.arange(256, dtype=np.uint8).reshape(16, 16)] * 2)[1].tobytes()
CONFIG = b"arch: UNet\ninput_h: 32\nimg_ext: .png\n"
ZIP = mutations._zipped([("a/images/a.png", PNG), ("a/masks/0.png", PNG)])


def checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save(
        {"epoch": 1, "state_dict": {"a": torch.ones(3)}, "history": [{"loss": 1.0}], "config": {"lr": 1}}, buffer
    )
    return buffer.getvalue()


FILES = {"image": PNG, "tiff_directory": TIFF, "config": CONFIG, "raw_zip": ZIP, "checkpoint": checkpoint()}


@pytest.mark.parametrize("kind", FILES)
def test_mutations_depend_only_on_the_seed(tmp_path, kind):
    mutate, data = getattr(mutations, kind), FILES[kind]
    once, again = ([mutate(Random(seed), data, tmp_path / "canary") for seed in range(30)] for _ in range(2))
    assert [text for _, text in once] == [text for _, text in again]
    assert once == again or kind == "checkpoint"  # its oldest format identifies tensors by their address
    assert len({new for new, _ in once}) > 15 and sum(new != data for new, _ in once) > 25
    assert not list(tmp_path.iterdir()), "a mutation executed what it should only write"


CASE = inputs.Case("picture", "demo", "", ["a.png"], mutations.image, ["outputs"])
VAL = CASE._replace(script="val")
ERROR = "[Error] a.png: not a readable image\n"


@pytest.mark.parametrize(
    "case, status, text, outcome",
    [
        (VAL, 0, "Iou 0.5\n", "handled"),
        (VAL, 1, ERROR, "clear error"),
        (VAL, 2, "usage: val.py\nval.py: error: unrecognized", "clear error"),
        (VAL, 1, "something else\n", "unclear error"),
        (VAL, 1, "[Error] of no file\n", "unclear error"),
        (VAL, 1, ERROR * 2, "unclear error"),
        (CASE, 1, ERROR * 2 + "[Error] 2 of 3 images could not be read\n", "clear error"),
        (VAL, 1, ERROR.replace("a.png", "a.png\x1b[2J"), "unclear error"),
        (VAL, 1, f"[Error] a.png: x\n{mutations.SMUGGLED}\n", "unclear error"),
        (VAL, 1, "Traceback (most recent call last):\n  …", "traceback"),
        (VAL, -11, "", "traceback"),
        (VAL, None, "", "hang"),
    ],
)
def test_outcomes_by_output(tmp_path, case, status, text, outcome):
    assert inputs.classify(case, "a.png", status, text, set(), tmp_path) == outcome


@pytest.mark.parametrize(
    "name, content, outcome",
    [
        ("outputs/0/x.png", PNG, "clear error"),
        ("outputs/0/x.png", b"", "half-written"),
        ("outputs/metrics.csv", b"id,iou\nx,0.", "half-written"),
        ("outputs/.1-2.partial.png", PNG, "half-written"),
        ("canary", b"", "file outside"),
        ("outputs2/x.png", PNG, "file outside"),
    ],
)
def test_outcomes_by_written_files(tmp_path, name, content, outcome):
    before = inputs.snapshot(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    changed = set(inputs.snapshot(tmp_path)) - set(before)
    assert inputs.classify(VAL, "a.png", 1, ERROR, changed, tmp_path) == outcome


def test_changed_and_removed_files_are_found(tmp_path):
    for name in ("kept", "changed", "removed"):
        (tmp_path / name).write_bytes(b"12")
    before = inputs.snapshot(tmp_path)
    (tmp_path / "changed").write_bytes(b"34")
    (tmp_path / "removed").unlink()
    after = inputs.snapshot(tmp_path)
    differing = {path.name for path in before if before[path] != after.get(path)}
    assert differing == {"changed", "removed"}


def test_the_table_adds_up():
    found = inputs.Counter({("zip", "preprocess_dsb2018", "handled"): 3, ("checkpoint", "train --resume", "hang"): 12})
    lines = inputs.as_table(found).splitlines()
    assert len({len(line) for line in lines}) == 1 and lines[-1].split() == ["all", "0", "3", "0", "0", "12", "0", "0"]
