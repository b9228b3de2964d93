# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""TIFF files of several pages, and damaged TIFF files, with the pixels that they were written from."""

import functools
import io
import itertools
import re

import cv2
import imagecodecs
import numpy as np
import tifffile

from helpers.image_grid import GridFile, numbers, read, refuse, to_bgr
from helpers.tiff_grid import BLACK_IS_ZERO, PALETTE, RGB, SIZE, WHITE_IS_ZERO, tolerance_of, written
from helpers.tiff_writer import Page, page_tags, strips_of, write_tiff


def planes(dtype: str, count: int, samples: int = 1) -> np.ndarray:
    """Return (count, H, W) or (count, H, W, samples), each plane another picture."""
    return np.stack([numbers(dtype, samples, seed=20 + number) for number in range(count)])


def views_of(stack: np.ndarray, axes: str) -> dict:
    """Return the views of an array whose axes end with YX or YXS: pages in the array's order, without its channels."""
    lead = axes.replace("YXS", "").replace("YX", "")
    channels = stack.shape[lead.index("C")] if "C" in lead else 1
    if "C" in lead:
        stack = np.moveaxis(stack, lead.index("C"), 0)
    pages = stack.reshape(channels, -1, *stack.shape[len(lead) :])
    several = channels > 1
    return {
        (page if pages.shape[1] > 1 else None, channel + 1 if several else 0): to_bgr(pages[channel, page])
        for page in range(pages.shape[1])
        for channel in range(channels)
    }


def stack_file(family: str, name: str, data: bytes, stack: np.ndarray, axes: str, must: str = "read") -> GridFile:
    views = views_of(stack, axes)
    pages = len({page for page, _ in views})
    return GridFile(family, name, data, views, must, tolerance=tolerance_of(stack), pages=pages)


SHAPES = {"T": 2, "Z": 3, "C": 2, "S": 3, "Y": SIZE[0], "X": SIZE[1]}


def stack_of(axes: str, dtype: str) -> np.ndarray:
    """Return planes for these axes; S comes last."""
    lead = [SHAPES[axis] for axis in axes if axis not in "YXS"]
    samples = 3 if "S" in axes else 1
    found = planes(dtype, int(np.prod(lead)), samples)
    return found.reshape(*lead, *found.shape[1:])


def plain_pages() -> list[GridFile]:
    family, files = "TIFF, several pages", []
    for dtype, compression, bigtiff, contiguous in itertools.product(
        ("uint8", "uint16", "float32"), (None, "lzw"), (False, True), (False, True)
    ):
        stack = planes(dtype, 3)
        name = f"{dtype} {compression}{' BigTIFF' if bigtiff else ''}{' one write' if contiguous else ''}"
        if contiguous:
            data = written(stack, photometric="minisblack", compression=compression, bigtiff=bigtiff, rowsperstrip=5)
        else:
            data = pages_of(list(stack), compression=compression, bigtiff=bigtiff)
        files.append(stack_file(family, name, data, stack, "ZYX"))
    stack = planes("uint8", 3, 3)
    for planar in ("contig", "separate"):
        stored = stack if planar == "contig" else np.moveaxis(stack, 3, 1)
        data = written(stored, photometric="rgb", planarconfig=planar)
        files.append(stack_file(family, f"RGB {planar}", data, stack, "ZYXS"))
    stack = planes("uint16", 12)
    files.append(stack_file(family, "12 pages", pages_of(list(stack)), stack, "ZYX"))
    files.append(stack_file(family, "12 pages, deflate", pages_of(list(stack), compression="deflate"), stack, "ZYX"))
    for compression in (None, "deflate"):
        stack = stack_of("TZYX", "uint8")
        data = written(stack, photometric="minisblack", compression=compression)
        files.append(stack_file(family, f"6 pages of two axes {compression}", data, stack, "TZYX"))
    stack = planes("uint16", 3)
    for axes in ("ZYX", "TYX", "CYX", "QYX"):
        data = written(stack, photometric="minisblack", metadata={"axes": axes})
        files.append(stack_file(family, f"tifffile's axes {axes}", data, stack, axes))
    data = written(stack, photometric="minisblack", metadata={"axes": "ZYX"}, truncate=True)
    files.append(stack_file(family, "tags for the first page alone", data, stack, "ZYX"))
    data = written(planes("uint8", 2)[:, :, :, None].repeat(2, 3), photometric="minisblack", planarconfig="contig")
    files.append(refuse(family, "two pages, two channels, none chosen", data, "2 pages|2 channels"))
    for name, color in (("31×3", 3), ("31×2", 2), ("31×4", 4)):
        data = pages_of(list(numbers("uint8", color)))
        files.append(refuse(family, f"24 pages of {name}", data, "24 pages"))
    for count in (2, 3):
        files.append(
            refuse(
                family,
                f"{count} pages, none chosen",
                pages_of(list(planes("uint8", count))),
                f"{count} pages",
                pages=count,
            )
        )
    return [*files, *pages_that_differ(), *thumbnails()]


