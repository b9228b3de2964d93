# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Nuclei out of probabilities, against drawn disks."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.drawn_nuclei import disks
from scipy import ndimage

from imaging.instances import (
    SplitSettings,
    check_classes,
    choose_settings,
    describe_settings,
    fill_holes,
    find_nuclei,
    keep_labels,
    label_masks,
)
from runtime.errors import InputError


def to_probability(labels: np.ndarray, blur: float = 1) -> np.ndarray:
    """What a network might give: a blurred mask."""
    return cv2.GaussianBlur((labels > 0).astype(np.float32), (0, 0), blur)[None]


def same_nuclei(found: np.ndarray, true: np.ndarray, least: float) -> bool:
    """Does each true nucleus have one of its own, with an IoU of at least `least`, and are there no others?"""
    if found.max() != len(np.unique(true[true > 0])):
        return False
    for label in np.unique(true[true > 0]):
        own = np.bincount(found[true == label]).argmax()
        union = ((true == label) | (found == own)).sum()
        if own == 0 or ((true == label) & (found == own)).sum() < least * union:
            return False
    return True


@pytest.mark.parametrize("radius", [6, 12, 30])
def test_disks_that_touch_are_split_at_every_size(radius: int) -> None:
    centers = [(2 * radius, 2 * radius), (2 * radius, 3.9 * radius), (3.4 * radius, 5.2 * radius)]
    true = disks((6 * radius, 7 * radius), *((*center, radius) for center in centers))
    assert cv2.connectedComponents((true > 0).astype(np.uint8))[0] == 2  # the background and one region
    found = find_nuclei(to_probability(true), SplitSettings())
    assert found.dtype == np.int32 and same_nuclei(found, true, 0.85)


def test_a_small_nucleus_beside_a_large_one() -> None:
    true = disks((120, 140), (60, 50, 40), (60, 97, 9))
    assert same_nuclei(find_nuclei(to_probability(true), SplitSettings()), true, 0.75)


@pytest.mark.parametrize("neck, count", [(0.99, 2), (0.5, 1)])
def test_the_neck_decides_what_is_one_nucleus(neck: float, count: int) -> None:
    peanut = disks((60, 90), (30, 35, 15), (30, 54, 15)) > 0
    found = find_nuclei(to_probability(peanut), SplitSettings(neck=neck))
    assert found.max() == count


def test_one_ellipse_stays_one_nucleus() -> None:
    ellipse = cv2.ellipse(np.zeros((80, 120), np.uint8), (60, 40), (45, 18), 20, 0, 360, 1, -1)
    assert find_nuclei(to_probability(ellipse), SplitSettings()).max() == 1


def test_borders_split_what_the_shape_does_not_show() -> None:
    probability = np.zeros((2, 40, 80), np.float32)
    probability[0, 10:30, 10:70] = 0.95  # a bar
    assert find_nuclei(probability, SplitSettings()).max() == 1
    probability[1, :, 38:42] = 0.9
    found = find_nuclei(probability, SplitSettings())
    true = np.zeros((40, 80), int)
    true[10:30, 10:40], true[10:30, 40:70] = 1, 2
    assert same_nuclei(found, true, 0.95)
    assert find_nuclei(probability, SplitSettings(border_threshold=1)).max() == 1


def test_a_border_counts_if_it_is_above_its_threshold() -> None:
    probability = np.zeros((2, 40, 200), np.float32)
    probability[0, 10:30, 10:190] = 1
    probability[1, :, 90:110] = 0.5
    for threshold, count in ((0.4, 2), (0.5, 1), (0.6, 1)):
        assert find_nuclei(probability, SplitSettings(border_threshold=threshold)).max() == count, threshold


def test_a_border_that_ends_within_a_nucleus_splits_it_if_it_is_long_enough() -> None:
    """The depth beside the end of the border is half the gap that it leaves; the neck decides."""
    probability = np.zeros((2, 41, 200), np.float32)
    probability[0, 10:31, 10:190] = 1  # a bar, whose depth is 11 along its middle
    probability[1, :21, 100] = 1  # leaves a gap of 10 pixels, in whose middle the depth is about 5.5
    for neck, count in ((0.65, 2), (0.4, 1)):
        assert find_nuclei(probability, SplitSettings(neck=neck, smoothing=0)).max() == count, neck


def test_thresholds_are_exclusive_and_holes_are_filled_but_not_across_the_edge() -> None:
    probability = np.full((1, 30, 30), 0.5, np.float32)
    assert not find_nuclei(probability, SplitSettings(threshold=0.5)).any()
    assert (find_nuclei(probability, SplitSettings(threshold=0.3)) == 1).all()
    ring = disks((40, 40), (20, 20, 12)) - disks((40, 40), (20, 20, 5))
    found = find_nuclei(to_probability(ring, 0.5), SplitSettings(neck=0.01))
    assert found[20, 20] == found[20, 10] == 1
    open_ring = ring.copy()
    open_ring[:, 20:] = 0
    assert np.array_equal(fill_holes(open_ring > 0), open_ring > 0)


