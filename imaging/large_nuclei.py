# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The nuclei of a large image: their diameter, their table, and the files that show them."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from imaging import drawing
from imaging.blocks import Block, Seams, find_in_blocks
from imaging.instances import SplitSettings, find_nuclei
from imaging.label_files import write_labels
from imaging.large_image import LargeImage
from imaging.measures import measure_nuclei
from imaging.reader import write_image
from imaging.reduced import ReducedCopy, reduce_image, reduce_labels

# parts of an image that its diameter is estimated from: side in pixels, how many, and out of how many
PART_SIDE, PARTS, CANDIDATES = 1024, 4, 8**2


class LargeNuclei(NamedTuple):
    """What was found in a large image.

    table: of measure_nuclei, in the order of the numbers.
    cut: how many nuclei may not be whole, because they are larger than the margin of a block.
    probability: reduced copy, float32 (C, h, w).
    """

    table: pd.DataFrame
    cut: int
    probability: np.ndarray


def estimate_diameter(image: LargeImage, estimate: Callable[[np.ndarray], float]) -> float:
    """Return the median of the diameters, in pixels, that `estimate` finds in the parts with the most contrast.

    estimate: from a part of the image, uint8 BGR (h, w, 3), to the diameter of its nuclei. A small image is one part.
    """
    sides = [min(PART_SIDE, size) for size in image.shape]
    # evenly spread, but not overlapping
    counts = [min(round(CANDIDATES**0.5), -(-size // PART_SIDE)) for size in image.shape]
    tops, lefts = (
        np.linspace(0, size - side, count).astype(int).tolist() for size, side, count in zip(image.shape, sides, counts)
    )
    contrasts = {}
    for top in tops:
        rows = image.rows(top, top + sides[0])[::4]
        for left in lefts:
            contrasts[top, left] = float(rows[:, left : left + sides[1] : 4].std())
    chosen = sorted(contrasts, key=contrasts.get)[-PARTS:]
    return float(np.median([estimate(image.part(*corner, *sides)) for corner in sorted(chosen)]))


def find_large_nuclei(
    image: LargeImage,
    strips: Iterable[np.ndarray],
    settings: SplitSettings,
    labels: np.ndarray,
    seams: Seams,
    pixel_size: float | None = None,
) -> LargeNuclei:
    """Find and measure the nuclei of an image, block by block, and write their numbers into `labels`.

    strips, labels, seams: see blocks.find_in_blocks. pixel_size: see measure_nuclei.
    """
    reduced, tables, cut, is_gray = ReducedCopy(image.shape), [], 0, image.is_gray()
    find = partial(find_nuclei, settings=settings)
    for block in find_in_blocks(image, reduced.watch(strips), find, labels, seams):
        # the first one also if it is empty, for the columns
        if block.count or not tables:
            tables.append(_measure_block(block, pixel_size, is_gray))
        cut += block.cut
    whole = [table for table in tables if len(table)] or tables[:1]
    return LargeNuclei(pd.concat(whole, ignore_index=True), cut, reduced.pixels)


def _measure_block(block: Block, pixel_size: float | None, is_gray: bool) -> pd.DataFrame:
    """Measure the nuclei of a block; numbers and places are those in the image."""
    table = measure_nuclei(block.labels, block.image, pixel_size, is_gray)
    table["label"] += block.first
    table[["centroid_y", "top", "bottom"]] += block.top * (pixel_size or 1)
    table[["centroid_x", "left", "right"]] += block.left * (pixel_size or 1)
    return table


def write_large_nuclei(
    folder: Path, name: str, image: LargeImage, labels: np.ndarray, probability: np.ndarray
) -> list[np.ndarray]:
    """Write the label image, and at a reduced size the probabilities, the mask and the outlines of the nuclei.

    probability: reduced copy, float32 (C, h, w).
    Returns the row of the contact sheet: image, probability, mask, outlines.
    """
    drawing.write_probabilities(folder, name, probability)
    write_labels(folder / "labels" / f"{name}_labels.tif", labels)
    reduced = reduce_labels(labels)
    mask = (reduced > 0).astype(np.uint8) * 255
    write_image(folder / "0" / f"{name}_mask.png", mask)
    shown = drawing.brighten(reduce_image(image))
    outlined = drawing.outline_labels(shown, reduced)
    write_image(folder / "overlay" / f"{name}.png", outlined)
    highest = (probability[0] * 255).astype(np.uint8)
    return [*map(drawing.fit, (shown, highest, mask)), drawing.fit_outlined(shown, reduced)]
