# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""How scripts end, seen from outside: one sentence for what the user can put right, a traceback for faults of ours."""

import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import ROOT

ENVIRONMENT = {"PYTHONPATH": str(ROOT)}


def script(body: str, debug: bool = False) -> list[str]:
    """Return the command of a script whose main function has this body."""
    head = """
        import time
        from pathlib import Path
        from runtime.errors import DivergedError, InputError, report_errors
        from runtime.files import atomic_write
        with report_errors(DEBUG):
    """
    head = head.replace("DEBUG", str(debug))
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.indent(textwrap.dedent(body), "    ")]


def run_script(body: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        script(body), cwd=cwd, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "body, message",
    [
        ("raise InputError('x.png: mend it')", "[Error] x.png: mend it\n"),
        ("raise InputError('2 problems\\n  a\\n  b')", "[Error] 2 problems\n  a\n  b\n"),
        ("raise InputError('a\\x1b[2Jb\\nc')", "[Error] a\\x1b[2Jb\\nc\n"),
        ("open('gone/file')", "[Error] gone/file: No such file or directory\n"),
        ("raise OSError(28, 'No space left on device')", "[Error] writing: No space left on device\n"),
        (
            "raise InputError('Caught InputError in DataLoader worker 0.\\nTraceback:\\n'"
            "'runtime.errors.InputError: y: bad')",
            "[Error] y: bad\n",
        ),
        (
            "raise DivergedError('the loss is nan')",
            "[Error] the loss is nan; training stops, the last checkpoint stays. Try a lower --lr, and look at the "
            "images and masks\n",
        ),
        (
            "raise RuntimeError('DataLoader worker (pid(s) 12) exited unexpectedly')",
            "[Error] data loading process 12 was killed (reason unknown), perhaps by the system because memory ran "
            "out; lower --num_workers, or --batch_size (train.py: go on with --resume auto)\n",
        ),
        (
            "raise RuntimeError('DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that')",
            "[Error] /dev/shm is too small for the batches of the data loading processes; pass --num_workers 0 or "
            "fewer workers, or start the container with a larger --shm-size\n",
        ),
        (
            "raise OSError('Caught OSError in DataLoader worker process 3.\\nOriginal Traceback (most recent call "
            'last):\\n  File "x.py", line 1, in f\\nOSError: [Errno 24] Too many\\n  open files\\n\')',
            "[Error] a data loading process failed: OSError: [Errno 24] Too many open files; --debug shows where\n",
        ),
        (
            "raise InputError('Caught InputError in DataLoader worker process 0.\\nOriginal Traceback:\\n"
            "InputError: first\\n\\nDuring handling:\\nruntime.errors.InputError: 2 problems:\\n  a\\n  b\\n')",
            "[Error] 2 problems:\n  a\n  b\n",
        ),
    ],
)
def test_one_sentence_and_status_1(tmp_path, body, message):
    result = run_script(body, tmp_path)
    assert (result.returncode, result.stderr) == (1, message)


def test_debug_is_not_recommended_if_it_was_given(tmp_path):
    body = "raise OSError('Caught OSError in DataLoader worker process 3.\\nOSError: too many open files')"
    command = script(body, debug=True)
    result = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert result.stderr.splitlines()[-1] == "[Error] a data loading process failed: OSError: too many open files"


@pytest.mark.parametrize("body", ["raise InputError('x.png: mend it')", "open('gone/file')"])
def test_debug_shows_the_traceback_before_the_sentence(tmp_path, body):
    plain = run_script(body, tmp_path).stderr
    result = subprocess.run(
        script(body, debug=True), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1 and plain.startswith("[Error]") and plain.count("\n") == 1
    assert result.stderr.startswith("Traceback (most recent call last)") and result.stderr.endswith(f"\n{plain}")


@pytest.mark.parametrize(
    "body",
    [
        "1 / 0",
        "raise ValueError('a fault of ours')",
        "raise OSError(95, 'not about a file')",
        "raise RuntimeError('a fault of ours')",
    ],
)
def test_faults_of_the_program_are_shown_whole(tmp_path, body):
    result = run_script(body, tmp_path)
    assert result.returncode == 1 and "Traceback" in result.stderr


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_signal_leaves_nothing_half_written(tmp_path, number, code):
    (tmp_path / "file.txt").write_text("old")
    body = """
        with atomic_write(Path("file.txt")) as partial:
            partial.write_text("half")
            print("ready", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        script(body), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code and errors.startswith("[Stopped] by") and "Traceback" not in errors
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"] and (tmp_path / "file.txt").read_text() == "old"


def test_a_closed_pipe_is_no_error(tmp_path):
    """`head` ends as soon as it has read enough."""
    pipeline = shlex.join(script("for _ in range(100000): print('line')")) + " | head -1"
    env = ENVIRONMENT | {"PATH": "/usr/bin:/bin"}
    result = subprocess.run(pipeline, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert result.stdout == "line\n" and result.stderr == ""


def test_other_ranks_let_rank_0_report_first(tmp_path):
    """torchrun ends all processes when the first one fails; most mistakes meet every rank."""
    waits = "import runtime.errors; runtime.errors.wait_for_torchrun = lambda: print('waited'); "
    for rank, waited in (("0", ""), ("1", "waited\n")):
        result = run_script(waits + "raise InputError('x')", tmp_path, RANK=rank)
        assert (result.returncode, result.stdout, result.stderr) == (1, waited, "[Error] x\n")
