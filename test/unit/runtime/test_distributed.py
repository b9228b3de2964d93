# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Several processes on the CPU: the numbers and batches of one process, and a common end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import (
    NARROW,
    ROOT,
    TINY,
    clone,
    free_port,
    run,
    run_ranks,
    run_side_by_side,
    torchrun,
    weights_of,
    write_dataset,
)
from faults.kills import compare
from helpers.rank_results import assert_same_training, run_task

import dataset
import engine
import options
import train
from imaging.prepared import PreparedFolder
from runtime.checkpoint import load_checkpoint
from runtime.distributed import Ranks, Runtime, find_ranks
from runtime.errors import InputError


def test_two_processes_train_like_one(tmp_path):
    (one,) = run_task(1, "train", "cpu", "fixed", cwd=tmp_path)
    assert_same_training(one, run_task(2, "train", "cpu", "fixed", cwd=tmp_path))


def test_scores_do_not_depend_on_the_number_of_processes(tmp_path):
    """133 images, as in the real split, at 8 per process and batch: 17 batches, so some ranks get one more."""
    write_dataset(tmp_path / "data", count=133)
    ids = sorted(path.stem for path in (tmp_path / "data" / "images").iterdir())
    scores = []
    for count in (1, 2, 3, 4):
        found = run_task(count, "evaluate", "cpu", "data", cwd=tmp_path)
        seen = [img_id for rank in found for batch in rank["seen"] for img_id in batch]
        assert len(seen) == len(set(seen)) == 133
        for rank, own in enumerate(found):
            assert own["seen"] == [ids[start : start + 8] for start in range(0, 133, 8)][rank::count]
        scores += [{key: own[key] for key in ("loss", "iou", "dice")} for own in found]
    assert all(own == pytest.approx(scores[0], abs=1e-6) for own in scores)


def test_num_workers_counts_over_all_ranks(home):
    folder = PreparedFolder(home / "inputs" / "discs")
    data = dataset.NucleiDataset(folder, folder.list_ids(), None)
    for workers, world_size, own in [(8, 8, 1), (8, 2, 4), (16, 8, 2), (4, 8, 1), (0, 2, 0)]:
        assert dataset.val_loader(data, 8, workers, False, 0, world_size).num_workers == own


BY_HAND = ["--rank_id=3", "--num_gpus=4"]
RANKS = {
    "torchrun's environment has priority": (
        {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
        [],
        Ranks(5, 8, 1, 4, torchrun=True),
    ),
    "by hand": ({}, BY_HAND, Ranks(3, 4, 3, 4, torchrun=False)),
    "by hand, on several hosts": ({}, [*BY_HAND, "--addr=10.0.0.1"], Ranks(3, 4, 3, 1, torchrun=False)),
    "a scheduler's WORLD_SIZE alone": ({"WORLD_SIZE": "4"}, [], Ranks(0, 1, 0, 1, torchrun=False)),
}


@pytest.mark.parametrize("environment, flags, ranks", RANKS.values(), ids=RANKS)
def test_find_ranks(monkeypatch, environment, flags, ranks):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_ranks(options.parse_train(flags)) == ranks
    if not flags:
        assert find_ranks(None) == ranks


@pytest.mark.parametrize(
    "environment, text",
    [
        ({"RANK": "one", "WORLD_SIZE": "2"}, "in the environment is not a number; unset them"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "^RANK=2 and WORLD_SIZE=2 in the environment do not fit; unset them$"),
    ],
)
def test_impossible_ranks_in_the_environment_are_refused(monkeypatch, environment, text):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=text):
        find_ranks(options.parse_train([]))


@pytest.fixture
def discs(home) -> Path:
    """The `home` folder with 40 images."""
    write_dataset(home / "inputs" / "discs", count=40)
    return home


