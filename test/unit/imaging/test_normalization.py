# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The model's input by a table against albumentations' own normalization of the whole image."""

import numpy as np
import pytest

from imaging import augment
from imaging.normalization import input_table, pixel_statistics, to_input

RNG = np.random.default_rng(0)
IMAGES = {
    "noise": RNG.integers(0, 256, (70, 41, 3)),
    "dark": RNG.poisson(3, (64, 64, 3)),
    "one hot pixel": np.pad(np.full((1, 1, 3), 255), ((80, 79), (90, 69), (0, 0))),  # beyond the limit of 20
    "black": np.zeros((20, 30, 3)),
    "white": np.full((20, 30, 3), 255),
    "one pixel": np.array([[[3, 99, 250]]]),
}


@pytest.mark.parametrize("divide_twice", [True, False])
@pytest.mark.parametrize("normalization", ["standard", "image"])
@pytest.mark.parametrize("kind", IMAGES)
def test_the_table_gives_what_albumentations_gives(kind: str, normalization: str, divide_twice: bool) -> None:
    image = IMAGES[kind].clip(0, 255).astype(np.uint8)
    statistics = pixel_statistics(image[top : top + 7] for top in range(0, len(image), 7))
    found = to_input(image, input_table(normalization, divide_twice, statistics))
    normalized = augment.val_transform(*image.shape[:2], normalization)(image=image)["image"]
    expected = augment.to_input(normalized, divide_twice)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_statistics_of_strips_are_those_of_the_image() -> None:
    image = RNG.integers(0, 256, (3000, 1000, 3), np.uint8)  # more than float32 can sum up exactly
    found = pixel_statistics(image[top : top + 64] for top in range(0, 3000, 64))
    assert found == pytest.approx((image.mean(dtype=np.float64), image.std(dtype=np.float64)), rel=1e-12)
    assert pixel_statistics([]) == (0, 0)
