# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The table of nuclei, against NumPy and formulas."""

import numpy as np
import pytest

from imaging.measures import measure_nuclei, summarize


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.zeros((60, 80), np.int32)
    labels[5:15, 10:30] = 1
    y, x = np.indices(labels.shape)
    labels[((y - 40) / 8) ** 2 + ((x - 40) / 16) ** 2 <= 1] = 2
    labels[50:55, 70:80], labels[45:50, 75:80] = 5, 5  # an L, and labels need not follow each other
    return labels


@pytest.mark.parametrize("pixel_size", [None, 0.5])
def test_positions_areas_and_shapes(labels: np.ndarray, pixel_size: float | None) -> None:
    table = measure_nuclei(labels, np.zeros((60, 80, 3), np.uint8), pixel_size).set_index("label")
    unit = pixel_size or 1
    assert list(table.index) == [1, 2, 5]
    for label, row in table.iterrows():
        y, x = np.nonzero(labels == label)
        assert row["area"] == pytest.approx(len(y) * unit**2)
        assert (row["centroid_y"], row["centroid_x"]) == pytest.approx((y.mean() * unit, x.mean() * unit))
        box = np.array([y.min(), x.min(), y.max() + 1, x.max() + 1]) * unit
        assert row[["top", "left", "bottom", "right"]].tolist() == pytest.approx(box.tolist())
        assert row["equivalent_diameter"] == pytest.approx(2 * np.sqrt(len(y) / np.pi) * unit)
    assert table.loc[2, "eccentricity"] == pytest.approx(np.sqrt(1 - (8 / 16) ** 2), abs=0.01)
    assert table.loc[1, "solidity"] == 1
    # the convex hull of the L cuts off a corner; scikit-image counts the pixels within it
    assert 0.8 < table.loc[5, "solidity"] < 0.9


@pytest.mark.parametrize("gray", [True, False])
def test_intensities_by_channel(labels: np.ndarray, gray: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    if gray:
        image = image[..., :1].repeat(3, 2)
    table = measure_nuclei(labels, image).set_index("label")
    channels = {"gray": 0} if gray else {"blue": 0, "green": 1, "red": 2}
    assert {name for name in table if name.startswith(("mean_", "max_"))} == {
        f"{kind}_{name}" for kind in ("mean", "max") for name in channels
    }
    for label in (1, 2, 5):
        for name, k in channels.items():
            assert table.loc[label, f"mean_{name}"] == pytest.approx(image[labels == label, k].mean())
            assert table.loc[label, f"max_{name}"] == image[labels == label, k].max()


def test_summary(labels: np.ndarray) -> None:
    areas = [(labels == label).sum() for label in (1, 2, 5)]
    for unit in (None, 0.5):
        summary = summarize(measure_nuclei(labels, np.zeros((60, 80, 3), np.uint8), unit), (60, 80), unit)
        factor = (unit or 1) ** 2
        assert summary == pytest.approx(
            {
                "nuclei": 3,
                "mean_area": np.mean(areas) * factor,
                "median_area": np.median(areas) * factor,
                "coverage": sum(areas) / 4800,
            }
        )


def test_no_nuclei() -> None:
    table = measure_nuclei(np.zeros((9, 9), np.int32), np.zeros((9, 9, 3), np.uint8))
    assert len(table) == 0 and "area" in table
    assert summarize(table, (9, 9)) == {"nuclei": 0, "mean_area": 0, "median_area": 0, "coverage": 0}