def test_ranks_with_different_flags_are_refused_before_the_first_step(discs):
    flags = ("inputs/discs", *TINY, "--device", "cpu", "--num_gpus", "2", "--port", free_port())
    each = [("--rank_id", "0"), ("--rank_id", "1", "--lr", "0.5")]
    for result in run_side_by_side(ROOT / "train.py", [((*flags, *own), {}) for own in each], cwd=discs):
        assert result.returncode == 1 and "Traceback" not in result.stdout and "Epoch:" not in result.stdout
        assert "[Error] rank 1 and rank 0 differ in lr; start all ranks alike" in result.stdout


def test_training_in_two_processes(discs):
    """A launch by hand gives the numbers of torchrun's; files are written once; each rank has its own log."""
    flags = ("inputs/discs", *TINY, "--scheduler", "ConstantLR", "--epochs", "2", "--device", "cpu")
    result = run_ranks(2, "train.py", *flags, "--name", "run", cwd=discs, **NARROW)
    assert result.returncode == 0, result.stdout
    lines = result.stdout.splitlines()
    for mark, count in [("Epoch: [", 16), ("FPS@all", 2), ("Test: [", 4), ("AVG-IOU", 2), ("on cpu, 2 processes", 1)]:
        assert sum(mark in line for line in lines) == count, mark
    folder = discs / "models" / "run"
    assert {path.name for path in folder.iterdir()} == {
        *("config.yml", "log.csv", "curves.png", "checkpoint.pth.tar", "checkpoint.prev.pth.tar"),
        *("model_best.pth.tar", "rank1.log"),
    }
    assert (folder / "rank1.log").read_text().count("Epoch: [") == 16

    port = ("--addr", "127.0.0.1", "--port", free_port(), "--dist_timeout", "60")
    by_hand = (*flags, "--name", "hand", "--num_gpus", "2", *port, "--rank_id")
    others = run_side_by_side(ROOT / "train.py", [((*by_hand, rank), NARROW) for rank in (0, 1)], cwd=discs)
    assert [result.returncode for result in others] == [0, 0]
    some, others = (weights_of(discs / "models" / name / "checkpoint.pth.tar") for name in ("run", "hand"))
    assert all(torch.equal(value, others[name]) for name, value in some.items())

    # one process can continue from the checkpoint of two
    more = (*flags, "--name", "run", "--epochs", "3", "--resume", "models/run/checkpoint.pth.tar")
    result = run("train.py", *more, cwd=discs, **NARROW)
    assert result.returncode == 0, result.stdout
    assert "resuming models/run/checkpoint.pth.tar after 2 epochs" in result.stdout
    assert load_checkpoint(folder / "checkpoint.pth.tar")["epoch"] == 3


@pytest.mark.usefixtures("narrow")
def test_batch_norm_statistics_are_those_of_all_ranks(discs):
    """After one step from the same weights, the checkpoint holds the mean of the statistics of both ranks."""
    flags = ("--input_h", "32", "--input_w", "32", "-b", "32", "--num_workers", "0", "--epochs", "1", "--device", "cpu")
    result = run_ranks(2, "train.py", "inputs/discs", *flags, "--name", "two", cwd=discs, **NARROW)
    assert result.returncode == 0, result.stdout
    train.main(options.parse_train(["inputs/discs", *flags, "--name", "one"]))
    two, one = (weights_of(discs / "models" / name / "checkpoint.pth.tar") for name in ("two", "one"))
    first = "conv0_0.bn1.running_mean"
    # only in the first layer: deeper ones get inputs that each rank normalized by its own batch
    assert torch.allclose(two[first], one[first], atol=1e-7) and two[first].abs().max() > 0


def test_mistakes_in_a_launch_by_hand_are_refused(home):
    def refused(text: str, *flags: str) -> None:
        with pytest.raises(InputError, match=text):
            train.main(options.parse_train(["inputs/discs", *TINY, "--device", "cpu", *flags]))

    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(f"^--port {port}: taken by another program; give all ranks", "--num_gpus", "2", "--port", port)
    refused("^--rank_id 2: with --num_gpus 2 the ranks are 0 to 1", "--num_gpus", "2", "--rank_id", "2")
    refused("^--dist_backend none: for cpu this torch has gloo$", "--num_gpus", "2", "--dist_backend", "none")
    alone = ("--num_gpus", "2", "--port", free_port(), "--dist_timeout", "2")
    refused("^rank 0 did not meet the other ranks of 2 at 127.0.0.1:", *alone)
    refused("^--sync_bn: torch's SyncBatchNorm does not run on the CPU", "--sync_bn")


