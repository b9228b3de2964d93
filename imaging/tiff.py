# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""TIFF files: which frames they hold, and what their tags say. tiff_values.py reads the values of a page."""

import io
import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from imaging.stored import StoredImage, check_size, pick_channel
from runtime import names
from runtime.errors import InputError

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the scripts themselves report a bad file, by its name

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
PHOTOMETRIC_TAG, SUB_DIRECTORIES_TAG = 262, 330
SIZES_OF_TYPES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}  # in bytes, of the numbers that can be an offset
JPEG = (6, 7)  # compressions whose YCbCr is decoded to RGB
MAX_PAGES, MAX_TAGS = 100_000, 4096  # tifffile has the same limit of tags
REMEDY = "open it in Fiji and save it as a plain TIFF"
DIFFERENT_PAGES = "holds pages of several kinds, which are no stack; save each as a file"


class Stack(NamedTuple):
    """A series of frames. lead: the axes before those of a frame, each with its size."""

    series: tifffile.TiffPageSeries
    lead: tuple[tuple[str, int], ...]

    @property
    def channels(self) -> int:
        return math.prod(size for axis, size in self.lead if axis == "C")

    @property
    def pages(self) -> int:
        return math.prod(size for axis, size in self.lead if axis != "C")

    def frame_number(self, page: int, channel: int) -> int:
        """Return the number of a frame; pages and channels, from 0, can be interleaved in any order of axes."""
        shape = [size for _, size in self.lead]
        places = [place for place, (axis, _) in enumerate(self.lead) if axis == "C"]
        numbers = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), places, range(len(places)))
        return int(numbers.reshape(self.channels, self.pages)[channel, page])


class Frame(NamedTuple):
    """A frame of a series, by its number.

    channel: the sample that is to be picked from its pixels, as for tiff_values.read_page.
    notes: how the frame was chosen.
    """

    series: tifffile.TiffPageSeries
    number: int
    channel: int | None
    notes: tuple[str, ...]


def count_pages(source: Path | bytes, name: object) -> int:
    """Return how many images of one size a TIFF holds (z-planes, time points); channels do not count.

    Raises InputError naming the file if it is not a TIFF that can be read, or holds images of several sizes.
    """
    with open_stacks(source, name) as stacks:
        return sum(stack.pages for stack in stacks)


def find_frame(stacks: list[Stack], page: int, channel: int | None, name: object) -> Frame:
    """Return the frame of this page and channel; raises InputError as read_page does."""
    position, page = divmod(page, stacks[0].pages)  # the stacks of a file are alike
    stack, channels = stacks[position], stacks[0].channels
    if channels == 1:
        return Frame(stack.series, stack.frame_number(page, 0), channel, ())
    texts = _channel_names(stack.series.parent, channels)
    picked = pick_channel(StoredImage(np.empty((0, 0, channels))), channel, texts, name)
    return Frame(stack.series, stack.frame_number(page, channel - 1), 0, picked.notes)


@contextmanager
def open_stacks(source: Path | bytes, name: object) -> Iterator[list[Stack]]:
    """Yield the stacks of a file, which are alike; smaller copies do not count. Reports all errors as InputError."""
    try:
        _check_directories(source, name)
        # the underscored argument prevents that other files, which OME metadata may name, are opened
        file = tifffile.TiffFile(source if isinstance(source, Path) else io.BytesIO(source), _multifile=False)
        with file:
            found = [series for series in file.series if not series.keyframe.is_reduced]
            if not found:
                raise InputError(f"{name}: a TIFF without an image; replace the file or remove it")
            kinds = {(one.shape, one.axes, one.dtype, one.keyframe.photometric) for one in found}
            if len(kinds) > 1:
                sizes = sorted({f"{one.keyframe.imagewidth}×{one.keyframe.imagelength}" for one in found})
                raise InputError(f"{name}: {DIFFERENT_PAGES} ({', '.join(sizes[:4])})")
            tags = found[0].keyframe
            check_size(tags.imagewidth, tags.imagelength, name)
            _check_tags(tags, name)
            stacks = [_to_stack(series, name) for series in found]
            _check_number_of_pages(found[0], sum(stack.pages * stack.channels for stack in stacks), name)
            yield stacks
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{name}: too large for the memory; cut it into smaller images") from error
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or 'not a readable image'}") from error
    except Exception as error:  # tifffile and the codecs raise errors of many types
        reason = names.printable(" ".join(str(error).split()) or type(error).__name__, 150)
        if "incompatible keyframe" in reason:  # tifffile's words for it
            raise InputError(f"{name}: {DIFFERENT_PAGES}") from error
        raise InputError(f"{name}: not a readable image ({reason}); {REMEDY}, or remove it") from error


