# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The scripts if torch_npu's transfer_to_npu is active, which gives the names of CUDA to the NPU; on the stand-in."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import (
    NARROW,
    ROOT,
    STANDIN_NPU,
    TINY,
    clone,
    needs_compiler,
    run,
    run_afresh,
    run_ranks,
    weights_of,
    write_dataset,
)

pytestmark = needs_compiler

ON_NPU = {"PYTHONPATH": str(STANDIN_NPU), **NARROW}
FLAGS = ("inputs/discs", *TINY, "--epochs", "1")
NOTICE = "transfer_to_npu of torch_npu is active, so this means the NPU"
# the first argument is the script to run
WITH_TRANSFER = """
import runpy, sys
from torch_npu.contrib import transfer_to_npu
import torch
assert torch.cuda.is_available() == torch.npu.is_available() and torch.cuda.device_count() == torch.npu.device_count()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with 20 images, and a run called `usual` that was trained without transfer_to_npu."""
    folder = tmp_path_factory.mktemp("transfer")
    write_dataset(folder / "inputs" / "discs", count=20)
    (folder / "script.py").write_text(WITH_TRANSFER)
    printed = succeed(run("train.py", *FLAGS, "--name", "usual", cwd=folder, **ON_NPU))
    (folder / "usual.log").write_text(printed)
    return folder


def succeed(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 0, result.stdout
    return result.stdout


def log_lines(printed: str) -> list[str]:
    """Return the lines that harnesses read and the first line of the training, without times."""
    kept = [line for line in printed.splitlines() if re.search("FPS|AVG|Epoch:|Test|UNet on", line)]
    return [re.sub(r"(Time|Data|FPS@all) .*?(\t|$)", "", line) for line in kept]


def same_weights(folder: Path, name: str) -> bool:
    usual, found = (weights_of(folder / "models" / run / "checkpoint.pth.tar") for run in ("usual", name))
    return usual.keys() == found.keys() and all(torch.equal(value, found[key]) for key, value in usual.items())


def test_a_site_that_activates_it_trains_on_the_npu_as_usual(folder: Path, tmp_path: Path):
    """By a variable that torch_npu reads; sitecustomize imports torch_npu as early as torch itself would."""
    (tmp_path / "sitecustomize.py").write_text("import torch_npu\n")
    script = clone(tmp_path / "clone", narrow=True) / "train.py"
    environment = {"PYTHONPATH": f"{STANDIN_NPU}:{tmp_path}", "TORCH_TRANSFER_TO_NPU": "1"}
    printed = succeed(run_afresh(script, *FLAGS, "--name", "site", "--num_workers", "2", cwd=folder, **environment))
    assert "torch.jit.script is disabled by transfer_to_npu" in printed and NOTICE not in printed
    lines = log_lines(printed)
    assert lines == log_lines((folder / "usual.log").read_text())
    assert "UNet on npu:0, O2, float16: 16 images to train, 4 to validate" in lines and len(lines) == 8
    assert same_weights(folder, "site")


@pytest.mark.parametrize("name", ["cuda", "gpu"])
def test_a_gpu_means_the_npu(folder: Path, name: str):
    """--channels_last is the default of GPUs, and NPUs refuse it."""
    flags = (*FLAGS, "--name", name, "--device", name)
    printed = succeed(run(folder / "script.py", ROOT / "train.py", *flags, cwd=folder, **ON_NPU))
    assert printed.count(f"--device {name}: {NOTICE}\n") == 1
    assert log_lines(printed) == log_lines((folder / "usual.log").read_text()) and same_weights(folder, name)


def test_two_processes_use_hccl(folder: Path):
    flags = (*FLAGS, "--name", "two", "--device", "cuda", "--sync_bn", "--opt_level", "O1")
    flags += ("--profiling", "CANN", "--stop_step", "2")
    printed = succeed(run_ranks(2, folder / "script.py", ROOT / "train.py", *flags, cwd=folder, **ON_NPU))
    assert "UNet on npu:0, 2 processes, O1, float16" in printed and printed.count("Epoch: [1]") == 4
    assert list((folder / "models" / "two" / "profile").rglob("*.json"))


def test_the_other_scripts(folder: Path):
    """The name of the run stays what it is, although it contains the name of a device."""
    shutil.copytree(folder / "models" / "usual", folder / "models" / "cuda_run")
    for script, *flags in (
        ("val.py", "--device", "cuda", "--num_workers", "0"),
        ("demo.py", "--device", "gpu", "--num_workers", "0"),
        ("pthtar2onnx.py", "--input_h", "32", "--input_w", "32"),
    ):
        flags = ("--name", "cuda_run", *flags)
        printed = succeed(run(folder / "script.py", ROOT / script, *flags, cwd=folder, **ON_NPU))
        assert (NOTICE in printed) == ("--device" in flags)
        if script != "pthtar2onnx.py":
            assert log_lines(printed)[-1] == log_lines((folder / "usual.log").read_text())[-1]
    assert (folder / "UNet_npu8p.onnx").exists()


def test_other_devices_stay_what_they_are(folder: Path):
    """The CPU is the CPU; without an NPU there is no GPU either."""
    flags = (folder / "script.py", ROOT / "train.py", *FLAGS, "--name", "other")
    printed = succeed(run(*flags, "--device", "cpu", cwd=folder, **ON_NPU))
    assert "UNet on cpu, fp32" in printed and NOTICE not in printed
    none = {**ON_NPU, "STANDIN_NPU_COUNT": "0"}
    assert "UNet on cpu, fp32" in succeed(run(*flags, cwd=folder, **none))
    refused = run(*flags, "--device", "cuda", cwd=folder, **none)
    assert refused.returncode == 1 and "Traceback" not in refused.stdout
    assert refused.stdout.splitlines()[-1].startswith("[Error] --device npu: torch_npu finds no NPU; check")
