"""Compiles device.cpp at its first use and keeps the result, one for each state of the source and each torch."""

import fcntl
import hashlib
import subprocess
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("device.cpp")
CACHE = Path(__file__).resolve().parents[1] / ".build"


def library() -> Path:
    """The compiled library; about 15 seconds where it is not there yet."""
    state = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    path = CACHE / f"device-{state}.so"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        with open(CACHE / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # torchrun starts several processes at once
            if not path.exists():
                _compile(path)
    return path


def _compile(path: Path) -> None:
    # imported where it is needed: it takes longer than all the rest. Its load() would need ninja
    from torch.utils import cpp_extension

    half_made = path.with_suffix(".part")
    folders = cpp_extension.library_paths()
    subprocess.run(
        [cpp_extension.get_cxx_compiler(), "-std=c++20", "-O1", "-fPIC", "-shared", SOURCE, "-o", half_made]
        + [f"-I{folder}" for folder in cpp_extension.include_paths()]
        + [f"-L{folder}" for folder in folders]
        + [f"-Wl,-rpath,{folder}" for folder in folders]
        + ["-lc10", "-ltorch_cpu"],
        check=True,
    )
    half_made.rename(path)
