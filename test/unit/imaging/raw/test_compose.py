# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Uniting the masks of an image: in little memory, with and without orientation tags, and what is said about them."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from imaging.raw.compose import compose
from imaging.raw.rawset import RawSet
from runtime.errors import InputError

SIZE = (40, 60)


def write_id(
    folder: Path, masks: dict[str, np.ndarray], image_tag: int = 1, tags: dict[str, int] | None = None
) -> RawSet:
    """Write an image of 60×40 and TIFF masks; tags: orientations by mask, 1 if there is none."""
    for name, pixels, tag in (
        ("images/a", np.arange(2400, dtype=np.float32).reshape(SIZE), image_tag),
        *((f"masks/{name}", pixels, (tags or {}).get(name, 1)) for name, pixels in masks.items()),
    ):
        path = folder / "a" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (pixels / 10).astype(np.uint8) if pixels.dtype == np.float32 else pixels
        tifffile.imwrite(path, pixels, photometric="minisblack", extratags=[(274, "H", 1, tag, True)])
    return RawSet(folder)


def rectangle(top: int, left: int, value: int = 255, size: tuple[int, int] = SIZE) -> np.ndarray:
    pixels = np.zeros(size, np.uint8)
    pixels[top : top + 10, left : left + 5] = value
    return pixels


def test_memory_does_not_grow_with_the_number_of_masks(tmp_path):
    peaks = []
    for count in (4, 40):
        folder = tmp_path / str(count) / "a"
        for index in range(-1, count):
            path = folder / ("images/a.png" if index < 0 else f"masks/{index}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rectangle(10 * index, 20, size=(1000, 1000)) if index >= 0 else np.eye(1000) * 255)
        raw = RawSet(folder.parent)
        tracemalloc.start()
        assert compose(raw, "a").nuclei == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**20, "less than a single mask of 1000×1000"


def test_all_masks_are_turned(tmp_path):
    masks = {"1": rectangle(0, 0), "2": rectangle(20, 50)}
    sample = compose(write_id(tmp_path, masks, 6, {"1": 6, "2": 6}), "a")
    assert sample.image.shape == (60, 40, 3) and "turned by its orientation tag" in sample.notes
    assert np.array_equal(sample.labels > 0, np.rot90(masks["1"] | masks["2"], -1) > 0)


@pytest.mark.parametrize("tags", [{}, {"1": 6}, {"2": 6}])
def test_no_mask_is_turned_if_one_fits_only_as_stored(tmp_path, tags):
    masks = {"1": rectangle(0, 0), "2": rectangle(20, 50)}
    sample = compose(write_id(tmp_path, masks, 6, tags), "a")
    assert sample.image.shape == (*SIZE, 3) and "not turned, as their masks are not" in sample.notes
    assert np.array_equal(sample.labels > 0, (masks["1"] | masks["2"]) > 0)
    assert sample.nuclei == 2 and sample.remarks == ()


def test_a_mask_of_another_size_is_named(tmp_path):
    raw = write_id(tmp_path, {"1": rectangle(0, 0), "2": rectangle(0, 0, size=(30, 30))}, 6, {"1": 6})
    with pytest.raises(InputError, match=r"^a/masks/2\.tif: the mask is 30×30, but its image is 40×60"):
        compose(raw, "a")


def test_pages_are_named(tmp_path):
    pages = np.stack([rectangle(0, 0), rectangle(0, 0, 0), rectangle(0, 0), rectangle(20, 20)])
    sample = compose(write_id(tmp_path, {"1": pages}), "a")
    assert sample.remarks == (
        "a/masks/1.tif, page 2 marks nothing",
        "a/masks/1.tif, page 3 marks the same pixels as a/masks/1.tif, page 1",
    )
    assert sample.nuclei == 4 and int(np.count_nonzero(sample.labels)) == 100


def test_equal_shapes_at_other_places_are_not_the_same_pixels(tmp_path):
    sample = compose(write_id(tmp_path, {"1": rectangle(0, 0), "2": rectangle(0, 6), "3": rectangle(0, 6)}), "a")
    assert sample.remarks == ("a/masks/3.tif marks the same pixels as a/masks/2.tif",)


def test_what_masks_hold(tmp_path):
    numbers = rectangle(0, 0, 3) + rectangle(20, 20, 9) + rectangle(20, 40, 2)
    for name, mask, kinds, nuclei in (
        ("usual", rectangle(0, 0), (), 1),
        ("zero_one", rectangle(0, 0, 1), ("0 and 1, each 1 is read as 255",), 1),
        ("numbers", numbers, ("numbered nuclei",), 3),
    ):
        sample = compose(write_id(tmp_path / name, {"1": mask}), "a")
        assert (sample.kinds, sample.nuclei) == (kinds, nuclei)


def test_a_mask_that_is_white_is_named(tmp_path):
    white = np.full(SIZE, 255, np.uint8)
    halves = {"1": white.copy(), "2": white.copy()}
    halves["1"][:20], halves["2"][20:] = 0, 0
    one = compose(write_id(tmp_path / "one", {"1": rectangle(0, 0), "2": white}), "a").too_dense
    both = compose(write_id(tmp_path / "both", halves), "a").too_dense
    assert one.startswith("a/masks/2.tif: marked nearly everywhere (100%); ") and "--dense_masks" in one
    assert both.startswith("a, all masks together: marked nearly everywhere")
    assert compose(write_id(tmp_path / "none", {"1": rectangle(0, 0)}), "a").too_dense == ""
