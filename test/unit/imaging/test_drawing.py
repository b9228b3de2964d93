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
