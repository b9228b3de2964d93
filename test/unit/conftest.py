"""A small prepared data set, a model trained on it, and a way to run the scripts as a user does."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import archs

ROOT = Path(__file__).resolve().parents[2]
DSB2018_ZIP = ROOT / os.environ.get("DSB2018_ZIP", "inputs/stage1_train.zip")
TINY = ("--input_h", "32", "--input_w", "32", "--batch_size", "4", "--num_workers", "0")

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


def run(script: str, *flags: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a script of the repository as a process, with both streams in `stdout`."""
    return subprocess.run(
        [sys.executable, ROOT / script, *map(str, flags)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=300,
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


def torchrun(count: int, script: Path, *flags: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a script in `count` processes of one thread each, with both streams in `stdout`."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", script]
        + [str(flag) for flag in flags],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=300,
    )


def clone(folder: Path) -> Path:
    """A copy of the scripts and launchers, for those that write beside themselves."""
    (folder / "test").mkdir(parents=True)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.sh"), *ROOT.glob("test/*.sh")]:
        shutil.copy(path, folder / path.relative_to(ROOT))
    return folder
