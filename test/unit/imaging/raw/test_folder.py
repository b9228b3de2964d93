# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Raw folders with links: they are followed, and nothing is read twice."""

import os
from pathlib import Path

import pytest
from helpers.sample_raw_data import contents, prepare, write_raw

from imaging.raw import folder
from imaging.raw.folder import list_folder
from imaging.raw.rawset import RawSet
from runtime.errors import InputError


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def listed(root: Path) -> tuple[list[str], dict[str, list[str]]]:
    unused = {}
    return sorted(list_folder(root, unused)), unused


def test_linked_ids_images_and_masks_are_prepared_like_copies(tmp_path):
    raw = write_raw(tmp_path)
    prepare("--input", raw, "--output", tmp_path / "expected", "--workers", 1)
    linked = tmp_path / "linked"
    linked.mkdir()
    for number, path in enumerate(sorted(raw.iterdir())):
        if number % 3 == 0:
            (linked / path.name).symlink_to(path)
        elif number % 3 == 1:
            (linked / path.name).mkdir()
            for part in ("images", "masks"):
                (linked / path.name / part).symlink_to(os.path.relpath(path / part, linked / path.name))
        else:
            os.rename(path, linked / path.name)
    (tmp_path / "link to all").symlink_to(linked)
    prepare("--input", tmp_path / "link to all", "--output", tmp_path / "out", "--workers", 2)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected") and len(contents(tmp_path / "out")) == 24
    assert RawSet(linked).unused == {}


@pytest.mark.parametrize(
    "link, target, reason",
    [
        ("raw/a/loop", "raw/a", "folders already read under another name"),
        ("raw/loop", "raw", "folders already read under another name"),
        ("raw/A", "raw/a", "folders already read under another name"),
        ("raw/a/up", ".", "links to folders around the raw folder"),
        ("raw/top", "/", "links to folders around the raw folder"),
        ("raw/gone", "nowhere", "links to missing files"),
        ("raw/itself", "raw/itself", "links to missing files"),
    ],
)
def test_links_that_are_not_followed(tmp_path, link, target, reason):
    files = ["a/images/a.png", "a/masks/0.png", "b/notes.txt"]
    write(tmp_path / "raw", *files)
    (tmp_path / link).symlink_to(tmp_path / target)
    assert listed(tmp_path / "raw") == (files, {reason: [link.removeprefix("raw/")]})


def test_links_that_lead_to_each_other_and_folders_that_are_linked_twice(tmp_path):
    write(tmp_path, "raw/a/images/a.png", "else/b/images/b.png", "else/b/masks/0.png")
    for link, target in (
        ("raw/one", "else"),
        ("raw/two", "else/b"),
        ("else/back", "raw"),
        ("else/b/back", "else"),
    ):
        (tmp_path / link).symlink_to(tmp_path / target)
    files, unused = listed(tmp_path / "raw")
    assert len({os.path.realpath(tmp_path / "raw" / name) for name in files}) == len(files) == 3
    assert all((tmp_path / "raw" / name).is_file() for name in files)
    assert sum(map(len, unused.values())) == 3


def test_an_image_that_is_a_broken_link_or_a_pipe_is_not_left_out(tmp_path):
    """Without one of its masks, an id would be prepared wrongly."""
    write(tmp_path / "raw", "a/images/a.png", "b/images/b.png", "b/masks/0.png")
    (tmp_path / "raw/a/masks").mkdir()
    (tmp_path / "raw/a/masks/0.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "raw/b/masks/1.png")
    found = RawSet(tmp_path / "raw")
    assert found.masks == {"a": ["a/masks/0.png"], "b": ["b/masks/0.png", "b/masks/1.png"]} and found.unused == {}


def test_hidden_folders_are_passed_over(tmp_path):
    write(tmp_path, *(f"{name}/images/a.png" for name in (".git", "__MACOSX", "a/.ipynb_checkpoints", "b")), ".x.czi")
    assert listed(tmp_path) == (["b/images/a.png"], {})


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    write(tmp_path, "a/images/a.png", "b/images/b.png")
    scandir = os.scandir

    def refuse_b(path):
        if path == str(tmp_path / "b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(folder.os, "scandir", refuse_b)
    assert listed(tmp_path) == (["a/images/a.png"], {"folders that cannot be opened (Permission denied)": ["b"]})


def test_overwrite_does_not_replace_what_links_lead_to(tmp_path):
    raw = write_raw(tmp_path)
    for number, path in enumerate(sorted(raw.iterdir())[:2]):
        for part, target in (("images", "images"), ("masks", "masks/0")):
            (tmp_path / "prepared" / target).mkdir(parents=True, exist_ok=True)
            file = next((path / part).iterdir())
            (tmp_path / "prepared" / target / f"{number}.png").write_bytes(file.read_bytes())
    (tmp_path / "mine").mkdir()
    for part in ("images", "masks"):
        (tmp_path / "mine" / part).symlink_to(tmp_path / "prepared" / part)
    before = contents(tmp_path / "prepared")
    with pytest.raises(InputError, match=r"mine/images lies inside .*prepared, which --overwrite would replace"):
        prepare("--input", tmp_path / "mine", "--output", tmp_path / "prepared", "--overwrite")
    assert contents(tmp_path / "prepared") == before
