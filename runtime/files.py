# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Files on disk: reading them with a size limit, and writing them so that nothing is ever half written."""

import itertools
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.errors import InputError

MAX_BYTES = 2**30  # of a file; 100 million uncompressed pixels of four 16-bit channels are less

_counter = itertools.count()  # numbers the partial files of this process


@contextmanager
def atomic_write(path: Path):
    """Yield a temporary name beside `path`, and rename it when it is on the disk; raises InputError if that fails."""
    if not path.name or path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file")
    # the extension stays last, because matplotlib chooses the format by it
    partial = path.with_name(f".{os.getpid()}-{next(_counter)}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        replace_durably(partial, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def replace_durably(source: Path, target: Path) -> None:
    """Rename a complete file; a power cut afterwards undoes neither its contents nor its name."""
    with open(source, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(source, target)
    sync_folder(target.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names to the disk; a rename is only then safe from a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that killed processes left under `folder`; no process may be writing there."""
    for leftover in folder.rglob(".*.partial*"):
        leftover.unlink(missing_ok=True)


def check_file(path: Path, max_bytes: int | None = None) -> None:
    """Raise InputError unless `path` is a regular file of at most `max_bytes`: reading a pipe would wait forever."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file; give one")
    if max_bytes is not None and status.st_size > max_bytes:
        raise InputError(f"{path}: {status.st_size} bytes, but at most {max_bytes} are read; give a smaller file")


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a file; raises InputError if it is missing, longer than `max_bytes`, or not a regular file."""
    check_file(path, max_bytes)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
