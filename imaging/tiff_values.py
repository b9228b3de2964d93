# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The values of a page of a TIFF file: all of them, or row by row if the page is large."""

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

from imaging.stored import StoredImage, pick_channel, spread_bits
from imaging.tiff import JPEG, PALETTE, RGB, WHITE_IS_ZERO, YCBCR, Frame, find_frame, find_page, open_stacks
from runtime import names
from runtime.errors import InputError

ORIENTATION_TAG = 274
ALPHA_SAMPLES = (1, 2)  # of the tag ExtraSamples: associated and unassociated alpha; 0 is unspecified
# besides these, by its number in the tag Compression: JPEG 2000, WebP, JPEG XL, JPEG XR
LOSSY = (*JPEG, 33003, 33004, 33005, 34712, 50001, 50002, 52546, 22610, 34892)


def read_page(source: Path | bytes, name: object, page: int = 0, channel: int | None = 0) -> StoredImage:
    """Read a page, from 0, and the channel with this number, from 1, if the file has several.

    Raises InputError naming the file, with the cause, if: its layout, compression, photometric interpretation or kind
    of number is not known; it holds several channels and `channel` is 0; it is damaged or too large.
    """
    with open_stacks(source, name) as stacks:
        frame = find_frame(stacks, page, channel, name)
        return _interpret(frame, *_read_frame(frame, name), name)


