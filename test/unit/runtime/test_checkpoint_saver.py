# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Checkpoints are written while training goes on: what is in them, when their errors come, and what a kill leaves."""

import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.forks import Fork
from faults.kills import compare, find_differences
from helpers.short_runs import RUN, disturb, train_run, use_fixed_scores

import options
import train
from runtime.checkpoint import (
    BEST,
    LATEST,
    PREVIOUS,
    CheckpointSaver,
    load_checkpoint,
    load_latest_checkpoint,
    save_checkpoint,
)
from runtime.distributed import init_runtime
from runtime.errors import DivergedError, InputError

pytestmark = pytest.mark.usefixtures("home", "narrow", "unplotted")
REAL_WRITE = CheckpointSaver._write


def no_space() -> None:
    raise InputError("models/run/checkpoint.pth.tar: cannot be written: No space left on device")


def before_saves(monkeypatch: pytest.MonkeyPatch, actions: dict[int, Callable[[], None]]) -> list[int]:
    """Do something in the background before some of the next checkpoints; returns the epochs of those written."""
    begun, written = [], []

    def write(saver: CheckpointSaver, contents: dict, is_best: bool) -> None:
        begun.append(contents["epoch"])
        if len(begun) in actions:
            actions[len(begun)]()
        REAL_WRITE(saver, contents, is_best)
        written.append(contents["epoch"])

    monkeypatch.setattr(CheckpointSaver, "_write", write)
    return written


def partial_files() -> list[Path]:
    return list(RUN.glob(".*"))


# --- what is written -------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_what_the_run_was_when_it_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every tensor and every number changes before the file is written."""
    args = options.parse_train(["--ema", "0.9", "--optimizer", "AdamW", "--device", "cpu"])
    state = train.build_state(args, init_runtime("cpu"), steps_per_epoch=3)
    state.precision.step(state.net(torch.rand(2, 3, 16, 16)).sum())
    state.after_step()
    state.history.append({"epoch": 0, "loss": 1.0})
    saver = CheckpointSaver(tmp_path, {"config": {"lr": 1}}, None)
    expected = state.runtime.snapshot(state.state_dict() | {"config": {"lr": 1}})
    goes_on = threading.Event()
    before_saves(monkeypatch, {1: goes_on.wait})
    saver.save(state)
    with torch.no_grad():
        for tensor in [*state.model.state_dict().values(), *state.ema.module.state_dict().values()]:
            tensor.add_(1)
        for own in state.precision.optimizer.state.values():
            own["exp_avg"].add_(1)
            own["exp_avg_sq"].add_(1)
    state.precision.optimizer.param_groups[0]["lr"] = 7
    state.history[0]["loss"] = 2.0
    state.history.append({"epoch": 1, "loss": 3.0})
    goes_on.set()
    saver.wait()
    assert find_differences(torch.load(tmp_path / LATEST, weights_only=True), expected) == []


def test_training_goes_on_during_a_save_but_not_past_the_next_one(monkeypatch: pytest.MonkeyPatch, capsys):
    """The checkpoint after the first epoch is held back until the second epoch has been validated."""
    seen = []

    def hold() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not any("Epoch: [2][3/" in text for text in seen):
            seen.append(capsys.readouterr().out)
            time.sleep(0.02)
        time.sleep(0.3)
        seen.append(capsys.readouterr().out)

    written = before_saves(monkeypatch, {1: hold})
    train_run()
    printed = "".join(seen)
    assert printed.count("AVG-IOU") <= 2 and "Epoch: [2][3/" in printed and "Epoch: [3]" not in printed
    assert written == [1, 2, 3] and load_checkpoint(RUN / LATEST)["epoch"] == 3
    assert "best validation IoU" in capsys.readouterr().out


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "a file system without them"])
def test_the_best_model_is_the_checkpoint_of_its_epoch(monkeypatch: pytest.MonkeyPatch, links: bool):
    def refuse(*_args) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    use_fixed_scores(monkeypatch, 0.5, 0.7, 0.6)
    train_run("--epochs", "2", "--scheduler", "ConstantLR")
    best, latest = RUN / BEST, RUN / LATEST
    assert best.read_bytes() == latest.read_bytes() and best.samefile(latest) == links
    use_fixed_scores(monkeypatch, 0.6)
    train_run("--epochs", "4", "--scheduler", "ConstantLR", "--resume", "auto")
    assert [load_checkpoint(path)["epoch"] for path in (best, RUN / PREVIOUS, latest)] == [2, 3, 4]
    assert partial_files() == []


def test_settings_recorded_in_the_best_model_do_not_change_the_latest_checkpoint():
    """As val.py --tune does it."""
    train_run("--epochs", "1")
    before = (RUN / LATEST).read_bytes()
    save_checkpoint(load_checkpoint(RUN / BEST) | {"instances": {"threshold": 0.4}}, RUN / BEST)
    assert (RUN / LATEST).read_bytes() == before and load_checkpoint(RUN / BEST)["instances"] == {"threshold": 0.4}


