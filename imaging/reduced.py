# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Pictures of large images at a smaller size, made strip by strip."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from imaging.large_image import LargeImage

MAX_SIDE = 4096  # pixels of a picture for people
STRIP_PIXELS = 2**22


def reduced_size(shape: tuple[int, int], side: int = MAX_SIDE) -> tuple[int, int]:
    """Return the size (height, width) of a picture whose longer side is at most `side` pixels."""
    share = min(1, side / max(shape))
    return max(1, round(shape[0] * share)), max(1, round(shape[1] * share))


def reduce_image(image: LargeImage, side: int = MAX_SIDE) -> np.ndarray:
    """Return a picture of an image, uint8 BGR, of `reduced_size`."""
    height, width = reduced_size(image.shape, side)
    picture = np.empty((height, width, 3), np.uint8)
    for rows, source in _strips(image.shape, height):
        picture[rows] = _average(image.rows(source.start, source.stop), rows.stop - rows.start, width)
    return picture


def reduce_labels(labels: np.ndarray, side: int = MAX_SIDE) -> np.ndarray:
    """Return labels of `reduced_size`: each pixel has the number at its center; labels may be an array on the disk."""
    height, width = reduced_size(labels.shape, side)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    reduced = np.empty((height, width), labels.dtype)
    for rows, _ in _strips(labels.shape, height):
        centers = (2 * np.arange(rows.start, rows.stop) + 1) * labels.shape[0] // (2 * height)
        reduced[rows] = labels[centers][:, columns]
    return reduced


class ReducedCopy:
    """Keeps probabilities (C, H, W), which pass by as strips, at `reduced_size`; `pixels` is float32 (C, h, w)."""

    def __init__(self, shape: tuple[int, int], side: int = MAX_SIDE):
        self.shape, self.size, self.pixels = shape, reduced_size(shape, side), None

    def watch(self, strips: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the strips, (C, rows, W) from top to bottom, as they are."""
        height, width = self.size
        top = 0
        for strip in strips:
            if self.pixels is None:
                self.pixels = np.zeros((len(strip), height, width), np.float32)
            first, last = (row * height // self.shape[0] for row in (top, top + strip.shape[1]))
            if last > first:
                for channel, out in zip(strip, self.pixels[:, first:last]):
                    out[:] = _average(channel, last - first, width)
            top += strip.shape[1]
            yield strip


def _average(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, *pixels.shape[2:])


def _strips(shape: tuple[int, int], height: int) -> Iterator[tuple[slice, slice]]:
    """Divide a picture of `height` rows; yields the rows of a strip, and those of the image (H, W) that it shows."""
    step = max(1, STRIP_PIXELS * height // (shape[0] * shape[1]))
    for top in range(0, height, step):
        bottom = min(top + step, height)
        yield slice(top, bottom), slice(top * shape[0] // height, bottom * shape[0] // height)
