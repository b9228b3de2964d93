# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Stretching images of more than 8 bits, or of signed or float numbers, to 8 bits."""

import cv2
import numpy as np

from runtime.errors import InputError

WINDOW = 5  # pixels, of the median filter
NOISE_LEVELS = 8  # of 255: the most that one standard deviation of noise is stretched to
MAD_TO_DEVIATION = 1.4826  # of normally distributed numbers: standard deviation ÷ median absolute deviation
STRIP_VALUES = 2**20


def stretch_to_8_bits(values: np.ndarray, name: object) -> np.ndarray:
    """Map numbers of any kind, (H, W) or (H, W, 3), to uint8; uint8 is returned as it is.

    result = 255 × (value - low) ÷ max(high - low, 32 × noise), limited to 0 … 255 and rounded
    low and high: the smallest and largest value after a median filter of 5×5 pixels, all channels together; beyond its
    edges, the image is mirrored. A handful of hot or dead pixels, or a hot row or column, has no effect on them, a
    nucleus of five pixels across has.
    noise: the standard deviation of the differences to the filtered image, by their median absolute value. It keeps
    an empty field dark, whose noise would otherwise be spread over all 255 levels.
    If the filtered image is constant, and the noise 0, low and high are the smallest and largest value themselves.
    NaN and -infinity become 0, infinity becomes 255; the filter sees the median in their place, and in that of the
    extremes of a kind of float.
    Raises InputError naming the image if the values span more than float64 can hold.
    """
    if values.dtype == np.uint8:
        return values
    low, high, noise = _find_range(values, name)
    span = max(high - low, 255 / NOISE_LEVELS * noise)
    stretched = np.empty(values.shape, np.uint8)
    for rows in _strips(values):
        with np.errstate(invalid="ignore", over="ignore"):  # of NaN and infinity
            scaled = (values[rows].astype(np.float64) - low) * (255 / span if span else 1)
            stretched[rows] = np.nan_to_num(scaled, posinf=255, neginf=0).clip(0, 255).round()
    return stretched


def _find_range(values: np.ndarray, name: object) -> tuple[float, float, float]:
    """Return low, high and noise; (0, 0, 0) if no value is finite."""
    finite = np.isfinite(values)
    if values.dtype.kind == "f":
        finite &= np.abs(values) != np.finfo(values.dtype).max  # what some programs write for "no data"
    found = values[finite]
    if not found.size:
        return 0.0, 0.0, 0.0
    extremes = float(found.min()), float(found.max())
    if not np.isfinite(span := extremes[1] - extremes[0]) or (span and not np.isfinite(255 / span)):
        text = f"from {extremes[0]} to {extremes[1]}"
        raise InputError(f"{name}: its values, {text}, cannot be stretched to 8 bits; rescale them")
    # The filter's result has no value beyond these, since it takes four pixels or more to change it.
    beyond = 3 if min(values.shape[:2]) >= WINDOW else 0
    found.partition((beyond, found.size - 1 - beyond))
    least, most = float(found[beyond]), float(found[-1 - beyond])
    if not (scale := most - least):
        return *extremes, 0.0
    usual = float(np.median(found[:: 1 + found.size // 2**20].astype(np.float64)))
    lows, highs, noises = [], [], []
    for rows in _strips(values):
        around = np.ix_(*(_mirrored(part, size) for part, size in zip((rows, slice(0, values.shape[1])), values.shape)))
        part = np.where(finite[around], values[around], usual).astype(np.float64).clip(least, most)
        # OpenCV filters float32; scaled first, since float32 does not hold all digits of large numbers
        part = ((part - least) / scale).astype(np.float32)
        inner = slice(WINDOW // 2, -(WINDOW // 2))
        smooth = cv2.medianBlur(part, WINDOW).reshape(part.shape)[inner, inner]
        lows.append(smooth.min())
        highs.append(smooth.max())
        noises.append(MAD_TO_DEVIATION * np.median(np.abs(part[inner, inner] - smooth)))
    low, high, noise = (scale * float(value) for value in (min(lows), max(highs), np.median(noises)))
    if not max(high - low, noise):
        return *extremes, 0.0
    return least + low, least + high, noise


def _mirrored(part: slice, size: int) -> np.ndarray:
    """Return the indices of a part of an axis, with a margin for the filter. At the edges, the image is mirrored.

    The edge itself is not repeated: otherwise, a single hot column there would fill the window.
    """
    indices = np.abs(np.arange(part.start - WINDOW // 2, part.stop + WINDOW // 2))
    return np.minimum(indices, 2 * (size - 1) - indices).clip(0)


def _strips(values: np.ndarray) -> list[slice]:
    """Divide the rows: several float64 copies of the largest image would take 10 GB."""
    height = max(1, STRIP_VALUES // values[0].size)
    return [slice(top, min(top + height, len(values))) for top in range(0, len(values), height)]
