# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Large images, read by rows if their format allows it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from imaging import tiff, tiff_values
from imaging.reader import PAGES_REMEDY, read_upright, to_picture
from runtime.errors import InputError
from runtime.files import check_file

STRIP_PIXELS = 2**22


class LargeImage:
    """An image whose rows are read when they are needed.

    shape: (H, W). notes: what was done to the pixels, in words. read: returns the rows from a start to a stop,
    exclusive, as uint8 BGR (rows, W, 3).
    """

    def __init__(self, shape: tuple[int, int], read: Callable[[int, int], np.ndarray], notes: tuple[str, ...] = ()):
        self.shape, self.read, self.notes = shape, read, notes

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows as uint8 BGR (stop - start, W, 3), not to be written to; raises InputError for damaged ones."""
        if not 0 <= start < stop <= self.shape[0]:
            raise ValueError(f"rows {start} to {stop} of an image of {self.shape[0]} rows")
        return self.read(start, stop)

    def is_gray(self) -> bool:
        """Have all pixels the same value in each channel?"""
        return "gray to color" in self.notes or all((strip == strip[..., :1]).all() for _, strip in self.strips())

    def part(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a part of the image, uint8 BGR (height, width, 3)."""
        return np.ascontiguousarray(self.rows(top, top + height)[:, left : left + width])

    def strips(self, height: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the whole image from top to bottom, as pairs of a strip's first row and its pixels.

        height: of a strip, in rows; 0: so that a strip has about STRIP_PIXELS pixels.
        """
        height = height or max(1, STRIP_PIXELS // self.shape[1])
        for top in range(0, self.shape[0], height):
            yield top, self.rows(top, min(top + height, self.shape[0]))


def from_pixels(pixels: np.ndarray, notes: tuple[str, ...] = ()) -> LargeImage:
    """Return an image that is already in memory, uint8 BGR (H, W, 3)."""
    return LargeImage(pixels.shape[:2], lambda start, stop: pixels[start:stop], notes)


@contextmanager
def open_image(path: Path, page: int | None = None, channel: int = 0) -> Iterator[LargeImage]:
    """Open an image file; its pixels are those of reader.read_upright, which has the same arguments and errors.

    A TIFF of 8 bits a sample is read by rows: if it is not compressed, exactly those that are needed, otherwise the
    strips or tiles that hold them. Files of other formats, TIFFs of other numbers, and TIFFs that their orientation tag
    turns are decoded as a whole.
    """
    check_file(path)
    try:
        file = open(path, "rb")  # noqa: SIM115, closed below
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    with file:
        rows = _find_rows(path, page, channel) if file.read(4) in tiff.MAGIC else None
        if rows is None:
            yield from_pixels(*read_upright(path, page, channel))
            return
        notes = to_picture(rows.read(file, 0, 1), path).notes
        yield LargeImage(rows.shape, lambda start, stop: to_picture(rows.read(file, start, stop), path).pixels, notes)


def _find_rows(path: Path, page: int | None, channel: int) -> tiff_values.RowReader | None:
    if page is None and (pages := tiff.count_pages(path, path)) > 1:
        raise InputError(f"{path}: holds {pages} pages, but {PAGES_REMEDY}")
    return tiff_values.open_rows(path, path, page or 0, channel)
