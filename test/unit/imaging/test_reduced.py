# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Pictures of large images at a smaller size against those that are made in one piece."""

import cv2
import numpy as np
import pytest

from imaging import reduced
from imaging.large_image import from_pixels
from imaging.reduced import ReducedCopy, reduce_image, reduce_labels, reduced_size

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def short_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduced, "STRIP_PIXELS", 2500)


@pytest.mark.parametrize("shape", [(400, 300), (300, 401), (1, 999), (123, 7)])
def test_reduced_images(shape: tuple[int, int]) -> None:
    """A pixel of the picture is the mean of the pixels that it covers, up to the rounding of a strip's edge."""
    image = cv2.GaussianBlur(RNG.integers(0, 256, (*shape, 3), np.uint8), (0, 0), 3).reshape(*shape, 3)
    size = reduced_size(shape, 100)
    exact = np.array(shape) * 100 / max(shape)
    assert max(size) == 100 and np.abs(np.maximum(exact, 1) - size).max() <= 0.5
    direct = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    found = reduce_image(from_pixels(image), 100)
    assert found.shape == direct.shape and cv2.absdiff(found, direct).max() <= 4
    assert np.array_equal(reduce_image(from_pixels(image), 999), image)


def test_reduced_labels_have_the_number_at_the_center_of_a_pixel() -> None:
    labels = RNG.integers(0, 70_000, (333, 200)).astype(np.int32)
    found = reduce_labels(labels, 111)
    height, width = reduced_size(labels.shape, 111)
    rows, columns = (np.arange(height) + 0.5) * 333 / height, (np.arange(width) + 0.5) * 200 / width
    assert np.array_equal(found, labels[np.ix_(rows.astype(int), columns.astype(int))])
    assert np.array_equal(reduce_labels(labels, 1000), labels)


@pytest.mark.parametrize("heights", [(150, 150), (1,) * 300, (299, 1), (7, 50, 100, 143)], ids=len)
def test_a_reduced_copy_of_strips_that_pass_by(heights: tuple[int, ...]) -> None:
    probability = np.random.default_rng(1).random((2, 300, 240), np.float32)
    probability = np.stack([cv2.GaussianBlur(channel, (0, 0), 8) for channel in probability])
    copy = ReducedCopy((300, 240), 100)
    passed = list(copy.watch(np.split(probability, np.cumsum(heights)[:-1], axis=1)))
    assert np.array_equal(np.concatenate(passed, axis=1), probability)
    assert copy.pixels.shape == (2, 100, 80) and copy.pixels.dtype == np.float32
    direct = np.stack([cv2.resize(channel, (80, 100), interpolation=cv2.INTER_AREA) for channel in probability])
    assert np.abs(copy.pixels - direct).max() < (1e-6 if heights == (150, 150) else 0.02)
