# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The kind of an image."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import dataset
from imaging.modality import KINDS, image_kind


def draw(background: tuple[int, ...], nucleus: tuple[int, ...], size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """Return a BGR image with noise and nuclei in a ninth of its area."""
    image = np.full((*size, 3), background, np.int16)
    image[size[0] // 3 : 2 * size[0] // 3, size[1] // 3 : 2 * size[1] // 3] = nucleus
    noise = np.random.default_rng(0).integers(-4, 5, (*size, 1))
    return (image + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "background, nucleus, kind",
    [
        ((5, 5, 5), (90, 90, 90), "fluorescence"),
        ((0, 0, 0), (6, 6, 6), "fluorescence"),
        ((60, 60, 60), (250, 250, 250), "fluorescence"),
        ((20, 0, 0), (255, 40, 10), "fluorescence"),  # stained blue
        ((210, 170, 190), (150, 40, 90), "stained tissue"),
        ((235, 235, 235), (150, 30, 80), "stained tissue"),  # color in the nuclei alone
        ((230, 230, 230), (90, 90, 90), "brightfield"),
        ((228, 235, 240), (92, 95, 100), "brightfield"),  # a slight tint
    ],
)
def test_kinds(background: tuple[int, ...], nucleus: tuple[int, ...], kind: str) -> None:
    assert image_kind(draw(background, nucleus)) == kind and kind in KINDS
    assert image_kind(draw(background, nucleus, (2000, 3000))) == kind


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)], ids=str)
def test_images_of_any_size(size: tuple[int, int]) -> None:
    assert image_kind(np.zeros((*size, 3), np.uint8)) == "fluorescence"


def test_validation_images_of_the_real_set(real_zip: Path) -> None:
    """By eye: 104 of the 133 are fluorescence, 23 are stained tissue, and 6 gray brightfield."""
    archive = zipfile.ZipFile(real_zip)
    files = {name.split("/")[-3]: name for name in archive.namelist() if name.endswith(".png") and "/images/" in name}
    _, ids = dataset.split_ids([*files])
    images = [cv2.imdecode(np.frombuffer(archive.read(files[img_id]), np.uint8), cv2.IMREAD_COLOR) for img_id in ids]
    found = [image_kind(image) for image in images]
    assert [found.count(kind) for kind in ("fluorescence", "stained tissue", "brightfield")] == [104, 23, 6]
