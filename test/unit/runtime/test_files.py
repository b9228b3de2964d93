# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Files on disk: atomic writing that survives failures and power cuts, and reading with a size limit."""

import os
import stat
from pathlib import Path

import pytest

from runtime.errors import InputError
from runtime.files import atomic_write, read_bytes, remove_partial_files


def test_atomic_write_puts_the_new_file_in_place(tmp_path):
    target = tmp_path / "deep" / "file.tar.gz"
    for text in ("one", "two"):
        with atomic_write(target) as partial:
            assert partial.parent == target.parent and partial.suffix == ".gz" and partial != target
            partial.write_text(text)
            assert not target.exists() if text == "one" else target.read_text() == "one"
        assert target.read_text() == text and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("failure", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", [False, True])
def test_a_failure_leaves_the_old_file(tmp_path, failure, written):
    target = tmp_path / "file.txt"
    target.write_text("old")
    expected = InputError if failure is OSError else failure
    with pytest.raises(expected), atomic_write(target) as partial:
        if written:
            partial.write_text("half")
        raise failure
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, step):
    """fsync comes before the rename: after a power cut the new name must not hold an empty file."""
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with (
        pytest.raises(InputError, match=r"file\.txt: cannot be written: No space left"),
        atomic_write(target) as partial,
    ):
        partial.write_text("new")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_writing_nothing_leaves_the_old_file(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(InputError, match=r"file\.txt: cannot be written"), atomic_write(target):
        pass
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "out").mkdir()
    for path in (tmp_path / "out", Path("/")):
        with pytest.raises(InputError, match="is a folder; give the name of a file"), atomic_write(path):
            pytest.fail("nothing must be written")


def record_disk_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Record which files and folders are synced and renamed, in order."""
    calls, fsync, replace = [], os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        kind = "sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file"
        calls.append((kind, Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        calls.append(("rename", Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    return calls


def test_a_file_is_synced_before_its_rename_and_its_folder_after(tmp_path, monkeypatch):
    """Without the second sync a power cut could undo the rename, and with it a run's last checkpoint."""
    calls, target = record_disk_calls(monkeypatch), tmp_path / "deep" / "file.txt"
    with atomic_write(target) as partial:
        partial.write_text("new")
    assert calls == [("sync file", partial), ("rename", target), ("sync folder", target.parent)]


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    """Some network file systems refuse it."""
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    open_before = len(os.listdir("/proc/self/fd"))
    with atomic_write(tmp_path / "file.txt") as partial:
        partial.write_text("new")
    assert (tmp_path / "file.txt").read_text() == "new" and len(os.listdir("/proc/self/fd")) == open_before


def test_remove_partial_files(tmp_path):
    """It removes what killed processes left, in subfolders too, and nothing else."""
    kept = [tmp_path / name for name in ("log.csv", ".hidden", "partial.tar", "deep/x.partial.png")]
    partial = [tmp_path / name for name in (".7-7.partial.tar", "deep/.12-0.partial.png", ".1-2.partial")]
    (tmp_path / "deep").mkdir()
    for path in (*kept, *partial):
        path.write_text("x")
    remove_partial_files(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_read_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", max_bytes=5) == b"12345"
    with pytest.raises(InputError, match=r"file: 5 bytes, but at most 4 are read; give a smaller file"):
        read_bytes(tmp_path / "file", max_bytes=4)
    with pytest.raises(InputError, match=r"gone: No such file or directory"):
        read_bytes(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(InputError, match="not a regular file; give one"):
            read_bytes(tmp_path / name)
