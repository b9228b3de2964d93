# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Run rank_tasks.py in several processes, and compare what they found."""

from pathlib import Path

import pytest
import torch
from conftest import UNIT, run_ranks

RANK_TASKS = UNIT / "helpers" / "rank_tasks.py"


def run_task(count: int, *arguments: object, cwd: Path, **environment: str) -> list[dict]:
    """Run rank_tasks.py with these arguments in `count` processes; returns what each of them found."""
    result = run_ranks(count, RANK_TASKS, *arguments, "found", cwd=cwd, **environment)
    assert result.returncode == 0, result.stdout
    return [torch.load(cwd / f"found.{rank}", weights_only=True) for rank in range(count)]


def assert_same_training(one: dict, several: list[dict], ignored: tuple[str, ...] = ()) -> None:
    """Assert that several processes trained as one did, and that all of them have the same weights.

    Losses and weights must agree within 1e-5, the sum of all weight updates within 2 %. ignored: names of weights.
    """
    names = [name for name in one["weights"] if name not in ignored]
    assert len(one["losses"]) == 5 and max(one["losses"]) - min(one["losses"]) > 1e-3
    for own in several:
        assert own["losses"] == pytest.approx(one["losses"], abs=1e-5)
        for name in names:
            assert (own["weights"][name] - one["weights"][name]).abs().max() <= 1e-5, name
            assert torch.equal(own["weights"][name], several[0]["weights"][name]), name
        update, expected = (
            torch.cat([run["moved"][name].flatten() for name in names if name in run["moved"]]) for run in (own, one)
        )
        assert (update - expected).norm() < 0.02 * expected.norm() > 0
