# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Label images and regions of interest, read back by tifffile, roifile and by geometry."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from matplotlib.path import Path as Polygon
from PIL import Image
from scipy import ndimage

from imaging import label_files
from imaging.label_files import outline, write_labels, write_rois
from runtime.errors import InputError


def blob(seed: int, size: tuple[int, int] = (20, 24)) -> np.ndarray:
    """One region without holes, of random shape."""
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).random(size), 1.2) > 0.5
    labels, _ = ndimage.label(mask)
    return ndimage.binary_fill_holes(labels == np.bincount(labels.ravel())[1:].argmax() + 1)


@pytest.mark.parametrize("seed", range(30))
def test_an_outline_encloses_exactly_the_pixels(seed: int) -> None:
    mask = blob(seed)
    corners = outline(mask)
    y, x = np.indices(mask.shape)
    inside = Polygon(corners).contains_points(np.c_[x.ravel() + 0.5, y.ravel() + 0.5]).reshape(mask.shape)
    assert np.array_equal(inside, mask)
    x, y = corners.T
    assert abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 == mask.sum()


@pytest.mark.parametrize("count, kind", [(0, np.uint16), (3, np.uint16), (65_535, np.uint16), (65_536, np.uint32)])
def test_labels_have_16_bits_or_32_if_they_need_them(tmp_path: Path, count: int, kind: type) -> None:
    labels = np.zeros((300, 300), np.int32)
    labels.ravel()[:count] = np.arange(1, count + 1)
    write_labels(tmp_path / "a_labels.tif", labels)
    read = tifffile.imread(tmp_path / "a_labels.tif")
    assert read.dtype == kind and np.array_equal(read, labels)


@pytest.mark.parametrize("count", [65_535, 65_536])
@pytest.mark.parametrize("shape", [(300, 200), (1, 1), (3, 7000)])
def test_labels_are_written_by_strips_that_libtiff_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], count: int
) -> None:
    monkeypatch.setattr(label_files, "STRIP_BYTES", 5000)
    labels = np.random.default_rng(0).integers(0, count + 1, shape).astype(np.int32)
    labels[-1, -1] = count
    write_labels(tmp_path / "x.tif", labels)
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        page = file.pages[0]
        assert len(file.pages) == 1 and np.array_equal(page.asarray(), labels)
        rows = max(1, 5000 // (shape[1] * page.dtype.itemsize))
        assert not page.is_tiled and len(page.dataoffsets) == -(-shape[0] // rows)
        assert page.compression == 8 and page.predictor == 1 and page.photometric == 1 and page.samplesperpixel == 1
    if count == 65_535:  # OpenCV reads no whole numbers of 32 bits
        assert np.array_equal(cv2.imread(str(tmp_path / "x.tif"), cv2.IMREAD_UNCHANGED), labels)
        with Image.open(tmp_path / "x.tif") as image:
            assert np.array_equal(np.asarray(image), labels)


def test_labels_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/x\.tif: cannot be written"):
        write_labels(tmp_path / "file" / "x.tif", np.zeros((5, 5), np.int32))


def test_imagej_gets_a_region_for_each_nucleus(tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile")
    labels = np.zeros((40, 50), np.int32)
    labels[3:8, 4:9], labels[10:20, 10:25], labels[39, 49] = 1, 2, 3
    write_rois(tmp_path / "a_rois.zip", labels)
    rois = roifile.roiread(tmp_path / "a_rois.zip")
    boxes = {roi.name: [*roi.coordinates().min(0), *roi.coordinates().max(0)] for roi in rois}
    assert boxes == {"1": [4, 3, 9, 8], "2": [10, 10, 25, 20], "3": [49, 39, 50, 40]}  # x, y of two corners


def test_without_roifile_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "roifile", None)
    with pytest.raises(InputError, match="--rois needs the package roifile: run `pip install roifile`"):
        write_rois(tmp_path / "a_rois.zip", np.zeros((4, 4), np.int32))
    assert list(tmp_path.iterdir()) == []