def pages_of(stack: list[np.ndarray], bigtiff: bool = False, **options) -> bytes:
    """Return a TIFF to which tifffile writes page by page, without metadata."""
    options.setdefault("photometric", "minisblack")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=bigtiff) as writer:
        for plane in stack:
            writer.write(plane, metadata=None, **options)
    return buffer.getvalue()


def pages_that_differ() -> list[GridFile]:
    """Each page has tags of its own, which count for this page alone."""
    family, files = "TIFF, pages that differ", []
    stack = planes("uint8", 9)
    small = stack[0][:12, :16]
    for name, pages in (
        ("in size", [stack[0], small]),
        ("in size, the third", [stack[0], stack[1], small]),
        ("in size, the third of 9", [*stack[:2], small, *stack[3:]]),
        ("in kind of number", [stack[0], planes("uint16", 1)[0]]),
        ("in kind of number, the third of 9", [*stack[:2], planes("uint16", 1)[0], *stack[3:]]),
    ):
        files.append(refuse(family, name, pages_of(pages), r"pages of \w+ kinds|holds 9 pages"))
    color = planes("uint8", 1, 3)[0]
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(stack[0], metadata=None, photometric="minisblack")
        writer.write(color, metadata=None, photometric="rgb")
    files.append(refuse(family, "in colors", buffer.getvalue(), r"pages of \w+ kinds"))
    # of one size: tags that say how to show the same kind of numbers
    tables = [(np.random.default_rng(seed).integers(0, 256, (3, 256)) * 257).reshape(-1).tolist() for seed in range(9)]
    for count in (2, 3, 9):
        pages, views = [], {}
        for number in range(count):
            tags = page_tags(SIZE, 8, PALETTE, t320=tables[number])
            pages.append(Page(tags, [stack[number].tobytes()]))
            table = np.array(tables[number]).reshape(3, 256) // 257
            views[number, 0] = to_bgr(table.astype(np.uint8)[:, stack[number]].transpose(1, 2, 0))
        files.append(GridFile(family, f"in palette, {count}", write_tiff(pages), views, "", pages=count))
    for count in (2, 3, 9):
        pages = [
            Page(page_tags(SIZE, 8, BLACK_IS_ZERO, t274=1 + number), [stack[number].tobytes()])
            for number in range(count)
        ]
        views = {(number, 0): to_bgr(turned(stack[number], 1 + number)) for number in range(count)}
        files.append(GridFile(family, f"in orientation, {count}", write_tiff(pages), views, "", pages=count))
        pages = [
            Page(page_tags(SIZE, 8, number % 2), [(stack[number] if number % 2 else ~stack[number]).tobytes()])
            for number in range(count)
        ]
        views = {(number, 0): to_bgr(stack[number]) for number in range(count)}
        files.append(
            GridFile(family, f"in white and black, {count}", write_tiff(pages), views, "", "kinds", pages=count)
        )
        pages = [
            Page(
                page_tags(SIZE, 8, BLACK_IS_ZERO, t259=8 if number == 2 else 1),
                [imagecodecs.zlib_encode(plane.tobytes()) if number == 2 else plane.tobytes()],
            )
            for number, plane in enumerate(stack[:count])
        ]
        files.append(
            GridFile(family, f"in compression, {count}", write_tiff(pages), views, "", "kinds|several", pages=count)
        )
        pages = [
            Page(page_tags(SIZE, 8, BLACK_IS_ZERO, 5 + number), strips_of(plane, 8, 5 + number))
            for number, plane in enumerate(stack[:count])
        ]
        files.append(
            GridFile(family, f"in rows of a strip, {count}", write_tiff(pages), views, "", "kinds|several", pages=count)
        )
    return files