def _check_directories(source: Path | bytes, name: object) -> None:
    """Raise InputError if a directory of tags follows or contains itself: tifffile would not end."""
    with open(source, "rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        start = file.read(16)
        order = "little" if start[:2] == b"II" else "big"
        word, head, entry = (8, 8, 20) if start[2:4] in (b"+\0", b"\0+") else (4, 2, 12)  # BigTIFF or not; in bytes
        place, seen = int.from_bytes(start[word : 2 * word], order), set()
        waiting = []  # smaller copies below the pages
        while place or waiting:
            is_page, place = bool(place), place or waiting.pop()
            if place in seen or len(seen) == MAX_PAGES:
                raise InputError(f"{name}: damaged, or more than {MAX_PAGES} pages; replace the file or remove it")
            seen.add(place)
            file.seek(place)
            tags = file.read(entry * min(int.from_bytes(file.read(head), order), MAX_TAGS) + word)
            for at in range(0, len(tags) - entry, entry):
                if tags[at : at + 2] == SUB_DIRECTORIES_TAG.to_bytes(2, order):
                    width = SIZES_OF_TYPES.get(int.from_bytes(tags[at + 2 : at + 4], order), 0)
                    size = width * min(int.from_bytes(tags[at + 4 : at + 4 + word], order), MAX_TAGS)
                    content = tags[at + 4 + word : at + entry]
                    if size > word:
                        file.seek(int.from_bytes(content, order))
                        content = file.read(size)
                    waiting += [int.from_bytes(content[k : k + width], order) for k in range(0, size, width or 1)]
            waiting = [found for found in waiting if found]
            place = int.from_bytes(tags[-word:], order) if is_page else 0


def _to_stack(series: tifffile.TiffPageSeries, name: object) -> Stack:
    """Take the axes of a series apart; raises InputError if they are not known."""
    tags = series.keyframe
    # Python programs write axes of size 1 beside those of the picture
    whole, frame = (
        [(axis, size) for axis, size in zip(one.axes, one.shape) if size > 1 or axis in "YX"] for one in (series, tags)
    )
    lead = tuple(whole[: len(whole) - len(frame)])
    if whole[len(lead) :] != frame or {axis for axis, _ in frame} - set("YXS"):
        raise InputError(f"{name}: a TIFF with the axes {series.axes}, which are not known here; {REMEDY}")
    if "S" in dict(lead):
        raise InputError(f"{name}: a TIFF with its colors in pages of their own; {REMEDY}")
    if series.transform is not None:
        raise InputError(f"{name}: a TIFF of the kind {series.kind}, whose values are encoded; {REMEDY}")
    stack, sides = Stack(series, lead), sorted((tags.imagewidth, tags.imagelength))
    # (H, W, channels) without metadata is written as H pages of W×channels
    if set(dict(lead)) & set("QI") and (sides[0] <= 4 or 3 * sides[0] < min(sides[1], stack.pages)):
        raise InputError(
            f"{name}: {stack.pages} pages of {tags.imagewidth}×{tags.imagelength} pixels look like one image whose "
            f"last axis holds channels; write it with its channels first, or {REMEDY}"
        )
    return stack


def _channel_names(file: tifffile.TiffFile, channels: int) -> tuple[str, ...]:
    """Return the names that OME metadata give the channels; empty texts if they give none."""
    found = re.findall(r"<(?:\w+:)?Channel\b[^>]*?\bName=\"([^\"]*)\"", file.ome_metadata or "")
    texts = [names.printable(unescape(text), 40) for text in found]
    return tuple(texts) if len(texts) == channels else ("",) * channels


def _check_tags(tags: tifffile.TiffPage, name: object) -> None:
    """Raise InputError if tags are missing, contradict each other, or state a kind of number that cannot be read."""
    bits, kind = tags.bitspersample, tags.photometric  # the bits are a tuple if the samples differ
    if tags.dtype is None or tags.dtype.kind not in "buif" or bits not in (*range(1, 17), 32, 64):
        form = {1: "unsigned", 2: "signed", 3: "float", 5: "complex integer", 6: "complex"}.get(tags.sampleformat)
        raise InputError(f"{name}: numbers of {bits} bits, {form or 'of an unknown kind'}, cannot be read; {REMEDY}")
    if PHOTOMETRIC_TAG not in tags.tags:
        raise InputError(f"{name}: a TIFF without its photometric interpretation, a required tag; {REMEDY}")
    if kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE) and not (kind == YCBCR and tags.compression in JPEG):
        text = getattr(kind, "name", kind)
        raise InputError(f"{name}: photometric interpretation {text} is not known here; {REMEDY} of gray or RGB")
    if kind in (RGB, YCBCR) and tags.samplesperpixel < 3:
        raise InputError(f"{name}: {tags.samplesperpixel} samples a pixel, but its colors need 3; {REMEDY}")
    table = tags.colormap if kind == PALETTE else None
    if kind == PALETTE and (table is None or table.shape != (3, 2**bits) or tags.dtype.kind not in "bu"):
        raise InputError(f"{name}: a TIFF with a palette that is missing or does not fit {bits} bits; {REMEDY}")