# --- errors and signals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save, epochs", [(1, [1, 2]), (3, [1, 2, 3])], ids=["at the next save", "at the end"])
def test_a_failed_save_ends_the_run(monkeypatch: pytest.MonkeyPatch, capsys, save: int, epochs: list[int]):
    written = before_saves(monkeypatch, {save: no_space})
    with pytest.raises(InputError, match=r"checkpoint\.pth\.tar: cannot be written: No space left") as error:
        train_run()
    out = capsys.readouterr().out
    assert [epoch for epoch in (1, 2, 3) if f"Epoch: [{epoch}]" in out] == epochs and "best validation" not in out
    assert written == list(range(1, save)) and "warning" not in out and error.value.__context__ is None


def test_a_failed_save_is_not_lost_if_another_error_ends_the_run(monkeypatch: pytest.MonkeyPatch, capsys):
    before_saves(monkeypatch, {1: no_space})

    def diverge() -> None:
        raise DivergedError("the loss is nan")

    disturb(monkeypatch, {6: diverge})
    with pytest.raises(DivergedError):
        train_run()
    assert "warning: models/run/checkpoint.pth.tar: cannot be written" in capsys.readouterr().out


def test_a_run_that_could_not_save_does_not_say_that_it_did(monkeypatch: pytest.MonkeyPatch, capsys):
    before_saves(monkeypatch, {1: no_space})
    disturb(monkeypatch, {2: lambda: signal.raise_signal(signal.SIGTERM)})
    with pytest.raises(InputError, match="cannot be written"):
        train_run()
    assert "[Stopped]" not in capsys.readouterr().out


@pytest.mark.parametrize("call", [2, 6], ids=["in the first epoch", "while the first epoch is saved"])
def test_a_stopped_run_says_so_when_its_checkpoint_is_on_the_disk(monkeypatch: pytest.MonkeyPatch, capsys, call: int):
    def report() -> None:
        time.sleep(0.5)
        print("written soon")

    written = before_saves(monkeypatch, {1: report, 2: report})
    disturb(monkeypatch, {call: lambda: signal.raise_signal(signal.SIGTERM)})
    with pytest.raises(SystemExit) as end:
        train_run()
    out = capsys.readouterr().out
    assert end.value.code == 128 + signal.SIGTERM
    assert out.rindex("written soon") < out.index("[Stopped]") and partial_files() == []
    saved = load_checkpoint(RUN / LATEST)
    assert f"[Stopped] after {saved['epoch']} epochs and {saved['step']} steps" in out and len(written) == 1 + call // 6


def test_a_second_ctrl_c_does_not_wait_for_the_checkpoint(home: Path, monkeypatch: pytest.MonkeyPatch):
    before_saves(monkeypatch, {2: lambda: time.sleep(60)})
    disturb(monkeypatch, {6: lambda: signal.raise_signal(signal.SIGINT)})
    log = home / "log"
    run = Fork(train_run, home, log)
    end = time.monotonic() + 60
    while "[Stopping] by SIGINT" not in log.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)  # until it waits for the checkpoint
    start = time.monotonic()
    os.kill(run.pid, signal.SIGINT)
    assert run.wait(30) == -signal.SIGINT and time.monotonic() - start < 5
    assert "[Stopped]" not in log.read_text() and load_checkpoint(RUN / LATEST)["epoch"] == 1


# --- kills -----------------------------------------------------------------------------------------------------------


def test_a_kill_during_a_save_loses_at_most_that_save(home: Path, monkeypatch: pytest.MonkeyPatch):
    """The run dies in the background after each operation of the second save, while the main thread trains."""
    ious, operations = (0.5, 0.6, 0.7), 14
    use_fixed_scores(monkeypatch, *ious)
    train_run()
    RUN.rename(home / "whole")

    def run_and_die(count: int) -> None:
        done = []

        def counted(real: Callable) -> Callable:
            def operation(*args) -> None:
                real(*args)
                done.append(real)
                if len(done) == count:
                    os.kill(os.getpid(), signal.SIGKILL)

            return operation

        def count_operations() -> None:
            for name in ("link", "fsync", "replace"):
                setattr(os, name, counted(getattr(os, name)))

        use_fixed_scores(monkeypatch, *ious)
        before_saves(monkeypatch, {2: count_operations})
        train_run()

    epochs = set()
    for count in range(1, operations + 1):
        killed = Fork(lambda count=count: run_and_die(count), home, home / "log")
        assert killed.wait(60) == -signal.SIGKILL, (count, (home / "log").read_text())
        saved, _ = load_latest_checkpoint(RUN / LATEST)
        epochs.add(saved["epoch"])
        use_fixed_scores(monkeypatch, *ious[saved["epoch"] :])
        train_run("--resume", "auto")
        assert compare(home / "whole", RUN) == [] and partial_files() == [], count
        shutil.rmtree(RUN)
    assert epochs == {1, 2}
