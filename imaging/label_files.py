# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Nuclei as files for other programs: label images, and regions of interest for ImageJ."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from skimage.measure import regionprops

from runtime.errors import InputError
from runtime.files import atomic_write

MAX_16_BIT = 65_535
STRIP_BYTES = 2**22


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Write a label image (H, W) as TIFF of 16 bits, or of 32 bits if there are more than 65,535 nuclei.

    labels: may be an array on the disk; only a strip of it is held in memory.
    """
    kind = np.dtype("<u2" if labels.max(initial=0) <= MAX_16_BIT else "<u4")
    height = max(1, STRIP_BYTES // (labels.shape[1] * kind.itemsize))

    def strips() -> Iterator[bytes]:  # tifffile takes strips one by one if they are compressed already
        for top in range(0, len(labels), height):
            yield zlib.compress(labels[top : top + height].astype(kind).tobytes(), 6)

    with atomic_write(path) as partial:
        # ImageJ reads strips and this compression without plugins, but no tiles
        tags = {"compression": "zlib", "photometric": "minisblack", "byteorder": "<", "metadata": None}
        tifffile.imwrite(partial, strips(), shape=labels.shape, dtype=kind, rowsperstrip=height, **tags)


def read_labels(path: Path) -> np.ndarray:
    """Read a file of write_labels: int32 (H, W)."""
    return tifffile.imread(path).astype(np.int32)


def import_roi() -> type:
    """Return roifile's class of regions; raises InputError if the package is not installed."""
    try:
        from roifile import ImagejRoi  # here, because few users need it and it is not in requirements.txt
    except ImportError as error:
        raise InputError("--rois needs the package roifile: run `pip install roifile`") from error
    return ImagejRoi


def write_rois(path: Path, labels: np.ndarray) -> None:
    """Write the outline of each nucleus of a label image (H, W) as a region of interest in a zip that ImageJ opens.

    Raises InputError if the package roifile is not installed.
    """
    roi_type = import_roi()
    with atomic_write(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for nucleus in regionprops(labels):
            top_left = np.array([nucleus.bbox[1], nucleus.bbox[0]])
            roi = roi_type.frompoints(outline(nucleus.image) + top_left, name=str(nucleus.label))
            archive.writestr(f"{nucleus.label:05d}.roi", roi.tobytes())


def outline(mask: np.ndarray) -> np.ndarray:
    """Return the corners (x, y) of the polygon around the marked pixels (H, W); of several parts, around the largest.

    ImageJ counts the edges of pixels: a single pixel is the square from (0, 0) to (1, 1).
    """
    # Each pixel as four: a contour runs through the centers of pixels, here a quarter pixel within the edges.
    fine = mask.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    contours = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    corners = (max(contours, key=cv2.contourArea)[:, 0] + 1) // 2
    return corners[(corners != np.roll(corners, 1, 0)).any(1)]
