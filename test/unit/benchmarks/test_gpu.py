# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The benchmark and the checks for GPUs work; here they run on the CPU, without graphs. No test looks at a time."""

import pandas as pd
import pytest
import torch
from conftest import ROOT, run, run_python

from benchmarks import gpu, gpu_equality


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """The table of a tiny benchmark, what was printed, and the folder."""
    folder = tmp_path_factory.mktemp("gpu")
    flags = ("--tiny", "--device", "cpu", "--csv", "gpu.csv")
    result = run_python(ROOT / "benchmarks" / "gpu.py", *flags, cwd=folder, seconds=600)
    assert result.returncode == 0, result.stdout
    return pd.read_csv(folder / "gpu.csv"), result.stdout, folder


def test_the_table(figures):
    table, printed, folder = figures
    assert list(table) == ["what", "unit", "value", "remark"] and (table["value"] > 0).all()
    rows = dict(zip(table["what"], table["unit"]))
    assert len(rows) == len(table), "two rows have the same name"
    for arch in ("UNet", "NestedUNet"):
        for level in gpu.LEVELS:
            for batch_size in (4, 8):
                assert rows[f"step, {arch}, {level}, batch {batch_size}, eager"] == "images/s"
    for name in ("", ": a whole epoch", ": from the last Test line to the next step"):
        assert f"train.py, batch 8, 0 workers, eager{name}" in rows
    assert {"matrix product, float32 (TF32 on GPUs)", "matrix product, bfloat16"} < rows.keys()
    assert "% of the matrix product" in printed and list(folder.iterdir()) == [folder / "gpu.csv"]


def test_against_an_earlier_table(figures):
    _, _, folder = figures
    flags = ("--tiny", "--device", "cpu", "--parts", "peak", "--against", "gpu.csv")
    result = run("benchmarks/gpu.py", *flags, cwd=folder)
    assert result.returncode == 0 and result.stdout.count(", ratio ") == 2, result.stdout


def test_operators_of_a_net():
    """By the published widths: 3×3 convolutions of 96×96 and smaller; the backward pass has twice as many."""
    convolutions, side = [(3, 32), (32, 32)], 96
    forward = sum(2 * 9 * a * b * side**2 for a, b in convolutions)
    for level, (below, width) in enumerate([(32, 64), (64, 128), (128, 256), (256, 512)], 1):
        size = (side >> level) ** 2
        forward += 2 * 9 * (below * width + width * width) * size
    for level, (width, above) in enumerate([(32, 64), (64, 128), (128, 256), (256, 512)]):
        forward += 2 * 9 * ((width + above) * width + width * width) * (side >> level) ** 2
    forward += 2 * 32 * side**2
    without_input_gradient = 2 * 9 * 3 * 32 * side**2
    assert gpu.flops_per_image("UNet", side) == 3 * forward - without_input_gradient


def test_the_comparison_of_a_graph_with_ordinary_steps(tmp_path):
    """On the CPU both are ordinary, and overflows are skipped."""
    flags = ("--tiny", "--device", "cpu", "--graph", "auto", "--steps", "7", "--levels", "O0,O2", "--deterministic")
    result = run_python(ROOT / "benchmarks" / "gpu_equality.py", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines() == [
        "O0: equal; 0 steps skipped, 0 expected: good",
        "O2: equal; 1 steps skipped, 1 expected: good",
    ]


def test_a_difference_is_found():
    some = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([0.0])}
    others = {"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([0.0])}
    assert gpu_equality.largest_difference(some, others, some) == (0.25, "a")
    with pytest.raises(SystemExit, match="different tensors"):
        gpu_equality.largest_difference(some, {"a": some["a"]}, some)
