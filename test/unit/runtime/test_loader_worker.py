# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Data loading processes where /dev/shm is small, and what their errors tell the user."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, TINY, run
from helpers.sample_data import numbered_ids, open_set, write_set

import dataset
from imaging import augment
from runtime import loader_worker
from runtime.loader_worker import SEMAPHORE_BYTES, num_workers_that_fit

MB = 10**6


def use_free_bytes(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=free, f_frsize=1))


@pytest.mark.parametrize(
    "free, wanted, ranks, here, expected",
    [
        (11 * MB, 4, 1, 1, 4),
        (11 * MB - 1, 4, 1, 1, 3),  # two batches for each worker, and three for the training process
        (5 * MB, 4, 1, 1, 1),
        (5 * MB - 1, 4, 1, 1, 0),
        (0, 4, 1, 1, 0),
        (0, 0, 1, 1, 0),
        (20 * MB, 8, 4, 4, 4),  # two workers in each of four ranks: one each has room
        (28 * MB, 8, 4, 4, 8),
        (14 * MB, 8, 4, 2, 8),  # two hosts
        (28 * MB - 1, 5, 4, 4, 4),  # the loaders round up to two in each rank
    ],
)
def test_as_many_workers_as_have_room(monkeypatch, capsys, free, wanted, ranks, here, expected):
    monkeypatch.setattr(loader_worker, "SEMAPHORE_BYTES", 0)
    use_free_bytes(monkeypatch, free)
    assert num_workers_that_fit(wanted, MB, ranks, here) == expected
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (expected < wanted)
    if lines:
        assert lines[0].startswith(f"--num_workers is lowered from {wanted} to {expected}: /dev/shm has only ")
        assert "--shm-size" in lines[0]


def test_shared_memory_elsewhere(monkeypatch, capsys):
    def fail(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "statvfs", fail)
    assert num_workers_that_fit(4, 10**12) == 4 and capsys.readouterr().out == ""