def _check_number_of_pages(series: tifffile.TiffPageSeries, described: int, name: object) -> None:
    """Raise InputError if metadata, as of ImageJ or OME, describe another number of pages than the file has."""
    if series.is_truncated:
        return
    stored = len(series.parent.pages)
    if stored > described:
        stored = sum(not page.aspage().is_reduced for page in series.parent.pages)
    if stored > described and series.kind in ("generic", "uniform"):  # tifffile took them for smaller copies
        raise InputError(f"{name}: {DIFFERENT_PAGES}")
    if stored != described:
        raise InputError(f"{name}: holds {stored} pages, but its metadata describe {described}; {REMEDY}")


def find_page(frame: Frame, name: object) -> tuple[tifffile.TiffPage, int | None]:
    """Return the tags of a frame, and the place of its values in the file if they stand there as one plain array.

    Raises InputError if the frame differs from the others of its series, or if a part of it is missing.
    """
    series, tags = frame.series, frame.series.keyframe
    file = series.parent.filehandle
    # ImageJ writes tags for the first frame alone if the frames follow each other, uncompressed
    if series.is_truncated:
        if series.dataoffset is None or series.dataoffset + (frame.number + 1) * tags.nbytes > file.size:
            raise InputError(f"{name}: is cut off; replace the file or remove it")
        return tags, series.dataoffset + frame.number * tags.nbytes
    page = series.pages[frame.number]
    if page is None:
        raise InputError(f"{name}: is part of a set of files; {REMEDY}")
    page = page.aspage()  # with tags of its own, which may differ from those of the first frame
    if (page.shape, page.axes, page.dtype) != (tags.shape, tags.axes, tags.dtype):
        raise InputError(f"{name}: {DIFFERENT_PAGES}")
    _check_tags(page, name)
    expected = 1 if page.is_contiguous else math.prod(page.chunked)
    places = list(zip(page.dataoffsets, page.databytecounts))
    is_plain = page.is_contiguous and page.fillorder == 1 and page.predictor == 1
    is_short = is_plain and page.dataoffsets[0] + page.nbytes > file.size
    if is_short or len(places) < expected or any(not count or start + count > file.size for start, count in places):
        raise InputError(f"{name}: is cut off, or parts of it are missing; replace the file or remove it")
    return page, page.dataoffsets[0] if is_plain else None
