"""TIFF files: what their tags say, and the values of a page."""

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

from imaging.stored import StoredImage, check_size, pick_channel, spread_bits
from runtime import names
from runtime.errors import InputError

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the scripts themselves report a bad file, by its name

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
PHOTOMETRIC_TAG, ORIENTATION_TAG, SUB_DIRECTORIES_TAG = 262, 274, 330
SIZES_OF_TYPES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}  # in bytes, of the numbers that can be an offset
ALPHA_SAMPLES = (1, 2)  # of the tag ExtraSamples: associated and unassociated alpha; 0 is unspecified
JPEG = (6, 7)  # compressions whose YCbCr is decoded to RGB
# besides these, by its number in the tag Compression: JPEG 2000, WebP, JPEG XL, JPEG XR
LOSSY = (*JPEG, 33003, 33004, 33005, 34712, 50001, 50002, 52546, 22610, 34892)
MAX_PAGES, MAX_TAGS = 100_000, 4096  # tifffile has the same limit of tags
REMEDY = "open it in Fiji and save it as a plain TIFF"

DIFFERENT_PAGES = "holds pages of several kinds, which are no stack; save each as a file"


class _Stack(NamedTuple):
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


def count_pages(source: Path | bytes, name: object) -> int:
    """Return how many images of one size a TIFF holds (z-planes, time points); channels do not count.

    Raises InputError naming the file if it is not a TIFF that can be read, or holds images of several sizes.
    """
    with _open_stacks(source, name) as stacks:
        return sum(stack.pages for stack in stacks)


def read_page(source: Path | bytes, name: object, page: int = 0, channel: int | None = 0) -> StoredImage:
    """Read a page, from 0, and the channel with this number, from 1, if the file has several.

    Raises InputError naming the file, with the cause, if: its layout, compression, photometric interpretation or kind
    of number is not known; it holds several channels and `channel` is 0; it is damaged or too large.
    """
    with _open_stacks(source, name) as stacks:
        position, page = divmod(page, stacks[0].pages)  # the stacks of a file are alike
        stack, channels, picked = stacks[position], stacks[0].channels, 0
        if channels > 1:
            texts = _channel_names(stack.series.parent, channels)
            pick_channel(StoredImage(np.empty((0, 0, channels))), channel, texts, name)
            picked, channel = channel - 1, 0
        tags, values = _read_frame(stack.series, stack.frame_number(page, picked), name)
        stored = _interpret(tags, values, channel, name)
        if channels > 1:
            stored = stored._replace(notes=(f"channel {picked + 1} of {channels} taken", *stored.notes))
    return stored


@contextmanager
def _open_stacks(source: Path | bytes, name: object) -> Iterator[list[_Stack]]:
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


def _to_stack(series: tifffile.TiffPageSeries, name: object) -> _Stack:
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
    stack, sides = _Stack(series, lead), sorted((tags.imagewidth, tags.imagelength))
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


def _read_frame(series: tifffile.TiffPageSeries, number: int, name: object) -> tuple[tifffile.TiffPage, np.ndarray]:
    """Return the tags of one frame of a series, and its values as these tags lay them out."""
    tags = series.keyframe
    file = series.parent.filehandle
    # ImageJ writes tags for the first frame alone if the frames follow each other, uncompressed
    if series.is_truncated:
        if series.dataoffset is None or series.dataoffset + (number + 1) * tags.nbytes > file.size:
            raise InputError(f"{name}: is cut off; replace the file or remove it")
        file.seek(series.dataoffset + number * tags.nbytes)
        values = file.read_array(series.parent.byteorder + tags.dtype.char, tags.size)
        return tags, values.reshape(tags.shape)
    page = series.pages[number]
    if page is None:
        raise InputError(f"{name}: is part of a set of files; {REMEDY}")
    page = page.aspage()  # with tags of its own, which may differ from those of the first frame
    if (page.shape, page.axes, page.dtype) != (tags.shape, tags.axes, tags.dtype):
        raise InputError(f"{name}: {DIFFERENT_PAGES}")
    _check_tags(page, name)
    expected = 1 if page.is_contiguous else math.prod(page.chunked)
    places = list(zip(page.dataoffsets, page.databytecounts))
    if len(places) < expected or any(not count or start + count > file.size for start, count in places):
        raise InputError(f"{name}: is cut off, or parts of it are missing; replace the file or remove it")
    try:
        return page, page.asarray(maxworkers=1)
    except Exception as error:
        reason = names.printable(" ".join(str(error).split()), 150)
        compression = getattr(page.compression, "name", page.compression)
        raise InputError(f"{name}: its values, of compression {compression}, cannot be decoded ({reason})") from error


def _interpret(tags: tifffile.TiffPage, values: np.ndarray, channel: int | None, name: object) -> StoredImage:
    """Turn the values of a frame into gray or BGR as the tags say."""
    samples = np.moveaxis(values, tags.axes.index("S"), -1) if "S" in tags.axes else values[..., None]
    kind, extra, notes = tags.photometric, tuple(tags.extrasamples), []
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
    orientation = tags.tags.get(ORIENTATION_TAG)
    orientation = orientation.value if orientation is not None and orientation.value in range(1, 9) else 1
    stored = StoredImage(samples, alpha, orientation, tags.compression in LOSSY, tuple(notes))
    count = samples.shape[-1]
    if channel or count not in (1, colors, 3 if kind == PALETTE else 1):
        texts = ("red", "green", "blue") if count == 3 and colors == 3 else ("",) * count
        return pick_channel(stored, channel, texts, name)
    return stored._replace(values=samples[..., 0] if count == 1 else np.ascontiguousarray(samples[..., ::-1]))


def _invert(values: np.ndarray, bits: int) -> np.ndarray:
    """Turn white-is-zero into black-is-zero. The offset of floats does not matter, since they are stretched."""
    if values.dtype.kind == "f":
        return -values
    if values.dtype.kind == "u":
        return values.dtype.type(2**bits - 1) - values
    return ~values  # booleans and signed numbers
