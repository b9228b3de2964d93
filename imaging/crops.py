# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Crops of images at the scale at which nuclei have the diameter that a network is trained with."""

import math
from collections.abc import Mapping

import cv2
import numpy as np
from skimage.measure import label as label_regions

MIN_NUCLEUS = 10  # pixels; smaller regions do not count into an image's diameter
MAX_SCALE = 4.0  # images are not enlarged beyond
JITTER = 0.5, 1.9  # range of the random factors on the scale; an image's nuclei differ, and prediction only estimates
MAX_ASPECT = 1.15
AT_NUCLEUS = 0.8  # share of the crops whose center is in a nucleus


def typical_diameter(masks: np.ndarray) -> float | None:
    """Return the median diameter in pixels of the nuclei that masks show, see median_diameter; None if there are none.

    masks: uint8 (H, W, num_classes), in 0 and 255 or 0 and 1; class 1, if there is one, are the borders between nuclei.
    A nucleus is a connected region that remains without the borders; its diameter is that of a circle of its area.
    """
    high = max(1, int(masks.max()))
    marked = masks > high / 2
    nuclei = marked[..., 0] & ~marked[..., 1] if masks.shape[2] > 1 else marked[..., 0]
    return median_diameter(label_regions(nuclei, connectivity=2))


def median_diameter(labels: np.ndarray) -> float | None:
    """Return the median diameter in pixels of the nuclei of a label image (H, W), None if it has none.

    Half of the pixels of nuclei are in nuclei of at most this diameter: large nuclei count more, so that the many false
    specks that a network sees in tissue hardly change the diameter that is estimated from its output.
    """
    areas = np.sort(np.bincount(labels.ravel())[1:])
    areas = areas[areas >= MIN_NUCLEUS]
    if not areas.size:
        return None
    middle = areas[np.searchsorted(np.cumsum(areas), areas.sum() / 2)]
    return float(2 * np.sqrt(middle / np.pi))


class Cropper:
    """Cuts a window of `height` × `width` pixels out of an image that is scaled so that its nuclei fit `diameter`.

    diameters: of the nuclei of each image, by id; images without nuclei are not scaled. Beyond its edges, an image is
    continued by its mirror image.
    """

    def __init__(self, height: int, width: int, diameter: float, diameters: Mapping[str, float | None]):
        self.height, self.width, self.diameter, self.diameters = height, width, diameter, diameters

    def describe(self) -> str:
        """Return a line on the diameters of the nuclei and on how they are scaled."""
        found = [diameter for diameter in self.diameters.values() if diameter]
        spread = ", ".join(f"{value:.0f}" for value in np.percentile(found, (5, 50, 95))) if found else "none"
        return (
            f"images: {len(self.diameters)}; diameter of their nuclei in pixels (5 %, 50 %, 95 %): {spread}; inputs "
            f"are crops of {self.width}×{self.height} in which it is {self.diameter:g}"
        )

    def scale(self, img_id: str) -> float:
        """Return by how much an image is enlarged."""
        return min(MAX_SCALE, self.diameter / (self.diameters.get(img_id) or self.diameter))

    def count(self, img_id: str, image: np.ndarray) -> float:
        """Return how many windows would cover an image (H, W, 3) of this id."""
        height, width = image.shape[:2]
        return height * width * self.scale(img_id) ** 2 / (self.height * self.width)

    def center(
        self, img_id: str, image: np.ndarray, masks: np.ndarray, generator: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the window around the center of an image, uint8 BGR (H, W, 3), and of its masks (H, W, C)."""
        height, width = image.shape[:2]
        return self._cut(image, masks, (height / 2, width / 2), (self.scale(img_id),) * 2)

    def random(
        self, img_id: str, image: np.ndarray, masks: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a random window, scaled by random factors, most often around a pixel of a nucleus."""
        low, high = np.log(JITTER)
        scale = self.scale(img_id) * math.exp(generator.uniform(low, high))
        stretch = math.exp(generator.uniform(-1, 1) * math.log(MAX_ASPECT))
        center = generator.uniform(0, 1, 2) * image.shape[:2]
        marked = np.flatnonzero(masks[..., 0] > masks[..., 0].max() / 2)
        if generator.uniform() < AT_NUCLEUS and marked.size:
            center = np.array(np.unravel_index(generator.choice(marked), image.shape[:2]), float)
            center += generator.uniform(-0.25, 0.25, 2) * (self.height, self.width) / scale
        return self._cut(image, masks, tuple(center), (scale * stretch, scale / stretch))

    def _cut(
        self, image: np.ndarray, masks: np.ndarray, center: tuple[float, float], scales: tuple[float, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        sides = [max(1, round(side / scale)) for side, scale in zip((self.height, self.width), scales)]
        starts = []
        for middle, side, length in zip(center, sides, image.shape):
            # inside the image if it is large enough, else with the image in the middle
            start = round(middle - side / 2)
            starts.append(min(max(start, 0), length - side) if side <= length else (length - side) // 2)
        return self._resized(image, starts, sides), self._resized(masks, starts, sides)

    def _resized(self, pixels: np.ndarray, starts: list[int], sides: list[int]) -> np.ndarray:
        (top, left), (height, width) = starts, sides
        window = pixels[max(0, top) : top + height, max(0, left) : left + width]
        if window.shape[:2] != (height, width):  # the image is smaller than the window, and lies in it as a whole
            below, right = height + min(0, top) - window.shape[0], width + min(0, left) - window.shape[1]
            window = cv2.copyMakeBorder(window, max(0, -top), below, max(0, -left), right, cv2.BORDER_REFLECT_101)
        window = np.ascontiguousarray(window)
        return resize(window, self.height, self.width).reshape(self.height, self.width, -1)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize pixels (H, W, C) or (H, W): to fewer by averaging, to more by linear interpolation."""
    shrinks = height * width < pixels.shape[0] * pixels.shape[1]
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
