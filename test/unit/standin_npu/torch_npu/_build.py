# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Compiles device.cpp when it is first used, and keeps a library for each version of the source and of torch."""

import fcntl
import hashlib
import subprocess
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("device.cpp")
CACHE = Path(__file__).resolve().parents[1] / ".build"


def library() -> Path:
    """Return the compiled library; compiling takes about 15 seconds."""
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
    # Here, because the import takes longer than all others. Its load() is not used, because it needs ninja.
    from torch.utils import cpp_extension

    unfinished = path.with_suffix(".part")
    folders = cpp_extension.library_paths()
    subprocess.run(
        [cpp_extension.get_cxx_compiler(), "-std=c++20", "-O1", "-fPIC", "-shared", SOURCE, "-o", unfinished]
        + [f"-I{folder}" for folder in cpp_extension.include_paths()]
        + [f"-L{folder}" for folder in folders]
        + [f"-Wl,-rpath,{folder}" for folder in folders]
        + ["-lc10", "-ltorch_cpu"],
        check=True,
    )
    unfinished.rename(path)
