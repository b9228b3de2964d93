"""Several processes on the CPU: the same numbers as one, the same batches, an end for all when one ends."""

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
from conftest import ROOT, TINY, clone, free_port, run, run_ranks, run_side_by_side, torchrun, weights_of, write_dataset
from fault_kills import compare

import checkpoints
import dataset
import options
import ranks
import train
from errors import InputError

STEPS = Path(__file__).with_name("steps_of_ranks.py")


def found_by(count: int, *arguments: object, cwd: Path, **environment: str) -> list[dict]:
    """What each of `count` processes of steps_of_ranks.py found."""
    result = run_ranks(count, STEPS, *arguments, "found", cwd=cwd, **environment)
    assert result.returncode == 0, result.stdout
    return [torch.load(cwd / f"found.{rank}", weights_only=True) for rank in range(count)]


def assert_same_training(one: dict, several: list[dict], left_out: tuple[str, ...] = ()) -> None:
    """Losses and weights within 1e-5, and how far the weights went within 2 %; all the processes alike."""
    names = [name for name in one["weights"] if name not in left_out]
    assert len(one["losses"]) == 5 and max(one["losses"]) - min(one["losses"]) > 1e-3
    for own in several:
        assert own["losses"] == pytest.approx(one["losses"], abs=1e-5)
        for name in names:
            assert (own["weights"][name] - one["weights"][name]).abs().max() <= 1e-5, name
            assert torch.equal(own["weights"][name], several[0]["weights"][name]), name
        way, other = (torch.cat([run["moved"][k].flatten() for k in names if k in run["moved"]]) for run in (one, own))
        assert (other - way).norm() < 0.02 * way.norm() > 0


def test_two_processes_train_like_one(tmp_path):
    (one,) = found_by(1, "train", "cpu", "fixed", cwd=tmp_path)
    assert_same_training(one, found_by(2, "train", "cpu", "fixed", cwd=tmp_path))


