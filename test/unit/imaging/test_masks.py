# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Mask files: what their values mean, and how an image and its masks are turned."""

import cv2
import numpy as np
import pytest

from imaging.masks import Mask, align, decode_mask, to_training_mask
from imaging.reader import Picture
from runtime.errors import InputError


def png(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask)[1].tobytes()


def discs(count: int = 6, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    """Numbered discs that do not touch, uint8."""
    labels = np.zeros(shape, np.uint8)
    for number in range(count):
        cv2.circle(labels, (10 + 13 * (number % 6), 12 + 15 * (number // 6)), 5, number + 1, -1)
    return labels


def test_soft_edges_are_kept() -> None:
    soft = cv2.resize((discs(18) > 0).astype(np.uint8) * 255, (55, 41))
    mask = decode_mask(png(soft), "x")
    assert mask.kind == "marks" and np.array_equal(to_training_mask(mask, "x"), soft)


@pytest.mark.parametrize("high", [255, 65535])
def test_two_values_of_16_bits_become_0_and_255(high: int) -> None:
    mask = np.array([[0, high], [high, 0]], np.uint16)
    assert to_training_mask(decode_mask(png(mask), "x"), "x").tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_zero_and_one_are_told_apart_from_numbers(dtype: type) -> None:
    mask = decode_mask(png(np.array([[0, 1], [1, 0]], dtype)), "x")
    assert mask.kind == "zero_one" and mask.pixels.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("first", [1, 100, 200])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_numbered_nuclei_are_recognized_and_refused_for_training(first: int, dtype: type) -> None:
    numbers = np.where(discs() > 0, discs().astype(dtype) + (first - 1), 0).astype(dtype)
    mask = decode_mask(png(numbers), "x")
    assert mask.kind == "numbers" and np.array_equal(mask.pixels, numbers)
    with pytest.raises(InputError, match=r"^x: holds 6 numbered nuclei.*python preprocess_dsb2018\.py"):
        to_training_mask(mask, "x")


def test_an_image_and_its_mask_are_turned_alike() -> None:
    draws = np.random.default_rng(0)
    pixels, marked = draws.integers(0, 256, (20, 30, 3), np.uint8), draws.integers(0, 2, (20, 30), np.uint8) * 255
    upright = np.rot90(pixels, -1)  # orientation 6: to be turned clockwise
    image, [mask], note = align(Picture(pixels, 6, ()), [Mask(marked, 6)], ["m"])
    assert np.array_equal(image, upright) and np.array_equal(mask, np.rot90(marked, -1)) and note
    image, [mask], note = align(Picture(pixels, 6, ()), [Mask(np.rot90(marked, -1))], ["m"])
    assert np.array_equal(image, upright) and np.array_equal(mask, np.rot90(marked, -1)) and note


def test_a_mask_drawn_on_the_stored_pixels_turns_nothing() -> None:
    draws = np.random.default_rng(0)
    pixels, marked = draws.integers(0, 256, (20, 30, 3), np.uint8), draws.integers(0, 2, (20, 30), np.uint8) * 255
    image, [mask], note = align(Picture(pixels, 6, ()), [Mask(marked, 1)], ["m"])
    assert np.array_equal(image, pixels) and np.array_equal(mask, marked)
    assert note == "not turned, as their masks are not"
    with pytest.raises(InputError, match=r"^m: the mask is 30×21, but its image is 20×30; resize one of them"):
        align(Picture(pixels, 6, ()), [Mask(np.zeros((21, 30), np.uint8))], ["m"])


@pytest.mark.parametrize(
    "numbers", [(255, 254, 253, 30), (2, 255, 255), (255, 255, 255, 60), (1020, 1022, 1023, 100), (65535, 65535, 1)]
)
def test_gray_nuclei_beside_white_ones_are_numbers(numbers: tuple[int, ...]) -> None:
    """As in a tile of a label image with more nuclei than its values tell."""
    labels = np.zeros((60, 80), np.uint16 if max(numbers) > 255 else np.uint8)
    for place, number in enumerate(numbers):
        cv2.circle(labels, (12 + 18 * place, 30), 7, number, -1)
    mask = decode_mask(png(labels), "x")
    assert mask.kind == "numbers" and np.array_equal(mask.pixels, labels)


def test_alpha_counts_if_all_pixels_have_one_color() -> None:
    marked = (discs() > 0).astype(np.uint8) * 255
    red = np.dstack([np.zeros_like(marked), np.zeros_like(marked), np.full_like(marked, 255), marked])
    assert np.array_equal(to_training_mask(decode_mask(png(red), "x"), "x"), marked)
