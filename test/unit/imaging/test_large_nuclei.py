# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Nuclei of large images: tables, diameters and files equal those of the image in one piece."""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from imaging import large_nuclei
from imaging.blocks import Seams
from imaging.crops import median_diameter
from imaging.instances import SplitSettings, find_nuclei
from imaging.large_image import LargeImage, from_pixels
from imaging.large_nuclei import LargeNuclei, estimate_diameter, find_large_nuclei, write_large_nuclei
from imaging.measures import measure_nuclei
from imaging.raw.synthetic import synthesize

SETTINGS = SplitSettings()


def draw(seed: int, modality: str = "fluorescence") -> tuple[np.ndarray, np.ndarray]:
    """Return an image and the probabilities of nuclei and of something else, float32 (2, H, W)."""
    image, true = synthesize(np.random.default_rng(seed), modality)
    nuclei = cv2.GaussianBlur((true > 0).astype(np.float32), (0, 0), 1)
    return image, np.stack([nuclei, np.zeros_like(nuclei)])


def find(image: np.ndarray, probability: np.ndarray, **options) -> tuple[np.ndarray, LargeNuclei]:
    labels = np.zeros(image.shape[:2], np.int32)
    strips = np.array_split(probability, 5, axis=1)
    return labels, find_large_nuclei(from_pixels(image), strips, SETTINGS, labels, Seams(110, 64), **options)


@pytest.mark.parametrize("pixel_size", [None, 0.25])
@pytest.mark.parametrize("modality, seed", [("fluorescence", 1), ("fluorescence", 8), ("tissue", 2), ("tissue", 5)])
def test_the_table_is_that_of_the_whole_image(modality: str, seed: int, pixel_size: float | None) -> None:
    image, probability = draw(seed, modality)
    image[:120, :120] = 90  # the image has colors, but not everywhere
    whole = measure_nuclei(find_nuclei(probability, SETTINGS), image, pixel_size)
    labels, found = find(image, probability, pixel_size=pixel_size)
    assert len(whole) > 5 and found.table["label"].tolist() == list(range(1, len(whole) + 1))
    areas = np.bincount(labels.ravel())[1:] * (pixel_size or 1) ** 2
    np.testing.assert_allclose(found.table["area"], areas)
    tables = [table.drop(columns="label").sort_values(["top", "left"]) for table in (whole, found.table)]
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in tables))


def test_an_image_without_nuclei_has_a_table_without_rows() -> None:
    image, probability = draw(1)
    labels, found = find(image, probability * 0)
    expected = measure_nuclei(labels, image)
    assert list(found.table.columns) == list(expected.columns) and len(found.table) == 0 and not labels.any()


def test_nuclei_that_the_margin_does_not_hold_are_counted() -> None:
    probability = np.zeros((1, 400, 400), np.float32)
    cv2.circle(probability[0], (200, 200), 150, 1, -1)
    assert find(np.zeros((400, 400, 3), np.uint8), probability)[1].cut > 0
    assert find(*draw(1))[1].cut == 0


@pytest.mark.parametrize("shape", [(300, 500), (1024, 3000), (2500, 4100)])
def test_the_diameter_is_estimated_in_parts_that_show_nuclei(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros(shape, np.uint8)
    for _ in range(60):  # all in one corner of the image
        center = rng.integers(20, (min(shape[1], 900), min(shape[0], 900))).tolist()
        cv2.circle(mask, center, 8, 255, -1)
    parts = []

    def estimate(part: np.ndarray) -> float:
        parts.append(part.shape)
        return median_diameter(cv2.connectedComponents(part[..., 0])[1]) or 1000.0

    found = estimate_diameter(from_pixels(cv2.merge([mask] * 3)), estimate)
    assert len(parts) == min(4, -(-shape[0] // 1024) * -(-shape[1] // 1024))
    assert set(parts) == {(min(1024, shape[0]), min(1024, shape[1]), 3)}
    if len(parts) == 1:
        assert 15 < found < 30


def test_the_most_contrast_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_nuclei, "PART_SIDE", 50)
    image = np.zeros((200, 300, 3), np.uint8)
    corners = [(0, 0), (50, 150), (150, 250), (100, 100)]
    for number, (top, left) in enumerate(corners):
        image[top : top + 50 : 8, left : left + 50] = 100 + number
    found = estimate_diameter(from_pixels(image), lambda part: float(part.max()))
    assert found == np.median([100, 101, 102, 103])


def test_the_files_of_a_large_image(tmp_path: Path) -> None:
    image, probability = draw(8)
    labels, found = find(image, probability)
    row = write_large_nuclei(tmp_path, "x", from_pixels(image), labels, found.probability)
    assert np.array_equal(tifffile.imread(tmp_path / "labels" / "x_labels.tif"), labels)
    mask = cv2.imread(str(tmp_path / "0" / "x_mask.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, np.where(labels > 0, 255, 0))
    overlay = cv2.imread(str(tmp_path / "overlay" / "x.png"))
    assert overlay.shape == image.shape and not np.array_equal(overlay, image)
    jpeg = cv2.imread(str(tmp_path / "0" / "x.jpg"), cv2.IMREAD_GRAYSCALE)
    assert np.abs(jpeg - 255 * probability[0]).mean() < 3 and (tmp_path / "1" / "x.jpg").is_file()
    assert len(row) == 4 and len({picture.shape for picture in row}) == 1


def test_pictures_of_a_large_image_are_smaller(tmp_path: Path) -> None:
    labels = np.zeros((100, 9000), np.int32)
    labels[30:70, 4000:4040] = 1
    read = partial(np.zeros, dtype=np.uint8)
    image = LargeImage(labels.shape, lambda start, stop: read((stop - start, 9000, 3)))
    write_large_nuclei(tmp_path, "x", image, labels, np.zeros((1, 46, 4096), np.float32))
    for path in ("0/x_mask.png", "overlay/x.png", "0/x.jpg"):
        assert cv2.imread(str(tmp_path / path)).shape == (46, 4096, 3)
