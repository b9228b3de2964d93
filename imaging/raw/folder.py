# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The files of a raw folder, also behind links to other folders."""

import os
from collections import deque
from pathlib import Path

from imaging.reader import IMAGE_EXTENSIONS


def is_hidden_or_macos(name: str) -> bool:
    """Is this the name of a hidden file or folder, or of the folder that macOS adds to zips?"""
    return name.startswith(".") or name == "__MACOSX"


def list_folder(root: Path, unused: dict[str, list[str]]) -> list[str]:
    """Return the paths of all files below `root`, relative to it and with slashes.

    Links to folders are followed, but no folder is read twice. Folders and links that are not followed are added to
    `unused`, by reason.
    """
    top = os.path.realpath(root)
    files, done = [], set()
    # by relative path and real path; links wait until the end, so that a folder is listed under its own name
    folders, links = deque([("", top)]), deque()
    while folders or links:
        path, real = folders.popleft() if folders else links.popleft()
        if real in done:
            unused.setdefault("folders already read under another name", []).append(path)
            continue
        if Path(real) in Path(top).parents:
            unused.setdefault("links to folders around the raw folder", []).append(path)
            continue
        done.add(real)
        for entry in _scan(path, real, unused):
            name = f"{path}/{entry.name}" if path else entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append((name, entry.path))
            elif entry.is_symlink() and os.path.isdir(entry.path):
                links.append((name, os.path.realpath(entry.path)))
            # an image that cannot be read is listed, because its id cannot be prepared without it
            elif os.path.exists(entry.path) or name.lower().endswith(IMAGE_EXTENSIONS):
                files.append(name)
            else:
                unused.setdefault("links to missing files", []).append(name)
    return files


def _scan(path: str, real: str, unused: dict[str, list[str]]) -> list[os.DirEntry]:
    try:
        with os.scandir(real) as entries:
            return sorted((e for e in entries if not is_hidden_or_macos(e.name)), key=lambda entry: entry.name)
    except OSError as error:
        unused.setdefault(f"folders that cannot be opened ({error.strerror})", []).append(path or real)
        return []
