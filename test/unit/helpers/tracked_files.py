# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The files that belong to the repository: as git lists them, or without git all that .gitignore does not name."""

import subprocess
from fnmatch import fnmatchcase
from pathlib import Path


def tracked_files(root: Path) -> list[Path]:
    """Return the tracked files below the root, as relative paths."""
    return from_git(root) or from_folder(root)


def from_git(root: Path) -> list[Path]:
    """Return the files that git tracks; [] without git, or if the folder is no repository."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [path for name in done.stdout.split("\0") if name and (root / (path := Path(name))).is_file()]


def from_folder(root: Path) -> list[Path]:
    """Return the files that a copy without git holds."""
    patterns = [line for line in (root / ".gitignore").read_text(encoding="utf-8").splitlines() if line.strip()]
    patterns = [".git", *(line for line in patterns if not line.startswith("#"))]
    paths = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file()]
    return [path for path in paths if not any(is_ignored(path, pattern) for pattern in patterns)]


def is_ignored(path: Path, pattern: str) -> bool:
    """Return whether a line of .gitignore names the file or a folder above it."""
    name = pattern.strip("/")
    if pattern.startswith("/"):  # from the root on
        depth = name.count("/") + 1
        return len(path.parts) >= depth and all(map(fnmatchcase, path.parts[:depth], name.split("/")))
    return any(fnmatchcase(part, name) for part in path.parts)
