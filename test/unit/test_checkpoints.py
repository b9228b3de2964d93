"""Checkpoints: what this and older editions wrote comes back, what is damaged or hostile is refused."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoints
from errors import InputError

WEIGHTS = OrderedDict([("conv0_0.conv1.weight", torch.arange(6.0).reshape(2, 3)), ("final.bias", torch.ones(1))])


def write_old(path: Path, state: object, zipped: bool, replacements: dict[bytes, bytes]) -> None:
    """torch.save, then exchange byte strings inside the pickle, to make a file as another machine had written it."""
    torch.save(state, path, _use_new_zipfile_serialization=zipped)

    def exchange(data: bytes) -> bytes:
        for old, new in replacements.items():
            assert old in data, old
            data = data.replace(old, new)
        return data

    if not zipped:  # a row of pickles, then the storages, whose bytes are none of these
        path.write_bytes(exchange(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, exchange(data) if name.endswith("/data.pkl") else data)


def same_weights(state_dict: dict) -> bool:
    return list(state_dict) == list(WEIGHTS) and all(torch.equal(state_dict[k], WEIGHTS[k]) for k in WEIGHTS)


def test_this_editions_checkpoint_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    state = {"epoch": 7, "arch": "UNet", "state_dict": WEIGHTS, "best_iou": 0.75, "optimizer": {"state": {}, "x": [1]}}
    checkpoints.save(state, path)
    loaded = checkpoints.load(path)
    assert same_weights(loaded.pop("state_dict"))
    assert loaded == {k: v for k, v in state.items() if k != "state_dict"} | {"step": 0, "processes": 0}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "torch 1.5 and before"])
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("scalar", [np.float64(0.625), np.float32(0.625)], ids=["float64", "float32"])
def test_the_npu_editions_checkpoint(tmp_path: Path, zipped: bool, module: str, scalar: np.floating) -> None:
    """No `arch`, a `module.` prefix, and `best_iou` a NumPy scalar, pickled under NumPy 1's or 2's module name."""
    current = type(scalar).__reduce__(scalar)[0].__module__
    state = {
        "epoch": 100,
        "state_dict": OrderedDict((f"module.{name}", value) for name, value in WEIGHTS.items()),
        "best_iou": scalar,
        "optimizer": {"state": {0: {"step": 5, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3}]},
    }
    path = tmp_path / "checkpoint.pth.tar"
    write_old(path, state, zipped, {f"c{current}\nscalar\n".encode(): f"c{module}\nscalar\n".encode()})
    loaded = checkpoints.load(path)
    assert same_weights(loaded["state_dict"]) and loaded["epoch"] == 100
    assert loaded["best_iou"] == 0.625 and type(loaded["best_iou"]) is float
    assert loaded["optimizer"]["param_groups"] == [{"lr": 1e-3}] and "arch" not in loaded


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "torch 1.5 and before"])
@pytest.mark.parametrize("device", ["cuda:0", "npu:3"])
def test_weights_come_onto_the_cpu(tmp_path: Path, zipped: bool, device: str) -> None:
    path = tmp_path / "model_best.pth.tar"
    names = {b"X\x03\0\0\0cpu": b"X" + len(device).to_bytes(4, "little") + device.encode()}
    write_old(path, {"epoch": 1, "state_dict": WEIGHTS}, zipped, names)
    assert same_weights(checkpoints.load(path)["state_dict"])


@pytest.mark.parametrize("prefix", ["", "module.", "module.module.", "_orig_mod.", "module._orig_mod."])
def test_the_gpu_editions_bare_weights(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "model.pth"
    torch.save(OrderedDict((prefix + name, value) for name, value in WEIGHTS.items()), path)
    loaded = checkpoints.load(path)
    assert same_weights(loaded["state_dict"]) and loaded["epoch"] == 0 and loaded["best_iou"] is None


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        checkpoints.load(path)
    text = str(error.value)
    assert text.startswith(str(path)) and "\n" not in text and len(text) < 500
    return text


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "torch 1.5 and before"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, zipped: bool, share: float) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 1, "state_dict": {"w": torch.rand(500)}}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"hello world\n", bytes(range(256))],
    ids=["empty", "start of a zip", "text", "bytes"],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(content)
    assert "not a readable checkpoint" in refused(path)


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
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "other.pth.tar"
    torch.save(FOREIGN[case], path)
    refused(path)


@pytest.mark.parametrize("made", [None, "folder"])
def test_a_checkpoint_that_is_not_there(tmp_path: Path, made: str | None) -> None:
    path = tmp_path / "model_best.pth.tar"
    if made:
        path.mkdir()
    assert "no such checkpoint" in refused(path)


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
    refused(path)
    assert not (tmp_path / "ran").exists()
    if save == "pickle":  # the file does bite whoever unpickles it
        pickle.loads(path.read_bytes())
        assert (tmp_path / "ran").exists()


def test_a_checkpoint_that_cannot_be_saved_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint.pth.tar"
    checkpoints.save({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, target)
    with pytest.raises((AttributeError, pickle.PicklingError)):  # as torch or pickle has it
        checkpoints.save({"epoch": 4, "state_dict": {"w": torch.zeros(2)}, "x": lambda: 0}, target)
    assert checkpoints.load(target)["epoch"] == 3 and list(tmp_path.iterdir()) == [target]


def lists_of_themselves() -> list:
    """2 ** 40 numbers for whoever counts them."""
    value = [1]
    for _ in range(40):
        value = [value, value]
    return value


class Pointer:
    """Unpickled, an array of Python objects at addresses that the file names."""

    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype("O"), "A" * 8)


HOSTILE = {
    "weights that claim a terabyte": {"state_dict": {"w": torch.zeros(1).expand(2**38)}},
    "averages that claim a terabyte": {"optimizer": {"state": {0: {"exp_avg": torch.zeros(1).expand(2**38)}}}},
    "sparse": {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3).to_sparse()}}}},
    "complex": {"state_dict": {"w": torch.zeros(2, dtype=torch.complex64)}},
    "on no device": {"state_dict": {"w": torch.zeros(2, device="meta")}},
    "lists of themselves": {"history": [{"x": lists_of_themselves()}]},
    "negative epoch": {"epoch": -1},
    "step of a billion billions": {"step": 10**18},
    "IoU that is no number": {"best_iou": float("nan")},
    "IoU without an end": {"best_iou": 10**400},
    "processes in words": {"processes": "two\n[npu id: 0 ] [AVG-IOU] * Iou 0.9"},
    "an array made of a pointer": {"config": Pointer()},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_contents_that_no_run_writes_are_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "hostile.pth.tar"
    torch.save({"epoch": 1, "state_dict": WEIGHTS} | HOSTILE[case], path)
    refused(path)


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 1, "state_dict": {"w": torch.arange(40.0)}, "history": [{"loss": 0.5}]}, path)
    whole, refusals = path.read_bytes(), 0
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            loaded = checkpoints.load(path)
        except InputError:
            refusals += 1
        else:
            assert torch.equal(loaded["state_dict"]["w"], torch.arange(40.0)), place
            assert loaded["epoch"] == 1 and loaded["history"] == [{"loss": 0.5}], place
    assert refusals > len(whole) / 2 / 4


def test_a_trusted_checkpoint_may_hold_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": 1, "state_dict": WEIGHTS, "extra": Command()}, "own.pth.tar")
    with pytest.raises(
        InputError, match=r"own\.pth\.tar: refused, and nothing of it was run: it calls for \w+\.system"
    ):
        checkpoints.load("own.pth.tar")
    assert not (tmp_path / "ran").exists()
    assert same_weights(checkpoints.load("own.pth.tar", trust=True)["state_dict"])
    assert (tmp_path / "ran").exists() and "warning: --trust_checkpoint" in capsys.readouterr().out


def test_saving_keeps_the_previous_one_whatever_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step of saving that can fail, the latest checkpoint is the old one or the new one, and is whole."""
    latest, previous = tmp_path / checkpoints.LATEST, tmp_path / checkpoints.PREVIOUS

    def save(epoch: int) -> None:
        checkpoints.save({"epoch": epoch, "state_dict": WEIGHTS}, latest, previous)

    for epoch in (1, 2):
        save(epoch)
    assert [checkpoints.load(path)["epoch"] for path in (latest, previous)] == [2, 1]

    class Died(BaseException):
        pass

    steps = {name: getattr(os, name) for name in ("link", "fsync", "replace")}
    for after in range(1, 6):
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
        assert checkpoints.load(latest)["epoch"] in (2, 3) and checkpoints.load(previous)["epoch"] in (1, 2)
        for epoch in (1, 2):
            save(epoch)
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoints.PREVIOUS, checkpoints.LATEST]
