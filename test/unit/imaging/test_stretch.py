# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Stretching to 8 bits, against the formula written out with scipy and numpy."""

import tracemalloc

import numpy as np
import pytest
from scipy.ndimage import median_filter

from imaging.stretch import stretch_to_8_bits
from runtime.errors import InputError


def formula(values: np.ndarray) -> np.ndarray:
    """What the docstring says, in float64 and at once."""
    finite = np.isfinite(values)
    filled = np.where(finite, values, np.median(values[finite])).astype(np.float64)
    size = (5, 5, 1)[: values.ndim]
    smooth = median_filter(filled, size, mode="mirror")
    low, high = smooth.min(), smooth.max()
    noise = 1.4826 * np.median(abs(filled - smooth))
    scaled = 255 * (values.astype(np.float64) - low) / max(high - low, 32 * noise, 1e-300)
    return np.nan_to_num(scaled, posinf=255, neginf=0).clip(0, 255)


def blobs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    field = sum(
        np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 30) for cy, cx in draws.uniform(5, min(shape[:2]) - 5, (6, 2))
    )
    return (field if len(shape) == 2 else field[..., None] * [1, 0.6, 0.3]) + draws.normal(0, 0.005, shape)


@pytest.mark.parametrize("dtype", ["u2", "i2", "i1", "i4", "u4", "i8", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(40, 57), (40, 57, 3)])
def test_each_kind_of_number_follows_the_formula(dtype: str, shape: tuple[int, ...]) -> None:
    values = blobs(shape)
    if np.dtype(dtype).kind in "iu":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        values = (values / values.max() * (high // 2 - low // 2) * 0.4 + (low + high) / 2).round()
    values = values.astype(dtype)
    assert abs(stretch_to_8_bits(values, "x") - formula(values)).max() < 0.51


def test_eight_bits_are_untouched() -> None:
    values = np.random.default_rng(0).integers(90, 100, (9, 9), np.uint8)
    assert np.array_equal(stretch_to_8_bits(values, "x"), values)


@pytest.mark.parametrize(
    "damage",
    [
        lambda v: v.__setitem__((3, 3), 65535),
        lambda v: v.__setitem__((0, 0), 65535),
        lambda v: v.__setitem__((slice(10, 12), slice(30, 32)), 0),
        lambda v: v.__setitem__((slice(None), 20), 65535),
        lambda v: v.__setitem__((slice(None), 0), 65535),
        lambda v: v.__setitem__((-1, slice(None)), 0),
        lambda v: v.__setitem__((slice(0, 4), 0), 65535),
    ],
    ids=["hot pixel", "hot corner", "dead cluster", "hot column", "hot edge", "dead last row", "hot part of an edge"],
)
def test_hot_and_dead_pixels_do_not_set_the_range(damage) -> None:
    sound = (3000 + 2500 * blobs((60, 60))).astype(np.uint16)
    damaged = sound.copy()
    damage(damaged)
    same = damaged == sound
    expected, found = (stretch_to_8_bits(values, "x").astype(int) for values in (sound, damaged))
    assert abs(expected - found)[same].max() <= 3


@pytest.mark.parametrize("level", [200, 40000])
def test_an_empty_field_stays_dark(level: int) -> None:
    noise = np.random.default_rng(0).normal(level, 5, (200, 200)).round().astype(np.uint16)
    found = stretch_to_8_bits(noise, "x")
    assert found.std() < 10 and found.max() < 80
    noise[50:60, 50:60] += 3000
    assert stretch_to_8_bits(noise, "x")[50:60, 50:60].min() > 240


def test_values_that_are_not_finite_do_not_count() -> None:
    values = blobs((50, 50)).astype(np.float32)
    expected = stretch_to_8_bits(values, "x")
    values[4, :3] = np.nan, np.inf, -np.inf
    found = stretch_to_8_bits(values, "x")
    assert found[4, :3].tolist() == [0, 255, 0]
    assert abs(found.astype(int) - expected)[5:].max() <= 1
    assert not stretch_to_8_bits(np.full((5, 5), np.nan), "x").any()


@pytest.mark.parametrize("far", [-3.4028234663852886e38, -9999.0, 1e30])
def test_a_value_far_off_does_not_cost_the_others_their_digits(far: float) -> None:
    values = blobs((50, 50)).astype(np.float32)
    expected = stretch_to_8_bits(values, "x")
    values[20, 20] = far
    found = stretch_to_8_bits(values, "x")
    found[20, 20] = expected[20, 20]
    assert abs(found.astype(int) - expected).max() <= 3


def test_a_constant_image_is_black() -> None:
    assert not stretch_to_8_bits(np.full((5, 7), 1234, np.uint16), "x").any()


def test_strips_give_what_the_whole_gives() -> None:
    values = (1000 + 500 * blobs((1500, 997))).astype(np.uint16)
    found = stretch_to_8_bits(values, "x")
    assert abs(found - formula(values)).max() < 1


def test_stretching_takes_little_memory() -> None:
    values = np.arange(3000 * 2000, dtype=np.uint32).astype(np.uint16).reshape(3000, 2000)
    tracemalloc.start()
    stretched = stretch_to_8_bits(values, "x")
    assert tracemalloc.get_traced_memory()[1] < 12 * stretched.nbytes
    tracemalloc.stop()


@pytest.mark.parametrize("high", [1e308, 1e-320])
def test_values_that_cannot_be_stretched(high: float) -> None:
    with pytest.raises(InputError, match=r"^x: its values, from .* cannot be stretched"):
        stretch_to_8_bits(np.array([[-high, high]] * 2), "x")
