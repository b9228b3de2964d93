# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Raw sets in folders and zips: what belongs to them, and reading it in several processes."""

import pickle
import zipfile
from pathlib import Path

import pytest
from helpers.sample_raw_data import as_zip, write_raw

from imaging.raw.rawset import RawSet
from runtime.errors import InputError


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_raw_set_that_was_sent_to_another_process_reads_every_member(raw, tmp_path, method):
    """From a zip with an empty member and, like a self-extracting zip, with bytes in front."""
    path = tmp_path / "x.zip"
    path.write_bytes(b"#!/bin/sh\n")
    with zipfile.ZipFile(path, "a", method) as archive:
        for file in sorted(raw.rglob("*.png")):
            archive.write(file, file.relative_to(raw))
        archive.writestr("empty/images/empty.png", b"")
    sent = pickle.loads(pickle.dumps(RawSet(path)))
    with zipfile.ZipFile(path) as archive:
        assert all(sent.read(name) == archive.read(name) for name in archive.namelist())
    assert len(sent.ids) == 13
    path.unlink()
    assert sent.read("empty/images/empty.png") == b"", "an open file stays readable"
    with pytest.raises(InputError, match=r"a\.png: cannot be read \(.*No such file"):
        pickle.loads(pickle.dumps(sent)).read("a.png")


def test_a_member_that_changed_since_the_zip_was_opened(raw, tmp_path):
    """Another process opens the zip again and then checks its directory again."""
    path = as_zip(raw, tmp_path / "x.zip")
    sent = pickle.loads(pickle.dumps(RawSet(path)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../evil.png", b"")
    with pytest.raises(InputError, match="leads out of its folder"):
        sent.read(sent.images[sent.ids[0]][0])


def test_what_belongs_to_the_set(tmp_path):
    names = ["top/a/images/a.png", "top/a/masks/0.PNG", "top/a/masks/.hidden.png", "top/a/notes/x.png", "readme.txt"]
    names += ["__MACOSX/top/a/masks/1.png", "top/a/masks/2.csv", "top/b/masks/0.bmp"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    for name in names:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).touch()
    found = RawSet(tmp_path / "x.zip")
    assert found.ids == ["a", "b"] and found.images == {"a": ["top/a/images/a.png"]}
    assert found.masks == {"a": ["top/a/masks/0.PNG"], "b": ["top/b/masks/0.bmp"]}
