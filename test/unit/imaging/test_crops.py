# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Crops at the scale of the nuclei."""

import numpy as np
import pytest

from imaging.crops import AT_NUCLEUS, JITTER, MAX_ASPECT, Cropper, median_diameter, resize, typical_diameter


def disk(size: tuple[int, int], center: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.indices(size)
    return ((y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2).astype(np.uint8) * 255


@pytest.mark.parametrize("white", [255, 1])
def test_the_diameter_is_the_median_of_the_regions_without_borders(white: int) -> None:
    nuclei = disk((100, 200), (50, 30), 10) | disk((100, 200), (50, 100), 20) | disk((100, 200), (50, 160), 20)
    assert typical_diameter(nuclei[..., None] // 255 * white) == pytest.approx(40, rel=0.02)
    borders = np.zeros_like(nuclei)
    borders[:, 97:104] = borders[:, 157:164] = 255  # each large one becomes two
    halves = typical_diameter(np.dstack([nuclei, borders]) // 255 * white)
    area = np.pi * 20**2 / 2 - 3.5 * 40
    assert halves == pytest.approx(2 * np.sqrt(area / np.pi), rel=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_the_median_counts_each_pixel_of_a_nucleus(seed: int) -> None:
    areas = np.random.default_rng(seed).integers(10, 400, 30)
    labels = np.repeat(np.arange(31), [500, *areas]).reshape(1, -1)
    each = np.repeat(2 * np.sqrt(areas / np.pi), areas)
    assert median_diameter(labels) == pytest.approx(np.percentile(each, 50, method="inverted_cdf"))


def test_an_image_holds_as_many_crops_as_cover_it_at_its_scale() -> None:
    cropper = Cropper(64, 32, 24, {"a": 12.0, "b": None})
    assert cropper.count("a", np.zeros((100, 80, 3), np.uint8)) == 200 * 160 / (64 * 32)
    assert cropper.count("b", np.zeros((64, 16, 3), np.uint8)) == 0.5


def test_many_specks_do_not_change_the_diameter() -> None:
    labels = disk((200, 200), (60, 60), 30) // 255 + 2 * (disk((200, 200), (140, 140), 30) // 255).astype(np.int32)
    diameter = median_diameter(labels)
    for index in range(60):
        labels[2 * (index // 10) : 2 * (index // 10) + 1, 20 * (index % 10) : 20 * (index % 10) + 12] = 3 + index
    assert median_diameter(labels) == diameter == pytest.approx(60, rel=0.02)


def test_without_nuclei_there_is_no_diameter() -> None:
    assert typical_diameter(np.zeros((20, 20, 1), np.uint8)) is None
    specks = np.zeros((20, 20), np.int32)
    specks[3, 3:6] = 1
    assert median_diameter(specks) is None


@pytest.mark.parametrize("radius, scale", [(5, 2.0), (10, 1.0), (20, 0.5), (3, 3.3)])
def test_the_center_is_scaled_so_that_nuclei_fit(radius: float, scale: float) -> None:
    mask = disk((200, 240), (99.5, 119.5), radius)
    image = np.dstack([mask] * 3)
    diameter = typical_diameter(mask[..., None])
    cropper = Cropper(64, 48, 20, {"a": diameter})
    assert cropper.scale("a") == pytest.approx(scale, rel=0.1)
    cropped, masks = cropper.center("a", image, mask[..., None])
    assert cropped.shape == (64, 48, 3) and masks.shape == (64, 48, 1)
    area = (masks > 127).sum()
    assert 2 * np.sqrt(area / np.pi) == pytest.approx(diameter * cropper.scale("a"), rel=0.2)
    rows, columns = np.nonzero(masks[..., 0] > 127)
    assert (rows.mean(), columns.mean()) == pytest.approx((31.5, 23.5), abs=scale)
    assert np.array_equal(cropped[..., 0], masks[..., 0])


def test_unknown_images_are_not_scaled() -> None:
    assert Cropper(64, 64, 20, {"a": None}).scale("a") == Cropper(64, 64, 20, {}).scale("b") == 1


def test_an_image_that_is_too_small_is_continued_by_its_mirror_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (10, 7, 3), np.uint8)
    cropped, masks = Cropper(16, 16, 20, {}).center("a", image, image[..., :2])
    assert np.array_equal(cropped, np.pad(image, ((3, 3), (5, 4), (0, 0)), mode="reflect")[:, :])
    assert np.array_equal(masks, cropped[..., :2])


def test_random_windows_show_the_same_pixels_of_image_and_masks_at_scales_in_the_range() -> None:
    rng = np.random.default_rng(0)
    mask = disk((300, 300), (150, 150), 10)
    image = np.dstack([mask] * 3)
    cropper, areas, centered = Cropper(96, 96, 20, {"a": 20.0}), [], 0
    for _ in range(200):
        cropped, masks = cropper.random("a", image, mask[..., None], rng)
        assert cropped.shape == (96, 96, 3) and np.array_equal(cropped[..., 1], masks[..., 0])
        marked = (masks > 127).sum()
        if marked and not (masks[[0, -1]].any() or masks[:, [0, -1]].any()):
            areas.append(marked)
        centered += bool(marked)
    diameters = 2 * np.sqrt(np.array(areas) / np.pi)
    assert diameters.min() > 20 * JITTER[0] * 0.85 and diameters.max() < 20 * JITTER[1] * 1.1
    assert diameters.max() > 30 and diameters.min() < 13
    assert centered > 200 * AT_NUCLEUS * 0.9
    assert 1 < MAX_ASPECT < 1.5


def test_the_same_generator_draws_the_same_window() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)
    cropper = Cropper(32, 32, 20, {"a": 11.0})
    first, second = (cropper.random("a", image, image[..., :1], np.random.default_rng(5)) for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(first, second))


def test_resizing_to_half_averages() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    expected = pixels.reshape(4, 2, 3, 2, 3).mean((1, 3))
    assert np.abs(resize(pixels, 4, 3) - expected).max() <= 0.5
    assert resize(pixels, 16, 12).shape == (16, 12, 3)


def test_images_are_enlarged_at_most_fourfold() -> None:
    assert Cropper(64, 64, 20, {"a": 3.0}).scale("a") == 4
