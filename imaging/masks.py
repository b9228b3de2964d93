"""Mask files to pixels."""

from pathlib import Path

import cv2
import numpy as np

from imaging.reader import decode
from runtime.errors import InputError
from runtime.files import read_bytes


def decode_mask(data: bytes, name: object) -> np.ndarray:
    """Decode the bytes of a mask file to gray uint8 (H, W).

    Raises InputError naming the file if it is not an image. Also if it has more than 8 bits and more than two values,
    because it then holds numbered nuclei.
    """
    mask = decode(data, cv2.IMREAD_GRAYSCALE, name)
    if mask.ndim != 2:
        raise InputError(f"{name}: a color mask of {mask.dtype}; masks have 8 bits, 0 and 255")
    if mask.dtype != np.uint8:
        if len(values := np.unique(mask)) > 2:
            raise InputError(f"{name}: a {mask.dtype} mask of {len(values)} values; masks have 8 bits, 0 and 255")
        mask = (mask > 0).astype(np.uint8) * 255
    return mask


def read_mask(path: Path) -> np.ndarray:
    """Read a mask file with `decode_mask`; raises InputError naming it also if it is missing."""
    return decode_mask(read_bytes(path), path)
