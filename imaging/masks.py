# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Mask files to pixels: what the values of a mask mean."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from imaging.reader import TURNED, Picture, read_stored, turn_upright
from imaging.stored import StoredImage
from runtime.errors import InputError

# the largest value of 8, 10, 12, 14, 15, 16, 31 and 32 bits; whatever its kind of number, such a mask has two values
MAXIMA = (255, 1023, 4095, 16383, 32767, 65535, 2**31 - 1, 2**32 - 1)
MAX_GRAY_DIFFERENCE = 40  # between the channels of a gray JPEG
ALPHA_TOLERANCE = 0.05  # share of the marked pixels where color and alpha may differ, at soft edges
# Numbered nuclei are areas of one value, soft edges are not. In the 664 images of DSB2018, at least 90 % of the marked
# pixels lie in such areas if the nuclei are numbered; if the masks are resized, at most 8 % with 96 pixels a side and
# 39 % with 32.
MIN_NUMBERED_SHARE = 0.5
MIN_GRAY_SHARE = 0.02  # of the marked pixels, inside a gray area of one value; resized masks have no such pixel
MAX_SOFT_SHARE = 0.45
MAX_PLATEAU_SHARE = 0.05  # of the marked pixels, in areas of nearly one gray; soft edges have no such areas
MIN_WHITE_SHARE = 0.1  # of the marked pixels; at least 20 % in the masks of DSB2018 with 32 pixels a side or more
MAX_FAINT_PIXELS = 16  # of a mask without white pixels
MIN_JUDGED_PIXELS = 32 * 32  # of a mask; in smaller ones, soft edges may outweigh the rest
NOT_TURNED = "not turned, as their masks are not"
CONVERT = "convert the set with `python preprocess_dsb2018.py --input DIR --output DIR`"


class Mask(NamedTuple):
    """A mask file's values: 0 and 255 with soft edges between; or 0 and 1; or numbers, one for each nucleus.

    pixels: (H, W), not yet turned; uint8, but for `numbers`, which has the file's kind of number.
    kind: "marks", "zero_one" (no pixel is above 1, one is 1) or "numbers".
    problem: why the values are no mask, as a sentence; "" if they are one.
    """

    pixels: np.ndarray
    orientation: int = 1
    kind: str = "marks"
    problem: str = ""


def decode_mask(source: Path | bytes, name: object, page: int | None = None, judged: bool = False) -> Mask:
    """Decode a mask file, or its bytes: the page with this number, from 0; None: its only page.

    judged: the mask was decoded before and can be used for training, so that its values are not judged again. This
    makes reading prepared files 1.5 times as fast.
    Raises InputError naming the file if it cannot be read as an image.
    """
    stored = read_stored(source, name, page, None, f"a mask has one; {CONVERT}")
    try:
        pixels, kind = _interpret(_one_value_per_pixel(stored, name), stored.lossy, name, judged)
    except InputError as error:
        return Mask(_as_gray(stored.values), stored.orientation, problem=str(error))
    return Mask(pixels, stored.orientation, kind)


def to_training_mask(mask: Mask, name: object) -> np.ndarray:
    """Return the pixels of a mask that training can use, uint8, as stored; raises InputError naming the file if not."""
    if mask.problem:
        raise InputError(mask.problem)
    if mask.kind == "numbers" and not _is_too_small(mask.pixels):
        count = len(np.unique(mask.pixels[mask.pixels > 0]))
        raise InputError(
            f"{name}: holds {count} numbered nuclei or classes, but training needs 0 and 255; {CONVERT}, or give each "
            "class a folder of its own"
        )
    return mask.pixels


def read_mask(path: Path) -> np.ndarray:
    """Read a mask file that training can use, uint8 (H, W), turned as its orientation tag says."""
    mask = decode_mask(path, path)
    return turn_upright(to_training_mask(mask, path), mask.orientation)


def align(picture: Picture, masks: list[Mask], mask_names: list) -> tuple[np.ndarray, list[np.ndarray], str]:
    """Turn an image and its masks upright, as their orientation tags say; returns them and what was done.

    If the masks fit the image only as it is stored, they were drawn without regard to the tag, and nothing is turned.
    Raises InputError naming the first mask that has another size than the image.
    """
    image = turn_upright(picture.pixels, picture.orientation)
    turned = [turn_upright(mask.pixels, mask.orientation) for mask in masks]
    fits = all(mask.shape == image.shape[:2] for mask in turned)
    if not fits and all(mask.pixels.shape == picture.pixels.shape[:2] for mask in masks):
        return picture.pixels, [mask.pixels for mask in masks], NOT_TURNED
    for name, mask in zip(mask_names, turned):
        if mask.shape != image.shape[:2]:
            size, expected = (f"{array.shape[1]}×{array.shape[0]}" for array in (mask, image))
            raise InputError(f"{name}: the mask is {size}, but its image is {expected}; resize one of them")
    return image, turned, TURNED if picture.orientation != 1 else ""


def _one_value_per_pixel(stored: StoredImage, name: object) -> np.ndarray:
    """Return a mask's values (H, W): of gray, of two colors, or of the alpha channel if the colors hold nothing."""
    values, alpha = stored.values, stored.alpha
    transparent = alpha is not None and alpha.min() != alpha.max()
    if transparent and (values == values[0, 0]).all():
        return alpha
    if values.ndim == 3:
        values = _merge_colors(values, stored.lossy, name)
    if not transparent:
        return values
    marked, opaque = values > 0, alpha > 0
    if np.count_nonzero(marked != opaque) > ALPHA_TOLERANCE * np.count_nonzero(marked):
        raise InputError(f"{name}: its colors and its alpha channel mark different pixels; remove the alpha channel")
    return values


