# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Nuclei of a large image, found block by block, so that those on a seam between blocks stay whole."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imaging.large_image import LargeImage
from imaging.tiles import Tiling
from runtime.errors import InputError

LEAST_SIDE = 1024  # of a block; it keeps the share of the margins small
LABEL_TYPE = np.int32

FindNuclei = Callable[[np.ndarray], np.ndarray]  # probabilities (C, h, w) to labels, int32 (h, w), 0 … n


class Block(NamedTuple):
    """The nuclei that were found in a part of an image; each nucleus of the image is in exactly one block, all of it.

    top, left: the place of the part in the image. image: its pixels, uint8 BGR (h, w, 3).
    labels: int32 (h, w), 0 … count, 0 is background. In the image, label k has the number first + k.
    cut: how many of the nuclei reach beyond the part, so that they are not whole. A larger margin helps.
    """

    top: int
    left: int
    image: np.ndarray
    labels: np.ndarray
    count: int
    first: int
    cut: int


class Seams(NamedTuple):
    """How an image is divided into blocks: in squares of `side` pixels, each seen with a margin around it.

    A nucleus is found whole if it is not larger than the margin. Splitting a crowd of nuclei can depend on the
    neighbors, so a margin of three diameters is better.
    """

    side: int
    margin: int

    @classmethod
    def for_tiling(cls, tiling: Tiling) -> "Seams":
        """Return blocks whose margin is the overlap of the windows."""
        margin = round(tiling.overlap / tiling.scale)
        return cls(max(LEAST_SIDE, 4 * margin), margin)


def find_in_blocks(
    image: LargeImage,
    strips: Iterable[np.ndarray],
    find_nuclei: FindNuclei,
    labels: np.ndarray,
    seams: Seams,
) -> Iterator[Block]:
    """Find the nuclei of an image, write their numbers into `labels`, and yield them block by block.

    strips: probabilities from top to bottom, as tiles.probability_strips yields them. find_nuclei: is called with parts
    of them. labels: integers (H, W), all 0; may be an array on the disk, see `labels_on_disk`.
    The numbers are 1 … n without gaps. A nucleus belongs to the block that holds its centroid. Neighboring blocks may
    see it a little differently, so that both or none would take it: a nucleus of which most pixels have a number
    already is left out, and one that the block before has left to this one is taken. Pixels that have a number keep it.
    """
    height, width = image.shape
    held = _HeldRows(strips)
    first = 0
    for top in range(0, height, seams.side):
        rows = slice(max(0, top - seams.margin), min(height, top + seams.side + seams.margin))
        probability, pixels = held.take(rows), image.rows(rows.start, rows.stop)
        for left in range(0, width, seams.side):
            columns = slice(max(0, left - seams.margin), min(width, left + seams.side + seams.margin))
            part = probability[:, :, columns]
            found = find_nuclei(np.ascontiguousarray(part))
            if found.shape != part.shape[1:]:
                raise ValueError(f"labels of the shape {found.shape} for probabilities of the shape {part.shape}")
            numbered = labels[rows, columns]
            own = _own_nuclei(found, np.asarray(numbered != 0), (top - rows.start, left - columns.start), seams)
            count = int(own.max(initial=0))
            np.copyto(numbered, own + first, where=own != 0, casting="same_kind")
            cut = _count_cut(own, rows.start > 0, rows.stop < height, columns.start > 0, columns.stop < width)
            yield Block(rows.start, columns.start, pixels[:, columns], own, count, first, cut)
            first += count


def _own_nuclei(found: np.ndarray, taken: np.ndarray, corner: tuple[int, int], seams: Seams) -> np.ndarray:
    """Return the nuclei of a block, numbered anew from 1, without pixels that are taken; int32 (h, w).

    found: labels of the block and its margin. corner: row and column where the block itself begins.
    """
    places = np.flatnonzero(found)
    numbers = np.ravel(found)[places]
    areas = np.bincount(numbers, minlength=1)
    free = np.bincount(numbers[~np.ravel(taken)[places]], minlength=len(areas))
    # centroids, from the beginning of the block
    centers = [
        np.bincount(numbers, axis, minlength=len(areas)) / np.maximum(areas, 1) - start
        for axis, start in zip(np.divmod(places, found.shape[1]), corner)
    ]
    # in which block: 0 is this one, -1 the one above or to the left
    row, column = (np.floor(center / seams.side) for center in centers)
    is_here = (row == 0) & (column == 0)
    is_left_over = (row < 0) | ((row == 0) & (column < 0))
    for center in centers:
        is_left_over &= np.abs(center - seams.side / 2) <= (seams.side + seams.margin) / 2
    keep = (2 * free > areas) & (is_here | is_left_over)
    renumbered = np.zeros(len(areas), LABEL_TYPE)
    renumbered[keep] = np.arange(1, np.count_nonzero(keep) + 1)
    own = renumbered[found]
    own[taken] = 0
    return own


def _count_cut(labels: np.ndarray, above: bool, below: bool, left: bool, right: bool) -> int:
    """Return how many labels touch those sides of a part beyond which the image goes on."""
    sides = [labels[0], labels[-1], labels[:, 0], labels[:, -1]]
    touched = [side for side, goes_on in zip(sides, (above, below, left, right)) if goes_on]
    return len(set(np.unique(np.concatenate(touched))) - {0}) if touched else 0


class _HeldRows:
    """The rows of the probabilities that are still needed, float32 (C, rows, W)."""

    def __init__(self, strips: Iterable[np.ndarray]):
        self.strips, self.top, self.parts = iter(strips), 0, []

    def take(self, rows: slice) -> np.ndarray:
        """Return these rows, and forget those above them."""
        height = sum(part.shape[1] for part in self.parts)
        while self.top + height < rows.stop:
            strip = next(self.strips, None)
            if strip is None:
                raise ValueError(f"the probabilities end at row {self.top + height}, before row {rows.stop}")
            self.parts.append(strip)
            height += strip.shape[1]
        whole = self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts, axis=1)
        self.parts = [whole[:, rows.start - self.top :]]
        self.top = rows.start
        return self.parts[0][:, : rows.stop - rows.start]


@contextmanager
def labels_on_disk(folder: Path, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield an array int32 (H, W) of zeros for the numbers of nuclei, in a temporary file of `folder`.

    Raises InputError if there is no space for it.
    """
    size = shape[0] * shape[1] * np.dtype(LABEL_TYPE).itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # has no name, so that nothing is left behind even if the process is killed
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # a full disk would end the process without a message later
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            labels = np.memmap(file, LABEL_TYPE, "r+", shape=shape)
    except OSError as error:
        raise InputError(f"{folder}: no space for {size / 1e6:.0f} MB of labels: {error.strerror or error}") from error
    yield labels
