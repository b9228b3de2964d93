"""Mask files: which are decoded, and to which pixels."""

import cv2
import numpy as np
import pytest

from imaging.masks import decode_mask
from runtime.errors import InputError


def png(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask)[1].tobytes()


def test_eight_bits_are_kept() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(decode_mask(png(mask), "x"), mask)


@pytest.mark.parametrize("high", [1, 255, 65535])
def test_two_values_of_16_bits_become_0_and_255(high: int) -> None:
    mask = np.array([[0, high], [high, 0]], np.uint16)
    assert decode_mask(png(mask), "x").tolist() == [[0, 255], [255, 0]]


def test_numbered_nuclei_of_16_bits_are_refused() -> None:
    with pytest.raises(InputError, match=r"^x: a uint16 mask of 3 values; masks have 8 bits, 0 and 255$"):
        decode_mask(png(np.array([[0, 1, 2]], np.uint16)), "x")


def test_color_masks_of_floats_are_refused() -> None:
    image = np.arange(8 * 8 * 4, dtype=np.float32).reshape(8, 8, 4)
    with pytest.raises(InputError, match=r"^x: a color mask of float32"):
        decode_mask(cv2.imencode(".tiff", image)[1].tobytes(), "x")
