"""Probabilities at an image's own size, by a stand-in for a network that knows nuclei of one size."""

import cv2
import numpy as np
import pytest

from imaging.predictor import Predictor


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
