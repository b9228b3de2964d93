# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Zips that could do harm: refused in one sentence, before anything is written or much memory is allocated."""

import errno
import stat
import struct
import tempfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.sample_raw_data import as_zip, contents, prepare, write_raw

import options
import preprocess_dsb2018 as preprocess
from imaging.raw import archive
from imaging.raw.rawset import RawSet
from runtime.errors import InputError

IMAGE = cv2.imencode(".png", np.full((8, 8), 200, np.uint8))[1].tobytes()
GOOD = {"a/images/a.png": IMAGE, "a/masks/0.png": IMAGE}


def write_zip(path: Path, members: dict[str, bytes], **of_last: int) -> Path:
    """Write a zip of these members; the directory entry of the last one gets the attributes `of_last`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        for attribute, value in of_last.items():
            setattr(target.infolist()[-1], attribute, value)
    return path


def refusal(path: Path, tmp_path: Path) -> str:
    """Return the text of the error that preparing the zip raises; nothing may be written."""
    before = sorted(tmp_path.rglob("*"))
    flags = ["--input", str(path), "--output", str(tmp_path / "out"), "--workers", "1"]
    with pytest.raises(InputError) as error:
        preprocess.main(options.parse_preprocess(flags))
    assert sorted(tmp_path.rglob("*")) == before
    text = str(error.value)
    assert text.startswith(f"{path}: ") and text.isprintable() and len(text) < 700
    return text


@pytest.mark.parametrize(
    "name, reason",
    [
        ("../evil.png", "'../evil.png' leads out of its folder"),
        ("a/../../evil.png", "leads out"),
        ("a/images/..", "leads out"),
        ("a\\..\\..\\evil.png", "leads out"),
        ("/etc/evil.png", "leads out"),
        ("//server/evil.png", "leads out"),
        ("\\\\server\\evil.png", "leads out"),
        ("C:\\evil.png", "leads out"),
        ("c:evil.png", "leads out"),
        ("__MACOSX/../../evil", "leads out"),
        ("a\nb/images/x.png", "'a\\nb/images/x.png' has a name with control characters"),
        ("a/images/\x1b[2J.png", "control characters"),
        ("a\u202eb/images/x.png", "control characters"),
        ("x" * 2000, "1000 letters"),
    ],
)
def test_a_members_name_that_leads_out_or_is_unprintable(tmp_path, name, reason):
    assert reason in refusal(write_zip(tmp_path / "x.zip", GOOD | {name: IMAGE}), tmp_path)


@pytest.mark.parametrize(
    "attributes, reason",
    [
        ({"external_attr": (stat.S_IFLNK | 0o777) << 16}, "is a link or a device"),
        ({"external_attr": stat.S_IFIFO << 16}, "is a link or a device"),
        ({"flag_bits": 1}, "is encrypted"),
        ({"flag_bits": 0x40}, "is encrypted"),
        ({"compress_type": 12}, "is compressed by method 12"),
        ({"compress_type": 99}, "is compressed by method 99"),
        ({"file_size": 2**30 + 1}, "has 1073741825 bytes, but at most 1073741824"),
        ({"file_size": 2**27}, f"would expand from {len(zlib.compress(IMAGE)) - 6} to 134217728 bytes"),
        ({"header_offset": 0}, "its members overlap"),
        ({"compress_size": 10**6}, "its members overlap"),
    ],
)
def test_a_members_directory_entry(tmp_path, attributes, reason):
    path = write_zip(tmp_path / "x.zip", GOOD | {"b/masks/b.png": IMAGE}, **attributes)
    assert reason in refusal(path, tmp_path)


def test_the_same_name_twice(tmp_path):
    path = write_zip(tmp_path / "x.zip", GOOD)
    with zipfile.ZipFile(path, "a") as target, pytest.warns(UserWarning, match="Duplicate"):
        target.writestr("a/images/a.png", b"another")
    assert "same name" in refusal(path, tmp_path)


def test_a_name_that_ends_at_a_nul(tmp_path):
    """zipfile cuts the name there, so that it differs from the one in the file."""
    path = write_zip(tmp_path / "x.zip", GOOD | {"b/images/b.png?/x": IMAGE})
    path.write_bytes(path.read_bytes().replace(b"b.png?", b"b.png\0"))
    assert r"b.png\x00/x' has a name with control characters" in refusal(path, tmp_path)


def test_a_name_that_is_not_utf8(tmp_path):
    path = write_zip(tmp_path / "x.zip", GOOD | {"ü/images/b.png": IMAGE})
    path.write_bytes(path.read_bytes().replace("ü/im".encode(), b"\xff\xff/im"))
    assert "not a readable zip" in refusal(path, tmp_path)


def test_limits_on_all_members_together(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "x.zip", GOOD | {f"b/masks/{number}.png": IMAGE for number in range(8)})
    for limit, value, reason in (
        ("MAX_MEMBERS", 9, "it has 10 members, but at most 9"),
        ("MAX_TOTAL_BYTES", 10 * len(IMAGE) - 1, f"it would expand to {10 * len(IMAGE)} bytes"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(archive, limit, value)
            assert reason in refusal(path, tmp_path)


@pytest.mark.parametrize("zip64", [False, True])
def test_a_directory_of_millions_is_not_read(tmp_path, zip64):
    """The limit applies before the directory is in memory. The file is sparse."""
    path, size = tmp_path / "x.zip", 2**31
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 46 if zip64 else size, 0, 0)
    if zip64:
        end = (
            struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, 0)
            + struct.pack("<4sLQL", b"PK\6\7", 0, size, 1)
            + end
        )
    with open(path, "wb") as file:
        file.seek(size)
        file.write(end)
    tracemalloc.start()
    assert "its directory has more than" in refusal(path, tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_member_that_expands_to_more_than_stated(tmp_path, capsys):
    """Of 10 MB of zeros that claim to be 100 bytes, no more than these are read; the checksum then differs."""
    path = write_zip(
        tmp_path / "x.zip", GOOD | {"b/masks/0.png": IMAGE, "b/images/b.png": bytes(10 * 2**20)}, file_size=100
    )
    raw = RawSet(path)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"b/images/b\.png: cannot be read \(Bad CRC"):
        raw.read("b/images/b.png")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    preprocess.main(
        options.parse_preprocess(["--input", str(path), "--output", str(tmp_path / "out"), "--dense_masks"])
    )
    assert "1 image is prepared" in capsys.readouterr().out


def test_a_directory_that_does_not_point_to_a_member(tmp_path):
    path = write_zip(tmp_path / "x.zip", GOOD | {"b/images/b.png": IMAGE})
    path.write_bytes(path.read_bytes().replace(b"PK\3\4", b"PK\3\5"))
    with pytest.raises(InputError, match=r"b/images/b\.png: cannot be read \(Bad magic number"):
        RawSet(path).read("b/images/b.png")


@pytest.mark.parametrize("stated, reason", [(len(IMAGE) + 1, "bytes instead of"), (len(IMAGE) - 1, "Bad CRC")])
def test_a_member_of_another_length_than_stated(tmp_path, stated, reason):
    path = write_zip(tmp_path / "x.zip", GOOD | {"b/images/b.png": IMAGE}, file_size=stated)
    with pytest.raises(InputError, match=rf"b/images/b\.png: cannot be read \(.*{reason}"):
        RawSet(path).read("b/images/b.png")


def test_large_members_are_read(tmp_path):
    """The limit on reads applies to the directory alone."""
    content = np.random.default_rng(0).bytes(archive.MAX_DIRECTORY_BYTES + 1)
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a/images/a.png", content)
    assert RawSet(path).read("a/images/a.png") == content


def as_powershell_writes(path: Path, members: dict[str, bytes], top: str = "stage1_train\\") -> Path:
    """Write a zip whose names have backslashes, with entries for folders; zipfile keeps them on Linux."""
    names = {top + name.replace("/", "\\"): content for name, content in members.items()}
    folders = {name.rpartition("\\")[0] + "\\": b"" for name in names} | {top + "a\\images\\folder.png\\": b""}
    return write_zip(path, folders | names)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_zip_with_backslashes_is_read_like_one_with_slashes(tmp_path, workers):
    raw = {name: path.read_bytes() for path, name in files_of(write_raw(tmp_path))}
    windows = as_powershell_writes(tmp_path / "windows.zip", raw)
    assert b"stage1_train\\synthetic_0000\\images\\" in windows.read_bytes()
    unix = write_zip(tmp_path / "unix.zip", {f"stage1_train/{name}": content for name, content in raw.items()})
    for path in (windows, unix):
        prepare("--input", path, "--output", tmp_path / path.stem, "--workers", workers)
    assert contents(tmp_path / "windows") == contents(tmp_path / "unix") and len(contents(tmp_path / "unix")) == 24
    assert RawSet(windows).unused == {}


def test_pairs_with_backslashes(tmp_path):
    members = {f"{part}/{name}.png": IMAGE for part in ("images", "masks/0") for name in "ab"}
    found = RawSet(as_powershell_writes(tmp_path / "x.zip", members, "mine\\"))
    assert found.ids == ["a", "b"] and found.masks["b"] == ["mine\\masks\\0\\b.png"]
    assert found.read("mine\\masks\\0\\b.png") == IMAGE


def test_the_same_name_with_slashes_and_backslashes(tmp_path):
    path = write_zip(tmp_path / "x.zip", GOOD | {"a\\images\\a.png": b"another"})
    assert "same name" in refusal(path, tmp_path)


# zips in a zip


def files_of(folder: Path) -> list[tuple[Path, str]]:
    return [(path, path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*.png"))]


def wrap(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as outer:
        for name, content in members.items():
            outer.writestr(name, content)
    return path


@pytest.fixture
def inner(tmp_path) -> bytes:
    """The bytes of a zip of two raw images."""
    members = GOOD | {"b/images/b.png": IMAGE, "b/masks/0.png": IMAGE}
    return write_zip(tmp_path / "inner.zip", members).read_bytes()


KAGGLES = {"stage1_sample_submission.csv": b"x", "stage1_test.zip": b"no zip", "stage1_train_labels.csv": b"x"}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_zip_of_the_competition(tmp_path, method, workers, monkeypatch, capsys):
    """The inner zip is read, in each process from a temporary file that nobody needs to remove."""
    raw = write_raw(tmp_path)
    inner = as_zip(raw, tmp_path / "inner.zip", "stage1_train/")
    source = wrap(tmp_path / "bowl.zip", KAGGLES | {"stage1_train.zip": inner.read_bytes()}, method)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    prepare("--input", raw, "--output", tmp_path / "expected", "--workers", 1)
    prepare("--input", source, "--output", tmp_path / "out", "--workers", workers)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected") and len(contents(tmp_path / "out")) == 24
    assert "not used: files that end in .zip (1): stage1_test.zip\n" in capsys.readouterr().out
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    "name", ["bowl/stage1_train.zip", "bowl\\stage1_train.zip", "./Stage1_Train.ZIP", "the only one.zip"]
)
def test_an_inner_zip_in_a_folder_or_of_another_name(tmp_path, inner, name):
    others = KAGGLES if "only" not in name else {}
    found = RawSet(wrap(tmp_path / "x.zip", {"preview.png": IMAGE, name: inner, "__MACOSX/._x.zip": b"x"} | others))
    assert found.ids == ["a", "b"] and found.read("a/images/a.png") == IMAGE
    unused = {"images outside of <id>/images and <id>/masks": ["preview.png"]}
    assert found.unused == unused | ({"files that end in .zip": ["stage1_test.zip"]} if others else {})


@pytest.mark.parametrize("listed", [("one.zip", "two.ZIP"), ("a/stage1_train.zip", "b/stage1_train.zip")])
def test_several_inner_zips(tmp_path, inner, listed):
    path = wrap(tmp_path / "x.zip", dict.fromkeys(listed, inner))
    assert f"holds several zips ({', '.join(listed)}); unpack it and give one" in refusal(path, tmp_path)


def test_loose_images_are_used_and_inner_zips_are_not(tmp_path, inner):
    found = RawSet(wrap(tmp_path / "x.zip", GOOD | {"stage1_train.zip": inner, "z/more.zip": inner}))
    assert found.ids == ["a"] and found.unused == {"files that end in .zip": ["stage1_train.zip", "z/more.zip"]}


def test_a_zip_in_the_inner_zip_is_not_opened(tmp_path, inner):
    nested = wrap(tmp_path / "nested.zip", {"stage1_train.zip": inner}).read_bytes()
    path = wrap(tmp_path / "x.zip", {"stage1_train.zip": nested})
    with pytest.raises(
        InputError, match=r"masks/<id>\.png \(not used: files that end in \.zip \(1\): stage1_train\.zip\)"
    ):
        RawSet(path)


@pytest.mark.parametrize(
    "attributes, name, reason",
    [
        ({}, "../evil.png", "x.zip/stage1_train.zip: refused, nothing of it was read: its member '../evil.png' leads"),
        ({}, "b\\..\\..\\evil.png", "leads out of its folder"),
        ({"external_attr": (stat.S_IFLNK | 0o777) << 16}, "b/images/b.png", "is a link or a device"),
        ({"flag_bits": 1}, "b/images/b.png", "is encrypted"),
        ({"file_size": 2**27}, "b/images/b.png", "would expand from"),
        ({"header_offset": 0}, "b/images/b.png", "its members overlap"),
    ],
)
def test_an_inner_zip_passes_the_same_checks(tmp_path, attributes, name, reason):
    bad = write_zip(tmp_path / "bad.zip", GOOD | {name: IMAGE}, **attributes).read_bytes()
    with pytest.raises(InputError) as error:
        RawSet(wrap(tmp_path / "x.zip", {"stage1_train.zip": bad}))
    assert reason in str(error.value)


def test_an_inner_zip_that_is_none(tmp_path):
    with pytest.raises(InputError, match=r"x\.zip/stage1_train\.zip: not a readable zip"):
        RawSet(wrap(tmp_path / "x.zip", {"stage1_train.zip": b"no zip"}))


def test_an_inner_zip_that_expands_to_more_than_stated(tmp_path):
    """No more than the stated bytes are copied, and memory stays bounded."""
    path = write_zip(tmp_path / "x.zip", {"stage1_train.zip": bytes(100 * 2**20)}, file_size=2**20)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"stage1_train\.zip: cannot be copied to a temporary file \(Bad CRC"):
        RawSet(path)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_a_bomb_as_inner_zip_is_refused_before_it_is_copied(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"stage1_train.zip": bytes(100 * 2**20)})
    assert "would expand from" in refusal(path, tmp_path)


def test_a_disk_without_room_for_the_inner_zip(tmp_path, inner, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive.shutil, "copyfileobj", full)
    path = wrap(tmp_path / "x.zip", {"stage1_train.zip": inner})
    with pytest.raises(InputError, match=r"cannot be copied to a temporary file \(.*No space left.*; unpack "):
        RawSet(path)