def _merge_colors(values: np.ndarray, lossy: bool, name: object) -> np.ndarray:
    difference = int(np.ptp(values, axis=2).max()) if values.dtype == np.uint8 else np.ptp(values, axis=2).max()
    if difference <= (MAX_GRAY_DIFFERENCE if lossy else 0):
        return np.ascontiguousarray(values[..., 1])
    marked = values.any(axis=2)
    if (values[marked] == values[marked][0]).all() and not marked.all():
        return marked.astype(np.uint8) * 255
    raise InputError(f"{name}: a mask of several colors; save it in gray, with 0 and 255 or a number for each nucleus")


def _interpret(values: np.ndarray, lossy: bool, name: object, judged: bool) -> tuple[np.ndarray, str]:
    """Return the pixels and the kind of a mask with one value a pixel; raises InputError if the values are no mask."""
    if values.dtype == np.uint8 and ((values == 0) | (values == 255)).all():
        return values, "marks"
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.round(values)).all()):
        raise InputError(f"{name}: a mask of fractions, {values.dtype}; masks hold 0 and 255, or whole numbers")
    if values.min() < 0:
        raise InputError(f"{name}: a mask with negative values; masks hold 0 and 255, or numbers of nuclei")
    high = values.max()
    if lossy and values.dtype != np.uint8:
        raise InputError(f"{name}: a {values.dtype} mask with lossy compression; save it as 8-bit PNG")
    if lossy:
        return values if judged else _check_soft(values, 255, name, 0), "marks"
    if high <= 1 and values.dtype.kind != "f":
        return values.astype(np.uint8), "zero_one" if high else "marks"
    is_maximum = high in MAXIMA or high <= 1 or (values.dtype == np.uint8 and high > 127)
    if is_maximum and ((values == 0) | (values == high)).all():
        return (values > 0).astype(np.uint8) * 255, "marks"
    if judged and values.dtype == np.uint8:
        return values, "marks"
    top = next((maximum for maximum in MAXIMA if maximum >= high), None)
    if top is None or _gray_share(values, top) > MIN_GRAY_SHARE:
        return values, "numbers"
    if (share := _flat_share(values, top)) > MIN_NUMBERED_SHARE:
        return values, "numbers"
    values = _check_soft(values, top, name, share)
    return values if values.dtype == np.uint8 else (values * (255 / top)).round().astype(np.uint8), "marks"


def _gray_share(values: np.ndarray, top: int) -> float:
    """Return the share of marked pixels that are below white and have four neighbors of exactly the same value."""
    inner = values[1:-1, 1:-1]
    same = (inner > 0) & (inner < 0.98 * top)
    for neighbor in (values[:-2, 1:-1], values[2:, 1:-1], values[1:-1, :-2], values[1:-1, 2:]):
        same &= neighbor == inner
    return np.count_nonzero(same) / np.count_nonzero(values)


def _flat_share(values: np.ndarray, top: int) -> float:
    """Return the share of marked pixels that are below white and like all marked pixels beside them."""
    padded = np.zeros((values.shape[0] + 2, values.shape[1] + 2), values.dtype)  # np.pad takes ten times as long
    padded[1:-1, 1:-1] = values
    flat = (values > 0) & (values < 0.98 * top)
    for neighbor in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        flat &= (neighbor == values) | (neighbor == 0)
    return np.count_nonzero(flat) / np.count_nonzero(values)


def _check_soft(values: np.ndarray, top: int, name: object, flat_share: float) -> np.ndarray:
    """Return a mask with soft edges, or one that JPEG has blurred; raises InputError if its nuclei are not white."""
    if _is_too_small(values):
        return values
    marked, white = np.count_nonzero(values > 0.06 * top), np.count_nonzero(values > 0.94 * top)
    window, shades = np.ones((3, 3), np.uint8), values.astype(np.float32)
    plateau = cv2.dilate(shades, window) - cv2.erode(shades, window) < 0.15 * top
    plateau &= (values > 0.25 * top) & (values < 0.75 * top)
    too_gray = (
        values.max() <= top // 2
        or white < MIN_WHITE_SHARE * marked
        or np.count_nonzero(plateau) > MAX_PLATEAU_SHARE * marked
    )
    if too_gray or flat_share > MAX_SOFT_SHARE:
        raise InputError(
            f"{name}: its nuclei are neither white nor areas of one number, perhaps after lossy compression; save "
            "masks with 0 and 255, or with a number for each nucleus, as PNG or TIFF"
        )
    return values


def _is_too_small(values: np.ndarray) -> bool:
    """Is a mask too small to be judged, or does it mark so little that a nucleus may have vanished at its resizing?"""
    return values.dtype == np.uint8 and (
        values.size < MIN_JUDGED_PIXELS or np.count_nonzero(values) <= MAX_FAINT_PIXELS
    )


def _as_gray(values: np.ndarray) -> np.ndarray:
    """Return any values as gray uint8, for judging what they look like."""
    if values.ndim == 3:
        values = values.max(axis=2)
    return values if values.dtype == np.uint8 else cv2.normalize(values.astype(np.float32), None, 0, 255, 32, 0)
