# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Files of other formats than TIFF with the pixels that they were written from."""

import functools
import io
import itertools
import struct
import zlib

import cv2
import imagecodecs
import numpy as np
from PIL import Image

from helpers.image_grid import (
    HEIGHT,
    WIDTH,
    GridFile,
    blobs,
    numbers,
    read,
    refuse,
    small_numbers,
    spread,
    stored_as,
    to_bgr,
)
from helpers.tiff_grid import tolerance_of
from helpers.tiff_writer import pack_rows

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6  # color types of PNG
ADAM7 = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
# Pillow and OpenCV decode JPEG with two copies of libjpeg-turbo, which may round in other ways
SAME_DECODER = 3
JPEG_TOLERANCE, HALVED_COLORS_TOLERANCE = 24, 70  # see tiff_grid.py; of quality 90 and more


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def packed(values: np.ndarray, bits: int) -> bytes:
    """Return rows of PNG, each with filter 0, of values (H, W) or (H, W, samples)."""
    flat = values.reshape(len(values), -1)
    return b"".join(b"\0" + pack_rows(flat[row : row + 1], bits) for row in range(len(flat)))


def png(
    values: np.ndarray, bits: int, color: int, interlaced: bool = False, before: bytes = b"", after: bytes = b""
) -> bytes:
    """Return a PNG of values (H, W) or (H, W, samples), with chunks before and after the pixels."""
    height, width = values.shape[:2]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, int(interlaced)))
    passes = [values[top::down, left::right] for top, down, left, right in ADAM7] if interlaced else [values]
    content = b"".join(packed(part, bits) for part in passes if part.size)
    pixels = chunk(b"IDAT", zlib.compress(content))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND", b"")


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def by_opencv(extension: str, values: np.ndarray, *parameters: int) -> bytes:
    """Return a file that OpenCV writes from gray, RGB or RGBA."""
    bgr = values if values.ndim == 2 else np.ascontiguousarray(values[..., [2, 1, 0, 3][: values.shape[2]]])
    return cv2.imencode(extension, bgr, list(parameters))[1].tobytes()


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[274] = orientation
    return found.tobytes()