@pytest.mark.parametrize("seed", range(5))
def test_filling_holes_is_scipys(seed: int) -> None:
    mask = np.random.default_rng(seed).random((50, 60)) > 0.4
    assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def test_labels_that_are_kept_are_numbered_without_gaps() -> None:
    labels = np.zeros((10, 10), int)
    labels[0, :3], labels[2, :4], labels[4, :5] = 1, 2, 7
    kept = keep_labels(labels, np.bincount(labels.ravel()) >= 4)
    assert kept.dtype == np.int32
    assert [np.unique(kept[row]).tolist() for row in (0, 2, 4)] == [[0], [0, 1], [0, 2]]


def test_small_nuclei_are_dropped() -> None:
    true = disks((60, 60), (20, 20, 2), (40, 40, 8))
    assert find_nuclei(to_probability(true, 0.5), SplitSettings(min_area=40)).max() == 1


def test_nuclei_are_dropped_by_their_mean_probability() -> None:
    probability = np.zeros((1, 40, 60), np.float32)
    probability[0, 10:20, 10:20], probability[0, 10:20, 40:50] = 0.7, 0.9
    probability[0, 15:20, 40:50] = 0.55  # their mean is 0.725
    for least, count in ((0.39, 2), (0.41, 1), (0.44, 1), (0.46, 0)):
        assert find_nuclei(probability, SplitSettings(min_confidence=least)).max() == count, least


@pytest.mark.parametrize("hole", [0.1, 0.45])
def test_a_hole_does_not_make_a_nucleus_fainter(hole: float) -> None:
    probability = np.zeros((1, 40, 40), np.float32)
    probability[0][disks((40, 40), (20, 20, 12)) > 0] = 0.6
    probability[0][disks((40, 40), (20, 20, 8)) > 0] = hole  # most of the nucleus
    for least, count in ((0, 1), (0.19, 1), (0.21, 0)):
        found = find_nuclei(probability, SplitSettings(smoothing=0, neck=0, min_confidence=least))
        assert found.max() == count and (not count or found[20, 20] == 1), least


@pytest.mark.parametrize("classes", [1, 2])
def test_an_image_without_nuclei(classes: int) -> None:
    labels = find_nuclei(np.zeros((classes, 20, 30), np.float32), SplitSettings())
    assert labels.shape == (20, 30) and labels.dtype == np.int32 and not labels.any()


def test_masks_without_borders_are_connected_regions() -> None:
    mask = np.random.default_rng(0).integers(0, 256, (40, 50, 1), np.uint8)
    expected = ndimage.label(mask[..., 0] > 127, np.ones((3, 3)))[0]
    found = label_masks(mask)
    assert found.max() == expected.max() and len(np.unique(found * 10_000 + expected)) == found.max() + 1


def test_masks_with_borders_show_nuclei_up_to_the_middle_of_the_border() -> None:
    masks = np.zeros((30, 60, 2), np.uint8)
    masks[5:25, 5:55, 0] = 255
    masks[5:25, 28:32, 1] = 255
    masks[1:3, 40:44] = 255  # nothing but border
    found = label_masks(masks)
    assert found.max() == 3 and np.array_equal(found > 0, masks[..., 0] > 0)
    left, right = found[10, 6], found[10, 54]
    assert left != right
    assert (found[5:25, 5:29] == left).all() and (found[5:25, 31:55] == right).all()


def test_given_settings_come_before_recorded_ones_and_these_before_the_defaults() -> None:
    recorded = {"threshold": 0.3, "min_area": 20}
    chosen = choose_settings(recorded, {"threshold": None, "neck": 0.7, "min_area": 4}, Path("m"))
    assert chosen == SplitSettings(threshold=0.3, neck=0.7, min_area=4)
    assert choose_settings(None, {}, Path("m")) == SplitSettings()
    assert describe_settings(chosen).startswith("threshold 0.3, border_threshold 0.5, ")


@pytest.mark.parametrize(
    "recorded",
    [
        [],
        "text",
        {"border_weight": 0.25},
        {"thresh": 0.5},
        {"threshold": "0.5"},
        {"threshold": -1},
        {"min_area": 2.5},
        {"neck": float("nan")},
    ],
)
def test_recorded_settings_that_are_none_are_refused(recorded: object) -> None:
    with pytest.raises(InputError, match=r"^models/x: its settings for nuclei are not known here; run `val.py --tune`"):
        choose_settings(recorded, {}, "models/x")


def test_two_kinds_of_nuclei_are_not_taken_for_borders() -> None:
    check_classes(1, "LovaszHingeLoss")
    check_classes(2, "BorderLoss")
    for classes, loss in ((2, "LovaszHingeLoss"), (3, "BorderLoss")):
        with pytest.raises(
            InputError, match=f"the model has {classes} classes, trained with {loss}; it needs one class"
        ):
            check_classes(classes, loss)
