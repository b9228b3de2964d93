# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Borders between nuclei, against distances to each nucleus."""

import numpy as np
import pytest
from helpers.drawn_nuclei import disks
from scipy.ndimage import distance_transform_edt

from imaging.borders import find_borders


def by_distance(labels: np.ndarray, slack: float) -> np.ndarray:
    """Pixels that are close to two nuclei; slack: pixels by which a nucleus's reach is longer."""
    close = np.zeros(labels.shape, int)
    for label in np.unique(labels[labels > 0]):
        reach = max(1, round(2 * np.sqrt((labels == label).sum() / np.pi) / 12))
        close += distance_transform_edt(labels != label) <= reach + slack
    return close >= 2


@pytest.mark.parametrize("radius", [5, 12, 40])
def test_borders_lie_between_neighbors_and_widen_with_the_nuclei(radius: int) -> None:
    labels = disks((5 * radius, 7 * radius), (2.5 * radius, 2 * radius, radius), (2.5 * radius, 4 * radius, radius))
    found = find_borders(labels)
    # a disk of pixels is a little rounder or squarer than a circle
    assert found[by_distance(labels, -0.75)].all() and not found[~by_distance(labels, 0.5)].any()
    assert found.any() and not found[:, : round(2.4 * radius)].any() and not found[:, round(3.6 * radius) :].any()


def test_a_gap_is_a_border_only_if_it_is_narrow() -> None:
    labels = np.zeros((20, 60), np.int32)
    labels[5:15, 5:15] = 1
    labels[5:15, 16:26] = 2  # one pixel away
    labels[5:15, 32:42] = 3  # six pixels away
    found = find_borders(labels)
    assert found[5:15, 15].all()
    assert not found[:, 27:].any()


def test_a_corner_where_three_nuclei_meet_and_the_edge_of_the_image() -> None:
    labels = np.ones((30, 30), np.int32)
    labels[:15, 15:], labels[15:] = 2, 3
    found = find_borders(labels)
    # the small nuclei have a diameter of 17 pixels, which reach one pixel far; the large one of 24 reaches two
    assert found[13:16].all() and found[:15, 14:16].all()
    assert not found[20:].any()


@pytest.mark.parametrize("labels", [np.zeros((8, 9), np.int32), disks((20, 20), (10, 10, 6))])
def test_without_neighbors_there_are_no_borders(labels: np.ndarray) -> None:
    assert not find_borders(labels).any()
