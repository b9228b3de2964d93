# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Checkpoints: files of this and older editions are read, damaged and hostile ones refused; a readable one stays."""

import os
import pickle
import re
import resource
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, free_port, random_net, run_side_by_side
from faults.kills import compare
from helpers.short_runs import RUN, crash, disturb, train_run

from runtime.checkpoint import (
    BEST,
    LATEST,
    PREVIOUS,
    check_same_checkpoint,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from runtime.errors import InputError

WEIGHTS = OrderedDict([("conv0_0.conv1.weight", torch.arange(6.0).reshape(2, 3)), ("final.bias", torch.ones(1))])


def write_old(path: Path, state: object, zipped: bool, replacements: dict[bytes, bytes]) -> None:
    """Save a file and replace byte strings of its pickle, so that it looks as if another machine had written it."""
    torch.save(state, path, _use_new_zipfile_serialization=zipped)

    def exchange(data: bytes) -> bytes:
        for old, new in replacements.items():
            assert old in data, old
            data = data.replace(old, new)
        return data

    if not zipped:  # pickles, then the storages, whose bytes are other ones
        path.write_bytes(exchange(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, exchange(data) if name.endswith("/data.pkl") else data)


def has_the_weights(state_dict: dict) -> bool:
    return list(state_dict) == list(WEIGHTS) and all(torch.equal(state_dict[k], WEIGHTS[k]) for k in WEIGHTS)


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    state = {"epoch": 7, "arch": "UNet", "state_dict": WEIGHTS, "best_iou": 0.75, "optimizer": {"state": {}, "x": [1]}}
    save_checkpoint(state, path)
    loaded = load_checkpoint(path)
    assert has_the_weights(loaded.pop("state_dict"))
    assert loaded == {k: v for k, v in state.items() if k != "state_dict"} | {"step": 0, "processes": 0}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "torch 1.5 and before"])
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("scalar", [np.float64(0.625), np.float32(0.625)], ids=["float64", "float32"])
def test_a_checkpoint_of_the_npu_edition(tmp_path: Path, zipped: bool, module: str, scalar: np.floating) -> None:
    """It has no `arch`, names with `module.`, and as `best_iou` a NumPy scalar, pickled by NumPy 1 or 2."""
    current = type(scalar).__reduce__(scalar)[0].__module__
    state = {
        "epoch": 100,
        "state_dict": OrderedDict((f"module.{name}", value) for name, value in WEIGHTS.items()),
        "best_iou": scalar,
        "optimizer": {"state": {0: {"step": 5, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3}]},
    }
    path = tmp_path / "checkpoint.pth.tar"
    write_old(path, state, zipped, {f"c{current}\nscalar\n".encode(): f"c{module}\nscalar\n".encode()})
    loaded = load_checkpoint(path)
    assert has_the_weights(loaded["state_dict"]) and loaded["epoch"] == 100
    assert loaded["best_iou"] == 0.625 and type(loaded["best_iou"]) is float
    assert loaded["optimizer"]["param_groups"] == [{"lr": 1e-3}] and "arch" not in loaded


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "torch 1.5 and before"])
@pytest.mark.parametrize("device", ["cuda:0", "npu:3"])
def test_weights_of_any_device_are_loaded_onto_the_cpu(tmp_path: Path, zipped: bool, device: str) -> None:
    path = tmp_path / "model_best.pth.tar"
    names = {b"X\x03\0\0\0cpu": b"X" + len(device).to_bytes(4, "little") + device.encode()}
    write_old(path, {"epoch": 1, "state_dict": WEIGHTS}, zipped, names)
    assert has_the_weights(load_checkpoint(path)["state_dict"])


@pytest.mark.parametrize("prefix", ["", "module.", "module.module.", "_orig_mod.", "module._orig_mod."])
def test_bare_weights_of_the_gpu_edition(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "model.pth"
    torch.save(OrderedDict((prefix + name, value) for name, value in WEIGHTS.items()), path)
    loaded = load_checkpoint(path)
    assert has_the_weights(loaded["state_dict"]) and loaded["epoch"] == 0 and loaded["best_iou"] is None


def refusal(path: Path) -> str:
    """Return the message with which a file is refused."""
    with pytest.raises(InputError) as error:
        load_checkpoint(path)
    text = str(error.value)
    assert text.startswith(str(path)) and "\n" not in text and len(text) < 500
    return text


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "torch 1.5 and before"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, zipped: bool, share: float) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 1, "state_dict": {"w": torch.rand(500)}}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refusal(path)