def test_a_mistake_of_all_ranks_is_reported_once(home):
    result = torchrun(2, ROOT / "train.py", "inputs/nowhere", *TINY, "--device", "cpu", cwd=home)
    assert result.returncode == 1
    assert len(re.findall(r"\[Error\].*inputs/nowhere", result.stdout)) == 1


def test_scripts_of_one_process_refuse_torchrun(home):
    result = run("val.py", cwd=home, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert result.returncode == 1
    assert result.stdout == "[Error] this script runs in one process; start it without torchrun\n"


def test_a_share_with_one_value_per_channel_is_refused(home):
    """Each process has one 16×16 image, so the deepest BatchNorm has one value per channel. It would need two."""
    flags = ("inputs/discs", *TINY, "--batch_size", "2", "--device", "cpu", "--name", "run")
    result = run_ranks(2, "train.py", *flags, cwd=home)
    assert result.returncode == 1 and "Traceback" not in result.stdout, result.stdout
    assert len(re.findall(r"^\[Error\] --batch_size 2: .*BatchNorm", result.stdout, re.MULTILINE)) == 1, result.stdout
    assert [path.name for path in (home / "models" / "run").iterdir()] == ["rank1.log"]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    "batch_size, world_size, height, width, refused",
    [
        (1, 1, 16, 16, True),
        (2, 2, 16, 16, True),
        (8, 8, 16, 16, True),
        (2, 1, 16, 16, False),
        (4, 2, 16, 16, False),
        (2, 2, 16, 32, False),
        (1, 1, 32, 16, False),
    ],
)
def test_batch_norm_needs_two_values_per_channel(batch_size, world_size, height, width, refused):
    runtime = Runtime(torch.device("cpu"), world_size=world_size)
    size = map(str, ("--input_h", height, "--input_w", width, "--batch_size", batch_size))
    args = options.parse_train([*size])
    if refused:
        with pytest.raises(InputError, match=f"^--batch_size {batch_size}: .*BatchNorm.*; raise the batch.*size$"):
            engine.build_model(args, runtime)
        # SyncBatchNorm takes the values of all processes together, which does not help a single one
        args.sync_bn = True
        expected = "BatchNorm gets a single value" if world_size == 1 else "^--sync_bn: torch's SyncBatchNorm"
        with pytest.raises(InputError, match=expected):
            engine.build_model(args, runtime)
    else:
        engine.build_model(args, runtime)