@pytest.mark.parametrize("normalization", ["standard", "image"])
@pytest.mark.parametrize("batch_size, ranks", [(8, 2), (2, 2), (9, 1)])
def test_the_bytes_of_a_batch(monkeypatch, tmp_path, normalization, batch_size, ranks):
    """Those of the tensors that a loader yields, or little more if the tables of another normalization are larger."""
    ids, transform = numbered_ids(9), augment.val_transform(32, 48, normalization)
    data = open_set(write_set(tmp_path, ids, 2), ids, transform, 2)
    images, masks, meta = next(iter(dataset.val_loader(data, batch_size, 0, False, 0, ranks)))
    seen = []
    monkeypatch.setattr(dataset, "num_workers_that_fit", lambda *args: seen.append(args))
    settings = {"num_workers": 6, "batch_size": batch_size, "input_h": 32, "input_w": 48}
    dataset.choose_num_workers(settings, 2, world_size=ranks, local_size=1)
    ((wanted, counted, *others),) = seen
    assert (wanted, *others) == (6, ranks, 1)
    found = images.nbytes + masks.nbytes + meta["tables"].nbytes
    assert images.nbytes + masks.nbytes == batch_size // ranks * 5 * 32 * 48
    assert found <= counted <= found + 2048 * (batch_size // ranks)


def in_small_shm(size: int, *command: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command with a /dev/shm of so many bytes; skips the test if the system does not permit it."""
    inner = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-m", "sh", "-c", inner], capture_output=True).returncode
    ):
        pytest.skip("mounting another /dev/shm needs root and Linux's mount namespaces")
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{inner} && exec "$@"', "sh", *map(str, command)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/test/unit", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


LOADERS = """
import sys, time
from pathlib import Path
import dataset
from helpers.sample_data import numbered_ids, open_set
from imaging.augment import train_transform
from runtime.errors import report_errors
from runtime.loader_worker import num_workers_that_fit

with report_errors(debug="--debug" in sys.argv):
    data = open_set(Path("set"), numbered_ids(24), train_transform(256, 256))
    fitting = num_workers_that_fit(9, 2 * 4 * 256 * 256 + 4096)
    loaders = [make(data, 2, fitting) for make in (dataset.train_loader, dataset.val_loader)]
    for epoch in range(2):
        for loader in loaders:
            for images, masks, meta in loader:
                time.sleep(0.01)  # so that the workers fill their queues
    print("all read")
    for batch in dataset.train_loader(data, 2, 9):
        time.sleep(0.05)
"""


@pytest.mark.parametrize("flags", [(), ("--debug",)], ids=["", "debug"])
def test_loading_in_a_small_shm(tmp_path, flags):
    """With as many workers as have room all batches are read; with more of them one sentence tells the remedy."""
    write_set(tmp_path / "set", numbered_ids(24))
    batch = 2 * 4 * 256 * 256 + 4096
    size = 3 * batch + 2 * (2 * batch + SEMAPHORE_BYTES)
    result = in_small_shm(size, sys.executable, "-c", LOADERS, *flags, cwd=tmp_path)
    assert result.stdout.splitlines()[0].startswith("--num_workers is lowered from 9 to 2"), result.stdout
    assert result.stdout.splitlines()[-1] == "all read", result.stderr
    sentence = "[Error] /dev/shm is too small for the batches of the data loading processes; pass --num_workers 0"
    assert result.returncode == 1 and result.stderr.splitlines()[-1].startswith(sentence)
    if flags:
        assert "Original Traceback" in result.stderr and "_new_batch" in result.stderr
    else:
        assert len(result.stderr.splitlines()) == 1


def test_training_in_a_small_shm(home):
    """Half a MB, where a container has 64: it trains without workers."""
    flags = ("--input_h", 64, "--input_w", 64, "--batch_size", 8, "--epochs", 1, "--device", "cpu", "--name", "shm")
    result = in_small_shm(2**19, sys.executable, ROOT / "train.py", "inputs/discs", *flags, cwd=home)
    assert result.returncode == 0 and "--num_workers is lowered from 4 to 0: /dev/shm has only 0.5 MB" in result.stdout


class Broken(augment.A.ImageOnlyTransform):
    """Fails as a fault of the program would."""

    def __init__(self, error: Exception):
        super().__init__(p=1)
        self.error = error

    def apply(self, img, **params):
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [KeyError("hue"), MemoryError("of 3 GB\n  no"), augment.cv2.error("resize")])
def test_an_error_with_an_image_names_it(tmp_path, workers, error):
    from runtime import errors

    data = open_set(write_set(tmp_path, ["a", "b"]), ["a", "b"], augment.A.Compose([Broken(error)]))
    with pytest.raises(RuntimeError if workers else type(error)) as raised:
        list(dataset.val_loader(data, 2, workers))
    path = f"{tmp_path}/images/a.png"
    if workers:
        text = f"{path}: {type(error).__name__}: {' '.join(str(error).split())}"
        sentence = f"a data loading process failed: {text}"
        assert errors._sentence(raised.value) == f"{sentence}; --debug shows where"
        assert errors._sentence(raised.value, debug=True) == sentence
    else:  # Python shows the traceback
        assert raised.value is error and errors._sentence(error) is None
        assert not hasattr(error, "add_note") or error.__notes__[-1] == f"The image is {path}."


@pytest.mark.parametrize("flags", [(), ("--debug",)], ids=["", "debug"])
def test_training_with_a_bad_file_and_workers(home, flags):
    """The image is damaged after the check, so that a worker meets it."""
    code = (
        "import sys, dataset, train, options; from pathlib import Path; from runtime import startup\n"
        "check = dataset.check_dataset\n"
        "def check_then_damage(*args, **more):\n"
        "    ids = check(*args, **more)\n"
        "    for path in Path('inputs/discs/images').iterdir(): path.write_bytes(b'x')\n"
        "    return ids\n"
        "dataset.check_dataset = check_then_damage\n"
        "startup.run(train.main, options.parse_train(sys.argv[1:]))\n"
    )
    (home / "script.py").write_text(code)
    shared = [*TINY[:-1], "2", "--cache_mb", "0", "--device", "cpu"]
    result = run(home / "script.py", "inputs/discs", *shared, *flags, cwd=home)
    lines = result.stdout.splitlines()
    assert result.returncode == 1 and lines[-1].startswith("[Error] inputs/discs/images/disc")
    assert "not a readable image" in lines[-1] and (("Original Traceback" in result.stdout) == bool(flags))