@pytest.mark.parametrize("length", [5_000, 20_000, 60_000])
def test_a_file_cut_to_a_few_kilobytes_is_refused(tmp_path: Path, length: int) -> None:
    """Torch looks for the directory of a zip in the last 64 KB, and before the start of such a file."""
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 1, "state_dict": {"w": torch.rand(100_000)}}, path)
    path.write_bytes(path.read_bytes()[:length])
    refusal(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"hello world\n", bytes(range(256))],
    ids=["empty", "start of a zip", "text", "bytes"],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(content)
    assert "not a readable checkpoint" in refusal(path)


FOREIGN = {
    "list": [1, 2],
    "tensor": torch.zeros(3),
    "nothing": {},
    "number instead of weights": {"epoch": 3},
    "no weights": {"state_dict": {}},
    "None": {"state_dict": None},
    "list of weights": {"state_dict": [torch.zeros(1)]},
    "weight that is a number": {"state_dict": {"w": 3}},
    "optimizer's state": {"state": {0: {"step": 1}}, "param_groups": []},
    "weights without names": {0: torch.zeros(1)},
    "epoch in words": {"state_dict": WEIGHTS, "epoch": "many"},
    "no epoch": {"state_dict": WEIGHTS, "epoch": None},
    "IoU in words": {"state_dict": WEIGHTS, "best_iou": "high"},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_with_other_contents_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "other.pth.tar"
    torch.save(FOREIGN[case], path)
    refusal(path)


@pytest.mark.parametrize("made", [None, "folder"])
def test_a_missing_checkpoint(tmp_path: Path, made: str | None) -> None:
    path = tmp_path / "model_best.pth.tar"
    if made:
        path.mkdir()
    assert "no such checkpoint" in refusal(path)


class Command:
    """Unpickling this runs a command."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("save", ["zip", "legacy", "pickle"])
def test_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pth.tar"
    state = {"epoch": 1, "state_dict": WEIGHTS, "best_iou": Command()}
    if save == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Command()}, protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=save == "zip")
    refusal(path)
    assert not (tmp_path / "ran").exists()
    if save == "pickle":  # plain unpickling does run it
        pickle.loads(path.read_bytes())
        assert (tmp_path / "ran").exists()


def test_a_checkpoint_that_cannot_be_saved_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint.pth.tar"
    save_checkpoint({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, target)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint({"epoch": 4, "state_dict": {"w": torch.zeros(2)}, "x": lambda: 0}, target)
    assert load_checkpoint(target)["epoch"] == 3 and list(tmp_path.iterdir()) == [target]


def nested_lists() -> list:
    """Return lists that hold each other: counting their 2 ** 40 numbers would take hours."""
    value = [1]
    for _ in range(40):
        value = [value, value]
    return value


class Pointer:
    """Unpickling this makes an array of Python objects at addresses that the file chooses."""

    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype("O"), "A" * 8)


HOSTILE = {
    "weights that claim a terabyte": {"state_dict": {"w": torch.zeros(1).expand(2**38)}},
    "averages that claim a terabyte": {"optimizer": {"state": {0: {"exp_avg": torch.zeros(1).expand(2**38)}}}},
    "sparse": {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3).to_sparse()}}}},
    "complex": {"state_dict": {"w": torch.zeros(2, dtype=torch.complex64)}},
    "on the meta device": {"state_dict": {"w": torch.zeros(2, device="meta")}},
    "lists in lists": {"history": [{"x": nested_lists()}]},
    "negative epoch": {"epoch": -1},
    "step of a billion billions": {"step": 10**18},
    "IoU that is not a number": {"best_iou": float("nan")},
    "IoU of 400 digits": {"best_iou": 10**400},
    "processes in words": {"processes": "two\n[npu id: 0 ] [AVG-IOU] * Iou 0.9"},
    "an array made of a pointer": {"config": Pointer()},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_contents_that_no_run_writes_are_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "hostile.pth.tar"
    torch.save({"epoch": 1, "state_dict": WEIGHTS} | HOSTILE[case], path)
    refusal(path)


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 1, "state_dict": {"w": torch.arange(40.0)}, "history": [{"loss": 0.5}]}, path)
    whole, refusals = path.read_bytes(), 0
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            loaded = load_checkpoint(path)
        except InputError:
            refusals += 1
        else:
            assert torch.equal(loaded["state_dict"]["w"], torch.arange(40.0)), place
            assert loaded["epoch"] == 1 and loaded["history"] == [{"loss": 0.5}], place
    assert refusals > len(whole) / 2 / 4


def test_a_trusted_checkpoint_may_hold_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": 1, "state_dict": WEIGHTS, "extra": Command()}, "own.pth.tar")
    with pytest.raises(InputError, match=r"own\.pth\.tar: refused, and nothing of it was run: it calls \w+\.system"):
        load_checkpoint("own.pth.tar")
    assert not (tmp_path / "ran").exists()
    assert has_the_weights(load_checkpoint("own.pth.tar", trust=True)["state_dict"])
    assert (tmp_path / "ran").exists() and "warning: --trust_checkpoint" in capsys.readouterr().out


def test_saving_keeps_the_previous_one_whatever_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving may die after each of its steps: the latest checkpoint is then the old or the new one, and is whole."""
    latest, previous, best = tmp_path / LATEST, tmp_path / PREVIOUS, tmp_path / BEST

    def save(epoch: int) -> None:
        save_checkpoint({"epoch": epoch, "state_dict": WEIGHTS}, latest, previous, best)

    for epoch in (1, 2):
        save(epoch)
    assert [load_checkpoint(path)["epoch"] for path in (latest, previous, best)] == [2, 1, 2]

    class Died(BaseException):
        pass

    steps = {name: getattr(os, name) for name in ("link", "fsync", "replace")}
    for after in range(1, 12):
        count = iter(range(1, 100))

        def counted(name):
            def step(*args):
                result = steps[name](*args)
                if next(count) == after:  # noqa: B023
                    raise Died
                return result

            return step

        for name in steps:
            monkeypatch.setattr(os, name, counted(name))
        with pytest.raises(Died):
            save(3)
        for name, real in steps.items():
            monkeypatch.setattr(os, name, real)
        assert load_checkpoint(latest)["epoch"] in (2, 3) and load_checkpoint(previous)["epoch"] in (1, 2)
        # a run that resumes the latest one trains the epochs after it again, but not an earlier one
        assert load_checkpoint(best)["epoch"] >= load_checkpoint(latest)["epoch"]
        for epoch in (1, 2):
            save(epoch)
    assert sorted(path.name for path in tmp_path.iterdir()) == [PREVIOUS, LATEST, BEST]


# --- the checkpoints of a run ----------------------------------------------------------------------------------------

in_a_run = pytest.mark.usefixtures("home", "narrow", "unplotted")


def test_find_checkpoint(tmp_path):
    assert find_checkpoint(None, tmp_path) is None and find_checkpoint("auto", tmp_path) is None
    assert find_checkpoint("other.tar", tmp_path) == Path("other.tar")
    (tmp_path / PREVIOUS).touch()
    assert find_checkpoint("auto", tmp_path) == tmp_path / LATEST


@in_a_run
@pytest.mark.parametrize("damage", ["cut short", "a bit flipped", "gone"])
def test_the_previous_checkpoint_replaces_a_damaged_one(home, capsys, damage):
    flags = ("--epochs", "2", "--scheduler", "ConstantLR")
    train_run(*flags)
    (home / RUN).rename(home / "whole")
    train_run(*flags)
    latest = RUN / LATEST
    assert torch.load(RUN / PREVIOUS, weights_only=True)["epoch"] == 1
    data = bytearray(latest.read_bytes())
    if damage == "gone":
        latest.unlink()
    elif damage == "cut short":
        latest.write_bytes(data[: len(data) // 2])
    else:
        with zipfile.ZipFile(latest) as archive:
            weights = max((archive.read(name) for name in archive.namelist()), key=len)
        data[data.find(weights) + len(weights) // 2] ^= 16  # torch itself would not notice
        latest.write_bytes(data)
    train_run(*flags, "--resume", "auto")
    out = capsys.readouterr().out
    assert "warning: models/run/checkpoint.pth.tar: " in out and "going on from the one before it" in out
    assert "resuming models/run/checkpoint.prev.pth.tar after 1 epochs" in out
    assert load_checkpoint(RUN / PREVIOUS)["epoch"] == 1, "the damaged one has not become the previous one"
    assert compare(home / "whole", home / RUN) == []


@in_a_run
def test_both_checkpoints_unreadable():
    RUN.mkdir(parents=True)
    for name in (LATEST, PREVIOUS):
        (RUN / name).write_bytes(b"PK")
    with pytest.raises(
        InputError, match=r"checkpoint\.pth\.tar: not a .*nor can the one before it be read: .*prev\.pth"
    ):
        train_run("--resume", "auto")


@in_a_run
def test_a_checkpoint_of_an_earlier_run_is_not_kept_as_previous():
    train_run("--epochs", "2")
    train_run("--epochs", "1")
    assert not (RUN / PREVIOUS).exists()


@in_a_run
def test_another_run_is_refused_before_anything_is_written(home, monkeypatch, capsys):
    disturb(monkeypatch, {6: crash})
    with pytest.raises(KeyboardInterrupt):
        train_run("--save_steps", "1")
    before = {path: path.read_bytes() for path in (home / "models").rglob("*") if path.is_file()}
    disturb(monkeypatch, {})
    with pytest.raises(InputError, match="--batch_size 4 there and 6 here"):
        train_run("--resume", "auto", "--batch_size", "6")
    assert {path: path.read_bytes() for path in (home / "models").rglob("*") if path.is_file()} == before
    # an epoch cannot be continued with batches of another size
    train_run("--resume", "auto", "--batch_size", "6", "--resume_anyway")
    out = capsys.readouterr().out
    assert "epoch 2 begins anew" in out and "Epoch: [2][1/2]" in out and "Epoch: [3][2/2]" in out


@in_a_run
def test_a_full_disk_ends_the_run_and_keeps_the_old_files():
    """A limit on the size of files acts as the full disk: a checkpoint exceeds it, a log does not."""
    flags = ("--scheduler", "ConstantLR")
    train_run("--epochs", "1", *flags)
    before = {path: path.read_bytes() for path in RUN.glob("*.tar")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((RUN / LATEST).stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(InputError, match=r"models/run/\w+\.pth\.tar: cannot be written"):
            train_run("--epochs", "2", *flags, "--resume", "auto")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in RUN.glob("*.tar")} == before
    assert not [path for path in RUN.iterdir() if path.name.startswith(".")]


@in_a_run
def test_the_best_model_of_a_run_in_another_folder_is_copied(home, capsys):
    """models/run holds a third run, whose best model must not pass for this one's."""
    train_run("--epochs", "1", "--seed", "9")
    (home / RUN).rename(home / "models" / "other")
    train_run("--epochs", "1")
    foreign = (RUN / BEST).read_bytes()
    source = home / "models" / "other" / BEST
    state = torch.load(source, weights_only=True)
    for name in (BEST, LATEST):
        torch.save(state | {"best_iou": 0.99}, source.with_name(name))
    flags = ("--epochs", "2", "--seed", "9", "--resume_anyway", "--resume", f"models/other/{LATEST}")
    train_run(*flags)
    assert "holds an earlier run, whose files this one replaces" in capsys.readouterr().out
    assert (RUN / BEST).read_bytes() == source.read_bytes() != foreign
    # without a best model to copy, that of the next epoch is the best
    source.unlink()
    train_run(*flags)
    assert torch.load(RUN / BEST, weights_only=True)["epoch"] == 2


class TwoProcesses:
    """A Runtime of two processes; the value of the other one is a function of this one's."""

    world_size = 2

    def __init__(self, other):
        self.other = other

    def all_gather(self, own):
        return [own, self.other(own)]


def test_processes_with_different_checkpoints_are_refused():
    path, checkpoint = Path("a.tar"), {"epoch": 2, "step": 1, "state_dict": {"w": torch.ones(3)}}
    check_same_checkpoint(checkpoint, path, TwoProcesses(lambda own: own))
    for other in (lambda own: None, lambda own: (2, 1, "[4.0]"), lambda own: (own[0], 0, own[2])):
        with pytest.raises(InputError, match=r"rank 1 and rank 0 would not go on .*rank 0's, a\.tar, to the same"):
            check_same_checkpoint(checkpoint, path, TwoProcesses(other))


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("how", ["resumes alone", "starts from other weights"])
def test_a_process_with_another_file_is_refused_at_once(tmp_path, how):
    """As on a second host without rank 0's folder; a collective that only one process calls would wait for minutes."""
    flags = ("inputs/discs", *TINY, "--name", "run", "--num_gpus", "2", "--port", free_port(), "--dist_timeout", "15")
    flags += ("--epochs", "1")
    for seed in (0, 1):
        torch.save({"epoch": 1, "state_dict": random_net(seed=seed).state_dict()}, f"{seed}.pth.tar")
    each = [("--rank_id", "0", "--resume", "0.pth.tar"), ("--rank_id", "1")]
    if how == "starts from other weights":
        each = [(*each[0], "--pretrained"), (*each[1], "--pretrained", "--resume", "1.pth.tar")]
    for result in run_side_by_side(ROOT / "train.py", [((*flags, *own), {}) for own in each], tmp_path):
        assert result.returncode == 1 and "Traceback" not in result.stdout
        assert re.search(r"\[Error\] rank 1 and rank 0 .*checkpoint", result.stdout), result.stdout
