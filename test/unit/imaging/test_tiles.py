# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Windows over a large image: their blended probabilities against a direct computation."""

import itertools

import cv2
import numpy as np
import pytest

from imaging import augment
from imaging.crops import resize
from imaging.large_image import from_pixels
from imaging.normalization import input_table, pixel_statistics, to_input
from imaging.tiles import Tiling, divide, input_function, probability_strips, scaled_strips, windows
from runtime.errors import InputError

RNG = np.random.default_rng(0)
SIZES = (1, 5, 31, 32, 33, 60, 97, 200)
TILINGS = [
    Tiling(tile, overlap, scale)
    for tile, overlap in ((32, 8), (32, 0), (32, 31), (16, 11), (1, 0), (64, 40))
    for scale in (1.0, 0.3, 1.7)
]


def to_floats(window: np.ndarray) -> np.ndarray:
    return window.transpose(2, 0, 1).astype(np.float32) / 255


def whole(image: np.ndarray, predict, tiling: Tiling, prepare=to_floats) -> np.ndarray:
    strips = probability_strips(from_pixels(image), prepare, lambda batches: map(predict, batches), tiling)
    return np.concatenate(list(strips), axis=1)


@pytest.mark.parametrize("size, tiling", itertools.product(SIZES, TILINGS))
def test_windows_cover_an_axis_and_their_weights_add_up_to_one(size: int, tiling: Tiling) -> None:
    axis = divide(size, tiling)
    tile, overlap = max(1, round(tiling.tile / tiling.scale)), round(tiling.overlap / tiling.scale)
    assert axis.length == min(tile, size) and axis.starts[0] == 0 and axis.starts[-1] + axis.length == size
    steps = np.diff(axis.starts)
    assert (steps > 0).all() and (steps <= max(1, tile - overlap)).all()
    assert axis.input_length == (tiling.tile if size >= tile else max(1, round(size * tiling.scale)))
    total = np.zeros(size)
    for start, weights in zip(axis.starts, axis.weights, strict=True):
        assert weights.min() > 0
        total[start : start + axis.length] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_no_window_more_than_needed() -> None:
    for size, tile, overlap in itertools.product(range(1, 120), (8, 16), (0, 3, 7)):
        count = len(divide(size, Tiling(tile, overlap)).starts)
        assert count == 1 if size <= tile else (count - 1) * (tile - overlap) + tile >= size
        assert count < 3 or (count - 2) * (tile - overlap) + tile < size


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("shape", [(50, 71), (1, 9), (33, 32), (60, 20)])
def test_the_sum_of_weighted_windows(shape: tuple[int, int], tiling: Tiling) -> None:
    """Against the plain formula, with weights from their definition, for a net whose result depends on the window."""
    image = RNG.integers(0, 256, (*shape, 3), np.uint8)

    def predict(batch: np.ndarray) -> np.ndarray:
        differences = np.abs(batch - batch.mean((1, 2, 3), keepdims=True))
        return np.stack([differences[:, 0], differences[:, 2] ** 2], axis=1)

    total, weight_sum = np.zeros((2, *shape)), np.zeros(shape)
    for rows, columns in windows(*shape, tiling):
        window = image[rows, columns]
        sides = [divide(size, tiling).input_length for size in shape]
        found = predict(to_floats(resize(window, *sides))[None])[0]
        ramps = []
        for length in window.shape[:2]:
            overlap = max(1, min(round(tiling.overlap / tiling.scale), round(tiling.tile / tiling.scale) - 1))
            places = np.arange(length)
            ramp = np.minimum(1, (np.minimum(places, length - 1 - places) + 0.5) / overlap)
            ramps.append((1 - np.cos(np.pi * ramp)) / 2)
        weights = np.outer(*ramps)
        weight_sum[rows, columns] += weights
        total[:, rows, columns] += weights * np.stack([resize(channel, *window.shape[:2]) for channel in found])
    found = whole(image, predict, tiling)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.minimum(total / weight_sum, 1), atol=2e-6)


@pytest.mark.parametrize("tiling", [Tiling(32, 8), Tiling(48, 40), Tiling(16, 0)])
def test_a_net_that_looks_at_single_pixels_gives_the_same_with_and_without_windows(tiling: Tiling) -> None:
    image = RNG.integers(0, 256, (75, 130, 3), np.uint8)
    found = whole(image, lambda batch: batch[:, :2], tiling)
    np.testing.assert_allclose(found, to_floats(image)[:2], atol=1e-6)
    ones = whole(image, lambda batch: np.ones((len(batch), 1, *batch.shape[2:]), np.float32), tiling)
    assert ones.max() <= 1 and ones.min() > 1 - 1e-6


