# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Probabilities at an image's own size, by a stand-in for a network that knows nuclei of one size."""

import cv2
import numpy as np
import pytest

from imaging.predictor import Predictor
from runtime.errors import InputError


class Net:
    """Takes gray inputs in [0, 1] for probabilities; remembers the sizes that it was given."""

    def __init__(self, classes: int = 1):
        self.classes, self.sizes = classes, []

    def predict(self, batches):
        for images in batches:  # uint8: the network normalizes them
            self.sizes.append(images.shape[2:])
            yield images[:, : self.classes] / np.float32(255)


def image_of_disks(radius: int, size: tuple[int, int]) -> np.ndarray:
    image = np.zeros((*size, 3), np.uint8)
    for y in range(2 * radius, size[0] - radius, 4 * radius):
        for x in range(2 * radius, size[1] - radius, 4 * radius):
            cv2.circle(image, (x, y), radius, (255, 255, 255), -1)
    return image


def test_whole_images_are_resized_as_in_training() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    net = Net(2)
    found = Predictor(net.predict, "none", False, (32, 48))(image, diameter=7)
    assert net.sizes == [(32, 48)] and found.diameter is None
    small = cv2.resize(image, (48, 32)).transpose(2, 0, 1)[:2] / np.float32(255)
    assert np.array_equal(found.probability, [cv2.resize(channel, (70, 50)) for channel in small])


@pytest.mark.parametrize("radius, size", [(5, (200, 240)), (10, (200, 240)), (16, (300, 260)), (40, (700, 800))])
def test_the_diameter_is_estimated_and_the_image_scaled(radius: int, size: tuple[int, int]) -> None:
    image = image_of_disks(radius, size)
    net = Net()
    found = Predictor(net.predict, "none", False, (96, 96), crop_diameter=20)(image)
    assert found.diameter == pytest.approx(2 * radius, rel=0.15)
    scale = 20 / found.diameter
    assert net.sizes[-1] == pytest.approx((size[0] * scale, size[1] * scale), abs=1)
    assert len(net.sizes) <= 3
    assert found.probability.shape == (1, *size) and found.probability.dtype == np.float32
    assert ((found.probability[0] > 0.5) == (image[..., 0] > 127)).mean() > 0.97


def test_a_given_diameter_is_used_at_once() -> None:
    net = Net()
    found = Predictor(net.predict, "none", False, (96, 96), crop_diameter=20)(
        image_of_disks(10, (100, 120)), diameter=40
    )
    assert net.sizes == [(50, 60)] and found.diameter == 40


def test_an_image_without_nuclei_keeps_its_scale() -> None:
    net = Net()
    found = Predictor(net.predict, "none", False, (96, 96), crop_diameter=20)(np.zeros((64, 80, 3), np.uint8))
    assert net.sizes == [(64, 80)] and found.diameter == 20 and not found.probability.any()


def test_tiny_nuclei_enlarge_an_image_at_most_fourfold() -> None:
    net = Net()
    Predictor(net.predict, "none", False, (96, 96), crop_diameter=20)(np.zeros((30, 40, 3), np.uint8), diameter=1)
    assert net.sizes == [(120, 160)]


class Counting(Net):
    """Also remembers the largest input."""

    def largest(self) -> int:
        return max(height * width for height, width in self.sizes)


@pytest.mark.parametrize("diameter", [None, 5, 20])
def test_no_input_is_larger_than_a_million_pixels(diameter: float | None) -> None:
    """Also if small nuclei enlarge the image, and with an estimated diameter."""
    image = image_of_disks(3, (640, 700))
    net = Counting()
    found = Predictor(net.predict, "none", False, (96, 96), crop_diameter=20)(image, diameter)
    assert net.largest() <= 1024 * 1024
    assert found.probability.shape == (1, 640, 700)
    if diameter != 20:
        assert ((found.probability[0] > 0.5) == (image[..., 0] > 127)).mean() > 0.97


def test_an_export_that_normalizes_by_itself_takes_no_windows() -> None:
    predictor = Predictor(Net().predict, "none", False, (96, 96), crop_diameter=20, whole_only=True)
    assert predictor(np.zeros((200, 200, 3), np.uint8), 20).probability.shape == (1, 200, 200)
    with pytest.raises(InputError, match="so large images cannot be divided; export the network"):
        predictor(np.zeros((600, 600, 3), np.uint8), 5)


def test_a_sparse_image_is_normalized_like_a_crop_around_its_nuclei() -> None:
    """By the statistics of the whole image, the background's noise would be as large as nuclei elsewhere."""
    rng = np.random.default_rng(0)
    image = rng.normal(20, 2, (768, 768, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2)
    image[30:150, 30:150] = np.maximum(image[30:150, 30:150], image_of_disks(10, (120, 120)))
    seen = []

    def predict(batches):
        for images in batches:
            seen.append(images)
            yield np.zeros((1, 1, *images.shape[2:]), np.float32)

    Predictor(predict, "image", False, (192, 192), crop_diameter=20)(image, 20)
    crop = image[:192, :192]
    expected = (image.astype(float) - crop.mean()) / (crop.std() + 1e-4)
    np.testing.assert_allclose(seen[0][0].transpose(1, 2, 0), expected.clip(-20, 20), atol=0.02)
