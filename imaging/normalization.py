# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Pixels to the model's input by a look-up table, also if the image is too large to be held in memory."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
# of albumentations' normalization "image"
EPSILON, LIMIT = 1e-4, 20


class PixelStatistics(NamedTuple):
    """Mean and standard deviation of all pixels of an image, all channels together, in gray levels."""

    mean: float
    std: float


def pixel_statistics(strips: Iterable[np.ndarray]) -> PixelStatistics:
    """Return the statistics of an image that is given as uint8 arrays of any shape, such as its strips."""
    counts = np.zeros(256, np.int64)
    for strip in strips:
        counts += np.bincount(np.ravel(strip), minlength=256)
    total, levels = max(int(counts.sum()), 1), np.arange(256)
    mean = float(counts @ levels) / total
    return PixelStatistics(mean, float(np.sqrt(counts @ (levels - mean) ** 2 / total)))


def window_statistics(strips: Iterable[np.ndarray], side: int) -> PixelStatistics:
    """Return the statistics of a typical window of an image that shows more than background.

    strips: of the image, uint8 (rows, W, 3), about `side` pixels high. They are cut into windows about `side` wide, and
    the mean and standard deviation are averaged over those windows that vary at least half as much as the one that
    varies most. Networks that were trained with crops need these: each crop is normalized by itself, and most crops
    show nuclei. In an image of few nuclei, statistics of the whole would amplify the noise of the background.
    """
    windows = (part for strip in strips for part in np.array_split(strip, max(1, round(strip.shape[1] / side)), axis=1))
    found = np.array([pixel_statistics([window]) for window in windows])
    mean, std = found[found[:, 1] >= found[:, 1].max() / 2].mean(axis=0)
    return PixelStatistics(float(mean), float(std))


def input_table(
    normalization: str = "standard", divide_twice: bool = True, statistics: PixelStatistics | None = None
) -> np.ndarray:
    """Return the model's input for each channel and byte, float32 (3, 256).

    The values are those of augment.val_transform, followed by augment.to_input.
    statistics: of the whole image. The normalization "image" needs them, "standard" does not.
    """
    levels = np.arange(256, dtype=np.float32)
    if normalization == "standard":
        mean, std = (np.array(numbers, np.float32)[:, None] * 255 for numbers in (MEAN, STD))
        table = (levels - mean) * np.reciprocal(std)
    else:
        values = (levels - statistics.mean) / (statistics.std + EPSILON)
        table = np.repeat(values.clip(-LIMIT, LIMIT)[None], 3, axis=0)
    table = table.astype(np.float32)
    return table / 255 if divide_twice else table


def to_input(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Convert uint8 BGR (H, W, 3) to the model's input, float32 (3, H, W), by a table of `input_table`."""
    result = np.empty((3, *image.shape[:2]), np.float32)
    for channel, out in enumerate(result):
        np.take(table[channel], image[..., channel], out=out, mode="clip")  # in other modes NumPy buffers `out`
    return result
