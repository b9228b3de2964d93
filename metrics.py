# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Scores of a segmentation: overlap of pixels (IoU, Dice) and of whole nuclei (average precision)."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

SMOOTH = 1e-5
# of IoU, as in the 2018 Data Science Bowl: 0.50, 0.55 … 0.95
THRESHOLDS = tuple(np.arange(0.5, 1.0, 0.05).round(2).tolist())


def _check(output: Tensor, target: Tensor) -> None:
    if output.shape != target.shape:
        raise ValueError(
            f"output and target must have the same shape, not {tuple(output.shape)} and {tuple(target.shape)}"
        )
    if not output.numel():
        raise ValueError(f"output and target must not be empty, but their shape is {tuple(output.shape)}")


def iou_score(output: Tensor, target: Tensor) -> Tensor:
    """Return the IoU over the whole batch at once.

    output: logits of any shape; target: the same shape, in [0, 1]. A nucleus is sigmoid(output) > 0.5, target > 0.5.
    Returns a 0-dimensional tensor in (0, 1] on the device of `output`. Raises ValueError if the shapes differ.
    """
    _check(output, target)
    predicted, true = torch.sigmoid(output) > 0.5, target > 0.5
    return ((predicted & true).sum() + SMOOTH) / ((predicted | true).sum() + SMOOTH)


def mask_dice(output: Tensor, target: Tensor) -> Tensor:
    """Return the Dice of the masks over the whole batch at once; arguments and thresholds as in `iou_score`.

    The Lovász hinge of a pixel is zero from a logit of ±1 on; `dice_coef` is then low even if the masks are right.
    """
    _check(output, target)
    predicted, true = torch.sigmoid(output) > 0.5, target > 0.5
    return (2 * (predicted & true).sum() + SMOOTH) / (predicted.sum() + true.sum() + SMOOTH)


def dice_coef(output: Tensor, target: Tensor) -> Tensor:
    """Return the soft Dice over the whole batch at once, without thresholds; arguments as in `iou_score`."""
    _check(output, target)
    probability, target = torch.sigmoid(output).float(), target.float()
    return (2 * (probability * target).sum() + SMOOTH) / (probability.sum() + target.sum() + SMOOTH)


def label_instances(mask: np.ndarray) -> np.ndarray:
    """Number the connected regions (8 neighbors) of a boolean mask (H, W): int32 (H, W), 0 is background."""
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]


class NucleiMatches(NamedTuple):
    """How the nuclei that were found match the true ones, in one image or, by `plus`, in several.

    found, wanted: numbers of predicted and of true nuclei. hits: int64 (T,), the matches at each threshold of IoU.
    found_pixels, wanted_pixels, shared_pixels: pixels of any predicted nucleus, of any true one, and of both.
    thresholds: as in `match_nuclei`. Two images without nuclei score 1 by every measure.
    """

    found: int
    wanted: int
    hits: np.ndarray
    found_pixels: int
    wanted_pixels: int
    shared_pixels: int
    thresholds: tuple[float, ...] = THRESHOLDS

    @property
    def average_precision(self) -> np.ndarray:
        """TP / (TP + FP + FN) at each threshold: float64 (T,)."""
        union = self.found + self.wanted - self.hits
        return self.hits / union if self.found or self.wanted else np.ones(len(self.hits))

    @property
    def f1(self) -> np.ndarray:
        """2 TP / (2 TP + FP + FN) at each threshold: float64 (T,)."""
        total = self.found + self.wanted
        return 2 * self.hits / total if total else np.ones(len(self.hits))

    @property
    def dice(self) -> float:
        """Dice of the pixels of all nuclei together."""
        total = self.found_pixels + self.wanted_pixels
        return 2 * self.shared_pixels / total if total else 1.0

    @property
    def count_error(self) -> int:
        """found - wanted: above 0 if there are too many nuclei."""
        return self.found - self.wanted

    def plus(self, other: "NucleiMatches") -> "NucleiMatches":
        """Return the counts of both together, for pooled scores; raises ValueError if the thresholds differ."""
        if self.thresholds != other.thresholds:
            raise ValueError(f"matches at {self.thresholds} and at {other.thresholds} cannot be added")
        return NucleiMatches(*(a + b for a, b in zip(self[:-1], other[:-1])), self.thresholds)


def match_nuclei(predicted: np.ndarray, true: np.ndarray, thresholds: tuple[float, ...] = THRESHOLDS) -> NucleiMatches:
    """Match predicted and true nuclei by IoU, as in the 2018 Data Science Bowl.

    predicted, true: instance labels (H, W), integers from 0, with or without gaps; 0 is background. Two nuclei match
    if their IoU is above the threshold; from 0.5 on, none can match twice.
    Raises ValueError if the shapes differ, if a label is negative or no integer, or if a threshold is outside [0.5, 1).
    """
    if not thresholds or any(not 0.5 <= t < 1 for t in thresholds):
        raise ValueError(f"thresholds must lie in [0.5, 1), not {thresholds}")
    overlaps = _measure_overlaps(predicted, true)
    return NucleiMatches(
        len(overlaps.predicted_areas),
        len(overlaps.true_areas),
        np.array([np.count_nonzero(overlaps.iou > t) for t in thresholds]),
        int(overlaps.predicted_areas.sum()),
        int(overlaps.true_areas.sum()),
        int(overlaps.shared.sum()),
        tuple(thresholds),
    )


