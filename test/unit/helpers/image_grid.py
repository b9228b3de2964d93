# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Files of many kinds with the pixels that they were written from. Nothing here uses the code under test."""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from runtime.errors import InputError

HEIGHT, WIDTH = 24, 31  # not square, and no multiple of a tile or of a strip


class GridFile(NamedTuple):
    """A file, and what a reader must make of it.

    views: for each page (from 0; None: the only one) and channel (from 1; 0: none is chosen), the expected pixels,
    uint8 BGR (H, W, 3), upright; or None if nothing can be right, so that the file must be refused.
    must: "read", "refuse", or "" if both are right.
    cause: a regular expression that the message of a refusal must match.
    tolerance: the largest difference of a pixel, for lossy compression; stretched pixels may differ by 1.
    """

    family: str
    name: str
    data: bytes
    views: dict[tuple[int | None, int], np.ndarray | None]
    must: str = ""
    cause: str = ""
    tolerance: int = 0
    extension: str = ".tif"
    pages: int = 1

    @property
    def id(self) -> str:
        return f"{self.family}: {self.name}"


def read(family: str, name: str, data: bytes, expected: np.ndarray, must: str = "read", **fields) -> GridFile:
    """Return a file of one page. must: "" if a refusal is right, too."""
    return GridFile(family, name, data, {(None, 0): expected}, must, **fields)


def refuse(family: str, name: str, data: bytes, cause: str, **fields) -> GridFile:
    """Return a file that must be refused for this cause."""
    return GridFile(family, name, data, {(None, 0): None}, "refuse", cause, **fields)


# --- pixels ----------------------------------------------------------------------------------------------------------


@functools.cache
def blobs(seed: int, samples: int = 1) -> np.ndarray:
    """Return smooth blobs with noise, 0 … 1: (H, W), or (H, W, samples) if there are several."""
    draws = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    layers = []
    for sample in range(samples):
        layer = 0.1 + 0.3 * columns / WIDTH * (sample + 1) / samples + draws.normal(0, 0.02, (HEIGHT, WIDTH))
        for row, column in draws.uniform((2, 2), (HEIGHT - 2, WIDTH - 2), (3, 2)):
            layer += 0.5 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 18)
        layers.append(layer.clip(0, 1))
    return layers[0] if samples == 1 else np.dstack(layers)


# what each kind of number is filled with: the numbers of 0 and of 1
RANGES = {
    "bool": (0, 1),
    "uint8": (0, 255),
    "uint16": (90, 41000),
    "uint32": (5, 3 * 10**9),
    "uint64": (7, 2**62),
    "int8": (-120, 120),
    "int16": (-3000, 22000),
    "int32": (-(10**9), 2 * 10**9),
    "int64": (-(2**50), 2**60),
    "float16": (-0.5, 12.0),
    "float32": (-2.5, 1200.0),
    "float64": (-1e-3, 1e9),
}


def numbers(dtype: str, samples: int = 1, seed: int = 0) -> np.ndarray:
    """Return the blobs as this kind of number."""
    if dtype == "bool":
        return blobs(seed, samples) > 0.4
    low, high = RANGES[dtype]
    values = low + blobs(seed, samples) * (high - low)
    return (values if dtype.startswith("float") else values.round()).astype(dtype)


def small_numbers(bits: int, samples: int = 1, seed: int = 0) -> np.ndarray:
    """Return the blobs as unsigned numbers of this many bits, in uint8 or uint16."""
    values = (blobs(seed, samples) * (2**bits - 1)).round()
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def spread(values: np.ndarray, bits: int) -> np.ndarray:
    """Return numbers of fewer than 8 bits as uint8, the highest as 255."""
    return np.floor(values.astype(np.float64) * 255 / (2**bits - 1) + 0.5).astype(np.uint8)


def stretch(values: np.ndarray) -> np.ndarray:
    """Return numbers as uint8 by the formula that imaging/stretch.py documents."""
    return _stretch(values.astype(np.float64).tobytes(), values.shape)


