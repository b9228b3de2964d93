# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Probabilities of a large image, from windows that overlap and are blended smoothly."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from imaging.crops import resize
from imaging.large_image import LargeImage
from imaging.normalization import input_table, pixel_statistics, to_input
from runtime.errors import InputError

# from an image, uint8 BGR (h, w, 3), to an input, float32 (3, h, w)
Prepare = Callable[[np.ndarray], np.ndarray]
# from batches of inputs, float32 (N, 3, h, w), to their probabilities (N, C, h, w)
Predict = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]


class Tiling(NamedTuple):
    """How an image is divided into windows.

    tile, overlap: side of a window, and how much it shares with the next one at least, in pixels of the net's input.
    scale: pixels of the net's input for each pixel of the image.
    batch_size: windows that are predicted at once; each needs memory, and accelerators are faster with several.
    """

    tile: int = 512
    overlap: int = 64
    scale: float = 1.0
    batch_size: int = 1

    def check(self) -> None:
        """Raise InputError if the windows cannot cover an image."""
        if self.tile < 1 or not 0 <= self.overlap < self.tile:
            raise InputError(
                f"an overlap of {self.overlap} pixels: must be at least 0 and less than the tile, {self.tile}"
            )
        if not 0 < self.scale < np.inf or self.batch_size < 1:
            raise ValueError(f"a scale of {self.scale}, batches of {self.batch_size}")


class Axis(NamedTuple):
    """The windows along one axis of an image, in its own pixels.

    starts: of the windows, in order. length: of each window. input_length: of its copy in the net's input.
    weights: float32 (windows, length), how much each pixel of a window counts; for each pixel of the image they add up
    to 1.
    """

    starts: list[int]
    length: int
    input_length: int
    weights: np.ndarray


def divide(size: int, tiling: Tiling) -> Axis:
    """Divide an axis of `size` pixels into windows of the same length, which are spread evenly."""
    tile = max(1, round(tiling.tile / tiling.scale))
    overlap = min(round(tiling.overlap / tiling.scale), tile - 1)
    if size < tile:
        length, input_length, starts = size, max(1, round(size * tiling.scale)), [0]
    else:
        steps = -(-(size - tile) // (tile - overlap))
        length, input_length, starts = tile, tiling.tile, [k * (size - tile) // max(steps, 1) for k in range(steps + 1)]
    # half a wave up over the overlap, 1 in the middle, half a wave down
    distance = np.arange(length) + 0.5
    ramp = np.minimum(distance, distance[::-1]) / max(overlap, 1)
    weights, total = np.sin(np.pi / 2 * ramp.clip(max=1)) ** 2, np.zeros(size)
    for start in starts:
        total[start : start + length] += weights
    shares = np.stack([weights / total[start : start + length] for start in starts])
    return Axis(starts, length, input_length, shares.astype(np.float32))


def windows(height: int, width: int, tiling: Tiling) -> list[tuple[slice, slice]]:
    """Return the rows and columns of each window, in the order in which they are predicted."""
    down, across = divide(height, tiling), divide(width, tiling)
    return [
        (slice(top, top + down.length), slice(left, left + across.length))
        for top in down.starts
        for left in across.starts
    ]


def scaled_strips(image: LargeImage, scale: float, rows: int = 0) -> Iterator[np.ndarray]:
    """Yield the image from top to bottom at the scale of the net's input, for its statistics; rows: see strips."""
    for _, strip in image.strips(rows):
        yield resize(strip, *(max(1, round(side * scale)) for side in strip.shape[:2]))


def input_function(image: LargeImage, normalization: str, divide_twice: bool, scale: float = 1) -> Prepare:
    """Return the function that turns windows of an image into input, with the statistics of the whole image.

    normalization, divide_twice: as in training, see normalization.input_table.
    """
    statistics = pixel_statistics(scaled_strips(image, scale)) if normalization == "image" else None
    return partial(to_input, table=input_table(normalization, divide_twice, statistics))


def probability_strips(
    image: LargeImage,
    prepare: Prepare,
    predict: Predict,
    tiling: Tiling,
    progress: Callable[[int], None] = lambda count: None,
) -> Iterator[np.ndarray]:
    """Yield the probabilities of an image from top to bottom, as strips, float32 (C, rows, W), in the image's pixels.

    Memory holds one row of windows, about tile / scale × W × C numbers. An image smaller than a window is one window.
    The result does not depend on the size of the batches, as far as `predict` does not.
    progress: is called with the number of windows after each batch; `len(windows(…))` is their total.
    Raises InputError if the overlap is not less than the tile.
    """
    tiling.check()
    down, across = (divide(size, tiling) for size in image.shape)
    unfinished = 0
    for number, (top, weights) in enumerate(zip(down.starts, down.weights)):
        rows = image.rows(top, top + down.length)
        band = _predict_row(rows, prepare, predict, (down, across), tiling.batch_size, progress)
        band *= weights[:, None]
        if number:
            band[:, : unfinished.shape[1]] += unfinished
        is_last = number + 1 == len(down.starts)
        finished = down.length if is_last else down.starts[number + 1] - top
        # rounding may lead a little beyond 1
        yield np.minimum(band[:, :finished], 1)
        unfinished = band[:, finished:]


def _predict_row(
    rows: np.ndarray,
    prepare: Prepare,
    predict: Predict,
    axes: tuple[Axis, Axis],
    batch_size: int,
    progress: Callable[[int], None],
) -> np.ndarray:
    """Blend the probabilities of the windows beside each other, float32 (C, rows, W)."""
    down, across = axes
    size, band = (down.input_length, across.input_length), None
    firsts = range(0, len(across.starts), batch_size)
    batches = (
        np.stack(
            [
                prepare(resize(rows[:, left : left + across.length], *size))
                for left in across.starts[first : first + batch_size]
            ]
        )
        for first in firsts
    )
    for first, found in zip(firsts, predict(batches), strict=True):
        found, starts = np.asarray(found), across.starts[first : first + batch_size]  # torch's tensors too
        if found.ndim != 4 or (len(found), *found.shape[2:]) != (len(starts), *size):
            raise ValueError(f"probabilities of the shape {found.shape} for {len(starts)} windows of {size}")
        if band is None:
            band = np.zeros((found.shape[1], *rows.shape[:2]), np.float32)
        for left, weights, probability in zip(starts, across.weights[first:], found):
            for channel, part in zip(probability, band[:, :, left : left + across.length]):
                part += weights * resize(channel, *part.shape)
        progress(len(starts))
    return band
