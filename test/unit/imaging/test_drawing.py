# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Pictures for people."""

import cv2
import numpy as np
import pytest

from imaging import drawing


@pytest.mark.parametrize("high", [3, 60, 150])
def test_brightening_by_a_table_equals_brightening_each_pixel(high):
    image = np.random.default_rng(0).integers(0, high, (40, 30, 3), np.uint8)
    low, top = np.percentile(image, (0.5, 99.8))
    expected = ((image - low) * min(255 / max(top - low, 1), 20)).clip(0, 255).astype(np.uint8)
    assert np.array_equal(drawing.brighten(image), expected)


def test_bright_images_are_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    assert drawing.brighten(image) is image


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 2000, 3)], ids=str)
def test_brightening_images_of_any_shape(shape: tuple[int, ...]) -> None:
    image = np.full(shape, 7, np.uint8)
    assert drawing.brighten(image).shape == shape


def test_outlines_have_a_color_per_class_and_white_for_the_truth() -> None:
    masks = [np.zeros((40, 200), bool) for _ in range(6)]
    for k, mask in enumerate(masks):
        mask[10:30, 30 * k + 5 : 30 * k + 25] = True
    picture = drawing.overlay(np.zeros((40, 200, 3), np.uint8), masks[:5], masks[5:])
    for k in range(5):
        assert tuple(picture[10, 30 * k + 5].tolist()) == drawing.COLORS[k % 4]
    assert tuple(picture[10, 155].tolist()) == drawing.TRUTH_COLOR
    assert not picture[20, 15].any(), "inside the outline the image stays visible"


@pytest.mark.parametrize("height, width", [(10, 30), (30, 10), (500, 20), (1, 1)])
def test_images_are_centered_in_a_square(height: int, width: int) -> None:
    square = drawing.fit(np.full((height, width), 200, np.uint8), 60)
    rows, columns = (np.flatnonzero(square.any((axis, 2))) for axis in (1, 0))
    assert square.shape == (60, 60, 3) and max(len(rows), len(columns)) == 60
    for filled in (rows, columns):
        assert abs(filled[0] - (59 - filled[-1])) <= 1


def test_the_contact_sheet_holds_each_image() -> None:
    rows = [
        (f"name{k}", [np.full((drawing.TILE_SIDE, drawing.TILE_SIDE, 3), 50 + 10 * k, np.uint8)] * 2) for k in range(3)
    ]
    sheet = drawing.contact_sheet(rows, ["image", "mask"])
    for k in range(3):
        assert np.count_nonzero((sheet == 50 + 10 * k).all(2)) >= 2 * drawing.TILE_SIDE**2


def test_masks_are_compared_after_resizing() -> None:
    probability = np.array([[0.0, 1.0]], np.float32)
    mask = drawing.to_mask(probability, 4, 8, threshold=0.5)
    assert mask.shape == (4, 8) and mask[:, 4:].all() and not mask[:, :4].any()
    assert np.array_equal(mask, cv2.resize(probability, (8, 4)) > 0.5)


# --- outlines of numbered nuclei ------------------------------------------------------------------------------------


def random_labels(height: int = 40, width: int = 50, count: int = 30, seed: int = 0) -> np.ndarray:
    """Return a label image of regions that touch each other, some background, and gaps in the numbers."""
    rng = np.random.default_rng(seed)
    points = rng.integers(0, (height, width), (count, 2))
    distances = ((np.mgrid[:height, :width][..., None] - points.T[:, None, None]) ** 2).sum(0)
    labels = distances.argmin(2) * 3 + 1
    labels[distances.min(2) > 60] = 0
    return labels.astype(np.int32)


def neighbors_of(labels: np.ndarray, y: int, x: int, diagonal: bool) -> list[int]:
    """Return the labels beside a pixel; beyond the edge of the image is background."""
    steps = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0) and (diagonal or a * b == 0)]
    padded = np.pad(labels, 1)
    return [int(padded[y + 1 + a, x + 1 + b]) for a, b in steps]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("strip_rows", [7, 1024])
