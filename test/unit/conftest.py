# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Shared by the tests: a small prepared data set, models, and ways to run the scripts as a user does."""

import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from runtime import startup

startup.configure_opencv()  # as in every script, before OpenCV is loaded
# Before torch is loaded. The nets of most tests are so small that threads would mainly wait for each other, above all
# if the machine has other work. One thread also gives the same numbers on each machine.
os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import pytest
import torch

import archs
import engine
from runtime import run_files

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "test" / "unit"
DSB2018_ZIP = ROOT / os.environ.get("DSB2018_ZIP", "inputs/stage1_train.zip")
STANDIN_NPU, STANDIN_APEX, STANDIN_PYPI_APEX = (
    UNIT / name for name in ("standin_npu", "standin_apex", "standin_pypi_apex")
)
NARROW_WIDTHS = (4, 4, 8, 8, 8)
# for `run` and `run_ranks`: nets whose checkpoints are small, and no real curves.png
NARROW = {"NARROW_NETS": json.dumps(NARROW_WIDTHS)}
TINY = ("--input_h", "16", "--input_w", "16", "--batch_size", "4", "--num_workers", "0")

pytest.register_assert_rewrite("helpers.rank_results")  # so that its assertions show their values

# A shell that starts the tests in the background lets them ignore SIGINT, and nohup SIGHUP; child processes inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# CI has a compiler; if it is missing there, the tests fail instead of being skipped
needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "c++")) and not os.environ.get("CI"),
    reason="the stand-in for torch_npu needs a C++ compiler",
)


@pytest.fixture(scope="session")
def real_zip() -> Path:
    """The path of the real raw data set; tests that need it are skipped if it is missing."""
    if not DSB2018_ZIP.is_file():
        pytest.skip(f"the real data set is not at {DSB2018_ZIP}; set DSB2018_ZIP to its path")
    return DSB2018_ZIP


@functools.cache
def fork_server(python_path: str) -> subprocess.Popen:
    """Return a running helpers/fork_server.py that was started with this PYTHONPATH."""
    return subprocess.Popen(
        [sys.executable, UNIT / "helpers" / "fork_server.py"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_side_by_side(
    script: Path, each: list[tuple[tuple, dict[str, str]]], cwd: Path
) -> list[subprocess.CompletedProcess]:
    """Run a script in several processes at once; each has flags and environment variables of its own.

    `stdout` of a result holds both streams.
    """
    with tempfile.TemporaryDirectory() as outputs:
        requests = []
        for k, (flags, environment) in enumerate(each):
            environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
            requests.append([str(script), [*map(str, flags)], str(cwd), environment, f"{outputs}/{k}"])
        # torch loads a stand-in NPU when it is imported, so the server needs its path; other folders can be added later
        npu = str(STANDIN_NPU)
        server = fork_server(npu if npu in each[0][1].get("PYTHONPATH", "") else "")
        server.stdin.write(json.dumps(requests) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], 300)[0]:
            os.killpg(server.pid, signal.SIGKILL)
            fork_server.cache_clear()
            pytest.fail(f"still running after 300 s: {requests}")
        codes = json.loads(server.stdout.readline())
        texts = [Path(request[-1]).read_text() for request in requests]
    return [subprocess.CompletedProcess(request[:2], code, text) for request, code, text in zip(requests, codes, texts)]


def run(script: str | Path, *flags: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a script in a process; a relative path starts at the root. `stdout` holds both streams.

    The process is forked from one that has imported torch and the scripts, which saves seconds per test.
    """
    return run_side_by_side(ROOT / script, [(flags, environment)], cwd)[0]


def run_ranks(
    count: int, script: str | Path, *flags: object, cwd: Path, **environment: str
) -> subprocess.CompletedProcess:
    """Like `run`, in `count` processes with torchrun's environment variables; `stdout` holds their outputs in turn.

    If one process fails, the others are not ended, as torchrun would do: use `torchrun` for that.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()} | environment
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    each = [(flags, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]
    results = run_side_by_side(ROOT / script, each, cwd)
    code = next((result.returncode for result in results if result.returncode), 0)
    return subprocess.CompletedProcess(results[0].args, code, "".join(result.stdout for result in results))


def free_port() -> str:
    """Return a TCP port that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_afresh(script: str, *flags: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Like `run`, but in a new Python that executes the script's own imports."""
    return run_python(ROOT / script, *flags, cwd=cwd, **environment)


def torchrun(count: int, script: Path, *flags: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a script with torchrun in `count` processes of one thread each; `stdout` holds both streams."""
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}")
    return run_python(*launcher, script, *flags, cwd=cwd, **environment)


def run_python(*arguments: object, cwd: Path, seconds: float = 300, **environment: str) -> subprocess.CompletedProcess:
    """Run Python with these arguments; `stdout` holds both streams."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=seconds,
    )


def write_dataset(folder: Path, count: int = 15, classes: int = 1, side: int = 32) -> Path:
    """Write a prepared data set of bright discs on a dark background; the color of a disc tells its class.

    A fifth of the images validates.
    """
    rng = np.random.default_rng(count)
    for index in range(count):
        image = rng.normal(40, 8, (side, side, 3)).clip(0, 255).astype(np.uint8)
        for k in range(classes):
            mask = np.zeros((side, side), np.uint8)
            center = tuple(rng.integers(side // 4, 3 * side // 4, 2).tolist())
            cv2.circle(mask, center, int(rng.integers(max(3, side // 8), max(5, side // 4))), 255, -1, cv2.LINE_AA)
            image[mask > 127] = np.roll((200, 120, 60), k)
            path = folder / "masks" / str(k) / f"disc{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), mask)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "images" / f"disc{index:02d}.png"), image)
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A temporary current folder with a data set of 15 images at inputs/discs."""
    write_dataset(tmp_path / "inputs" / "discs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bright(home, monkeypatch):
    """A run called `bright` whose model is helpers.bright_net.Bright; returns the current folder."""
    (home / "models" / "bright").mkdir(parents=True)
    config = {"dataset": "discs", "input_h": 32, "input_w": 32, "batch_size": 4}
    torch.save(
        {"state_dict": random_net().state_dict(), "epoch": 4, "config": config}, "models/bright/model_best.pth.tar"
    )
    from helpers.bright_net import Bright  # here, since most tests need no demo.py

    real = engine.load_model
    monkeypatch.setattr(engine, "load_model", lambda path, runtime, **rest: (Bright(), real(path, runtime, **rest)[1]))
    return home


@pytest.fixture
def narrow(monkeypatch) -> None:
    """Nets of few channels, whose checkpoints are small; only in the process of the tests."""
    monkeypatch.setattr(archs, "WIDTHS", NARROW_WIDTHS)


@pytest.fixture
def unplotted(monkeypatch) -> None:
    """Write no real curves.png, because drawing it takes long; only in the process of the tests."""
    monkeypatch.setattr(run_files, "plot_curves", no_curves)


def no_curves(_history, path: Path) -> None:
    """Write a file in place of curves.png."""
    path.write_bytes(b"curves")


def random_net(arch: str = "UNet", classes: int = 1, deep_supervision: bool = False, seed: int = 0) -> torch.nn.Module:
    """Return a net in evaluation mode with random weights, and BatchNorm statistics as if it had been trained."""
    torch.manual_seed(seed)
    model = archs.ARCHS[arch](classes, 3, deep_supervision)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
        elif name.endswith("running_mean"):
            buffer.copy_(torch.randn_like(buffer) * 0.1)
    return model.eval()


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint."""
    return torch.load(path, weights_only=True)["state_dict"]


def clone(folder: Path, narrow: bool = False) -> Path:
    """Copy the scripts and launchers to a folder, for launchers, which write beside themselves.

    narrow: with nets of few channels, whose steps and checkpoints are small, and without a real curves.png.
    """
    (folder / "test").mkdir(parents=True)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.sh"), *ROOT.glob("test/*.sh")]:
        shutil.copy(path, folder / path.relative_to(ROOT))
    for package in ("options", "runtime", "imaging", "exporting", "evaluation"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    if narrow:
        before, line, after = (folder / "archs.py").read_text().partition(f"WIDTHS = {archs.WIDTHS}\n")
        assert line, "archs.py no longer has this line"
        (folder / "archs.py").write_text(f"{before}WIDTHS = {NARROW_WIDTHS}\n{after}")
        with open(folder / "runtime" / "run_files.py", "a") as source:
            source.write('\n\ndef plot_curves(_history, path: Path) -> None:\n    path.write_bytes(b"curves")\n')
    return folder