def pngs() -> list[GridFile]:
    family, files = "PNG", []

    def add(name: str, data: bytes, expected: np.ndarray, must: str = "read", tolerance: int = 0) -> None:
        files.append(read(family, name, data, expected, must, tolerance=tolerance, extension=".png"))

    for bits, interlaced in itertools.product((1, 2, 4, 8, 16), (False, True)):
        values = small_numbers(bits) if bits < 16 else numbers("uint16")
        expected = to_bgr(spread(values, bits) if bits <= 8 else values)
        shade = struct.pack(">H", int(values[3, 3]))  # transparent
        ending = f"{bits} bits{', interlaced' if interlaced else ''}"
        tolerance = int(bits > 8)
        add(f"gray {ending}", png(values, bits, GRAY, interlaced), expected, tolerance=tolerance)
        data = png(values, bits, GRAY, interlaced, chunk(b"tRNS", shade))
        add(f"gray, a transparent shade, {ending}", data, expected, tolerance=tolerance)
        if bits <= 8:
            table = np.random.default_rng(bits).integers(0, 256, (2**bits, 3)).astype(np.uint8)
            expected = to_bgr(table[values])
            for opaque in (None, bytes(range(1 + 2**bits // 2)), bytes(2**bits), b"\xff" * 2**bits):
                chunks = chunk(b"PLTE", table.tobytes()) + (chunk(b"tRNS", opaque) if opaque else b"")
                data = png(values, bits, PALETTE, interlaced, chunks)
                kind = "" if opaque is None else f", {sum(opaque) and len(opaque)} transparent {min(opaque)}"
                add(f"palette{kind} {ending}", data, expected)
            table = np.repeat(table[:, :1], 3, axis=1)
            data = png(values, bits, PALETTE, interlaced, chunk(b"PLTE", table.tobytes()))
            add(f"gray palette {ending}", data, to_bgr(table[values]))
        if bits >= 8:
            dtype = f"uint{bits}"
            for color, samples in ((RGB, 3), (GRAY_ALPHA, 2), (RGBA, 4)):
                values = numbers(dtype, samples, seed=2)
                shown = values[..., 0] if samples == 2 else values[..., :3]
                name = {RGB: "RGB", GRAY_ALPHA: "gray and alpha", RGBA: "RGBA"}[color]
                add(f"{name} {ending}", png(values, bits, color, interlaced), to_bgr(shown), tolerance=tolerance)
                if color == RGB:
                    shade = struct.pack(">HHH", *values[3, 3].tolist())
                    data = png(values, bits, color, interlaced, chunk(b"tRNS", shade))
                    add(f"RGB, a transparent color, {ending}", data, to_bgr(shown), tolerance=tolerance)
    gray, color = numbers("uint8"), numbers("uint8", 3)
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200)))
    for name, extra in (
        ("gamma 1", chunk(b"gAMA", struct.pack(">I", 100000))),
        ("gamma 0.45", chunk(b"gAMA", struct.pack(">I", 45455))),
        ("sRGB", chunk(b"sRGB", b"\0")),
        ("a damaged profile", profile),
        ("significant bits", chunk(b"sBIT", b"\4\4\4")),
        ("a background", chunk(b"bKGD", bytes(6))),
        ("text", chunk(b"tEXt", b"Comment\0hello")),
        ("non-square pixels", chunk(b"pHYs", struct.pack(">IIB", 100, 300, 0))),
    ):
        add(f"with {name}", png(color, 8, RGB, before=extra), to_bgr(color))
    for values, name in (
        (gray, "gray"),
        (color, "RGB"),
        (numbers("uint16"), "16 bits"),
        (numbers("uint16", 3), "RGB 16 bits"),
    ):
        add(f"OpenCV {name}", by_opencv(".png", values), to_bgr(values), tolerance=tolerance_of(values))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = {
            "1": Image.fromarray(gray > 99),
            "L": Image.fromarray(gray),
            "I;16": Image.fromarray(numbers("uint16")),
            "P": Image.fromarray(color).quantize(40),
            "LA": Image.merge("LA", [Image.fromarray(color[..., 0]), Image.fromarray(gray)]),
            "RGB": Image.fromarray(color),
            "RGBA": Image.fromarray(numbers("uint8", 4)),
        }[mode]
        shown = {
            "1": gray > 99,
            "L": gray,
            "I;16": numbers("uint16"),
            "P": np.asarray(image.convert("RGB")),
            "LA": color[..., 0],
            "RGB": color,
            "RGBA": numbers("uint8", 4)[..., :3],
        }[mode]
        add(f"Pillow {mode}", saved(image, "PNG"), to_bgr(shown), tolerance=tolerance_of(shown))
    for number in range(1, 9):
        stored = stored_as(color, number)
        tiff = exif(number).removeprefix(b"Exif\0\0")
        add(f"orientation {number}", png(stored, 8, RGB, before=chunk(b"eXIf", tiff)), to_bgr(color))
        add(f"orientation {number} after the pixels", png(stored, 8, RGB, after=chunk(b"eXIf", tiff)), to_bgr(color))
    add("damaged eXIf", png(color, 8, RGB, before=chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")), to_bgr(color))
    for suffix in (".jpg", ".tif", ".bmp"):
        files.append(read(family, f"named {suffix}", png(color, 8, RGB), to_bgr(color), extension=suffix))
    frames = [Image.fromarray(numbers("uint8", 3, seed)) for seed in range(3)]
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=50)
    files.append(refuse(family, "animated", data, "animation of 3 frames", extension=".png"))
    control = struct.pack(">IIIIIHHBB", 0, WIDTH, HEIGHT, 0, 0, 1, 10, 0, 0)
    one = chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(b"fcTL", control)
    add("an animation of one frame", png(color, 8, RGB, before=one), to_bgr(color), "")
    for bits, color_type in ((3, GRAY), (16, PALETTE), (4, RGB), (8, 5), (32, GRAY)):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, color_type, 0, 0, 0))
        data = png(gray, 8, GRAY)
        data = data[:8] + header + data[33:]
        files.append(refuse(family, f"{bits} bits with color type {color_type}", data, NOT_READABLE, extension=".png"))
    files.append(refuse(family, "palette without a table", png(gray, 8, PALETTE), NOT_READABLE, extension=".png"))
    add(
        "palette shorter than its numbers",
        png(gray % 16, 8, PALETTE, before=chunk(b"PLTE", bytes(range(48)))),
        to_bgr(np.arange(48, dtype=np.uint8).reshape(16, 3)[gray % 16]),
        "",
    )
    return files + cut_files(
        family,
        ".png",
        {
            "gray": png(gray, 8, GRAY),
            "RGB": png(color, 8, RGB),
            "interlaced": png(color, 8, RGB, True),
            "palette": saved(Image.fromarray(color).quantize(40), "PNG"),
            "16 bits": by_opencv(".png", numbers("uint16")),
        },
    )


