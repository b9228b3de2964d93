# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A guess at how an image was taken, for scores by kind of image, and for balanced draws."""

import numpy as np

KINDS = FLUORESCENCE, STAINED, BRIGHTFIELD = "fluorescence", "stained tissue", "brightfield"
# of 255, far from any of the 664 images of DSB2018: there, the median brightness is at most 44 or at least 193, and the
# 99th percentile of the color is 0 or at least 79
DARK, COLORED = 100, 40
MAX_PIXELS = 2**20  # that are looked at


def image_kind(image: np.ndarray) -> str:
    """Guess the kind of an image, uint8 BGR (H, W, 3): one of KINDS.

    The brightness of a pixel is its largest channel; its color is the difference to its smallest channel.
    - fluorescence: the median brightness is below DARK, since most pixels are dark background
    - stained tissue: brighter, and the color of more than 1 % of the pixels is above COLORED
    - brightfield: brighter, and gray
    """
    step = max(1, round((image.shape[0] * image.shape[1] / MAX_PIXELS) ** 0.5))
    pixels = image[::step, ::step]
    brightness = pixels.max(axis=2)
    if np.median(brightness) < DARK:
        return FLUORESCENCE
    color = brightness - pixels.min(axis=2)
    return STAINED if np.count_nonzero(color > COLORED) > 0.01 * color.size else BRIGHTFIELD