def test_a_net_with_a_field_of_view_less_than_the_overlap_gives_nearly_the_same() -> None:
    """The nearer to its edge, the less a window counts."""
    image = cv2.GaussianBlur(RNG.integers(0, 256, (300, 260, 3), np.uint8), (0, 0), 2)

    def predict(batch: np.ndarray) -> np.ndarray:
        return np.stack([cv2.GaussianBlur(window[0], (0, 0), 3) for window in batch])[:, None]

    direct = predict(to_floats(image)[None])[0]
    inside = (slice(None), slice(20, -20), slice(20, -20))
    errors = [np.abs(whole(image, predict, Tiling(64, overlap)) - direct)[inside].max() for overlap in (0, 8, 32)]
    assert errors[0] > 4 * errors[1] > 4 * errors[2] and errors[2] < 2e-3


def test_one_window_is_the_nets_own_output() -> None:
    image = RNG.integers(0, 256, (40, 50, 3), np.uint8)
    output = RNG.random((1, 2, 40, 50), np.float32)
    assert np.array_equal(whole(image, lambda batch: output, Tiling(64, 16)), output[0])


def test_the_size_of_the_batches_does_not_matter() -> None:
    image, sizes = RNG.integers(0, 256, (100, 333, 3), np.uint8), []

    def predict(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return np.sqrt(batch[:, :1])

    results = [whole(image, predict, Tiling(32, 8, batch_size=size)) for size in (1, 4, 5, 100)]
    assert all(np.array_equal(result, results[0]) for result in results)
    assert set(sizes) == {1, 4, 5, 14, 2} and len(divide(333, Tiling(32, 8)).starts) == 14


def test_progress_counts_the_windows_and_strips_are_as_short_as_possible() -> None:
    image, counts, tiling = RNG.integers(0, 256, (100, 90, 3), np.uint8), [], Tiling(32, 8, batch_size=3)
    strips = list(probability_strips(from_pixels(image), to_floats, iter, tiling, counts.append))
    assert sum(counts) == len(windows(100, 90, tiling)) and set(counts) <= {1, 2, 3}
    assert len(strips) == len(divide(100, tiling).starts) and max(strip.shape[1] for strip in strips) <= 32


def test_the_scale_of_the_input() -> None:
    """A net that needs twice the size sees windows of twice the size; the result has the size of the image."""
    image = cv2.GaussianBlur(RNG.integers(0, 256, (90, 120, 3), np.uint8), (0, 0), 4)
    for scale in (0.5, 2.0):
        shapes = set()

        def predict(batch: np.ndarray, shapes=shapes) -> np.ndarray:
            shapes.add(batch.shape[1:])
            return batch[:, :1]

        found = whole(image, predict, Tiling(32, 8, scale))
        assert shapes == {(3, 32, 32)} and found.shape == (1, 90, 120)
        assert np.abs(found[0] - image[..., 0] / 255).max() < 0.03


@pytest.mark.parametrize("scale", [1.0, 0.4, 1.5])
def test_normalization_of_the_whole_image(scale: float) -> None:
    """The statistics are not those of a window: the left half is dark, the right one bright."""
    image = np.hstack([RNG.integers(0, 30, (200, 150, 3), np.uint8), RNG.integers(90, 200, (200, 150, 3), np.uint8)])
    statistics = pixel_statistics(scaled_strips(from_pixels(image), scale))
    prepare = input_function(from_pixels(image), "image", False, scale)
    size = round(200 * scale), round(300 * scale)
    expected = resize(image, *size)
    assert statistics == pytest.approx((expected.mean(), expected.std()), rel=1e-9 if scale == 1 else 0.01)
    if scale == 1:
        inputs = whole(image, lambda batch: batch / 20 + 0.5, Tiling(64, 16), prepare)
        normalized = ((image - image.mean()) / (image.std() + 1e-4)).transpose(2, 0, 1)
        np.testing.assert_allclose(inputs, normalized / 20 + 0.5, atol=1e-6)
    np.testing.assert_allclose(prepare(image), to_input(image, input_table("image", False, statistics)))
    standard = input_function(from_pixels(image), "standard", True)(image)
    np.testing.assert_allclose(standard, augment.input_maker("standard", True)(image), atol=1e-7)


def test_impossible_tilings_and_nets() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    for tiling in (Tiling(32, 32), Tiling(32, -1), Tiling(0, 0)):
        with pytest.raises(InputError, match="an overlap of"):
            whole(image, lambda batch: batch, tiling)
    for tiling in (Tiling(scale=0), Tiling(scale=float("nan")), Tiling(batch_size=0)):
        with pytest.raises(ValueError, match="scale"):
            whole(image, lambda batch: batch, tiling)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 16, 16\) for 1 windows"):
        whole(image, lambda batch: batch[:, :, ::2, ::2], Tiling(32, 8, batch_size=1))