class RowReader:
    """Reads some rows of a page, without decoding more than the strips or tiles that hold them.

    shape: (H, W). The strips or tiles of the last call are kept, because the next call often needs some of them.
    """

    def __init__(self, frame: Frame, tags: tifffile.TiffPage, offset: int | None, name: object):
        self.frame, self.tags, self.offset, self.name = frame, tags, offset, name
        self.shape = height, width = tags.imagelength, tags.imagewidth
        self.places = list(zip(tags.dataoffsets, tags.databytecounts))
        self.chunk = (tags.tilelength, tags.tilewidth) if tags.is_tiled else (min(tags.rowsperstrip, height), width)
        self.bands: dict[int, np.ndarray] = {}
        if offset is None:  # looked up now, because the file that parts of it are read from is closed later
            self.decode = functools.partial(tags.decode, jpegtables=tags.jpegtables, _fullsize=False)

    @property
    def is_possible(self) -> bool:
        """Can rows be read, with the same result as reading the whole page?"""
        tags = self.tags
        is_plain = tags.dtype == np.uint8 and tags.bitspersample == 8 and tags.axes in ("YX", "YXS")
        if not is_plain or _orientation(tags) != 1:
            return False
        is_regular = tags.jpegheader is None and 0 not in self.chunk
        return self.offset is not None or (is_regular and math.prod(tags.chunked) == math.prod(self.grid))

    @property
    def grid(self) -> tuple[int, int]:
        """Return the numbers of strips or tiles below and beside each other."""
        return -(-self.shape[0] // self.chunk[0]), -(-self.shape[1] // self.chunk[1])

    def read(self, file: BinaryIO, start: int, stop: int) -> StoredImage:
        """Return the rows from `start` to `stop`, exclusive, as `read_page` returns all; raises InputError as it does.

        file: the open file of the page.
        """
        shape = (stop - start, *self.tags.shape[1:])
        if self.offset is not None:
            row = math.prod(shape[1:])
            values = np.frombuffer(self._read_bytes(file, self.offset + start * row, math.prod(shape)), np.uint8)
        else:
            height = self.chunk[0]
            needed = range(start // height, -(-stop // height))
            self.bands = {k: self.bands[k] if k in self.bands else self._decode_band(file, k) for k in needed}
            values = np.concatenate([self.bands[k] for k in needed])[start - needed[0] * height :][: stop - start]
        return _interpret(self.frame, self.tags, values.reshape(shape), self.name)

    def _decode_band(self, file: BinaryIO, number: int) -> np.ndarray:
        """Return the values of the strips or tiles of one row of the grid, (rows, W, samples)."""
        across, top = self.grid[1], number * self.chunk[0]
        band = np.empty((min(self.chunk[0], self.shape[0] - top), self.shape[1], self.tags.samplesperpixel), np.uint8)
        for index in range(number * across, (number + 1) * across):
            data = self._read_bytes(file, *self.places[index])
            with _decoding_errors(self.tags, self.name):
                values, (_, _, _, left, _), _ = self.decode(data, index)
                part = band[:, left : left + self.chunk[1]]
                # NumPy would repeat a single row
                if values.shape[1] < part.shape[0] or values.shape[2] < part.shape[1]:
                    raise ValueError(f"strip or tile {index} has too few values")
                part[:] = values[0, : part.shape[0], : part.shape[1]]
        return band

    def _read_bytes(self, file: BinaryIO, place: int, count: int) -> bytes:
        file.seek(place)
        data = file.read(count)
        if len(data) < count:
            raise InputError(f"{self.name}: is cut off; replace the file or remove it")
        return data


def open_rows(source: Path, name: object, page: int = 0, channel: int | None = 0) -> RowReader | None:
    """Return what reads a page by rows; None if it must be read as a whole. Arguments and errors as in `read_page`."""
    with open_stacks(source, name) as stacks:
        frame = find_frame(stacks, page, channel, name)
        reader = RowReader(frame, *find_page(frame, name), name)
        return reader if reader.is_possible else None


def _read_frame(frame: Frame, name: object) -> tuple[tifffile.TiffPage, np.ndarray]:
    """Return the tags of a frame, and its values as these tags lay them out."""
    page, offset = find_page(frame, name)
    if frame.series.is_truncated:
        file = frame.series.parent.filehandle
        file.seek(offset)
        values = file.read_array(frame.series.parent.byteorder + page.dtype.char, page.size)
        return page, values.reshape(page.shape)
    with _decoding_errors(page, name):
        return page, page.asarray(maxworkers=1)


@contextmanager
def _decoding_errors(page: tifffile.TiffPage, name: object) -> Iterator[None]:
    """Report any error of a codec as InputError."""
    try:
        yield
    except Exception as error:
        reason = names.printable(" ".join(str(error).split()), 150)
        compression = getattr(page.compression, "name", page.compression)
        raise InputError(f"{name}: its values, of compression {compression}, cannot be decoded ({reason})") from error


def _interpret(frame: Frame, tags: tifffile.TiffPage, values: np.ndarray, name: object) -> StoredImage:
    """Turn the values of a frame, or some of its rows, into gray or BGR as the tags say."""
    samples = np.moveaxis(values, tags.axes.index("S"), -1) if "S" in tags.axes else values[..., None]
    kind, extra, notes = tags.photometric, tuple(tags.extrasamples), [*frame.notes]
    colors = 3 if kind in (RGB, YCBCR) else 1
    alpha, count = None, samples.shape[-1]
    if count == colors + 1 and (kind == RGB or (extra[:1] and extra[0] in ALPHA_SAMPLES)):
        samples, alpha = samples[..., :-1], samples[..., -1]
        count = colors
    if kind == WHITE_IS_ZERO:
        samples = _invert(samples, tags.bitspersample)
        notes.append("white is zero, inverted")
    if kind == PALETTE:
        table = tags.colormap  # uint16; some programs write 8 bits into it, as libtiff also assumes
        table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
        samples = table[:, samples[..., 0].astype(np.intp)].transpose(1, 2, 0)
        notes.append("palette to color")
    else:
        samples = spread_bits(samples, tags.bitspersample)
    stored = StoredImage(samples, alpha, _orientation(tags), tags.compression in LOSSY, tuple(notes))
    count = samples.shape[-1]
    if frame.channel or count not in (1, colors, 3 if kind == PALETTE else 1):
        texts = ("red", "green", "blue") if count == 3 and colors == 3 else ("",) * count
        return pick_channel(stored, frame.channel, texts, name)
    return stored._replace(values=samples[..., 0] if count == 1 else np.ascontiguousarray(samples[..., ::-1]))


def _orientation(tags: tifffile.TiffPage) -> int:
    tag = tags.tags.get(ORIENTATION_TAG)
    return tag.value if tag is not None and tag.value in range(1, 9) else 1


def _invert(values: np.ndarray, bits: int) -> np.ndarray:
    """Turn white-is-zero into black-is-zero. The offset of floats does not matter, since they are stretched."""
    if values.dtype.kind == "f":
        return -values
    if values.dtype.kind == "u":
        return values.dtype.type(2**bits - 1) - values
    return ~values  # booleans and signed numbers