NOT_READABLE = "not a readable image|an empty file|cut off"


def cut_files(family: str, extension: str, whole: dict[str, bytes]) -> list[GridFile]:
    """Return each file cut off at several places."""
    files = []
    for name, data in whole.items():
        for share in (0.1, 0.3, 0.6, 0.9):
            cut = data[: int(len(data) * share)]
            files.append(refuse(family, f"{name}, cut to {share:.0%}", cut, NOT_READABLE, extension=extension))
        for count in (1, 2, 20) if extension not in (".gif", ".bmp") else ():  # their last bytes hold no pixels
            cut = data[:-count]
            files.append(refuse(family, f"{name}, {count} bytes missing", cut, NOT_READABLE, extension=extension))
    files.append(refuse(family, "0 bytes", b"", "empty file", extension=extension))
    files.append(refuse(family, "8 bytes", next(iter(whole.values()))[:8], NOT_READABLE, extension=extension))
    files.append(refuse(family, "zeros", bytes(500), NOT_READABLE, extension=extension))
    return files


def jpegs() -> list[GridFile]:
    family, files = "JPEG", []
    gray, color = numbers("uint8", seed=3), numbers("uint8", 3, seed=3)

    def add(name: str, data: bytes, values: np.ndarray, tolerance: int, must: str = "read", **fields) -> None:
        files.append(read(family, name, data, to_bgr(values), must, tolerance=tolerance, extension=".jpg", **fields))

    def decoded(data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    for quality, progressive in itertools.product((30, 75, 90, 100), (False, True)):
        ending = f"quality {quality}{', progressive' if progressive else ''}"
        data = saved(Image.fromarray(gray), "JPEG", quality=quality, progressive=progressive)
        add(f"gray, {ending}", data, decoded(data), SAME_DECODER)
        if quality >= 90:
            add(f"gray as written, {ending}", data, gray, JPEG_TOLERANCE)
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            data = saved(
                Image.fromarray(color), "JPEG", quality=quality, progressive=progressive, subsampling=subsampling
            )
            add(f"{subsampling}, {ending}", data, decoded(data), SAME_DECODER)
            if quality >= 90:
                tolerance = JPEG_TOLERANCE if subsampling == "4:4:4" else HALVED_COLORS_TOLERANCE
                add(f"{subsampling} as written, {ending}", data, color, tolerance)
    for factor in (0x411111, 0x441111, 0x121111):
        try:
            data = by_opencv(".jpg", color, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)
        except cv2.error:
            continue
        add(f"OpenCV, sampling {factor:x}", data, decoded(data), SAME_DECODER)
    data = by_opencv(".jpg", color, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
    add("restart markers", data, decoded(data), SAME_DECODER)
    data = saved(Image.fromarray(color), "JPEG", quality=95, keep_rgb=True)
    add("RGB without YCbCr", data, color, JPEG_TOLERANCE)
    for number in range(1, 9):
        upright = (
            blobs(30, 3) * 0 + np.linspace(0, 1, WIDTH)[None, :, None] * np.linspace(0.2, 1, HEIGHT)[:, None, None]
        ) * 255
        upright = upright.round().astype(np.uint8)
        data = saved(Image.fromarray(stored_as(upright, number)), "JPEG", quality=95, exif=exif(number))
        add(f"orientation {number}", data, upright, JPEG_TOLERANCE)
        gray_upright = upright[..., 0]
        data = saved(Image.fromarray(stored_as(gray_upright, number)), "JPEG", quality=95, exif=exif(number))
        add(f"gray, orientation {number}", data, gray_upright, JPEG_TOLERANCE)
    damaged = saved(Image.fromarray(color), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    add("damaged EXIF", damaged, decoded(damaged), SAME_DECODER)
    first, second = Image.fromarray(color), Image.fromarray(numbers("uint8", 3, seed=4))
    data = saved(first, "MPO", save_all=True, append_images=[second], quality=95)
    add("MPO with a second picture", data, decoded(data), SAME_DECODER)
    small = saved(second.resize((16, 12)), "JPEG")
    data = saved(first, "JPEG", quality=95)
    app = b"\xff\xe2" + struct.pack(">H", len(small) + 8) + b"thumb\0" + small
    add("with a thumbnail", data[:2] + app + data[2:], decoded(data), SAME_DECODER)
    add("followed by other data", data + b"\0" * 500, decoded(data), SAME_DECODER)
    cmyk = first.convert("CMYK")
    files.append(refuse(family, "CMYK", saved(cmyk, "JPEG", quality=95), "CMYK.*made for print", extension=".jpg"))
    ycck = imagecodecs.jpeg8_encode(np.asarray(cmyk), level=95, colorspace="CMYK", outcolorspace="YCCK")
    files.append(refuse(family, "YCCK", ycck, "CMYK.*made for print|YCCK", extension=".jpg"))
    deep = (blobs(3) * 4095).astype(np.uint16)
    files.append(
        refuse(
            family,
            "12 bits",
            imagecodecs.jpeg8_encode(deep, level=100, bitspersample=12),
            NOT_READABLE,
            extension=".jpg",
        )
    )
    lossless = imagecodecs.jpeg8_encode(gray, lossless=True)
    add("lossless", lossless, gray, 0, "", cause=NOT_READABLE)
    for suffix in (".png", ".tif"):
        files.append(
            read(family, f"named {suffix}", data, to_bgr(decoded(data)), tolerance=SAME_DECODER, extension=suffix)
        )
    whole = {
        "gray": saved(Image.fromarray(gray), "JPEG"),
        "color": data,
        "progressive": saved(first, "JPEG", progressive=True),
    }
    return files + cut_files(family, ".jpg", whole)


def bmp(header: bytes, table: bytes, rows: bytes) -> bytes:
    offset = 14 + len(header) + len(table)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + table + rows


def bmp_header(bits: int, compression: int = 0, height: int = HEIGHT, size: int = 0, colors: int = 0) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, compression, size, 0, 0, colors, 0)


def bmp_rows(packed_rows: list[bytes]) -> bytes:
    """Return rows, each filled up to 4 bytes, the lowest first."""
    return b"".join(row + bytes(-len(row) % 4) for row in packed_rows[::-1])


def bmps() -> list[GridFile]:
    family, files = "BMP", []

    def add(name: str, data: bytes, values: np.ndarray, must: str = "read", tolerance: int = 0) -> None:
        files.append(read(family, name, data, to_bgr(values), must, tolerance=tolerance, extension=".bmp"))

    for bits in (1, 4, 8):
        values = small_numbers(bits)
        for name, table in (
            ("colors", np.random.default_rng(bits).integers(0, 256, (2**bits, 3))),
            ("gray", np.linspace(0, 255, 2**bits)[:, None].round() * [1, 1, 1]),
            ("white first", 255 - np.linspace(0, 255, 2**bits)[:, None].round() * [1, 1, 1]),
        ):
            table = table.astype(np.uint8)
            stored = b"".join(bytes([*row[::-1].tolist(), 0]) for row in table)
            rows = [pack_rows(values[row : row + 1], bits) for row in range(HEIGHT)]
            add(f"{bits} bits, {name}", bmp(bmp_header(bits), stored, bmp_rows(rows)), table[values])
            data = bmp(bmp_header(bits, height=-HEIGHT), stored, bmp_rows(rows[::-1]))
            add(f"{bits} bits, {name}, top down", data, table[values])
            old = b"".join(bytes(row[::-1].tolist()) for row in table)
            data = bmp(struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits), old, bmp_rows(rows))
            add(f"{bits} bits, {name}, OS/2", data, table[values])
    values = small_numbers(4)
    table = np.random.default_rng(3).integers(0, 256, (16, 3)).astype(np.uint8)
    stored = b"".join(bytes([*row[::-1].tolist(), 0]) for row in table)
    rows = [pack_rows(values[row : row + 1], 4) for row in range(HEIGHT)]
    add("4 bits, a count of colors", bmp(bmp_header(4, colors=16), stored, bmp_rows(rows)), table[values])
    few = values % 5
    rows = [pack_rows(few[row : row + 1], 4) for row in range(HEIGHT)]
    add("4 bits, 5 colors", bmp(bmp_header(4, colors=5), stored[:20], bmp_rows(rows)), table[few])
    for bits, first in ((1, 0), (4, 0), (8, 0), (1, 255), (4, 255), (8, 255)):
        two = (small_numbers(4) > 7).astype(np.uint8)
        table = np.array([[first] * 3, [255 - first] * 3], np.uint8)
        stored = bytes([*[first] * 3, 0, *[255 - first] * 3, 0])
        rows = [pack_rows(two[row : row + 1], bits) for row in range(HEIGHT)]
        add(
            f"{bits} bits, 2 colors, {first} first", bmp(bmp_header(bits, colors=2), stored, bmp_rows(rows)), table[two]
        )
    color = numbers("uint8", 3)
    rows = [color[row, :, ::-1].tobytes() for row in range(HEIGHT)]
    add("24 bits", bmp(bmp_header(24), b"", bmp_rows(rows)), color)
    add("24 bits, top down", bmp(bmp_header(24, height=-HEIGHT), b"", bmp_rows(rows[::-1])), color)
    for name, unused in (
        ("0", np.zeros((HEIGHT, WIDTH), np.uint8)),
        ("255", np.full((HEIGHT, WIDTH), 255, np.uint8)),
        ("alpha", numbers("uint8")),
    ):
        four = np.dstack([color[..., ::-1], unused])
        rows = [four[row].tobytes() for row in range(HEIGHT)]
        add(f"32 bits, fourth byte {name}", bmp(bmp_header(32), b"", bmp_rows(rows)), color)
        masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
        add(f"32 bits with masks, fourth byte {name}", bmp(bmp_header(32, 3), masks, bmp_rows(rows)), color, "")
        other = np.dstack([unused, color])  # the lowest byte is unused, then red, green and blue
        rows = [other[row].tobytes() for row in range(HEIGHT)]
        masks = struct.pack("<III", 0xFF00, 0xFF0000, 0xFF000000)
        add(f"32 bits with other masks, unused {name}", bmp(bmp_header(32, 3), masks, bmp_rows(rows)), color, "")
    for name, bits, compression, masks in (
        ("555", (5, 5, 5), 0, b""),
        ("555 with masks", (5, 5, 5), 3, struct.pack("<III", 0x7C00, 0x3E0, 0x1F)),
        ("565", (5, 6, 5), 3, struct.pack("<III", 0xF800, 0x7E0, 0x1F)),
        ("444", (4, 4, 4), 3, struct.pack("<III", 0xF00, 0xF0, 0xF)),
    ):
        parts = [small_numbers(count, seed=seed).astype(np.uint16) for seed, count in enumerate(bits)]
        joined = (parts[0] << (bits[1] + bits[2])) | (parts[1] << bits[2]) | parts[2]
        shown = np.dstack([spread(part, count) for part, count in zip(parts, bits)])
        rows = [joined[row].astype("<u2").tobytes() for row in range(HEIGHT)]
        add(
            f"16 bits {name}",
            bmp(bmp_header(16, compression), masks, bmp_rows(rows)),
            shown,
            "" if name == "444" else "read",
            tolerance=1,
        )
    for bits, compression in ((8, 1), (4, 2)):
        values = small_numbers(bits) // (16 if bits == 8 else 1)
        table = np.random.default_rng(4).integers(0, 256, (2**bits, 3)).astype(np.uint8)
        stored = b"".join(bytes([*row[::-1].tolist(), 0]) for row in table)
        for absolute in (False, True):
            encoded = b"".join(run_lengths(row, bits, absolute) + b"\0\0" for row in values[::-1].tolist()) + b"\0\1"
            data = bmp(bmp_header(bits, compression, size=len(encoded)), stored, encoded)
            add(f"run lengths {bits} bits{', literal' if absolute else ''}", data, table[values], "")
    for values, name in ((numbers("uint8"), "gray"), (color, "RGB"), (numbers("uint8", 4), "RGBA")):
        add(f"OpenCV {name}", by_opencv(".bmp", values), values[..., :3] if values.ndim == 3 else values)
    for name, image, shown in (
        ("1", Image.fromarray(numbers("bool")), numbers("bool")),
        ("L", Image.fromarray(numbers("uint8")), numbers("uint8")),
        ("RGB", Image.fromarray(color), color),
        ("RGBA", Image.fromarray(numbers("uint8", 4)), numbers("uint8", 4)[..., :3]),
    ):
        add(f"Pillow {name}", saved(image, "BMP"), shown)
    return files + cut_files(
        family, ".bmp", {"24 bits": by_opencv(".bmp", color), "8 bits": by_opencv(".bmp", color[..., 0])}
    )


def run_lengths(row: list[int], bits: int, absolute: bool) -> bytes:
    """Return a row in BMP's run lengths; absolute: as numbers that stand by themselves, if possible."""
    if absolute:
        content = pack_rows(np.array([row]), bits)
        return bytes([0, len(row)]) + content + bytes(len(content) % 2)
    found = b""
    for value, group in itertools.groupby(row):
        found += bytes([len(list(group)), value * 17 if bits == 4 else value])
    return found


def other_formats() -> list[GridFile]:
    gray, color, four = numbers("uint8"), numbers("uint8", 3), numbers("uint8", 4)
    images = {"gray": gray, "RGB": color, "RGBA": four}
    files = []
    for name, values in images.items():  # WebP
        shown = values[..., :3] if name == "RGBA" else values
        # exact: the colors of transparent pixels are kept
        data = saved(Image.fromarray(values), "WEBP", lossless=True, exact=True)
        files.append(read("WebP", f"lossless {name}", data, to_bgr(shown), extension=".webp"))
        data = saved(Image.fromarray(values), "WEBP", quality=95)
        expected = to_bgr(np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., :3])
        files.append(read("WebP", f"lossy {name}", data, expected, tolerance=SAME_DECODER, extension=".webp"))
    for number in range(1, 9):
        data = saved(Image.fromarray(stored_as(color, number)), "WEBP", lossless=True, exif=exif(number))
        files.append(read("WebP", f"orientation {number}", data, to_bgr(color), extension=".webp"))
    frames = [Image.fromarray(numbers("uint8", 3, seed)) for seed in range(3)]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    files.append(refuse("WebP", "animated", data, "animation of 3 frames", extension=".webp"))
    files += cut_files(
        "WebP", ".webp", {"lossless": saved(frames[0], "WEBP", lossless=True), "lossy": saved(frames[0], "WEBP")}
    )
    for count in (2, 3, 16, 200, 256):  # GIF
        for interlaced in (False, True):
            image = frames[0].quantize(count)
            data = saved(image, "GIF", interlace=int(interlaced))
            name = f"{count} colors{', interlaced' if interlaced else ''}"
            files.append(read("GIF", name, data, to_bgr(np.asarray(image.convert("RGB"))), extension=".gif"))
    for interlaced in (False, True):
        data = saved(Image.fromarray(gray), "GIF", interlace=int(interlaced))
        files.append(read("GIF", f"gray{', interlaced' if interlaced else ''}", data, to_bgr(gray), extension=".gif"))
    image = frames[0].quantize(64)
    data = saved(image, "GIF", transparency=5)
    assert (np.asarray(image) == 5).any()
    files.append(read("GIF", "a transparent color", data, to_bgr(np.asarray(image.convert("RGB"))), extension=".gif"))
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    files.append(refuse("GIF", "animated", data, "animation of 3 frames", extension=".gif"))
    files += cut_files("GIF", ".gif", {"64 colors": saved(image, "GIF")})
    for dtype, samples in itertools.product(("uint8", "uint16", "int8", "int16"), (1, 2, 3, 4)):  # JPEG 2000
        values = numbers(dtype, samples)
        shown = values if samples == 1 else values[..., 0] if samples == 2 else values[..., :3]
        for container in ("jp2", "j2k"):
            try:
                data = imagecodecs.jpeg2k_encode(values, codecformat=container, reversible=True, level=0)
            except Exception:
                continue
            must = "read" if dtype in ("uint8", "uint16") and samples in (1, 3) and container == "jp2" else ""
            name = f"{container} {dtype} {samples} samples"
            files.append(
                read("JPEG 2000", name, data, to_bgr(shown), must, tolerance=tolerance_of(values), extension=".jp2")
            )
    for mode, values in (
        ("L", gray),
        ("RGB", color),
        ("RGBA", four),
        ("LA", four[..., :2]),
        ("I;16", numbers("uint16")),
    ):
        image = Image.fromarray(values, mode) if mode == "LA" else Image.fromarray(values)
        shown = values[..., :3] if mode == "RGBA" else values[..., 0] if mode == "LA" else values
        data = saved(image, "JPEG2000", irreversible=False)
        tolerance = tolerance_of(values)
        files.append(
            read("JPEG 2000", f"Pillow {mode}", data, to_bgr(shown), "", tolerance=tolerance, extension=".jp2")
        )
    for bits in (1, 4, 10, 12):
        values = small_numbers(bits)
        try:
            data = imagecodecs.jpeg2k_encode(values, codecformat="jp2", reversible=True, level=0, bitspersample=bits)
        except Exception:
            continue
        expected = to_bgr(values if bits > 8 else spread(values, bits))
        files.append(read("JPEG 2000", f"{bits} bits", data, expected, "", tolerance=1, extension=".jp2"))
    data = imagecodecs.jpeg2k_encode(color, codecformat="jp2", reversible=True, level=0)
    files += cut_files("JPEG 2000", ".jp2", {"RGB": data})
    return files


