# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What a script does before its imports: packages, encodings of the terminal, Ctrl-C."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY, run, run_afresh

from runtime import startup

SCRIPTS = ("train.py", "val.py", "demo.py", "pthtar2onnx.py", "preprocess_dsb2018.py")


def test_a_missing_package_is_named(tmp_path):
    """Without site-packages nothing of requirements.txt can be imported."""
    for command, missing in {
        "train.py": "torch, albumentations, cv2",
        "preprocess_dsb2018.py": "albumentations, cv2",
        "demo.py --onnx net.onnx": "torch, albumentations, cv2",
        "demo.py --onnx net.onnx --input images": "albumentations, cv2",
        "demo.py --input images": "torch, albumentations, cv2",
    }.items():
        script, *flags = command.split()
        result = subprocess.run(
            [sys.executable, "-S", ROOT / script, *flags], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 1 and f"[Error] not installed: {missing}" in result.stderr, command


def test_the_packages_are_those_of_the_requirements():
    imported_as = {"opencv-python-headless": "cv2", "scikit-learn": "sklearn", "PyYAML": "yaml", "Pillow": "PIL"}
    imported_as["scikit-image"] = "skimage"
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = {re.split(r"[=<>;\[ ]", line)[0] for line in lines if line and line[0] not in "#-"}
    assert {imported_as.get(name, name) for name in required} >= set(startup.PACKAGES)


@pytest.mark.parametrize("moment", ["while torch is imported", "in a step"])
def test_ctrl_c_ends_training_at_once_and_without_a_traceback(home, moment):
    process = subprocess.Popen(
        [sys.executable, "-u", ROOT / "train.py", "inputs/discs", *TINY, "--num_workers", "2", "--epochs", "1000"],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if moment == "in a step":
        while not process.stdout.readline().startswith("Epoch: "):
            assert process.poll() is None
    else:
        while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in output, output


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_on_a_terminal_that_is_not_utf8(tmp_path, encoding, script):
    """The help of train.py has the character …, which neither encoding has."""
    result = run_afresh(script, "--help", cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert result.returncode == 0 and result.stdout.startswith("usage: "), result.stdout
    assert script != "train.py" or r"mask folders 0 \u2026 N-1" in result.stdout


# runs a script as if PYTHONIOENCODING were set for it, but without importing torch again
ENCODED = """
import os, runpy, sys
encoding, output, *sys.argv = sys.argv[1:]
for stream in (1, 2):
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
sys.stdout.reconfigure(encoding=encoding, errors="strict")
sys.stderr.reconfigure(encoding=encoding, errors="backslashreplace")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_training_on_a_terminal_that_is_not_utf8(home, encoding):
    """It prints the name of an unreadable image, which no such encoding has, and an error with the character ×."""
    (home / "encoded.py").write_text(ENCODED)
    for k, folder in enumerate(("images", "masks/0")):
        (home / "inputs" / "discs" / folder / "核.png").write_bytes(b"no image" * k)

    def train(output: str, *flags: str) -> tuple[int, str]:
        flags = (ROOT / "train.py", "inputs/discs", *TINY, "--skip_bad", "--epochs", "1", *flags)
        code = run(home / "encoded.py", encoding, output, *flags, cwd=home).returncode
        text = (home / output).read_text(encoding=encoding)
        assert "UnicodeEncodeError" not in text and "Traceback" not in text, text
        return code, text

    code, text = train("trained")
    assert code == 0 and r"\u6838.png: not a readable image" in text and "Iou" in text
    code, text = train("refused", "--batch_size", "1")
    times = "×" if encoding == "latin-1" else r"\xd7"
    assert code == 1 and re.search(rf"\[Error\] --batch_size 1: .*16{re.escape(times)}16 input", text)
