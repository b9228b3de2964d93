# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A run of train.py as processes: signals to all of them at once, and the lock of its folder."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY, free_port, run, write_dataset

from runtime.checkpoint import load_checkpoint
from runtime.interrupts import handle_signals, lock_folder

FLAGS = ("inputs/discs", *TINY, "--num_workers", "2", "--device", "cpu", "--epochs", "50", "--scheduler", "ConstantLR")


class Run:
    """A running train.py in a process group of its own, with its output in a file."""

    def __init__(self, folder: Path, output: str, *flags: str):
        self.output, self.folder = folder / output, folder
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / "train.py", *FLAGS, *flags],
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """What the run has printed so far."""
        return self.output.read_text()

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Wait until the run has printed a text."""
        start = time.monotonic()
        while text not in self.text:
            assert self.process.poll() is None and time.monotonic() - start < seconds, self.text
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """Return the ids of the data loading processes."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = [int(child) for task in tasks for child in task.read_text().split()]
        return [child for child in children if b"train.py" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.fixture
def start(home):
    """A function that starts a Run in `home`, with more flags; all of them are killed with the test."""
    write_dataset(home / "inputs" / "discs", count=40)
    runs = []

    def start_run(*flags: str, output: str = "output") -> Run:
        runs.append(Run(home, output, *flags))
        return runs[-1]

    yield start_run
    for own in runs:
        try:
            os.killpg(own.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        own.process.wait()


def is_running(pid: int) -> bool:
    """Is there such a process, and does it still work? A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_sighup_to_the_process_group_is_reported_once_and_stops_the_run(start, home):
    """A closed terminal sends it to all processes. The data loading workers ignore it, and print nothing."""
    own = start("--name", "run")
    own.wait_for("Epoch: [2][1/")
    workers = own.workers()
    assert len(workers) >= 2
    os.killpg(own.process.pid, signal.SIGHUP)
    assert own.process.wait(60) == 128 + signal.SIGHUP
    assert own.text.count("[Stopping] by SIGHUP, after this step") == own.text.count("[Stopping]") == 1, own.text
    assert own.text.count("[Stopped] after ") == 1 and "Traceback" not in own.text
    assert not any(map(is_running, workers))
    saved = re.search(r"^\[Stopped\] after (\d+) epochs and (\d+) steps, which are saved", own.text, re.MULTILINE)
    checkpoint = load_checkpoint(home / "models" / "run" / "checkpoint.pth.tar")
    assert (checkpoint["epoch"], checkpoint["step"]) == (int(saved[1]), int(saved[2]))


def test_each_training_process_reports_sighup_once(start, home):
    """Two training processes that were started by hand, each with a data loading worker."""
    together = ("--name", "run", "--num_gpus", "2", "--port", free_port(), "--dist_timeout", "60", "--rank_id")
    ranks = [start(*together, str(rank), output=f"output{rank}") for rank in (0, 1)]
    ranks[0].wait_for("Epoch: [1][2/")
    for own in ranks:
        os.killpg(own.process.pid, signal.SIGHUP)
    assert [own.process.wait(60) for own in ranks] == [128 + signal.SIGHUP] * 2
    for text in (ranks[0].text, (home / "models" / "run" / "rank1.log").read_text()):
        assert text.count("[Stopping] by SIGHUP") == text.count("[Stopping]") == 1 and "Traceback" not in text, text


def test_a_forked_process_leaves_the_stop_request_to_its_parent(capfd):
    """A data loading worker inherits the handlers, and may get a signal before it ignores them."""
    with handle_signals() as request:
        child = os.fork()
        if not child:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGINT):
                signal.raise_signal(number)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert not request()
    assert capfd.readouterr().err == ""


def test_a_killed_run_releases_its_folder_at_once(start, home):
    """Its data loading workers notice only seconds later that it is gone; they do not hold the lock."""
    own = start("--name", "run")
    own.wait_for("Epoch: [3][1/")  # the checkpoint after the first epoch is then complete
    workers = own.workers()
    own.process.kill()
    own.process.wait()
    with lock_folder(home / "models" / "run"):
        assert workers and all(map(is_running, workers)), "they had already ended, so this test shows nothing"
    epochs = load_checkpoint(home / "models" / "run" / "checkpoint.pth.tar")["epoch"] + 1
    result = run("train.py", *FLAGS, "--name", "run", "--resume", "auto", "--epochs", str(epochs), cwd=home)
    assert result.returncode == 0 and f"after {epochs - 1} epochs" in result.stdout, result.stdout


def test_a_second_run_is_refused_in_one_sentence_and_changes_nothing(start, home):
    own = start("--name", "run", "--num_workers", "0")
    own.wait_for("Epoch: [1][1/")
    os.kill(own.process.pid, signal.SIGSTOP)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    result = run("train.py", *FLAGS, "--name", "run", cwd=home)
    assert result.returncode == 1
    assert result.stdout == (
        "[Error] models/run: another run is at work there; wait for it, or give this one another --name\n"
    )
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_a_run_that_comes_to_nothing_leaves_no_folder(home):
    """It locked its folder before it found that there are no images."""
    result = run("train.py", "inputs/none", *TINY, "--device", "cpu", "--name", "run", cwd=home)
    assert result.returncode == 1 and "[Error] inputs/none: no such data folder" in result.stdout
    assert not (home / "models").exists()
    (home / "models" / "run").mkdir(parents=True)
    (home / "models" / "run" / "notes.txt").write_text("mine")
    run("train.py", "inputs/none", *TINY, "--device", "cpu", "--name", "run", cwd=home)
    assert [path.name for path in (home / "models").rglob("*")] == ["run", "notes.txt"]


def test_a_signal_ends_a_process_that_waits_for_the_others(home):
    """It waits inside a library, where no handler in Python could run."""
    flags = ("--num_gpus", "2", "--rank_id", "0", "--port", free_port(), "--dist_timeout", "120", "--device", "cpu")
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", "inputs/discs", *TINY, *flags],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "meeting the others" in next(line for line in process.stdout if line.startswith("rank 0"))
    time.sleep(1)  # until it is inside
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM
