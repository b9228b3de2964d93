"""A small prepared data set, a model trained on it, and a way to run the scripts as a user does."""

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

import startup

startup.prepare_opencv()  # as in every script, before OpenCV is loaded

import cv2
import numpy as np
import pytest
import torch

import archs
import pictures

ROOT = Path(__file__).resolve().parents[2]
DSB2018_ZIP = ROOT / os.environ.get("DSB2018_ZIP", "inputs/stage1_train.zip")
NPU = str(ROOT / "test" / "unit" / "standin_npu")
TINY = ("--input_h", "16", "--input_w", "16", "--batch_size", "4", "--num_workers", "0")

# a suite that a shell started in the background ignores it, and so would the processes that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)

# where the suite must be whole, a missing compiler is a failure
needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "c++")) and not os.environ.get("CI"),
    reason="the stand-in for torch_npu needs a C++ compiler",
)


@pytest.fixture(scope="session")
def real_zip() -> Path:
    """The real data set, for the tests that need it."""
    if not DSB2018_ZIP.is_file():
        pytest.skip(f"the real data set is not at {DSB2018_ZIP}; set DSB2018_ZIP to its path")
    return DSB2018_ZIP


@functools.cache
def forks(python_path: str) -> subprocess.Popen:
    """forks.py at work, with this PYTHONPATH."""
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("forks.py")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_side_by_side(
    script: Path, each: list[tuple[tuple, dict[str, str]]], cwd: Path
) -> list[subprocess.CompletedProcess]:
    """Run a script in several processes at once, of each its flags and environment; `stdout` has both streams."""
    with tempfile.TemporaryDirectory() as outputs:
        requests = []
        for k, (flags, environment) in enumerate(each):
            environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
            requests.append([str(script), [*map(str, flags)], str(cwd), environment, f"{outputs}/{k}"])
        # a back end is there from torch's import on; the other folders are for later
        server = forks(NPU if NPU in each[0][1].get("PYTHONPATH", "") else "")
        server.stdin.write(json.dumps(requests) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], 300)[0]:
            os.killpg(server.pid, signal.SIGKILL)
            forks.cache_clear()
            pytest.fail(f"no end after 300 s: {requests}")
        codes = json.loads(server.stdout.readline())
        texts = [Path(request[-1]).read_text() for request in requests]
    return [subprocess.CompletedProcess(request[:2], code, text) for request, code, text in zip(requests, codes, texts)]


def run(script: str | Path, *flags: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a script, of the repository if relative, as a process, with both streams in `stdout`."""
    return run_side_by_side(ROOT / script, [(flags, environment)], cwd)[0]


def run_ranks(
    count: int, script: str | Path, *flags: object, cwd: Path, **environment: str
) -> subprocess.CompletedProcess:
    """The same in `count` processes, which are told what torchrun would tell them; their outputs follow each other.

    Where one of them fails it takes torchrun itself, which ends the others.
    """
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()} | environment
    meeting |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    each = [(flags, meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]
    results = run_side_by_side(ROOT / script, each, cwd)
    code = next((result.returncode for result in results if result.returncode), 0)
    return subprocess.CompletedProcess(results[0].args, code, "".join(result.stdout for result in results))


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_afresh(script: str, *flags: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """As `run`, from the very beginning: with the script's own imports."""
    return run_python(ROOT / script, *flags, cwd=cwd, **environment)


def torchrun(count: int, script: Path, *flags: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a script in `count` processes of one thread each, with both streams in `stdout`."""
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}")
    return run_python(*launcher, script, *flags, cwd=cwd, **environment)


def run_python(*arguments: object, cwd: Path, seconds: float = 300, **environment: str) -> subprocess.CompletedProcess:
    """Run Python, with both streams in `stdout`."""
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
    """Bright discs on dark ground, a disc's class told by its colour; count images give count/5 to validation."""
    draws = np.random.default_rng(count)
    for index in range(count):
        image = draws.normal(40, 8, (side, side, 3)).clip(0, 255).astype(np.uint8)
        for k in range(classes):
            mask = np.zeros((side, side), np.uint8)
            centre = tuple(draws.integers(side // 4, 3 * side // 4, 2).tolist())
            cv2.circle(mask, centre, int(draws.integers(4, 8)), 255, -1, cv2.LINE_AA)
            image[mask > 127] = np.roll((200, 120, 60), k)
            path = folder / "masks" / str(k) / f"disc{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), mask)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "images" / f"disc{index:02d}.png"), image)
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A folder of one's own to run in, with a data set at inputs/discs."""
    write_dataset(tmp_path / "inputs" / "discs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def narrow(monkeypatch) -> None:
    """Nets of few channels, whose checkpoints are small, for what is run within the process of the tests."""
    monkeypatch.setattr(archs, "WIDTHS", (4, 4, 8, 8, 8))


@pytest.fixture
def unplotted(monkeypatch) -> None:
    """No curves, which take long to draw."""
    monkeypatch.setattr(pictures, "plot_curves", lambda history, path: path.write_bytes(b"curves"))


def random_net(arch: str = "UNet", classes: int = 1, deep_supervision: bool = False, seed: int = 0) -> torch.nn.Module:
    """A net with random weights and BatchNorm statistics, as if trained; in evaluation mode."""
    torch.manual_seed(seed)
    model = archs.ARCHS[arch](classes, 3, deep_supervision)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
        elif name.endswith("running_mean"):
            buffer.copy_(torch.randn_like(buffer) * 0.1)
    return model.eval()


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint."""
    return torch.load(path, weights_only=True)["state_dict"]


def clone(folder: Path) -> Path:
    """A copy of the scripts and launchers, for those that write beside themselves."""
    (folder / "test").mkdir(parents=True)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.sh"), *ROOT.glob("test/*.sh")]:
        shutil.copy(path, folder / path.relative_to(ROOT))
    return folder
