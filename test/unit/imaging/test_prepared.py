# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The files of a prepared data set: ids, extensions, and what reading a sample returns."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.sample_data import disc, noise, write_set

from imaging.checks import check_dataset
from imaging.prepared import PreparedFolder
from runtime.errors import InputError


def test_ids_are_sorted_whatever_the_order_of_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    for name in ("b.png", "a.png", "10.png", "9.png", "x.y.png", "c.jpg", "d.png.txt", ".png"):
        (tmp_path / "images" / name).touch()
    expected = ["10", "9", "a", "b", "x.y"]
    assert PreparedFolder(tmp_path).list_ids() == expected
    listing = sorted((tmp_path / "images").glob("*.png"), reverse=True)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(listing))
    assert PreparedFolder(tmp_path).list_ids() == expected


def test_ids_by_extension(tmp_path: Path) -> None:
    write_set(tmp_path, ["a", "b.c"], img_ext=".jpg")
    cv2.imwrite(str(tmp_path / "images" / "other.png"), noise())
    assert PreparedFolder(tmp_path, ".jpg").list_ids() == ["a", "b.c"] and PreparedFolder(tmp_path).list_ids() == [
        "other"
    ]


@pytest.mark.parametrize("img_ext, mask_ext", [(".png", ".png"), (".jpg", ".png"), (".bmp", ".tif"), (".png", ".bmp")])
def test_other_extensions(tmp_path: Path, img_ext: str, mask_ext: str) -> None:
    root = write_set(tmp_path, ["a", "b.c"], 2, img_ext, mask_ext)
    folder = PreparedFolder(root, img_ext, mask_ext, 2)
    assert check_dataset(folder).ids == ["a", "b.c"]
    image, mask = folder.read("b.c")
    assert image.dtype == mask.dtype == np.uint8 and image.shape == (24, 24, 3) and mask.shape == (24, 24, 2)
    np.testing.assert_array_equal(mask[..., 1], disc())
    np.testing.assert_array_equal(image, cv2.imread(str(root / "images" / f"b.c{img_ext}")))


def test_gray_and_transparent_images_are_read_as_bgr(tmp_path: Path) -> None:
    root = write_set(tmp_path, ["gray", "alpha"])
    cv2.imwrite(str(root / "images" / "gray.png"), noise()[..., 0])
    cv2.imwrite(str(root / "images" / "alpha.png"), cv2.merge([*cv2.split(noise()), disc()]))
    folder = PreparedFolder(root)
    np.testing.assert_array_equal(folder.read("gray")[0], cv2.merge([noise()[..., 0]] * 3))
    np.testing.assert_array_equal(folder.read("alpha")[0], noise())


@pytest.mark.parametrize("gone", ["images/b.png", "masks/0/b.png"])
def test_a_missing_file_is_named(tmp_path: Path, gone: str) -> None:
    root = write_set(tmp_path, ["a", "b"])
    (root / gone).unlink()
    with pytest.raises(InputError, match=re.escape(f"{root / gone}: No such file")):
        PreparedFolder(root).read("b")


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    root = write_set(tmp_path, ["a"])
    cv2.imwrite(str(root / "masks" / "0" / "a.png"), disc(24, 30))
    with pytest.raises(InputError, match=r"masks/0/a\.png: the mask is 30×24, but its image is 24×24; resize one"):
        PreparedFolder(root).read("a")


def test_an_unprintable_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a\n[Error] b\x1b[2J.png").touch()
    with pytest.raises(InputError, match=r"the name a\\n\[Error\] b\\x1b\[2J\.png .* rename the file"):
        PreparedFolder(tmp_path).list_ids()
