# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Probabilities of an image at its own size, by a network that works at another size or scale."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from imaging import augment, tiles
from imaging.crops import MAX_SCALE, median_diameter, resize
from imaging.instances import SplitSettings, find_nuclei
from imaging.large_image import LargeImage, from_pixels
from imaging.large_nuclei import estimate_diameter
from imaging.normalization import input_table, to_input, window_statistics
from imaging.tiles import Tiling
from runtime.errors import InputError

MAX_PASSES = 3  # that estimate the diameter
CLOSE_ENOUGH = 1.15  # ratio of two estimates
ESTIMATE_SETTINGS = SplitSettings(neck=0.85)  # better than the default neck if the network predicts borders
MAX_WHOLE_PIXELS = 1024 * 1024  # of an input; a UNet needs about 1.4 KB of memory for each
FIRST_PASS_SIDE = 1024  # pixels; the first pass over a larger image is made at a smaller scale


class Prediction(NamedTuple):
    """probability: (num_classes, H, W), float32 in [0, 1]. diameter: that the image's nuclei were taken to have."""

    probability: np.ndarray
    diameter: float | None


def describe_diameters(diameters: list[float | None]) -> str:
    """Return a line on the diameters that the nuclei of images were taken to have; None: of no use to the network."""
    low, middle, high = np.percentile([diameter for diameter in diameters if diameter], (0, 50, 100))
    return f"diameter of the nuclei in pixels, by which images were scaled: {middle:.0f} ({low:.0f} to {high:.0f})"


class LargePrediction(NamedTuple):
    """strips: probabilities (num_classes, rows, W) from top to bottom, computed as they are taken.

    windows: how many will be predicted. diameter: that the image's nuclei were taken to have, if it was used.
    """

    strips: Iterator[np.ndarray]
    tiling: Tiling
    windows: int
    diameter: float | None

    def describe(self) -> str:
        """Return how the image is divided, in words."""
        scaled = f"windows of {self.tiling.tile} pixels, at {self.tiling.scale:.2f} times its size"
        return scaled + (f" for nuclei of {self.diameter:.0f} pixels" if self.diameter else "")


class Predictor:
    """Computes the probabilities of an image of any size.

    predict: from batches of inputs, float32 (N, 3, h, w), to probabilities (N, num_classes, h, w). normalization,
    divide_twice: of the inputs, see augment.input_maker.
    size: height and width to which the net's input is resized. crop_diameter: if it is above 0, the image is instead
    scaled so that its nuclei have this diameter, in pixels, and divided into windows if it is then large.
    whole_only: the network normalizes each of its inputs by itself, so that they must be whole images.
    """

    def __init__(
        self,
        predict: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]],
        normalization: str,
        divide_twice: bool,
        size: tuple[int, int],
        crop_diameter: float = 0,
        whole_only: bool = False,
    ):
        self.predict, self.size, self.crop_diameter = predict, size, crop_diameter
        self.normalization, self.divide_twice = normalization, divide_twice
        self.whole_only = whole_only
        self.make_input = augment.input_maker(normalization, divide_twice)

    def __call__(self, image: np.ndarray, diameter: float | None = None) -> Prediction:
        """Predict an image, uint8 BGR (H, W, 3); diameter: of its nuclei in pixels; None: it is estimated if needed."""
        if not self.crop_diameter:
            # by linear interpolation, as in training
            network_input = self.make_input(cv2.resize(image, self.size[::-1]))
            return Prediction(self._predict(image, network_input), None)
        if diameter:
            return Prediction(self._predict_scaled(image, diameter), diameter)
        return self._estimate(image)

    def _estimate(self, image: np.ndarray) -> Prediction:
        """Predict with the diameter of which the last pass says the same as the pass before."""
        diameter = self.crop_diameter * max(1, max(image.shape) / FIRST_PASS_SIDE)
        for _ in range(MAX_PASSES):
            used, probability = diameter, self._predict_scaled(image, diameter)
            found = median_diameter(find_nuclei(probability, ESTIMATE_SETTINGS))
            diameter = found or used
            if max(used, diameter) / min(used, diameter) < CLOSE_ENOUGH:
                break
        return Prediction(probability, used)

    def _predict_scaled(self, image: np.ndarray, diameter: float) -> np.ndarray:
        scale = min(MAX_SCALE, self.crop_diameter / diameter)
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        large = from_pixels(image)
        if height * width > MAX_WHOLE_PIXELS:
            return np.concatenate([*self._strips(large, Tiling(scale=scale))], axis=1)
        return self._predict(image, self._prepare(large, scale)(resize(image, height, width)))

    def _predict(self, image: np.ndarray, network_input: np.ndarray) -> np.ndarray:
        """Return the probabilities of an image, predicted from the input (3, h, w) that was made of it."""
        (probability,) = next(self.predict([network_input[None]]))
        size = image.shape[1::-1]
        return np.stack([cv2.resize(np.asarray(c), size, interpolation=cv2.INTER_LINEAR) for c in probability])

    def _prepare(self, image: LargeImage, scale: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function that turns parts of an image into input."""
        if self.normalization == "none":
            return self.make_input
        if self.normalization != "image" or not self.crop_diameter:
            return tiles.input_function(image, self.normalization, self.divide_twice, scale)
        side = max(self.size)
        # strips of equal height, about that of a crop
        rows = -(-image.shape[0] // max(1, round(image.shape[0] * scale / side)))
        statistics = window_statistics(tiles.scaled_strips(image, scale, rows), side)
        return partial(to_input, table=input_table("image", self.divide_twice, statistics))

    def _strips(self, image: LargeImage, tiling: Tiling, progress=lambda windows: None) -> Iterator[np.ndarray]:
        if self.whole_only:
            raise InputError(
                "the export normalizes each image by itself, so large images cannot be divided; export the network "
                "with pthtar2onnx.py without --uint8"
            )
        prepare = self._prepare(image, tiling.scale)
        return tiles.probability_strips(image, prepare, self.predict, tiling, progress)

    def predict_large(
        self,
        image: LargeImage,
        tile: int,
        overlap: int,
        diameter: float | None = None,
        progress: Callable[[int], None] = lambda windows: None,
    ) -> LargePrediction:
        """Predict a large image by windows; diameter as for other images. progress: gets numbers of windows done.

        tile, overlap: of the windows, in pixels that the network sees if it was trained with crops. Other networks get
        each window at the size to which whole images were resized; tile and overlap are then in pixels of the image.
        """
        if self.crop_diameter:
            diameter = diameter or estimate_diameter(image, lambda part: self(part).diameter)
            tiling = Tiling(tile, overlap, min(MAX_SCALE, self.crop_diameter / diameter))
        else:
            scale = max(self.size) / tile
            diameter, tiling = None, Tiling(max(self.size), round(overlap * scale), scale)
        strips = self._strips(image, tiling, progress)
        return LargePrediction(strips, tiling, len(tiles.windows(*image.shape, tiling)), diameter)
