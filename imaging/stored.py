# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""One page of an image file as it is stored: its values, and what the file's header says about them."""

import os
from typing import NamedTuple

import numpy as np

from runtime.errors import InputError

MAX_SIDE = 2**20  # pixels


class StoredImage(NamedTuple):
    """A decoded page. A high value is bright, whatever the file's photometric interpretation.

    values: gray (H, W) or blue, green, red (H, W, 3), of the file's own kind of number. Fewer than 8 bits are spread
    over 0 … 255, so that the brightest of them is 255.
    alpha: (H, W), or None if the file has none.
    orientation: EXIF's, 1 … 8; it is not applied yet.
    lossy: was the file compressed in a way that changes values a little, as JPEG does?
    notes: what was done to the values, in a few words each.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    orientation: int = 1
    lossy: bool = False
    notes: tuple[str, ...] = ()


def check_size(width: int, height: int, name: object) -> None:
    """Raise InputError for an image that is too large or has no pixels.

    It is called before memory is allocated, because a file of 70 bytes can claim any size. The limit is OpenCV's, see
    startup.configure_opencv.
    """
    if min(width, height) < 1:
        raise InputError(f"{name}: an image of {width}×{height} pixels; replace the file or remove it")
    limit = int(os.environ.get("OPENCV_IO_MAX_IMAGE_PIXELS", 2**30))
    if width * height > limit or max(width, height) > MAX_SIDE:
        raise InputError(
            f"{name}: more than {limit} pixels, or a side above {MAX_SIDE}; cut it into smaller images, or set the "
            "variable OPENCV_IO_MAX_IMAGE_PIXELS higher"
        )


def pick_channel(stored: StoredImage, channel: int | None, names: tuple[str, ...], name: object) -> StoredImage:
    """Return the channel with this number, from 1, of values whose last axis holds the channels `names`.

    Raises InputError that lists the channels if there is no such channel, or if `channel` is 0 or None.
    """
    count = len(names)
    if not channel or channel > count:
        if count == 1:
            raise InputError(f"{name}: has one channel, not {channel}; leave out --channel, or pass --channel 0")
        listed = ", ".join(f"{number}: {text}" if text else str(number) for number, text in enumerate(names, 1))
        problem = f"has {count} channels ({listed})"
        if channel is None:
            raise InputError(f"{name}: {problem}; save the right one as a file of its own")
        possible = "1 or 2" if count == 2 else f"1 … {count}"
        chosen = f"not {channel}" if channel else "none is chosen"
        raise InputError(f"{name}: {problem}, {chosen}; pass --channel {possible}")
    note = f"channel {channel} of {count} taken"
    return stored._replace(values=stored.values[..., channel - 1], notes=(*stored.notes, note))


def spread_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Spread unsigned values of fewer than 8 bits over 0 … 255, uint8; other values are returned as they are."""
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if bits < 8 and values.dtype == np.uint8:
        return (values.astype(np.float32) * (255 / (2**bits - 1))).round().astype(np.uint8)
    return values