def average_precision(predicted: np.ndarray, true: np.ndarray, thresholds: tuple[float, ...] = THRESHOLDS) -> float:
    """Return the score of the 2018 Data Science Bowl: the mean of TP / (TP + FP + FN) over thresholds of IoU.

    Arguments and errors as in `match_nuclei`. Two empty images score 1.
    """
    return float(match_nuclei(predicted, true, thresholds).average_precision.mean())


OUTCOMES = ("matched", "merged", "split", "missed", "inexact")


class NucleiErrors(NamedTuple):
    """What became of each nucleus; one entry per nucleus, by rising label.

    outcomes: str (wanted,), for each true nucleus the first of OUTCOMES that applies:
    - matched: its IoU with a predicted nucleus is above 0.5
    - merged: a predicted nucleus covers more than half of it, and more than half of another true nucleus
    - split: two or more predicted nuclei lie in it with more than half of their pixels
    - missed: no predicted nucleus covers more than half of it, and none lies in it with more than half of its pixels
    - inexact: none of these, for example if the predicted nucleus is much too large or too small
    areas, best_iou: (wanted,), for each true nucleus its pixels, and its highest IoU with a predicted nucleus, or 0.
    predicted_areas, invented: (found,), for each predicted nucleus its pixels, and a bool: it covers more than half of
    no true nucleus, and lies in none with more than half of its pixels.
    """

    outcomes: np.ndarray
    areas: np.ndarray
    best_iou: np.ndarray
    predicted_areas: np.ndarray
    invented: np.ndarray


def match_errors(predicted: np.ndarray, true: np.ndarray) -> NucleiErrors:
    """Tell what became of each nucleus; arguments and errors as in `match_nuclei`."""
    i, j, shared, iou, predicted_areas, areas = _measure_overlaps(predicted, true)
    found, wanted = len(predicted_areas), len(areas)
    covers, inside = 2 * shared > areas[j], 2 * shared > predicted_areas[i]
    best_iou, merged = np.zeros(wanted), np.zeros(wanted, bool)
    missed, invented = np.ones(wanted, bool), np.ones(found, bool)
    np.maximum.at(best_iou, j, iou)
    covered = np.bincount(i[covers], minlength=found)  # by each predicted nucleus
    merged[j[covers & (covered[i] > 1)]] = True
    split = np.bincount(j[inside], minlength=wanted) > 1
    missed[j[covers | inside]] = invented[i[covers | inside]] = False
    outcomes = np.select([best_iou > 0.5, merged, split, missed], OUTCOMES[:4], OUTCOMES[4])
    return NucleiErrors(outcomes, areas, best_iou, predicted_areas, invented)


class _Overlaps(NamedTuple):
    """Pairs of nuclei that share pixels: their indices i and j, shared pixels, and IoU; and the areas of all nuclei."""

    i: np.ndarray
    j: np.ndarray
    shared: np.ndarray
    iou: np.ndarray
    predicted_areas: np.ndarray
    true_areas: np.ndarray


def _measure_overlaps(predicted: np.ndarray, true: np.ndarray) -> _Overlaps:
    if predicted.shape != true.shape:
        raise ValueError(f"label images must have the same shape, not {predicted.shape} and {true.shape}")
    p, predicted_areas = _renumber(predicted)
    t, true_areas = _renumber(true)
    both = np.flatnonzero((p > 0) & (t > 0))
    pairs = (p[both] - 1) * len(true_areas) + t[both] - 1  # one number for each pair
    if len(predicted_areas) * len(true_areas) <= predicted.size:  # counting is fast while the table is small
        counts = np.bincount(pairs)
        pairs = np.flatnonzero(counts)
        shared = counts[pairs]
    else:
        pairs, shared = np.unique(pairs, return_counts=True)
    i, j = np.divmod(pairs, max(len(true_areas), 1))
    iou = shared / (predicted_areas[i] + true_areas[j] - shared)
    return _Overlaps(i, j, shared, iou, predicted_areas, true_areas)


def _renumber(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels as flat int64, nuclei numbered from 1 without gaps, and the area of each nucleus."""
    labels = labels.reshape(-1)
    if labels.dtype.kind not in "biu" or labels.min(initial=0) < 0:
        raise ValueError(f"label images must hold integers from 0, not {labels.dtype} from {labels.min(initial=0)}")
    if labels.max(initial=0) > max(labels.size, 2**16):  # counting would need a large table
        labels = np.unique(np.append(labels, labels.dtype.type(0)), return_inverse=True)[1][:-1]
    labels = labels.astype(np.int64)
    areas = np.bincount(labels, minlength=1)
    areas[0] = 0
    present = areas > 0
    if not present[1:].all():
        labels = np.cumsum(present)[labels]
    return labels, areas[present]