def pnm(values: np.ndarray, kind: int, maximum: int, comment: str = "") -> bytes:
    """Return a PBM, PGM or PPM of gray or RGB: P1 to P3 hold text, P4 to P6 bytes."""
    height, width = values.shape[:2]
    start = f"P{kind}\n{comment}{width} {height}\n{'' if kind in (1, 4) else f'{maximum}{chr(10)}'}".encode()
    if kind == 4:
        return start + np.packbits(~values, axis=1).tobytes()
    if kind == 1:
        values = ~values
    if kind <= 3:
        return (
            start + "".join(" ".join(map(str, row)) + "\n" for row in values.reshape(height, -1).astype(int)).encode()
        )
    return start + values.astype(">u2" if maximum > 255 else np.uint8).tobytes()


def pnms() -> list[GridFile]:
    family, files, marks = "PNM", [], numbers("bool")

    def add(name: str, data: bytes, values: np.ndarray, extension: str) -> None:
        tolerance = int(values.dtype == np.uint16 or "maximum 100" in name)  # halves may be rounded up or down
        files.append(read(family, name, data, to_bgr(values), tolerance=tolerance, extension=extension))

    for kind in (1, 4):
        add(f"P{kind}", pnm(marks, kind, 1), marks, ".pbm")
        add(f"P{kind}, a comment", pnm(marks, kind, 1, "# made by a program\n"), marks, ".pbm")
    dense = b"P1\n%d %d\n" % marks.shape[::-1] + b"".join(
        (48 + ~row).astype(np.uint8).tobytes() + b"\n" for row in marks
    )
    add("P1 without blanks", dense, marks, ".pbm")
    for kind, maximum in itertools.product((2, 3, 5, 6), (1, 3, 15, 100, 254, 255, 256, 1023, 4095, 40000, 65535)):
        values = blobs(kind, 3 if kind in (3, 6) else 1) * maximum
        values = values.round().astype(np.uint8 if maximum <= 255 else np.uint16)
        shown = np.floor(values * (255 / maximum) + 0.5).astype(np.uint8) if maximum < 255 else values
        extension = ".ppm" if kind in (3, 6) else ".pgm"
        add(f"P{kind}, maximum {maximum}", pnm(values, kind, maximum), shown, extension)
        data = pnm(values, kind, maximum, "# made by a program\n")
        add(f"P{kind}, maximum {maximum}, a comment", data, shown, extension)
    gray, color = numbers("uint8"), numbers("uint8", 3)
    for extension, values in ((".pgm", gray), (".ppm", color), (".pnm", color), (".pgm", numbers("uint16"))):
        add(f"OpenCV {extension} {values.dtype}", by_opencv(extension, values), values, extension)
    for name, image, shown in (
        ("1", Image.fromarray(marks), marks),
        ("L", Image.fromarray(gray), gray),
        ("RGB", Image.fromarray(color), color),
        ("I;16", Image.fromarray(numbers("uint16")), numbers("uint16")),
    ):
        add(f"Pillow {name}", saved(image, "PPM"), shown, ".pnm")
    for name, data in (
        ("maximum 0", pnm(gray, 5, 0)),
        ("maximum 70000", pnm(gray, 5, 70000)),
        ("CMYK", b"P0CMYK\n4 2\n255\n" + bytes(32)),
        ("RGBA of Pillow", b"PyRGBA\n4 2\n255\n" + bytes(32)),
        ("floats", b"Pf\n4 2\n-1.0\n" + bytes(32)),
        ("PAM", b"P7\nWIDTH 4\nHEIGHT 2\nDEPTH 1\nMAXVAL 255\nTUPLTYPE GRAYSCALE\nENDHDR\n" + bytes(8)),
        ("a number above the maximum", pnm(gray, 2, 15)),
    ):
        files.append(refuse(family, name, data, NOT_READABLE + "|CMYK.*made for print", extension=".pnm"))
    whole = {f"P{kind}": pnm(color if kind == 6 else gray, kind, 255) for kind in (5, 6)}
    whole |= {"P4": pnm(marks, 4, 1), "P5, maximum 15": pnm(small_numbers(4), 5, 15)}
    return files + cut_files(family, ".pnm", whole)


