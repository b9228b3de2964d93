# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Signals that stop a run after its current step, and the lock that keeps a folder to one run at a time."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time

import filelock
import pytest
import torch
from conftest import ROOT
from faults.kills import compare
from helpers.short_runs import RUN, disturb, train_run

from runtime.checkpoint import LATEST
from runtime.errors import InputError
from runtime.interrupts import SIGNALS, handle_signals, lock_folder

pytestmark = pytest.mark.usefixtures("narrow", "unplotted")


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number, call, step",
    [(signal.SIGTERM, 5, 1), (signal.SIGUSR1, 7, 3), (signal.SIGINT, 8, 3), (signal.SIGTERM, 1, 1)],
    ids=["in a step", "in an epoch's last step", "in validation", "in the first step"],
)
def test_a_signal_ends_the_run_after_its_step_and_nothing_is_lost(home, monkeypatch, capsys, number, call, step):
    disturb(monkeypatch, {})
    train_run()
    (home / RUN).rename(home / "whole")
    before = {own: signal.getsignal(own) for own in SIGNALS}
    disturb(monkeypatch, {call: lambda: signal.raise_signal(number)})
    with pytest.raises(SystemExit) as end:
        train_run()
    assert end.value.code == 128 + number
    assert {own: signal.getsignal(own) for own in before} == before
    assert torch.load(RUN / LATEST, weights_only=True)["step"] == step
    assert f"[Stopped] after {call // 5} epochs and {step} steps, which are saved" in capsys.readouterr().out
    disturb(monkeypatch, {})
    train_run("--resume", "auto")
    assert compare(home / "whole", home / RUN) == []


def test_the_exit_code_is_that_of_the_first_signal(capfd):
    with handle_signals() as request:
        assert not request()
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.raise_signal(number)
        assert request() and request.exit_code == 128 + signal.SIGHUP
    assert capfd.readouterr().err == "[Stopping] by SIGHUP, after this step\n"


def test_ignored_signals_stay_ignored():
    """nohup ignores SIGHUP so that a run outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_signals() as request:
            signal.raise_signal(signal.SIGHUP)
            assert not request()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_torchrun_has_ended_stops(monkeypatch):
    """SIGTERM's code: torchrun would have passed on the signal that ended it."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setattr(os, "getppid", lambda: 2)
    with handle_signals() as request:
        assert not request()
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert request() and request.exit_code == 128 + signal.SIGTERM


def test_a_second_ctrl_c_ends_the_run_at_once(home):
    flags = ("--input_h", "192", "--input_w", "192", "--batch_size", "4", "--num_workers", "1", "--epochs", "9")
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", "inputs/discs", *flags],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # the shell that started the tests may have let them ignore SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for line in process.stdout:
        if line.startswith("Epoch: "):  # the next step takes seconds
            break
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if "[Stopping] by SIGINT, after this step" in line:
            break
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == -signal.SIGINT and "Traceback" not in rest and time.monotonic() - start < 8
    assert not list((home / "models").rglob("*.tar"))


# --- the lock --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked_by_another_process(folder, code: str = "time.sleep(60)"):
    """Lock the folder in another process, which then runs `code`; yields the process."""
    code = (
        "import os, pathlib, sys, time\nfrom runtime.interrupts import lock_folder\n"
        f"with lock_folder(pathlib.Path({str(folder)!r})):\n print('locked', flush=True)\n {code}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_one_run_at_a_time(home):
    """While another process holds the folder nothing is written; when it is dead, what it left is no obstacle."""
    with locked_by_another_process("models/run"):
        before = sorted(home.rglob("*"))
        with pytest.raises(InputError, match=r"^models/run: another run is at work there; wait for it, or .* --name"):
            train_run()
        assert sorted(home.rglob("*")) == before
    (home / RUN / ".7-7.partial.tar").write_bytes(b"of a killed run")
    train_run("--epochs", "1")
    assert not [path for path in (home / RUN).iterdir() if path.name.startswith(".")]


def test_data_loading_processes_do_not_keep_the_lock(tmp_path):
    """They may outlive a run that is killed, which must be resumable at once."""
    child = "if os.fork() == 0: print(os.getpid(), flush=True)\n time.sleep(60)"
    with locked_by_another_process(tmp_path / "run", child) as process:
        child = int(process.stdout.readline())
    try:
        with lock_folder(tmp_path / "run"):
            os.kill(child, 0)  # it is still there
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_run_of_the_same_process_can_follow(tmp_path):
    for _ in range(2):
        with lock_folder(tmp_path / "run"):
            (tmp_path / "run" / "file").write_text("x")
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


def test_a_folder_that_stayed_empty_is_removed(tmp_path):
    (tmp_path / "other").mkdir()
    with lock_folder(tmp_path / "models" / "run"):
        assert (tmp_path / "models" / "run").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_an_evaluation_does_not_wait_for_a_run(home):
    train_run("--epochs", "1")
    with lock_folder(home / RUN):
        train_run("--evaluate", "--resume", str(RUN / LATEST))
    assert (RUN / LATEST).exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys, number):
    import fcntl

    def refuse(*_args) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_folder(tmp_path / "run"):
        (tmp_path / "run" / "file").write_text("x")
    assert f"cannot be locked ({os.strerror(number)}); make sure that no other run" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(InputError, match=r"file/run: cannot be written: Not a directory"),
        lock_folder(tmp_path / "file" / "run"),
    ):
        pytest.fail("it must not be entered")

    def refuse(*_args, **_kwargs) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(InputError, match=r"run: cannot be written: Permission denied"), lock_folder(tmp_path / "run"):
        pytest.fail("it must not be entered")
