# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The search for the splitter's settings."""

import numpy as np
import pytest

from imaging import tuning
from imaging.instances import SplitSettings


def blurred_square(side: int, level: float) -> np.ndarray:
    probability = np.full((1, 60, 60), 0.05, np.float32)
    probability[0, 10 : 10 + side, 10 : 10 + side] = level
    return probability


def iou_of_masks(predicted: np.ndarray, true: np.ndarray) -> float:
    union = ((predicted > 0) | (true > 0)).sum()
    return ((predicted > 0) & (true > 0)).sum() / union if union else 1.0


def test_the_threshold_that_the_images_need_is_found() -> None:
    images = []
    for side in (20, 30):
        probability = blurred_square(side, 0.45)  # below the default threshold
        probability[0, 10 + side : 14 + side, 10:40] = 0.25  # no nucleus
        true = (probability[0] > 0.4).astype(np.int32)
        images.append((probability, true))
    best, score, tried = tuning.tune(images, iou_of_masks, SplitSettings())
    assert (best.threshold, score) in ((0.3, 1.0), (0.4, 1.0))
    assert max(row["score"] for row in tried) == score
    assert {row["border_threshold"] for row in tried} == {0.5}  # the model predicts no borders
    defaults = next(row for row in tried if row["threshold"] == 0.5)
    assert defaults["score"] == pytest.approx(np.mean([iou_of_masks(np.zeros((60, 60)), true) for _, true in images]))


def test_the_confidence_that_the_images_need_is_found() -> None:
    probability = blurred_square(20, 0.95)
    probability[0, 40:50, 40:50] = 0.66  # no nucleus, and no threshold tells it from the edge of the true one
    probability[0, 10:30, 10:12] = 0.66
    true = np.zeros((60, 60), np.int32)
    true[10:30, 10:30] = 1
    best, score, _ = tuning.tune([(probability, true)], iou_of_masks, SplitSettings(), fixed=["threshold"])
    assert score == 1 and 0.32 < best.min_confidence < 0.9


def test_settings_that_cannot_be_improved_stay() -> None:
    probability = blurred_square(20, 0.99)
    start = SplitSettings(threshold=0.45, min_area=11)
    best, score, _ = tuning.tune([(probability, (probability[0] > 0.5).astype(np.int32))], iou_of_masks, start)
    assert best == start and score == 1


def test_thresholds_of_borders_are_tried_if_there_are_borders() -> None:
    probability = np.concatenate([blurred_square(20, 0.9), blurred_square(0, 0)])
    *_, tried = tuning.tune([(probability, (probability[0] > 0.5).astype(np.int32))], iou_of_masks, SplitSettings())
    assert {row["border_threshold"] for row in tried} >= set(tuning.GRID["border_threshold"])


def test_given_settings_are_not_changed_also_if_they_are_all() -> None:
    probability = blurred_square(20, 0.45)
    images = [(probability, (probability[0] > 0.4).astype(np.int32))]
    start = SplitSettings(neck=0.33)
    best, score, tried = tuning.tune(images, iou_of_masks, start, fixed=["neck", "threshold"])
    assert (best.neck, best.threshold, score) == (0.33, 0.5, 0) and {row["neck"] for row in tried} == {0.33}
    best, score, tried = tuning.tune(images, iou_of_masks, start, fixed=SplitSettings._fields)
    assert (best, score, len(tried)) == (start, 0, 1)
