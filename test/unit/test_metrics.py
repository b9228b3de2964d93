# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The metrics against simple loops over pixels and over pairs of nuclei."""

import math

import numpy as np
import pytest
import torch

from metrics import SMOOTH, THRESHOLDS, average_precision, dice_coef, iou_score, label_instances


def draw(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    target = np.clip(rng.uniform(-1, 2, shape), 0, 1)
    return torch.tensor(2 * rng.standard_normal(shape)), torch.tensor(target)


@pytest.mark.parametrize("shape", [(4, 1, 6, 5), (2, 3, 4, 4), (6, 5)], ids=str)
def test_iou_counts_the_whole_batch_at_once(shape: tuple[int, ...]) -> None:
    output, target = draw(shape)
    both = either = 0
    for x, t in zip(output.flatten().tolist(), target.flatten().tolist()):
        predicted, true = 1 / (1 + math.exp(-x)) > 0.5, t > 0.5
        both += predicted and true
        either += predicted or true
    assert 0 < both < either
    score = iou_score(output, target)
    assert score.shape == () and score.item() == pytest.approx((both + 1e-5) / (either + 1e-5), rel=1e-6)


def test_iou_is_not_the_mean_over_images() -> None:
    """The images have 1/1 and 1/3: the batch at once has 2/4, and not the mean of 2/3."""
    output = torch.tensor([[[[9.0, -9, -9]]], [[[9.0, 9, 9]]]])
    target = torch.tensor([[[[1.0, 0, 0]]], [[[1.0, 0, 0]]]])
    assert iou_score(output, target).item() == pytest.approx(0.5, abs=1e-4)


def test_iou_thresholds_are_strict() -> None:
    """A probability or target of exactly 0.5 is background."""
    zero, half, above = torch.zeros(1), torch.full((1,), 0.5), torch.full((1,), 0.6)
    assert iou_score(zero, half).item() == 1  # nothing against nothing
    assert iou_score(zero, above).item() == pytest.approx(0, abs=2e-5)
    assert iou_score(zero + 0.01, half).item() == pytest.approx(0, abs=2e-5)
    assert iou_score(zero + 0.01, above).item() == 1


def test_dice_is_soft_and_over_the_batch() -> None:
    output, target = draw((3, 2, 5, 4))
    probability, true = 1 / (1 + np.exp(-output.numpy())), target.numpy()
    upper, lower = 2 * np.sum(probability * true) + 1e-5, probability.sum() + true.sum() + 1e-5
    score = dice_coef(output, target)
    assert score.shape == () and score.item() == pytest.approx(upper / lower, rel=1e-5)


@pytest.mark.parametrize("metric", [iou_score, dice_coef])
def test_smoothing(metric) -> None:
    assert SMOOTH == 1e-5
    empty, full = torch.full((1, 1, 2, 2), -200.0), torch.ones(1, 1, 2, 2)
    assert metric(empty, 0 * full).item() == pytest.approx(1)
    assert metric(empty, full).item() == pytest.approx(1e-5 / (4 + 1e-5), rel=1e-5)


@pytest.mark.parametrize("metric", [iou_score, dice_coef])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_does_not_limit_the_count(metric, dtype: torch.dtype) -> None:
    """A batch has more pixels than the largest float16 (65504), and bfloat16 counts exactly only to 256."""
    output = torch.full((16, 1, 96, 96), 20.0)
    target = torch.zeros(16, 1, 96, 96)
    target[:, :, :24] = 1
    expected = 1 / 4 if metric is iou_score else 2 * (1 / 4) / (1 + 1 / 4)
    assert metric(output.to(dtype), target.to(dtype)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("metric", [iou_score, dice_coef])
def test_shapes_are_checked(metric) -> None:
    with pytest.raises(ValueError) as error:
        metric(torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    assert "(2, 1, 4, 4)" in str(error.value) and "(1, 1, 4, 4)" in str(error.value)
    with pytest.raises(ValueError, match=r"\(0, 1, 4, 4\)"):
        metric(torch.zeros(0, 1, 4, 4), torch.zeros(0, 1, 4, 4))


def picture(rows: str) -> np.ndarray:
    """Return a label image: a digit per pixel, a blank between rows; a dot is background."""
    return np.array([[0 if c == "." else int(c) for c in row] for row in rows.split()])


def test_label_instances_joins_eight_neighbors() -> None:
    mask = picture("1.1... .1.... ...... 1..11. ...1..") > 0
    labels = label_instances(mask)
    assert labels.dtype == np.int32 and labels.shape == mask.shape
    groups = sorted(sorted(zip(*np.nonzero(labels == k))) for k in range(1, labels.max() + 1))
    assert groups == [[(0, 0), (0, 2), (1, 1)], [(3, 0)], [(3, 3), (3, 4), (4, 3)]]
    assert not labels[~mask].any()
    assert not label_instances(np.zeros((3, 4), bool)).any()


def test_thresholds_are_those_of_the_competition() -> None:
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


TWO = picture("1111...222 1111...222")  # nuclei of 8 and 6 pixels
CASES = {
    "perfect": (TWO, TWO, 1.0),
    "perfect, numbered otherwise and with gaps": (np.choose(TWO, [0, 70, 3]), TWO, 1.0),
    "truth with gaps": (TWO, np.choose(TWO, [0, 5, 900]), 1.0),
    "one missed": (picture("1111...... 1111......"), TWO, 1 / 2),
    "one too many": (TWO, picture("1111...... 1111......"), 1 / 2),
    # 8 and 6 pixels as one of 14: IoU 8/14 = 0.571 passes 0.50 and 0.55 → TP 1, FN 1
    "merged": (picture("1111...111 1111...111"), TWO, 0.2 * 1 / 2),
    # the first as 6 + 2: IoU 6/8 passes 0.50 … 0.70, as 0.75 is not above 0.75 → TP 2, FP 1; then TP 1, FP 2, FN 1
    "split": (picture("1113...222 1113...222"), TWO, 0.5 * 2 / 3 + 0.5 * 1 / 4),
    # halves of 4 and 4: IoU 0.5 is not above 0.5 → TP 1, FP 2, FN 1 throughout
    "split in halves": (picture("1133...222 1133...222"), TWO, 1 / 4),
    "both empty": (0 * TWO, 0 * TWO, 1.0),
    "nothing found": (0 * TWO, TWO, 0.0),
    "nothing there": (TWO, 0 * TWO, 0.0),
    "no background": (np.ones((4, 4), int), np.ones((4, 4), int), 1.0),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [np.int32, np.uint16])
def test_average_precision_by_hand(case: str, dtype: type) -> None:
    predicted, true, expected = CASES[case]
    score = average_precision(predicted.astype(dtype), true.astype(dtype))
    assert type(score) is float and score == pytest.approx(expected, abs=1e-12)


def brute_force(predicted: np.ndarray, true: np.ndarray) -> float:
    found, wanted = set(predicted[predicted > 0].tolist()), set(true[true > 0].tolist())
    if not found and not wanted:
        return 1.0
    precisions = []
    for threshold in range(50, 100, 5):
        hits = 0
        for i in found:
            for j in wanted:
                both, either = np.sum((predicted == i) & (true == j)), np.sum((predicted == i) | (true == j))
                hits += int(both) * 100 > threshold * int(either)
        precisions.append(hits / (len(found) + len(wanted) - hits))
    return float(np.mean(precisions))


@pytest.mark.parametrize("seed", range(12))
def test_average_precision_by_brute_force(seed: int) -> None:
    """Blocks of random size, of which some pixels are lost or relabeled, overlap by none to all of their pixels."""
    rng = np.random.default_rng(seed)
    true = np.kron(rng.integers(0, 9, (5, 6)), np.ones((4, 4), int))
    predicted = np.where(rng.uniform(size=true.shape) < 0.05 * (seed % 6), 0, true)
    predicted = np.where(np.roll(true, seed % 3, axis=1) == 4, 11, predicted)
    assert average_precision(predicted, true) == pytest.approx(brute_force(predicted, true), abs=1e-12)


def test_average_precision_at_chosen_thresholds() -> None:
    predicted, true, _ = CASES["merged"]
    assert average_precision(predicted, true, (0.5,)) == pytest.approx(1 / 2)
    assert average_precision(predicted, true, (0.6,)) == 0


@pytest.mark.parametrize("thresholds", [(), (0.49,), (0.5, 1.0), (-1,)], ids=str)
def test_thresholds_are_checked(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError) as error:
        average_precision(TWO, TWO, thresholds)
    assert str(thresholds) in str(error.value)


def test_label_images_must_have_the_same_shape() -> None:
    with pytest.raises(ValueError, match=r"\(2, 10\).*\(10, 2\)"):
        average_precision(TWO, TWO.T)