def test_validation_is_the_same_on_any_number_of_processes(tmp_path):
    """133 images, the real split's count, at 8 images a process: 17 batches, of which not all ranks get as many."""
    write_dataset(tmp_path / "data", count=133)
    ids = sorted(path.stem for path in (tmp_path / "data" / "images").iterdir())
    numbers = []
    for count in (1, 2, 3, 4):
        found = found_by(count, "evaluate", "cpu", "data", cwd=tmp_path)
        seen = [own for rank in found for batch in rank["seen"] for own in batch]
        assert len(seen) == len(set(seen)) == 133
        for rank, own in enumerate(found):
            assert own["seen"] == [ids[start : start + 8] for start in range(0, 133, 8)][rank::count]
        numbers += [{key: own[key] for key in ("loss", "iou", "dice")} for own in found]
    assert all(own == pytest.approx(numbers[0], abs=1e-6) for own in numbers)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_batches_of_one_process(world_size):
    def batches(rank: int, world_size: int, epoch: int) -> list[list]:
        sampler = dataset.EpochBatches(23, 8, 5, rank, world_size)
        sampler.set_epoch(epoch)
        return list(sampler)

    for epoch in (0, 1):
        shares = [batches(rank, world_size, epoch) for rank in range(world_size)]
        assert [[key for share in step for key in share] for step in zip(*shares)] == batches(0, 1, epoch)
        assert {len(share) for rank in shares for share in rank} == {8 // world_size}
    assert batches(0, 1, 0) != batches(0, 1, 1), "shuffled afresh"


@pytest.mark.parametrize(
    "batch_size, world_size, advice", [(100, 8, "use 96 or 104"), (3, 4, "use 4"), (7, 2, "use 6 or 8")]
)
def test_a_batch_that_cannot_be_shared_out(batch_size, world_size, advice):
    with pytest.raises(InputError, match=rf"--batch_size {batch_size} .* all {world_size} processes .*{advice}$"):
        dataset.share_of(batch_size, world_size)


def test_workers_count_over_all_ranks(home):
    data = dataset.NucleiDataset(home / "inputs" / "discs", [f"disc{k:02d}" for k in range(15)], None)
    for workers, world_size, own in [(8, 8, 1), (8, 2, 4), (16, 8, 2), (4, 8, 1), (0, 2, 0)]:
        assert dataset.val_loader(data, 8, workers, False, 0, world_size).num_workers == own


PLACES = {
    "torchrun's environment wins": (
        {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
        (0, 1),
        ranks.Place(5, 8, 1, 4, torchrun=True),
    ),
    "by hand": ({}, (3, 4), ranks.Place(3, 4, 3, 4, torchrun=False)),
    "a scheduler's WORLD_SIZE alone": ({"WORLD_SIZE": "4"}, (0, 1), ranks.Place(0, 1, 0, 1, torchrun=False)),
}


@pytest.mark.parametrize("environment, flags, place", PLACES.values(), ids=PLACES)
def test_place(monkeypatch, environment, flags, place):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks.find_place(*flags) == place


def test_processes_that_were_started_with_other_flags(discs):
    """Or with other data: they are told apart before the first step."""
    flags = ("inputs/discs", *TINY, "--device", "cpu", "--num_gpus", "2", "--port", free_port())
    each = [("--rank_id", "0"), ("--rank_id", "1", "--lr", "0.5")]
    for result in run_side_by_side(ROOT / "train.py", [((*flags, *own), {}) for own in each], cwd=discs):
        assert result.returncode == 1 and "Traceback" not in result.stdout
        assert "[Error] rank 1 and rank 0 differ in lr; start all ranks alike" in result.stdout


@pytest.fixture
def discs(home) -> Path:
    write_dataset(home / "inputs" / "discs", count=40)
    return home


def test_training_in_two_processes(discs):
    """A hand-made launch in one line and torchrun's: the same numbers; files once; each rank's output its own."""
    flags = ("inputs/discs", *TINY, "--scheduler", "ConstantLR", "--epochs", "2", "--device", "cpu")
    result = run_ranks(2, "train.py", *flags, "--name", "run", cwd=discs)
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
    hand = (*flags, "--name", "hand", "--num_gpus", "2", *port, "--rank_id")
    others = run_side_by_side(ROOT / "train.py", [((*hand, rank), {}) for rank in (0, 1)], cwd=discs)
    assert [result.returncode for result in others] == [0, 0]
    some, others = (weights_of(discs / "models" / name / "checkpoint.pth.tar") for name in ("run", "hand"))
    assert all(torch.equal(value, others[name]) for name, value in some.items())

    # the whole training state comes back, and one process can go on from what two wrote
    more = (*flags, "--name", "run", "--epochs", "3", "--resume", "models/run/checkpoint.pth.tar")
    result = run("train.py", *more, cwd=discs)
    assert result.returncode == 0, result.stdout
    assert "resuming models/run/checkpoint.pth.tar after 2 epochs" in result.stdout
    assert checkpoints.load(folder / "checkpoint.pth.tar")["epoch"] == 3


def test_batch_norm_statistics_are_those_of_all_ranks(discs):
    """What the checkpoint holds is the mean of what the ranks gathered: of one step each, from a known start."""
    flags = ("--input_h", "32", "--input_w", "32", "-b", "32", "--num_workers", "0", "--epochs", "1", "--device", "cpu")
    result = run_ranks(2, "train.py", "inputs/discs", *flags, "--name", "two", cwd=discs)
    assert result.returncode == 0, result.stdout
    train.main(options.parse_train(["inputs/discs", *flags, "--name", "one"]))
    two, one = (weights_of(discs / "models" / name / "checkpoint.pth.tar") for name in ("two", "one"))
    first = "conv0_0.bn1.running_mean"
    # the mean of two halves' means is the mean of the whole; deeper layers see other normalisations
    assert torch.allclose(two[first], one[first], atol=1e-7) and two[first].abs().max() > 0


def test_mistakes_of_a_hand_made_launch(home):
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


def test_a_mistake_that_all_ranks_make_is_told_once(home):
    result = torchrun(2, ROOT / "train.py", "inputs/nowhere", *TINY, "--device", "cpu", cwd=home)
    assert result.returncode == 1
    assert len(re.findall(r"\[Error\].*inputs/nowhere", result.stdout)) == 1
    result = run("val.py", cwd=home, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert result.returncode == 1
    assert result.stdout == "[Error] this script runs in one process; start it without torchrun\n"


class Launched:
    """A launcher of a copy of the repository at work; the training processes can be looked at and hit."""

    def __init__(self, folder: Path, count: int):
        clone(folder)
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
        start = time.monotonic()
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() - start < seconds
            time.sleep(0.2)

    def ranks(self) -> dict[int, int]:
        """Process ids of the training processes that are alive, by rank."""
        found = {}
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.folder) == os.readlink(proc / "cwd") and b"train.py" in (proc / "cmdline").read_bytes():
                    environment = (proc / "environ").read_bytes().split(b"\0")
                    rank = [own.partition(b"=")[2] for own in environment if own.startswith(b"RANK=")]
                    if rank:
                        # the oldest one is the rank, the others are its loader's workers
                        found[int(rank[0])] = min(int(proc.name), found.get(int(rank[0]), 2**31))
            except OSError:
                continue
        return found

    @property
    def log(self) -> str:
        path = self.folder / "test" / "output" / "0" / "train_0.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def launched(tmp_path):
    made = []

    def launch(count: int) -> Launched:
        made.append(Launched(tmp_path / "clone", count))
        return made[-1]

    yield launch
    for own in made:
        own.process.kill()
        for pid in own.ranks().values():
            os.kill(pid, signal.SIGKILL)


def test_killing_one_rank_of_several_ends_the_run(launched):
    own = launched(3)
    own.wait_for(lambda: "Epoch: [1][3/" in own.log)
    victims = own.ranks()
    assert sorted(victims) == [0, 1, 2]
    start = time.monotonic()
    os.kill(victims[2], signal.SIGKILL)
    output, _ = own.process.communicate(timeout=60)
    assert time.monotonic() - start < 30 and own.process.returncode != 0
    assert own.ranks() == {}, "no process is left behind"
    assert re.search(r"[Rr]ank 2\b.*(SIGKILL|signal 9)", output), output
    print(output)


STOPPED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import engine, errors, options, train
score, calls = engine.iou_score, []
def at_the_fifth_call(*tensors):
    calls.append(0)
    if len(calls) == 5 and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGUSR1)
    return score(*tensors)
engine.iou_score = at_the_fifth_call
with errors.one_sentence():
    train.main(options.parse_train(sys.argv[1:]))
"""


@pytest.mark.parametrize("more", [(), ("--ema", "0.9", "--scheduler", "OneCycleLR")])
def test_a_signal_to_one_rank_stops_both_after_the_same_step_and_nothing_is_lost(home, more):
    """Each process's BatchNorm has statistics of its own inside an epoch, and so has their average; they come back."""
    flags = ("inputs/discs", *TINY, "--epochs", "2", "--device", "cpu", *more)
    assert run_ranks(2, "train.py", *flags, "--name", "whole", cwd=home).returncode == 0
    (home / "stopped.py").write_text(STOPPED.format(root=str(ROOT)))
    result = run_ranks(2, home / "stopped.py", *flags, "--name", "cut", cwd=home)
    assert result.returncode == 143 and "[Stopped] after 1 epochs and 1 steps, which are saved" in result.stdout
    assert "[Stopping] by SIGUSR1" in (home / "models" / "cut" / "rank1.log").read_text()
    saved = torch.load(home / "models" / "cut" / "checkpoint.pth.tar", weights_only=True)
    first, second = (rank["averaged" if more else "buffers"]["conv0_0.bn1.running_mean"] for rank in saved["ranks"])
    assert not torch.equal(first, second)
    torch.testing.assert_close(saved["state_dict"]["conv0_0.bn1.running_mean"], (first + second) / 2)
    result = run_ranks(2, "train.py", *flags, "--name", "cut", "--resume", "auto", cwd=home)
    assert result.returncode == 0, result.stdout
    assert compare(home / "models" / "whole", home / "models" / "cut") == []


def test_a_signal_ends_all_ranks_and_leaves_a_loadable_checkpoint(launched):
    """SIGTERM; that others reach the ranks alike is for the launchers' tests."""
    own = launched(2)
    checkpoint = own.folder / "models" / "dsb2018_96_UNet_woDS" / "checkpoint.pth.tar"
    own.wait_for(lambda: checkpoint.exists() and "Epoch: [2][1/" in own.log)
    own.process.send_signal(signal.SIGTERM)
    output, _ = own.process.communicate(timeout=60)
    assert own.process.returncode == 143 and own.ranks() == {}, output
    assert checkpoints.load(checkpoint)["epoch"] >= 1
    assert "Traceback" not in output + (checkpoint.parent / "rank1.log").read_text()
