# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A plain TIFF writer for layouts that no library here writes, such as packed bits, missing strips and wrong tags."""

import struct
from typing import NamedTuple

import numpy as np

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 11: 4, 12: 8, 13: 4, 16: 8}
FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 6: "b", 7: "s", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q"}
STRIP_OFFSETS, STRIP_COUNTS, TILE_OFFSETS, TILE_COUNTS = 273, 279, 324, 325


class Page(NamedTuple):
    """The tags of a page, each (type, values), and its strips or tiles. Their offsets and sizes are filled in."""

    tags: dict[int, tuple[int, list | bytes]]
    chunks: list[bytes]
    tiled: bool = False


def page_tags(
    size: tuple[int, int], bits: int | list[int], photometric: int, rows: int | None = None, **other: int | list[int]
) -> dict[int, tuple[int, list]]:
    """Return the usual tags of a page (height, width). `other`: t338=1 and the like add a tag of 16-bit numbers."""
    height, width = size
    samples = len(bits) if isinstance(bits, list) else 1
    tags = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, bits if isinstance(bits, list) else [bits]),
        259: (3, [1]),
        262: (3, [photometric]),
        277: (3, [samples]),
        278: (4, [rows or height]),
    }
    for name, value in other.items():
        tags[int(name[1:])] = (3, value if isinstance(value, list) else [value])
    return tags


def pack_rows(values: np.ndarray, bits: int) -> bytes:
    """Pack unsigned values (H, N) with the highest bit first; each row begins at a byte."""
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint64)
    single = (values.astype(np.uint64)[..., None] >> shifts & np.uint64(1)).astype(np.uint8)
    return np.packbits(single.reshape(len(values), -1), axis=1).tobytes()


def strips_of(values: np.ndarray, bits: int, rows: int) -> list[bytes]:
    """Return packed strips of `rows` rows of values (H, W) or (H, W, samples)."""
    flat = values.reshape(len(values), -1)
    return [pack_rows(flat[top : top + rows], bits) for top in range(0, len(flat), rows)]


def write_tiff(pages: list[Page], order: str = "<", big: bool = False, next_of_last: int = 0) -> bytes:
    """Return a TIFF, or BigTIFF. next_of_last: where the last directory says that the next one lies."""
    word, count_format, inline = ("Q", "Q", 8) if big else ("I", "H", 4)
    data = bytearray(b"II" if order == "<" else b"MM")
    data += struct.pack(order + "HHHQ", 43, 8, 0, 0) if big else struct.pack(order + "HI", 42, 0)
    link = len(data) - inline  # the place of the offset of the next directory
    for page in pages:
        offsets = []
        for chunk in page.chunks:
            offsets.append(len(data))
            data += chunk + bytes(len(chunk) % 2)
        tags = dict(page.tags)
        places = (TILE_OFFSETS, TILE_COUNTS) if page.tiled else (STRIP_OFFSETS, STRIP_COUNTS)
        tags.setdefault(places[0], (16 if big else 4, offsets))
        tags.setdefault(places[1], (16 if big else 4, [len(chunk) for chunk in page.chunks]))
        entries = bytearray()
        for tag, (kind, values) in sorted(tags.items()):
            if isinstance(values, bytes):
                content, count = values, len(values)
            else:
                content, count = struct.pack(f"{order}{len(values)}{FORMATS[kind]}", *values), len(values)
            if len(content) > inline:
                start = len(data)
                data += content + bytes(len(content) % 2)
                content = struct.pack(order + word, start)
            entries += struct.pack(order + "HH" + word, tag, kind, count) + content.ljust(inline, b"\0")
        data[link : link + inline] = struct.pack(order + word, len(data))
        data += struct.pack(order + count_format, len(tags)) + entries
        link = len(data)
        data += struct.pack(order + word, next_of_last)
    return bytes(data)