def test_outlines_of_labels_equal_those_of_a_search_pixel_by_pixel(monkeypatch, seed: int, strip_rows: int) -> None:
    monkeypatch.setattr(drawing, "STRIP_ROWS", strip_rows)
    labels = random_labels(seed=seed)
    picture = drawing.outline_labels(np.full((*labels.shape, 3), 20, np.uint8), labels)
    colors, outlined = {}, (picture != 20).any(2)
    for (y, x), label in np.ndenumerate(labels):
        differs = any(other != label for other in neighbors_of(labels, y, x, diagonal=False))
        assert outlined[y, x] == (label > 0 and differs)
        if outlined[y, x]:
            colors.setdefault(label, set()).add(tuple(picture[y, x].tolist()))
    palette = set(map(tuple, drawing.NUCLEUS_COLORS.tolist()))
    assert all(len(found) == 1 and found < palette for found in colors.values()), "one color for each nucleus"
    touching = {
        (label, other)
        for (y, x), label in np.ndenumerate(labels)
        for other in neighbors_of(labels, y, x, diagonal=True)
        if label and other and label != other
    }
    assert len(touching) > 20 and all(colors[first] != colors[second] for first, second in touching)


def test_nuclei_that_nearly_touch_have_different_colors() -> None:
    """Their numbers alone would give them the same one."""
    labels = np.zeros((20, 20), np.int32)
    labels[:, :9], labels[:, 11:] = 1, 1 + len(drawing.NUCLEUS_COLORS)
    numbers = drawing.color_numbers(labels)
    assert numbers[1] != numbers[-1]


@pytest.mark.parametrize("level, truth", [(20, (255, 255, 255)), (200, (0, 0, 0))])
def test_true_nuclei_are_white_on_dark_images_and_black_on_bright_ones(level: int, truth: tuple[int, ...]) -> None:
    image, found, true = np.full((30, 30, 3), level, np.uint8), *np.zeros((2, 30, 30), np.int32)
    true[5:15, 5:15], found[10:25, 10:25] = 1, 1
    before = image.copy()
    picture = drawing.outline_labels(image, found, true)
    assert np.array_equal(image, before)
    assert tuple(picture[5, 5].tolist()) == truth
    assert tuple(picture[10, 12].tolist()) not in (truth, (level,) * 3), "the nuclei found are drawn over the true ones"


def test_outlines_of_large_nuclei_in_large_images_are_thicker() -> None:
    labels = np.zeros((1200, 300), np.int32)
    labels[100:1100, 100:200] = 7
    row = drawing.outline_labels(np.zeros((1200, 300, 3), np.uint8), labels)[600].any(1)
    assert np.flatnonzero(row).tolist() == [100, 101, 102, 197, 198, 199]


@pytest.mark.parametrize("largest", [3, 2**16, 2**24 + 1])
def test_labels_of_any_number(largest: int) -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[:4], labels[4:] = largest - 1, largest
    picture = drawing.outline_labels(np.zeros((8, 8, 3), np.uint8), labels)
    assert (picture[3] != picture[4]).any(1).all() and not picture[1, 1:7].any()


def test_no_nuclei_have_no_outlines() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    empty = np.zeros((8, 8), np.int32)
    assert not drawing.outline_labels(image, empty, empty).any()
    with pytest.raises(ValueError, match=r"\(8, 8\), not \(4, 8\)"):
        drawing.outline_labels(image, empty[:4])


@pytest.mark.parametrize("side", [60, 192, 1200])
def test_outlines_on_the_sheet_are_as_thick_for_large_images_as_for_small_ones(side: int) -> None:
    labels = np.zeros((side, side), np.int32)
    labels[side // 4 : side * 3 // 4, side // 4 : side * 3 // 4] = 1
    tile = drawing.fit_outlined(np.zeros((side, side, 3), np.uint8), labels)
    assert tile.shape == (drawing.TILE_SIDE, drawing.TILE_SIDE, 3)
    colored = tile.any(axis=2)
    assert 4 * 94 <= colored.sum() <= 4 * 98 and not colored[60:130, 60:130].any()