def turned(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Return the upright picture of a stored one, by OpenCV. 9 is no orientation."""
    transposed = cv2.transpose(stored)
    return {
        2: lambda: cv2.flip(stored, 1),
        3: lambda: cv2.rotate(stored, cv2.ROTATE_180),
        4: lambda: cv2.flip(stored, 0),
        5: lambda: transposed,
        6: lambda: cv2.rotate(stored, cv2.ROTATE_90_CLOCKWISE),
        7: lambda: cv2.rotate(transposed, cv2.ROTATE_180),
        8: lambda: cv2.rotate(stored, cv2.ROTATE_90_COUNTERCLOCKWISE),
    }.get(orientation, lambda: stored)()


def thumbnails() -> list[GridFile]:
    family, files = "TIFF, thumbnails and pyramids", []
    for dtype, compression, samples in itertools.product(("uint8", "uint16"), (None, "lzw"), (1, 3)):
        full = planes(dtype, 1, samples)[0]
        photometric = "minisblack" if samples == 1 else "rgb"
        small = np.ascontiguousarray(full[::2, ::2])
        for order in ("after", "before", "SubIFD", "SubIFD tiled", "unmarked"):
            buffer = io.BytesIO()
            options = {"photometric": photometric, "compression": compression, "metadata": None}
            options |= {"tile": (16, 16)} if "tiled" in order else {}
            with tifffile.TiffWriter(buffer) as writer:
                if order == "before":
                    writer.write(small, subfiletype=1, **options)
                writer.write(full, **options | ({"subifds": 2} if "SubIFD" in order else {}))
                if "SubIFD" in order:
                    writer.write(small, subfiletype=1, **options)
                    writer.write(np.ascontiguousarray(full[::4, ::4]), subfiletype=1, **options)
                if order in ("after", "unmarked"):
                    writer.write(small, subfiletype=int(order == "after"), **options)
            name = f"{order} {dtype} {samples} samples {compression}"
            if order == "unmarked":
                files.append(refuse(family, name, buffer.getvalue(), r"pages of \w+ kinds"))
            else:
                files.append(read(family, name, buffer.getvalue(), to_bgr(full), tolerance=tolerance_of(full)))
    full = planes("uint8", 1)[0]
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(full, photometric="minisblack", metadata=None)
        writer.write(full > 100, photometric="mask", subfiletype=4, metadata=None)
    files.append(read(family, "a transparency mask", buffer.getvalue(), to_bgr(full), "", cause="several kinds"))
    data = pages_of([full, full], subfiletype=1)
    files.append(refuse(family, "only thumbnails", data, "without an image"))
    return files


def imagej() -> list[GridFile]:
    family, files = "TIFF, ImageJ", []
    for axes, dtype, compression in itertools.product(
        ("YX", "TYX", "ZYX", "CYX", "TZYX", "ZCYX", "TCYX", "TZCYX"), ("uint8", "uint16", "float32"), (None, "deflate")
    ):
        stack = stack_of(axes, dtype)
        data = written(stack, imagej=True, metadata={"axes": axes}, compression=compression)
        files.append(stack_file(family, f"{axes} {dtype} {compression}", data, stack, axes))
    for axes in ("YXS", "ZYXS", "TZYXS"):
        stack = stack_of(axes, "uint8")
        data = written(stack, imagej=True, photometric="rgb", metadata={"axes": axes})
        files.append(stack_file(family, axes, data, stack, axes))
        data = written(stack, imagej=True, photometric="rgb", compression="lzw", metadata={"axes": axes})
        files.append(stack_file(family, f"{axes} lzw", data, stack, axes))
    for axes, description in (
        ("ZYX", "images=3\nslices=3\n"),
        ("TZCYX", "images=12\nchannels=2\nslices=3\nframes=2\nhyperstack=true\n"),
        ("ZCYX", "images=6\nchannels=2\nslices=3\nhyperstack=true\nmode=composite\n"),
        ("CYX", "images=2\nchannels=2\n"),
    ):
        for dtype, order in itertools.product(("uint8", "uint16", "float32"), "<>"):
            stack = stack_of(axes, dtype)
            text = b"ImageJ=1.54f\n" + description.encode() + b"\0"
            tags = page_tags(SIZE, stack.itemsize * 8, BLACK_IS_ZERO, t339=3 if dtype == "float32" else 1)
            tags[270] = (2, text)
            content = stack.astype(stack.dtype.newbyteorder(order)).tobytes()
            plane = len(content) // int(np.prod(stack.shape[:-2]))
            tags[279] = (4, [plane])
            data = write_tiff([Page(tags, [content])], order)
            name = f"{axes} {dtype} {'little' if order == '<' else 'big'} endian, one directory"
            files.append(stack_file(family, name, data, stack, axes))
    stack = planes("uint16", 2)
    for lut in (True, False):
        metadata = {"axes": "CYX", "mode": "composite"}
        if lut:
            metadata["LUTs"] = [np.tile(np.arange(256, dtype=np.uint8), (3, 1))] * 2
        data = written(stack, imagej=True, metadata=metadata)
        files.append(stack_file(family, f"composite{' with tables' if lut else ''}", data, stack, "CYX"))
    files.append(refuse(family, "two channels, none chosen", data, "2 channels.*--channel"))
    # what is described and what is stored differ
    plain = planes("uint8", 6)
    for described, stored in (("images=3\nslices=3\n", 6), ("images=6\nslices=6\n", 4), ("images=6\nslices=3\n", 6)):
        pages = [
            Page(page_tags(SIZE, 8, BLACK_IS_ZERO, t259=8), [imagecodecs.zlib_encode(plane.tobytes())])
            for plane in plain[:stored]
        ]
        pages[0].tags[270] = (2, b"ImageJ=1.54f\n" + described.encode() + b"\0")
        views = {(number, 0): to_bgr(plain[number]) for number in range(stored)}
        name = f"{stored} pages, described as {' '.join(described.split())}"
        files.append(GridFile(family, name, write_tiff(pages), views, "", r"pages|not a readable", pages=stored))
    return files


def ome() -> list[GridFile]:
    family, files = "TIFF, OME", []
    for axes, dtype, compression in itertools.product(
        (
            "YX",
            "ZYX",
            "TYX",
            "CYX",
            "CZYX",
            "ZCYX",
            "TCYX",
            "CTYX",
            "TZYX",
            "TCZYX",
            "TZCYX",
            "CTZYX",
            "ZTCYX",
            "ZCTYX",
        ),
        ("uint8", "uint16", "float32"),
        (None, "zlib"),
    ):
        stack = stack_of(axes, dtype)
        data = written(stack, ome=True, photometric="minisblack", metadata={"axes": axes}, compression=compression)
        files.append(stack_file(family, f"{axes} {dtype} {compression}", data, stack, axes))
    for axes, planar in itertools.product(("YXS", "ZYXS", "TZYXS", "CYXS"), ("contig", "separate")):
        stack = stack_of(axes, "uint8")
        stored, stored_axes = stack, axes
        if planar == "separate":
            stored, stored_axes = np.moveaxis(stack, -1, -3), axes.replace("YXS", "SYX")
        data = written(stored, ome=True, photometric="rgb", planarconfig=planar, metadata={"axes": stored_axes})
        files.append(stack_file(family, f"{axes} {planar}", data, stack, axes, "" if axes == "CYXS" else "read"))
    stack = stack_of("CYX", "uint16")
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI & more", "GFP"]}}
    data = written(stack, ome=True, photometric="minisblack", metadata=metadata)
    files.append(
        refuse(family, "named channels, none chosen", data, r"2 channels \(1: DAPI & more, 2: GFP\).*--channel")
    )
    files.append(stack_file(family, "named channels", data, stack, "CYX"))
    for dtype in ("uint8", "uint16"):  # a pyramid
        stack = stack_of("CYX", dtype)
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer, ome=True) as writer:
            writer.write(stack, photometric="minisblack", subifds=1, metadata={"axes": "CYX"}, tile=(16, 16))
            writer.write(
                np.ascontiguousarray(stack[:, ::2, ::2]), photometric="minisblack", subfiletype=1, tile=(16, 16)
            )
        files.append(stack_file(family, f"pyramid {dtype}", buffer.getvalue(), stack, "CYX"))
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, ome=True) as writer:
        for plane in planes("uint8", 2):
            writer.write(plane, photometric="minisblack", metadata={"axes": "YX"})
    files.append(refuse(family, "two images", buffer.getvalue(), "2 kinds|2 pages"))
    # the same file after another program has changed its pages but not its metadata
    plain = planes("uint8", 4)
    text = written(plain[:2], ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    xml = re.search(rb"<\?xml.*</OME>", text, re.DOTALL)[0] + b"\0"
    for stored in (1, 3, 4):
        pages = [
            Page(page_tags(SIZE, 8, BLACK_IS_ZERO, t259=8), [imagecodecs.zlib_encode(plane.tobytes())])
            for plane in plain[:stored]
        ]
        pages[0].tags[270] = (2, xml)
        views = {(number if stored > 1 else None, 0): to_bgr(plain[number]) for number in range(stored)}
        name = f"{stored} pages, described as 2 channels"
        files.append(GridFile(family, name, write_tiff(pages), views, "", r"pages|channels", pages=stored))
    pages = [
        Page(page_tags(SIZE, 8, number, t259=8), [imagecodecs.zlib_encode((plane if number else ~plane).tobytes())])
        for number, plane in zip((1, 0), plain)
    ]
    pages[0].tags[270] = (2, xml)
    views = {(None, channel): to_bgr(plain[channel - 1]) for channel in (1, 2)}
    files.append(GridFile(family, "channels of white and of black zero", write_tiff(pages), views, ""))
    pages = [
        Page(page_tags(SIZE, 8, 1), [plain[0].tobytes()]),
        Page(page_tags(SIZE, 8, 1, t259=8), [imagecodecs.zlib_encode(plain[1].tobytes())]),
    ]
    pages[0].tags[270] = (2, xml)
    files.append(GridFile(family, "channels of two compressions", write_tiff(pages), views, ""))
    return files


def written_empty() -> bytes:
    tags = page_tags(SIZE, 8, BLACK_IS_ZERO)
    tags |= {273: (4, [0]), 279: (4, [0])}
    return write_tiff([Page(tags, [])])


def damaged() -> list[GridFile]:
    family, files = "TIFF, damaged", []
    cut = r"cut off|not a readable image|cannot be decoded|parts of it are missing|without an image"
    for compression, tiled, dtype in itertools.product(
        (None, "lzw", "deflate", "packbits", "jpeg"), (False, True), ("uint8", "uint16")
    ):
        if compression == "jpeg" and dtype == "uint16":
            continue
        values = numbers(dtype)
        options = {"tile": (16, 16)} if tiled else {"rowsperstrip": 5}
        data = written(values, photometric="minisblack", compression=compression, **options)
        name = f"{compression} {dtype}{' tiled' if tiled else ''}"
        for share in (0.2, 0.5, 0.9):
            files.append(refuse(family, f"{name}, cut to {share:.0%}", data[: int(len(data) * share)], cut))
        files.append(refuse(family, f"{name}, the last 10 bytes missing", data[:-10], cut))
    values = numbers("uint8")
    for compression in (1, 5, 8, 32773):
        encode = {1: bytes, 5: imagecodecs.lzw_encode, 8: imagecodecs.zlib_encode, 32773: imagecodecs.packbits_encode}[
            compression
        ]
        strips = [encode(strip) for strip in strips_of(values, 8, 5)]
        tags = page_tags(SIZE, 8, BLACK_IS_ZERO, 5, t259=compression)
        for name, changed in (
            ("a strip of 0 bytes", [*strips[:2], b"", *strips[3:]]),
            ("the last strip of 0 bytes", [*strips[:-1], b""]),
            ("a strip missing in the list", strips[:-1]),
            ("a strip too short", [*strips[:2], strips[2][: len(strips[2]) // 2], *strips[3:]]),
            ("a strip of noise", [*strips[:2], np.random.default_rng(0).bytes(len(strips[2])), *strips[3:]]),
        ):
            if name == "a strip of noise" and compression in (1, 5, 32773):
                continue  # nobody can see this
            files.append(refuse(family, f"{name}, compression {compression}", write_tiff([Page(tags, changed)]), cut))
        files.append(
            read(family, f"whole, compression {compression}", write_tiff([Page(tags, strips)]), to_bgr(values))
        )
    sparse = written(np.zeros(SIZE, np.uint8), photometric="minisblack", compression="deflate", tile=(16, 16))
    files.append(read(family, "black", sparse, to_bgr(np.zeros(SIZE, np.uint8)), ""))
    tags = page_tags(SIZE, 8, BLACK_IS_ZERO, t322=16, t323=16)
    del tags[278]
    tags |= {324: (4, [0] * 4), 325: (4, [0] * 4)}
    files.append(refuse(family, "sparse", write_tiff([Page(tags, [], tiled=True)]), cut))
    files.append(refuse(family, "sparse, uncompressed", written_empty(), cut))
    good = write_tiff([Page(page_tags(SIZE, 8, BLACK_IS_ZERO), [values.tobytes()])])
    files.append(refuse(family, "header alone", good[:8], cut))
    files.append(refuse(family, "four bytes", good[:4], cut))
    looped = write_tiff(
        [Page(page_tags(SIZE, 8, BLACK_IS_ZERO), [values.tobytes()])], next_of_last=int.from_bytes(good[4:8], "little")
    )
    files.append(read(family, "a directory that follows itself", looped, to_bgr(values), ""))
    for tag, value, cause in (
        (256, 2**31, "pixels"),
        (257, 10**6, "cut off|cannot be decoded"),
        (257, 0, "image"),
        (256, 0, "image"),
        (258, 0, "bits"),
        (277, 60000, "image|samples|decoded|cut off|bits|channels|pixels"),
    ):
        tags = page_tags(SIZE, 8, BLACK_IS_ZERO)
        tags[tag] = (4, [value])
        files.append(refuse(family, f"tag {tag} is {value}", write_tiff([Page(tags, [values.tobytes()])]), cause))
    for tag in (277, 278):
        tags = page_tags(SIZE, 8, BLACK_IS_ZERO) | {tag: (3, [0])}
        files.append(read(family, f"tag {tag} is 0", write_tiff([Page(tags, [values.tobytes()])]), to_bgr(values), ""))
    tags = page_tags(SIZE, [8] * 3, RGB)
    tags[258] = (3, [8])
    color = numbers("uint8", 3)
    files.append(
        read(
            family,
            "one number of bits for three samples",
            write_tiff([Page(tags, [color.tobytes()])]),
            to_bgr(color),
            "",
        )
    )
    tags = page_tags(SIZE, 8, WHITE_IS_ZERO)
    tags[273] = (4, [2**31])
    files.append(refuse(family, "an offset beyond the end", write_tiff([Page(tags, [values.tobytes()])]), cut))
    return files


@functools.cache
def all_stacks() -> list[GridFile]:
    """Return all files of this module."""
    return [*plain_pages(), *imagej(), *ome(), *damaged()]