@functools.cache  # many files hold the same numbers
def _stretch(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    values = np.frombuffer(content).reshape(shape)
    finite = np.isfinite(values)
    if not finite.any():
        return np.where(values == np.inf, 255, 0).astype(np.uint8)
    filled = np.where(finite, values, np.median(values[finite]))
    size = (5, 5) if values.ndim == 2 else (5, 5, 1)
    smooth = ndimage.median_filter(filled, size=size, mode="mirror")
    noise = 1.4826 * np.median(np.abs(filled - smooth))
    low, span = smooth.min(), max(smooth.max() - smooth.min(), 32 * noise)
    if not span:
        low, span = filled.min(), np.ptp(filled)
    with np.errstate(invalid="ignore"):  # of NaN and infinity
        scaled = 255 * (values - low) / (span or 255)
    return np.nan_to_num(scaled, nan=0, posinf=255, neginf=0).clip(0, 255).round().astype(np.uint8)


def to_bgr(values: np.ndarray) -> np.ndarray:
    """Return gray (H, W) or RGB (H, W, 3) of any kind of number as uint8 BGR."""
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.dtype != np.uint8:
        values = stretch(values)
    return np.dstack([values] * 3) if values.ndim == 2 else np.ascontiguousarray(values[..., ::-1])


# For each orientation of the EXIF specification, which pixel of the upright picture is stored at row r and column c.
# The specification says which side of the picture row 0 and column 0 are; h and w are the upright picture's size.
STORED_FROM: dict[int, Callable] = {
    1: lambda r, c, h, w: (r, c),  # row 0 is the top, column 0 the left
    2: lambda r, c, h, w: (r, w - 1 - c),  # top, right
    3: lambda r, c, h, w: (h - 1 - r, w - 1 - c),  # bottom, right
    4: lambda r, c, h, w: (h - 1 - r, c),  # bottom, left
    5: lambda r, c, h, w: (c, r),  # left, top
    6: lambda r, c, h, w: (c, w - 1 - r),  # right, top
    7: lambda r, c, h, w: (h - 1 - c, w - 1 - r),  # right, bottom
    8: lambda r, c, h, w: (h - 1 - c, r),  # left, bottom
}


def stored_as(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Return how a picture is stored if it has this orientation tag."""
    height, width = upright.shape[:2]
    rows, columns = np.mgrid[:height, :width] if orientation < 5 else np.mgrid[:width, :height]
    return np.ascontiguousarray(upright[STORED_FROM[orientation](rows, columns, height, width)])


# --- comparison ------------------------------------------------------------------------------------------------------


def outcome(file: GridFile, decode: Callable[[int | None, int], np.ndarray], name: str) -> str:
    """Decode every view of a file; returns "right", "refused", or what is wrong, as a sentence.

    decode: takes page and channel, returns uint8 BGR, upright.
    """
    outcomes = []
    for (page, channel), expected in file.views.items():
        try:
            found = decode(page, channel)
        except InputError as error:
            outcomes.append(_judge_message(str(error), file.cause, name))
        except Exception as error:
            outcomes.append(f"{type(error).__name__}: {error}")
        else:
            outcomes.append(_compare(found, expected, file.tolerance))
    wrong = [text for text in outcomes if text not in ("right", "refused")]
    return (wrong or sorted(outcomes))[0]  # "refused" if one view is


def _judge_message(message: str, cause: str, name: str) -> str:
    if not message.startswith(f"{name}: ") or "\n" in message:
        return f"the message does not name the file, or has several lines: {message}"
    return "refused" if re.search(cause, message) else f"refused without the cause {cause!r}: {message}"


def _compare(found: np.ndarray, expected: np.ndarray | None, tolerance: int) -> str:
    if expected is None:
        return "read, but must be refused"
    if found.shape != expected.shape or found.dtype != np.uint8:
        return f"read as {found.dtype} {found.shape}, but is {expected.shape}"
    difference = int(cv2.absdiff(found, expected).max())
    return "right" if difference <= tolerance else f"read with a difference of {difference}"


def verdict(file: GridFile, result: str) -> str:
    """Return "" if the result is what the file must give, otherwise what is wrong."""
    if result not in ("right", "refused"):
        return result
    wanted = {"read": "right", "refuse": "refused"}.get(file.must, result)
    return "" if result == wanted else f"{result}, but it must be {wanted}"


def as_table(results: Iterable[tuple[str, str]]) -> str:
    """Return a Markdown table of (family, result): how many files of each family were read, and how many refused."""
    counts = Counter(results)
    families = list(dict.fromkeys(family for family, _ in counts))
    rows = [(family, counts[family, "right"], counts[family, "refused"]) for family in families]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    lines = ["| files | read right | refused |", "|---|---:|---:|"]
    return "\n".join(lines + [f"| {family} | {right} | {refused} |" for family, right, refused in rows])
