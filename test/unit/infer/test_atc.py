# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""infer/atc.sh with a stand-in for atc: its calls and files, and what it says if something is missing."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

ATC = r"""#!/bin/sh
printf "%s\n" "$@" >>calls
for argument; do case $argument in --output=*) file=${argument#--output=}.om ;; esac; done
[ -n "$NO_FILE" ] || echo new >"$file"
[ -z "$KILL" ] || kill -s "$KILL" $PPID
case "$*" in *:13,*) exit 4 ;; esac
"""


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A folder with an ONNX file, and a program `atc` that notes its arguments, and fails for batches of 13."""
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").touch()
    Path("bin").mkdir()
    Path("bin/atc").write_text(ATC)
    Path("bin/atc").chmod(0o755)
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "ASCEND_OPP_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def convert(*flags: str, cann: bool = True, atc: bool = True) -> subprocess.CompletedProcess:
    path = f"{os.getcwd()}/bin:{os.environ['PATH']}" if atc else os.environ["PATH"]
    environment = os.environ | {"PATH": path} | ({"ASCEND_HOME_PATH": "/opt/cann"} if cann else {})
    command = ["bash", ROOT / "infer" / "atc.sh", "--onnx=net.onnx", *flags]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=60)


def test_one_file_for_each_batch_size(host):
    result = convert()
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [f"infer_data/om/net_bs{size}.om" for size in (1, 4, 8, 16, 32, 64)]
    calls = Path("calls").read_text().splitlines()
    shapes = [line for line in calls if line.startswith("--input_shape")]
    assert shapes == [f"--input_shape=actual_input_1:{size},3,96,96" for size in (1, 4, 8, 16, 32, 64)]
    assert calls.count("--soc_version=Ascend310P3") == 6 and calls.count("--output_type=FP32") == 6
    assert not any("insert_op_conf" in line for line in calls)
    assert sorted(map(str, Path("infer_data/om").iterdir())) == sorted(result.stdout.split())


def test_a_failed_conversion_leaves_no_file(host, monkeypatch):
    """Neither a half-written one, nor that of an earlier export; those of other batch sizes stay."""
    assert convert("--batch_sizes=1,2").returncode == 0
    Path("infer_data/om/net_bs13.om").write_text("of an earlier export")
    assert convert("--batch_sizes=2,13,1").returncode == 1
    assert sorted(path.name for path in Path("infer_data/om").iterdir()) == ["net_bs1.om", "net_bs2.om"]
    monkeypatch.setenv("NO_FILE", "1")
    result = convert("--batch_sizes=2,1")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("[Error] atc reported no error, but did not write infer_data/om/net_bs2.om")


@pytest.mark.parametrize("name", ["HUP", "TERM"])
def test_an_interrupted_conversion_leaves_no_file(host, monkeypatch, name):
    monkeypatch.setenv("KILL", name)
    assert convert("--batch_sizes=1").returncode != 0
    assert not list(Path("infer_data/om").iterdir())


def test_flags(host):
    Path("my aipp.cfg").touch()
    flags = ("--soc-version=Ascend310B1", "--batch_sizes=2,3", "--input_h=64", "--input_w=32", "--output=my om")
    result = convert(*flags, "--aipp=my aipp.cfg")
    assert result.stdout.splitlines() == ["my om/net_bs2.om", "my om/net_bs3.om"]
    calls = Path("calls").read_text().splitlines()
    assert "--input_shape=actual_input_1:3,3,64,32" in calls and "--soc_version=Ascend310B1" in calls
    assert calls.count("--insert_op_conf=my aipp.cfg") == 2


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("--batch_sizes=0",), "'0' is not a whole number"),
        (("--input_h=40",), "multiples of 16, not 40"),
        (("--onnx=none.onnx",), "--onnx none.onnx: no such file"),
        (("--aipp=none.cfg",), "--aipp none.cfg: no such file"),
        (("--aipp",), "--aipp needs a value"),
        (("--none=1",), "Unknown flag: --none=1"),
        (("--batch_sizes=13",), "could not convert net.onnx for batch size 13"),
    ],
)
def test_bad_flags(host, flags, sentence):
    result = convert(*flags)
    assert result.returncode == 1 and sentence in result.stderr


def test_missing_parts_of_cann(host):
    assert "CANN's environment is not set: run source <CANN>/set_env.sh" in convert(cann=False).stderr
    result = convert(atc=False)
    assert result.returncode == 1 and "There is no atc on the PATH" in result.stderr
