# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Small images, masks and prepared data sets for the tests."""

from pathlib import Path

import cv2
import numpy as np

from dataset import NucleiDataset
from imaging.augment import Pipeline
from imaging.prepared import PreparedFolder

# what open_dataset reads from train.py's flags
SETTINGS = {
    "img_ext": ".png",
    "mask_ext": ".png",
    "channel": 0,
    "dense_masks": False,
    "crop_diameter": 0.0,
    "input_h": 24,
    "input_w": 24,
    "seed": 5,
    "normalization": "standard",
    "divide_twice": True,
    "inner_split": False,
}


def noise(height: int = 24, width: int = 24, seed: int = 0) -> np.ndarray:
    """Return an image that, like a photograph, has no pixels of exactly 0 or 255."""
    return np.random.default_rng(seed).integers(20, 235, (height, width, 3), np.uint8)


def disc(height: int = 24, width: int = 24) -> np.ndarray:
    """Return a mask with soft edges, as the preparation writes it."""
    mask = cv2.circle(np.zeros((height, width), np.uint8), (width // 2, height // 2), height // 4, 255, -1)
    return cv2.GaussianBlur(mask, (3, 3), 0)


def numbered_ids(count: int) -> list[str]:
    """Return 0000, 0001, …"""
    return [f"{i:04d}" for i in range(count)]


def write_set(
    root: Path, ids: list[str], classes: int = 1, img_ext: str = ".png", mask_ext: str = ".png", image=None, mask=None
) -> Path:
    """Write a prepared data set: noise and discs, or the given image and mask for every id."""
    folder = PreparedFolder(root, img_ext, mask_ext, classes)
    for path in [folder.images, *map(folder.masks, range(classes))]:
        path.mkdir(parents=True)
    for n, img_id in enumerate(ids):
        cv2.imwrite(str(folder.image_path(img_id)), noise(seed=n) if image is None else image)
        for k in range(classes):
            cv2.imwrite(str(folder.mask_path(img_id, k)), disc() if mask is None else mask)
    return root


def open_set(root: Path, ids: list[str], transform, num_classes: int = 1, **settings) -> NucleiDataset:
    """Return the dataset of these ids; `settings` are those of NucleiDataset."""
    return NucleiDataset(PreparedFolder(root, num_classes=num_classes), ids, Pipeline(transform), **settings)
