# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Read randomly damaged images, and print the number of each file and its outcome; helpers for test_image_fuzz.py.

    PYTHONPATH=.:test:test/unit python -m helpers.image_fuzz COUNT SEED

Memory is limited, and a file that takes longer than 5 seconds ends the process by SIGALRM.
"""

import resource
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from runtime import startup

startup.configure_opencv()

import numpy as np  # noqa: E402
from faults import mutations  # noqa: E402
from PIL import Image  # noqa: E402

from helpers.format_grid import bmp, bmp_header, by_opencv, exif, saved  # noqa: E402
from helpers.image_grid import numbers  # noqa: E402
from helpers.stack_grid import pages_of, stack_of  # noqa: E402
from helpers.tiff_grid import written  # noqa: E402
from imaging.masks import decode_mask  # noqa: E402
from imaging.reader import count_pages, decode_picture  # noqa: E402
from runtime.errors import InputError  # noqa: E402

MAX_MEMORY, MAX_SECONDS = 4 * 2**30, 5


def seeds() -> dict[str, bytes]:
    """Return whole files: TIFF of many layouts, and one or two of the other formats."""
    gray, deep, color = numbers("uint8"), numbers("uint16"), numbers("uint8", 3)
    colormap = np.stack([np.arange(256, dtype=np.uint16) * 257] * 3)
    rgb, black = {"photometric": "rgb"}, {"photometric": "minisblack"}
    stack, channels = stack_of("TZYX", "uint16"), stack_of("TZCYX", "uint8")
    return {
        "plain": written(gray, rowsperstrip=5, **black),
        "lzw": written(deep, compression="lzw", predictor=True, rowsperstrip=5, **black),
        "deflate in tiles": written(color, compression="deflate", tile=(16, 16), **rgb),
        "packbits": written(numbers("bool"), compression="packbits", **black),
        "zstd of floats": written(numbers("float32"), compression="zstd", predictor=3, **black),
        "lzma": written(numbers("int16"), compression="lzma", **black),
        "JPEG": written(color, compression="jpeg", **rgb),
        "JPEG 2000": written(gray, compression="jpeg2000", **black),
        "WebP": written(color, compression="webp", **rgb),
        "LERC": written(gray, compression="lerc", **black),
        "planes": written(np.moveaxis(color, 2, 0), planarconfig="separate", **rgb),
        "BigTIFF": written(deep, bigtiff=True, byteorder=">", **black),
        "palette": written(gray, photometric="palette", colormap=colormap),
        "pages": pages_of([gray] * 9, compression="deflate"),
        "one directory": written(stack, truncate=True, **black),
        "ImageJ": written(stack, imagej=True, metadata={"axes": "TZYX"}),
        "ImageJ, compressed": written(channels, imagej=True, metadata={"axes": "TZCYX"}, compression="deflate"),
        "PNG": by_opencv(".png", deep),
        "PNG with a palette": saved(Image.fromarray(color).quantize(40), "PNG", transparency=3),
        "JPEG file": saved(Image.fromarray(color), "JPEG", exif=exif(6)),
        "BMP": saved(Image.fromarray(color).quantize(40), "BMP"),
        "BMP of 16 bits": bmp(bmp_header(16), b"", gray.tobytes() * 3),
        "GIF": saved(Image.fromarray(color).quantize(40), "GIF", transparency=3),
        "WebP file": saved(Image.fromarray(color), "WEBP", lossless=True),
        "JPEG 2000 file": saved(Image.fromarray(color), "JPEG2000"),
        "OME": written(channels, ome=True, metadata={"axes": "TZCYX"}, **black),
    }


def try_to_read(data: bytes, path: Path) -> str:
    """Read a file in every way; returns what went wrong, or "" if each way gives pixels or an InputError."""
    readers: list[Callable] = [
        lambda: count_pages(data, "x.tif"),
        lambda: decode_picture(data, "x.tif", 0).pixels,
        lambda: decode_picture(data, "x.tif", 1, 1).pixels,
        lambda: decode_mask(data, "x.tif", 0).pixels,
    ]
    if path.parent.is_dir():
        path.write_bytes(data)
        readers.append(lambda: decode_picture(path, "x.tif").pixels)
    for read in readers:
        try:
            found = read()
        except InputError as error:
            if not str(error).startswith("x.tif: ") or "\n" in str(error):
                return f"the message {error}"
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        else:
            if isinstance(found, np.ndarray) and not found.size:
                return "an image without pixels"
    return ""


def main(count: int, seed: int) -> None:
    """Read `count` damaged files of each seed file."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    for name, whole in seeds().items():
        slowest = 0.0
        for number in range(count):
            rng = Random(f"{seed} {name} {number}")
            data = whole
            for _ in range(rng.choice((1, 1, 2, 4))):
                try:
                    damage = rng.choice((mutations.damaged, mutations.image_header, mutations.image_header))
                    data = damage(rng, data, Path())[0] or data
                except (IndexError, ValueError, OverflowError, struct.error):  # nothing is left to damage further
                    break
            print(f"reading {name}, {number}", flush=True)
            signal.alarm(MAX_SECONDS)
            start = time.monotonic()
            problem = try_to_read(
                data, Path(tempfile.gettempdir(), f"fuzz{seed}.tif") if number % 10 == 0 else Path("/x/x")
            )
            slowest = max(slowest, time.monotonic() - start)
            if time.monotonic() - start > 0.5:
                print(f"SLOW {name}, {number}: {time.monotonic() - start:.2f} s")
            signal.alarm(0)
            if problem:
                print(f"FAULT {name}, {number}: {problem}", flush=True)
        print(f"slowest {name}: {slowest:.2f} s", flush=True)
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
