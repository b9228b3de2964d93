# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""TIFF files of many layouts with the pixels that they were written from."""

import functools
import io
import itertools

import cv2
import imagecodecs
import numpy as np
import tifffile
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
from helpers.tiff_writer import Page, pack_rows, page_tags, strips_of, write_tiff

SIZE = (HEIGHT, WIDTH)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
LOSSLESS = ("lzw", "deflate", "packbits", "zstd", "lzma", "jpeg2000", "png", "webp", "lerc", "jpegxl", "jetraw")
# Of 255: a JPEG of quality 95 differs from these noisy pictures by 20 at most if its colors are stored in full, and
# by 60 if they are halved. An inverted, turned or shifted picture differs by more than 100.
JPEG_TOLERANCE, HALVED_COLORS_TOLERANCE = 24, 70


def written(values: np.ndarray, **options) -> bytes:
    """Return a TIFF that tifffile writes."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def tolerance_of(values: np.ndarray) -> int:
    """Stretched numbers may differ by 1 because of rounding."""
    return 0 if values.dtype in (np.uint8, bool) else 1


def gray_or_rgb(family: str, name: str, values: np.ndarray, must: str = "read", **options) -> GridFile:
    """Return a TIFF that tifffile writes from gray (H, W) or RGB (H, W, 3)."""
    options.setdefault("photometric", "minisblack" if values.ndim == 2 else "rgb")
    data = written(np.moveaxis(values, 2, 0) if options.get("planarconfig") == "separate" else values, **options)
    return read(family, name, data, to_bgr(values), must, tolerance=tolerance_of(values))


def kinds_of_number() -> list[GridFile]:
    family, files = "TIFF, kinds of number", []
    for dtype, color, order in itertools.product(
        ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"),
        ("gray", "RGB", "RGB in planes"),
        "<>",
    ):
        values = numbers(dtype, 1 if color == "gray" else 3)
        options = {"planarconfig": "separate"} if "planes" in color else {}
        name = f"{dtype} {color} {'little' if order == '<' else 'big'} endian"
        files.append(gray_or_rgb(family, name, values, byteorder=order, rowsperstrip=5, **options))
    for bigtiff, tiled in itertools.product((False, True), repeat=2):
        name = f"bool{' BigTIFF' if bigtiff else ''}{' tiled' if tiled else ''}"
        options = {"tile": (16, 16)} if tiled else {"rowsperstrip": 7}
        files.append(gray_or_rgb(family, name, numbers("bool"), bigtiff=bigtiff, **options))
    for dtype in ("complex64", "complex128"):
        values = (blobs(0) + 1j * blobs(1)).astype(dtype)
        files.append(refuse(family, dtype, written(values, photometric="minisblack"), "complex"))
    for special in (np.nan, np.inf, -np.inf):
        values = numbers("float32").copy()
        values[3, 4:7] = special
        files.append(gray_or_rgb(family, f"float32 with {special}", values))
    for constant in ("uint16", "float32", "int16"):
        files.append(gray_or_rgb(family, f"constant {constant}", np.full(SIZE, 7, constant)))
    for special in (np.nan, np.inf, -np.inf):
        files.append(gray_or_rgb(family, f"only {special}", np.full(SIZE, special, np.float32)))
        constant = np.full(SIZE, 7, np.float32)
        constant[3, 3] = special
        files.append(gray_or_rgb(family, f"constant and {special}", constant))
    for dtype in ("uint16", "float32", "int32"):
        spots = np.zeros(SIZE, dtype)
        spots[4:20:6, 5:25:7] = 100 * np.arange(1, 10).reshape(3, 3)
        files.append(gray_or_rgb(family, f"spots of one pixel on 0, {dtype}", spots))
    hot = numbers("uint16").copy()
    hot[5, 5] = 65535
    files.append(gray_or_rgb(family, "uint16 with a hot pixel", hot))
    return files


def packed_bits() -> list[GridFile]:
    """Numbers of other sizes than whole bytes, which only the writer of this folder packs."""
    family, files = "TIFF, packed bits", []
    for bits, order, samples in itertools.product((1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 14), "<>", (1, 3)):
        values = small_numbers(bits, samples)
        tags = page_tags(SIZE, [bits] * samples, BLACK_IS_ZERO if samples == 1 else RGB, rows=7, t284=1)
        data = write_tiff([Page(tags, strips_of(values, bits, 7))], order)
        expected = to_bgr(spread(values, bits) if bits < 8 else values)
        name = f"{bits} bits, {samples} samples, {'little' if order == '<' else 'big'} endian"
        must = "read" if samples == 1 and bits in (1, 2, 4, 12) else ""
        files.append(read(family, name, data, expected, must, tolerance=int(bits > 8)))
    for bits in (1, 2, 4, 8, 12, 16):
        values = small_numbers(bits)
        stored = (2**bits - 1) - values
        expected = to_bgr(spread(values, bits) if bits < 8 else values)
        order = "<" if bits != 16 else ">"  # the packing is big endian
        data = write_tiff([Page(page_tags(SIZE, bits, WHITE_IS_ZERO, 7), strips_of(stored, bits, 7))], order)
        files.append(read(family, f"{bits} bits, white is zero", data, expected, tolerance=int(bits > 8)))
    for bits in (1, 2, 4, 8, 12, 16):
        values = small_numbers(bits)
        strips = [reverse_bits(strip) for strip in strips_of(values, bits, 7)]
        expected = to_bgr(spread(values, bits) if bits < 8 else values)
        data = write_tiff([Page(page_tags(SIZE, bits, BLACK_IS_ZERO, 7, t266=2), strips)], ">")
        must = "read" if bits in (1, 8) else ""
        files.append(read(family, f"{bits} bits, fill order 2", data, expected, must, tolerance=int(bits > 8)))
    for bits in (4, 8, 16):  # planes
        values = small_numbers(bits, 3)
        tags = page_tags(SIZE, [bits] * 3, RGB, 7, t284=2)
        strips = [strip for plane in range(3) for strip in strips_of(values[..., plane], bits, 7)]
        expected = to_bgr(spread(values, bits) if bits < 8 else values)
        data = write_tiff([Page(tags, strips)], ">")
        files.append(read(family, f"{bits} bits, RGB in planes", data, expected, "", tolerance=int(bits > 8)))
    values = np.dstack([small_numbers(bits, seed=bits) for bits in (5, 6, 5)])
    packed = (values[..., 0].astype(np.uint16) << 11) | (values[..., 1].astype(np.uint16) << 5) | values[..., 2]
    spread_values = np.dstack([spread(values[..., sample], bits) for sample, bits in enumerate((5, 6, 5))])
    data = write_tiff([Page(page_tags(SIZE, [5, 6, 5], RGB), [packed.astype(">u2").tobytes()])], ">")
    files.append(read(family, "RGB of 5, 6 and 5 bits", data, to_bgr(spread_values), "", cause="5, 6, 5"))
    mixed = np.zeros(SIZE, [("r", "u1"), ("g", ">u2"), ("b", "u1")])
    data = write_tiff([Page(page_tags(SIZE, [8, 16, 8], RGB), [mixed.tobytes()])], ">")
    files.append(refuse(family, "RGB of 8, 16 and 8 bits", data, "bits|cannot be read|not a readable"))
    values = numbers("uint32") >> 8
    for order in "<>":
        content = b"".join(int(value).to_bytes(3, "little" if order == "<" else "big") for value in values.flat)
        data = write_tiff([Page(page_tags(SIZE, 24, BLACK_IS_ZERO), [content])], order)
        files.append(read(family, f"24 bits {order}", data, to_bgr(values), "", tolerance=1))
    for bits in (40, 48, 128):
        data = write_tiff([Page(page_tags(SIZE, bits, BLACK_IS_ZERO), [bytes(HEIGHT * WIDTH * bits // 8)])])
        files.append(refuse(family, f"{bits} bits", data, f"{bits} bits|decoded"))
    signed = (small_numbers(4).astype(np.int16) - 8).astype(np.int8)
    data = write_tiff([Page(page_tags(SIZE, 4, BLACK_IS_ZERO, t339=2), [pack_rows(signed & 15, 4)])])
    files.append(read(family, "4 bits, signed", data, to_bgr(signed), "", tolerance=1))
    values = numbers("uint16")
    data = write_tiff([Page(page_tags(SIZE, 16, BLACK_IS_ZERO, t339=4), [values.tobytes()])])
    files.append(read(family, "16 bits, sample format undefined", data, to_bgr(values), "", tolerance=1))
    return files


def reverse_bits(data: bytes) -> bytes:
    return np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)).reshape(-1, 8)[:, ::-1]).tobytes()


def compressions() -> list[GridFile]:
    family, files = "TIFF, compressions", []
    predictors = {"lzw", "deflate", "zstd", "lzma"}
    for compression, dtype, color in itertools.product(
        LOSSLESS,
        ("uint8", "uint16", "int16", "uint32", "float32", "float64", "bool"),
        ("gray", "RGB", "RGB in planes", "gray tiled", "RGB tiled"),
    ):
        # tifffile writes interleaved colors of 1 bit in another way than the specification says, and OpenJPEG encodes
        # at most 26 bits
        if (dtype == "bool" and color in ("RGB", "RGB tiled")) or (compression, dtype) == ("jpeg2000", "uint32"):
            continue
        values = numbers(dtype, 3 if "RGB" in color else 1, seed=2)
        options = {"compression": compression}
        if compression in ("jpegxl", "webp"):
            options["compressionargs"] = {"lossless": True}
        if compression == "jpeg2000":
            options["compressionargs"] = {"reversible": True}
        options |= {"tile": (16, 16)} if "tiled" in color else {"rowsperstrip": 9}
        if "planes" in color:
            options["planarconfig"] = "separate"
        must = "read" if compression in ("lzw", "deflate", "packbits", "zstd", "lzma") and dtype != "bool" else ""
        predictable = compression in predictors and dtype != "bool"
        for predictor in (None, 2 if dtype[0] in "ui" else 3) if predictable else (None,):
            for order in "<>" if predictable and dtype in ("uint16", "float32") else "<":
                if predictor:
                    options["predictor"] = predictor
                name = f"{compression} {dtype} {color}{' with predictor' if predictor else ''}"
                name += " big endian" if order == ">" else ""
                try:
                    files.append(gray_or_rgb(family, name, values, must, byteorder=order, **options))
                except Exception:  # a combination that cannot be written
                    assert not must, name
    for dtype in ("uint8", "uint16"):
        values = numbers(dtype)
        for number, cause in ((65000, "65000"), (34712 + 1, "NIKON|34713"), (32809, "32809|THUNDER"), (4242, "4242")):
            tags = page_tags(SIZE, values.itemsize * 8, BLACK_IS_ZERO, t259=number)
            data = write_tiff([Page(tags, [values.tobytes()])])
            files.append(refuse(family, f"number {number} {dtype}", data, cause))
    values = numbers("uint8")
    tags = page_tags(SIZE, 8, BLACK_IS_ZERO, t259=5, t317=77)
    data = write_tiff([Page(tags, [imagecodecs.lzw_encode(values.tobytes())])])
    files.append(refuse(family, "unknown predictor", data, "predictor|77"))
    return files


def lossy_compressions() -> list[GridFile]:
    family, files = "TIFF, JPEG and other lossy compressions", []
    gray, color = numbers("uint8", seed=3), numbers("uint8", 3, seed=3)
    for tiled, quality in itertools.product((False, True), (75, 95, 100)):
        options = {"compression": "jpeg", "compressionargs": {"level": quality}}
        options |= {"tile": (16, 16)} if tiled else {"rowsperstrip": 8}
        name = f"JPEG {quality}{' tiled' if tiled else ''}"
        tolerance = JPEG_TOLERANCE if quality > 90 else 2 * JPEG_TOLERANCE
        data = written(gray, photometric="minisblack", **options)
        files.append(read(family, f"{name} gray", data, to_bgr(gray), tolerance=tolerance))
        data = written(color, photometric="rgb", **options)
        files.append(read(family, f"{name} RGB", data, to_bgr(color), tolerance=HALVED_COLORS_TOLERANCE))
        ycbcr = cv2.cvtColor(color, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
        for subsampling, photometric in itertools.product(((1, 1), (2, 1), (2, 2)), ("rgb", "ycbcr")):
            if tiled and photometric == "ycbcr" and subsampling != (1, 1):
                continue  # tifffile fills tiles up with green, which then mixes with the colors at the edge
            rows = {} if tiled else {"rowsperstrip": 16}
            stored = color if photometric == "rgb" else ycbcr  # tifffile converts RGB to YCbCr
            data = written(stored, photometric=photometric, subsampling=subsampling, **options | rows)
            name_of_file = f"{name} YCbCr {subsampling} from {photometric}"
            files.append(read(family, name_of_file, data, to_bgr(color), tolerance=HALVED_COLORS_TOLERANCE))
    for name, mode in (("gray", gray), ("RGB", color)):
        for quality in (80, 95):
            buffer = io.BytesIO()
            Image.fromarray(mode).save(buffer, "TIFF", compression="jpeg", quality=quality)
            tolerance = HALVED_COLORS_TOLERANCE
            files.append(
                read(family, f"Pillow's JPEG {quality} {name}", buffer.getvalue(), to_bgr(mode), tolerance=tolerance)
            )
    for compression, arguments in (
        ("jpeg2000", {"level": 40}),
        ("webp", {"level": 95, "lossless": False}),
        ("jpegxr", {"level": 0.9}),
        ("jpegxl", {"level": 95}),
        ("lerc", {"level": 1}),
    ):
        for name, values in (("gray", gray), ("RGB", color), ("uint16 gray", numbers("uint16", seed=3))):
            try:
                data = written(
                    values,
                    photometric="minisblack" if values.ndim == 2 else "rgb",
                    compression=compression,
                    compressionargs=arguments,
                )
            except Exception:
                continue
            files.append(
                read(family, f"{compression} {name}", data, to_bgr(values), "", tolerance=HALVED_COLORS_TOLERANCE)
            )
    # JPEG of 12 bits
    values = (blobs(3) * 4095).astype(np.uint16)
    try:
        content = imagecodecs.jpeg8_encode(values, level=100, bitspersample=12)
        data = write_tiff([Page(page_tags(SIZE, 12, BLACK_IS_ZERO, t259=7), [content])])
        files.append(read(family, "JPEG of 12 bits", data, to_bgr(values), "", tolerance=3))
    except Exception:
        pass
    return files


def fax_compressions() -> list[GridFile]:
    """CCITT, which compresses pictures of 1 bit."""
    family, files = "TIFF, 1 bit", []
    marked = numbers("bool", seed=4)
    for compression in (None, "group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw", "tiff_adobe_deflate"):
        buffer = io.BytesIO()
        Image.fromarray(marked).save(buffer, "TIFF", compression=compression)
        must = "read" if compression in (None, "packbits", "tiff_lzw", "tiff_adobe_deflate") else ""
        files.append(read(family, f"Pillow's {compression}", buffer.getvalue(), to_bgr(marked), must))
    for photometric, compression in itertools.product(
        ("minisblack", "miniswhite"), (None, "deflate", "lzw", "packbits", "ccitt_t4", "ccitt_t6")
    ):
        stored = marked if photometric == "minisblack" else ~marked
        try:
            data = written(stored, photometric=photometric, compression=compression, rowsperstrip=5)
        except Exception:
            continue
        files.append(read(family, f"{photometric} {compression}", data, to_bgr(marked)))
    buffer = io.BytesIO()
    Image.fromarray(marked).save(buffer, "TIFF", compression="group4", tiffinfo={262: WHITE_IS_ZERO})
    files.append(read(family, "Pillow's group4, white is zero", buffer.getvalue(), to_bgr(marked), ""))
    for order in (1, 2):
        content = pack_rows(marked, 1)
        tags = page_tags(SIZE, 1, BLACK_IS_ZERO, t266=order, t259=32773)
        encoded = imagecodecs.packbits_encode(content)
        data = write_tiff([Page(tags, [encoded if order == 1 else reverse_bits(encoded)])])
        files.append(read(family, f"packbits, fill order {order}", data, to_bgr(marked), "read" if order == 1 else ""))
    return files


def photometrics() -> list[GridFile]:
    family, files = "TIFF, photometric interpretations", []
    for dtype in ("uint8", "uint16", "uint32", "int16", "int8", "float32", "float64"):
        values = numbers(dtype, seed=5)
        kind = values.dtype.kind
        stored = -values if kind == "f" else ~values if kind == "i" else np.iinfo(dtype).max - values
        for compression in (None, "lzw"):
            data = written(stored, photometric="miniswhite", compression=compression)
            name = f"white is zero {dtype} {compression}"
            files.append(read(family, name, data, to_bgr(values), tolerance=tolerance_of(values)))
    color = numbers("uint8", 3, seed=5)
    ycbcr = cv2.cvtColor(color, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    files.append(read(family, "YCbCr", written(ycbcr, photometric="ycbcr"), to_bgr(color), "", cause="YCBCR"))
    files.append(refuse(family, "CIELab", written(color, photometric="cielab"), "CIELAB"))
    files.append(refuse(family, "ICCLab", written(color, photometric="icclab"), "ICCLAB"))
    four = numbers("uint8", 4, seed=5)
    for compression in (None, "lzw"):
        data = written(four, photometric="separated", compression=compression)
        files.append(refuse(family, f"CMYK {compression}", data, "SEPARATED"))
    data = written(np.moveaxis(four, 2, 0), photometric="separated", planarconfig="separate")
    files.append(refuse(family, "CMYK in planes", data, "SEPARATED"))
    for photometric in ("cfa", "linear_raw", "mask", "logl", "depth_map", "semantic_mask"):
        try:
            data = written(color[..., 0], photometric=photometric)
        except Exception:
            continue
        files.append(refuse(family, photometric, data, photometric.upper()))
    data = write_tiff([Page(page_tags(SIZE, 8, 99), [color[..., 0].tobytes()])])
    files.append(refuse(family, "unknown number", data, "99"))
    tags = page_tags(SIZE, 8, BLACK_IS_ZERO)
    del tags[262]
    files.append(
        read(
            family,
            "no tag",
            write_tiff([Page(tags, [color[..., 0].tobytes()])]),
            to_bgr(color[..., 0]),
            "",
            cause="photometric",
        )
    )
    data = write_tiff([Page(page_tags(SIZE, [8], RGB), [color[..., 0].tobytes()])])
    files.append(read(family, "RGB with one sample", data, to_bgr(color[..., 0]), "", cause="1 samples"))
    data = write_tiff([Page(page_tags(SIZE, [8, 8], RGB), [color[..., :2].tobytes()])])
    files.append(refuse(family, "RGB with two samples", data, "2 samples"))
    return [*files, *palettes()]


def palettes() -> list[GridFile]:
    family, files = "TIFF, palettes", []
    for bits, compression, scale in itertools.product((1, 2, 4, 8), (1, 5, 8), (257, 256, 1)):
        count = 2**bits
        table = np.random.default_rng(bits).integers(0, 256, (3, count))
        table[:, 0] = 255, 0, 3
        values = small_numbers(bits, seed=6)
        strips = strips_of(values, bits, 9)
        encode = {1: bytes, 5: imagecodecs.lzw_encode, 8: imagecodecs.zlib_encode}[compression]
        tags = page_tags(SIZE, bits, PALETTE, 9, t259=compression, t320=(table * scale).reshape(-1).tolist())
        expected = to_bgr(table.astype(np.uint8)[:, values].transpose(1, 2, 0))
        name = f"{bits} bits, compression {compression}"
        name += {257: "", 256: ", low bytes 0", 1: ", a table of 8 bits"}[scale]
        data = write_tiff([Page(tags, [encode(strip) for strip in strips])])
        files.append(read(family, name, data, expected, "read"))
    table = (np.random.default_rng(1).integers(0, 256, (3, 256)) * 257).astype(np.uint16)
    values = numbers("uint8", seed=6)
    expected = to_bgr((table >> 8).astype(np.uint8)[:, values].transpose(1, 2, 0))
    files.append(read(family, "tifffile's", written(values, photometric="palette", colormap=table), expected))
    data = written(values, photometric="palette", colormap=table, tile=(16, 16), compression="deflate", predictor=2)
    files.append(read(family, "tiled, deflate with predictor", data, expected))
    image = Image.fromarray(values)
    image.putpalette((table >> 8).astype(np.uint8).T.tobytes())
    for compression in (None, "tiff_lzw", "packbits"):
        buffer = io.BytesIO()
        image.save(buffer, "TIFF", compression=compression)
        files.append(read(family, f"Pillow's {compression}", buffer.getvalue(), expected))
    big_table = (np.random.default_rng(2).integers(0, 256, (3, 65536)) * 257).astype(np.uint16)
    deep = small_numbers(12, seed=6)
    data = written(deep, photometric="palette", colormap=big_table)
    files.append(read(family, "16 bits", data, to_bgr((big_table >> 8).astype(np.uint8)[:, deep].transpose(1, 2, 0))))
    with_alpha = np.dstack([values, np.full(SIZE, 9, np.uint8)])
    tags = page_tags(SIZE, [8, 8], PALETTE, t320=table.reshape(-1).tolist(), t338=[2])
    files.append(read(family, "8 bits and alpha", write_tiff([Page(tags, [with_alpha.tobytes()])]), expected, ""))
    files.append(
        refuse(
            family, "no table", write_tiff([Page(page_tags(SIZE, 8, PALETTE), [values.tobytes()])]), "palette|PALETTE"
        )
    )
    tags = page_tags(SIZE, 8, PALETTE, t320=table[:, :100].reshape(-1).tolist())
    files.append(
        refuse(family, "a table that is too short", write_tiff([Page(tags, [values.tobytes()])]), "palette|PALETTE")
    )
    return files


def samples() -> list[GridFile]:
    """Several samples a pixel: alpha, and channels of a microscope."""
    family, files = "TIFF, extra samples", []
    for dtype, extra, planar, compression in itertools.product(
        ("uint8", "uint16", "float32"),
        ("unspecified", "assocalpha", "unassalpha"),
        ("contig", "separate"),
        (None, "lzw"),
    ):
        options = {"extrasamples": [extra], "planarconfig": planar, "compression": compression}
        for colors in (1, 3):
            values = numbers(dtype, colors + 1, seed=7)
            stored = values if planar == "contig" else np.moveaxis(values, 2, 0)
            data = written(stored, photometric="rgb" if colors == 3 else "minisblack", **options)
            name = f"{'RGB' if colors == 3 else 'gray'} and {extra} {dtype} {planar} {compression}"
            shown = values[..., :3] if colors == 3 else values[..., 0]
            if colors == 1 and extra == "unspecified":
                files.append(channels_file(family, name, data, values))
            else:
                must = "read" if extra != "unspecified" else ""
                files.append(read(family, name, data, to_bgr(shown), must, tolerance=tolerance_of(values)))
    for dtype, count, planar, compression in itertools.product(
        ("uint8", "uint16", "float32"), (2, 3, 4, 5), ("contig", "separate"), (None, "deflate")
    ):
        values = numbers(dtype, count, seed=8)
        stored = values if planar == "contig" else np.moveaxis(values, 2, 0)
        data = written(stored, photometric="minisblack", planarconfig=planar, compression=compression)
        files.append(channels_file(family, f"{count} channels {dtype} {planar} {compression}", data, values))
    for count in (5, 6):
        values = numbers("uint8", count, seed=8)
        data = written(values, photometric="rgb", planarconfig="contig")
        files.append(channels_file(family, f"RGB and {count - 3} more", data, values))
    values = numbers("uint8", 3, seed=8)
    views = {(None, channel): to_bgr(values[..., channel - 1]) for channel in (1, 2, 3)} | {(None, 0): to_bgr(values)}
    files.append(GridFile(family, "RGB, each channel", written(values, photometric="rgb"), views, "read"))
    values = numbers("uint8", 4, seed=8)  # no tag for the extra sample
    data = write_tiff([Page(page_tags(SIZE, [8] * 4, RGB), [values.tobytes()])])
    files.append(read(family, "RGB with 4 samples, extra sample not tagged", data, to_bgr(values[..., :3]), ""))
    return files


def channels_file(family: str, name: str, data: bytes, values: np.ndarray) -> GridFile:
    """Return a file of channels (H, W, C) that is read by channel, and refused if none is chosen."""
    count = values.shape[-1]
    tolerance = tolerance_of(values)
    views = {(None, channel): to_bgr(values[..., channel - 1]) for channel in range(1, count + 1)}
    return GridFile(family, name, data, views, "read", tolerance=tolerance)


def orientations() -> list[GridFile]:
    family, files = "TIFF, orientation tag", []
    for number, dtype, color in itertools.product(range(1, 9), ("uint8", "uint16"), ("gray", "RGB")):
        upright = numbers(dtype, 3 if color == "RGB" else 1, seed=9)
        extratags = [(274, 3, 1, number, True)]
        data = written(
            stored_as(upright, number), photometric="rgb" if color == "RGB" else "minisblack", extratags=extratags
        )
        files.append(read(family, f"{number} {dtype} {color}", data, to_bgr(upright), tolerance=tolerance_of(upright)))
    for number in (0, 9, 300):
        upright = numbers("uint8", seed=9)
        data = written(upright, photometric="minisblack", extratags=[(274, 3, 1, number, True)])
        files.append(read(family, f"invalid {number}", data, to_bgr(upright), ""))
    return files


def other_writers() -> list[GridFile]:
    family, files = "TIFF, written by OpenCV and Pillow", []
    for dtype, color in itertools.product(("uint8", "uint16", "int16", "int32", "float32", "float64"), (1, 3, 4)):
        values = numbers(dtype, color, seed=10)
        bgr = values if color == 1 else values[..., [2, 1, 0, 3][:color]]
        for compression in (1, 5, 8, 32773):
            try:
                okay, data = cv2.imencode(".tiff", bgr, [cv2.IMWRITE_TIFF_COMPRESSION, compression])
            except cv2.error:
                continue
            if okay:
                shown = values[..., :3] if color == 4 else values
                name = f"OpenCV {dtype} {color} samples, compression {compression}"
                must = "" if color == 4 else "read"
                files.append(read(family, name, data.tobytes(), to_bgr(shown), must, tolerance=tolerance_of(values)))
    okay, data = cv2.imencodemulti(".tiff", [numbers("uint8", seed=k) for k in range(3)])
    views = {(page, 0): to_bgr(numbers("uint8", seed=page)) for page in range(3)}
    files.append(GridFile(family, "OpenCV, 3 pages", data.tobytes(), views, "read", pages=3))
    alpha = Image.fromarray(numbers("uint8", 4, seed=10))
    for compression in (None, "tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd", "lzma"):
        for mode in ("L", "RGB", "RGBA", "LA", "I;16", "I", "F", "CMYK", "LAB", "YCbCr"):
            values = numbers({"I;16": "uint16", "I": "int32", "F": "float32"}.get(mode, "uint8"), seed=10)
            image = {
                **dict.fromkeys(("I;16", "I", "F", "L"), Image.fromarray(values)),
                **{"RGB": alpha.convert("RGB"), "RGBA": alpha, "LA": Image.merge("LA", alpha.split()[:2])},
                **{"CMYK": alpha.convert("RGB").convert("CMYK"), "LAB": Image.merge("LAB", alpha.split()[:3])},
                "YCbCr": alpha.convert("RGB").convert("YCbCr"),
            }[mode]
            shown = {
                "L": values,
                **dict.fromkeys(("RGB", "RGBA", "YCbCr"), numbers("uint8", 4, seed=10)[..., :3]),
                "LA": numbers("uint8", 4, seed=10)[..., 0],
            }.get(mode, values)
            buffer = io.BytesIO()
            try:
                image.save(buffer, "TIFF", compression=compression)
            except Exception:
                continue
            name = f"Pillow {mode} {compression}"
            if mode in ("CMYK", "LAB"):
                files.append(refuse(family, name, buffer.getvalue(), "SEPARATED|CIELAB"))
            else:
                must = "" if mode == "YCbCr" else "read"
                tolerance = 3 if mode == "YCbCr" else tolerance_of(shown)
                files.append(read(family, name, buffer.getvalue(), to_bgr(shown), must, tolerance=tolerance))
    return files


@functools.cache
def all_tiffs() -> list[GridFile]:
    """Return all files of this module that hold one picture."""
    return [
        *kinds_of_number(),
        *packed_bits(),
        *compressions(),
        *lossy_compressions(),
        *fax_compressions(),
        *photometrics(),
        *samples(),
        *orientations(),
        *other_writers(),
    ]