def foreign_formats() -> list[GridFile]:
    """Files of formats that are not supported."""
    family, files = "other formats", []
    color, gray = numbers("uint8", 3), numbers("uint8")
    image = Image.fromarray(color)
    contents = {
        f"{format} by Pillow": saved(image, format)
        for format in ("PCX", "TGA", "ICO", "SGI", "DDS", "IM", "PDF", "EPS", "AVIF", "ICNS", "QOI")
    }
    for extension in (".pfm", ".hdr", ".pic", ".sr", ".ras", ".exr", ".avif"):
        try:
            values = color.astype(np.float32) if extension in (".pfm", ".hdr", ".exr") else color
            contents[f"{extension} by OpenCV"] = by_opencv(extension, values)
        except cv2.error:
            continue
    contents |= {
        "JPEG XL": imagecodecs.jpegxl_encode(color),
        "JPEG LS": imagecodecs.jpegls_encode(gray),
        "JPEG XR": imagecodecs.jpegxr_encode(color),
        "NumPy": b"\x93NUMPY\x01\0" + bytes(300),
        "text": b"hello, I am a text\n" * 20,
        "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "zip": b"PK\3\4" + bytes(200),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(300),
        "DICOM": bytes(128) + b"DICM" + bytes(200),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"></svg>',
        "NIfTI": struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(100),
        "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "Olympus OIB": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    }
    for name, data in contents.items():
        files.append(refuse(family, name, data, NOT_READABLE, extension=".png"))
    return files


@functools.cache
def all_formats() -> list[GridFile]:
    """Return all files of this module."""
    return [*pngs(), *jpegs(), *bmps(), *other_formats(), *pnms(), *foreign_formats()]
