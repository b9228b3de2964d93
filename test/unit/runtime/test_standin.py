# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The stand-ins for torch_npu and apex behave like the real ones, as far as our code depends on it.

The checks are in helpers/standin_checks.py.
"""

import json
import os
from pathlib import Path

import pytest
from conftest import ROOT, STANDIN_APEX, STANDIN_NPU, STANDIN_PYPI_APEX, UNIT, needs_compiler, run_ranks

pytestmark = needs_compiler


def run_checks(*names: str, folders: tuple[Path, ...] = (STANDIN_NPU,), processes: int = 1, **environment: str) -> None:
    """Run checks by their names, in one process or in several; `folders` hold the stand-ins."""
    paths = os.pathsep.join(map(str, [*folders, ROOT]))
    program = UNIT / "helpers" / "standin_checks.py"
    result = run_ranks(processes, program, *names, cwd=ROOT, PYTHONPATH=paths, **environment)
    assert result.returncode == 0, result.stdout


def test_device(tmp_path: Path) -> None:
    run_checks("check_training", "check_scaler", "check_fused_adam", "check_settings", FOLDER=str(tmp_path))


def test_device_rules() -> None:
    run_checks("check_device", STANDIN_NPU_COUNT="3")


def test_no_device() -> None:
    run_checks("check_no_device", STANDIN_NPU_COUNT="0")


@pytest.mark.parametrize("check", ["check_distributed", "check_lost_peer"])
def test_two_processes(check: str) -> None:
    run_checks(check, processes=2)


def test_apex(tmp_path: Path) -> None:
    record = tmp_path / "record"
    checks = ("check_apex", "check_combined_gradients")
    run_checks(*checks, folders=(STANDIN_NPU, STANDIN_APEX), STANDIN_APEX_RECORD=str(record))
    calls = [json.loads(line) for line in record.read_text().splitlines()]
    expected = {"models": "UNet", "optimizers": "SGD", "opt_level": "O0", "loss_scale": 128.0}
    assert calls[0] == {"call": "initialize", "arguments": expected}
    assert calls[1] == {"call": "scale_loss", "arguments": {"loss": "Tensor", "optimizers": "SGD"}}
    assert [call["arguments"]["opt_level"] for call in calls if "combine_grad" in call["arguments"]] == ["O2"] * 3


def test_other_apexes() -> None:
    run_checks("check_nvidia_apex", folders=(STANDIN_APEX,), STANDIN_APEX_COMBINE_GRAD="0")
    run_checks("check_pypi_apex", folders=(STANDIN_PYPI_APEX,))