class Launcher:
    """A running train_full_8p.sh in a copy of the repository."""

    def __init__(self, folder: Path, count: int):
        clone(folder, narrow=True)
        write_dataset(folder / "inputs" / "dsb2018_96", count=20, side=16)
        self.folder = folder
        flags = (f"--num_gpus={count}", "--device=cpu", f"--batch_size={count}", "--num_workers=2", "--epochs=50")
        self.process = subprocess.Popen(
            ["bash", "test/train_full_8p.sh", *flags],
            cwd=folder,
            env=os.environ | {"VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, condition, seconds: float = 120) -> None:
        """Wait until condition() is true; fail if the launcher ends before, or after so many seconds."""
        start = time.monotonic()
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() - start < seconds
            time.sleep(0.2)

    def ranks(self) -> dict[int, int]:
        """Return the ids of the running training processes by rank."""
        found = {}
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.folder) == os.readlink(proc / "cwd") and b"train.py" in (proc / "cmdline").read_bytes():
                    environment = (proc / "environ").read_bytes().split(b"\0")
                    rank = [own.partition(b"=")[2] for own in environment if own.startswith(b"RANK=")]
                    if rank:
                        # the lowest id is the rank's; the others are its data loading workers
                        found[int(rank[0])] = min(int(proc.name), found.get(int(rank[0]), 2**31))
            except OSError:
                continue
        return found

    @property
    def log(self) -> str:
        """What the run has printed so far."""
        path = self.folder / "test" / "output" / "0" / "train_0.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def launch(tmp_path):
    """A function that starts a launcher with so many processes; all of them end with the test."""
    launchers = []

    def start(count: int) -> Launcher:
        launchers.append(Launcher(tmp_path / "clone", count))
        return launchers[-1]

    yield start
    for launcher in launchers:
        launcher.process.kill()
        for pid in launcher.ranks().values():
            os.kill(pid, signal.SIGKILL)


def test_killing_one_rank_ends_the_run(launch):
    launcher = launch(2)
    launcher.wait_for(lambda: "Epoch: [1][3/" in launcher.log)
    ranks = launcher.ranks()
    assert sorted(ranks) == [0, 1]
    start = time.monotonic()
    os.kill(ranks[1], signal.SIGKILL)
    output, _ = launcher.process.communicate(timeout=60)
    assert time.monotonic() - start < 30 and launcher.process.returncode != 0
    assert launcher.ranks() == {}, "no process is left behind"
    assert re.search(r"[Rr]ank 1\b.*(SIGKILL|signal 9)", output), output


# trains, and sends SIGUSR1 to rank 1 in the fifth step
STOPPED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import engine, options, train
from runtime.errors import report_errors
iou_score, calls = engine.iou_score, []
def signal_in_the_fifth_step(*tensors):
    calls.append(0)
    if len(calls) == 5 and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGUSR1)
    return iou_score(*tensors)
engine.iou_score = signal_in_the_fifth_step
with report_errors():
    train.main(options.parse_train(sys.argv[1:]))
"""


@pytest.mark.parametrize("more", [(), ("--ema", "0.9", "--scheduler", "OneCycleLR")])
def test_a_signal_to_one_rank_stops_both_after_the_same_step(home, more):
    """Then the run is resumed without a loss. Within an epoch, each rank's BatchNorm has statistics of its own."""
    flags = ("inputs/discs", *TINY, "--epochs", "2", "--device", "cpu", *more)
    assert run_ranks(2, "train.py", *flags, "--name", "whole", cwd=home, **NARROW).returncode == 0
    (home / "stopped.py").write_text(STOPPED.format(root=str(ROOT)))
    result = run_ranks(2, home / "stopped.py", *flags, "--name", "cut", cwd=home, **NARROW)
    assert result.returncode == 143 and "[Stopped] after 1 epochs and 1 steps, which are saved" in result.stdout
    assert "[Stopping] by SIGUSR1" in (home / "models" / "cut" / "rank1.log").read_text()
    saved = torch.load(home / "models" / "cut" / "checkpoint.pth.tar", weights_only=True)
    first, second = (rank["averaged" if more else "buffers"]["conv0_0.bn1.running_mean"] for rank in saved["ranks"])
    assert not torch.equal(first, second)
    torch.testing.assert_close(saved["state_dict"]["conv0_0.bn1.running_mean"], (first + second) / 2)
    result = run_ranks(2, "train.py", *flags, "--name", "cut", "--resume", "auto", cwd=home, **NARROW)
    assert result.returncode == 0, result.stdout
    assert compare(home / "models" / "whole", home / "models" / "cut") == []


def test_sigterm_ends_all_ranks_and_leaves_a_readable_checkpoint(launch):
    """The launchers' tests check that the other signals reach the ranks in the same way."""
    launcher = launch(2)
    checkpoint = launcher.folder / "models" / "dsb2018_96_UNet_woDS" / "checkpoint.pth.tar"
    launcher.wait_for(lambda: checkpoint.exists() and "Epoch: [2][1/" in launcher.log)
    launcher.process.send_signal(signal.SIGTERM)
    output, _ = launcher.process.communicate(timeout=60)
    assert launcher.process.returncode == 143 and launcher.ranks() == {}, output
    assert load_checkpoint(checkpoint)["epoch"] >= 1
    assert "Traceback" not in output + (checkpoint.parent / "rank1.log").read_text()
