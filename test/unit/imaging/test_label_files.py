"""Label images and regions of interest, read back by tifffile, roifile and by geometry."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from matplotlib.path import Path as Polygon
from scipy import ndimage

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
