"""Scores of a segmentation: overlap of pixels (IoU, Dice) and of whole nuclei (average precision)."""

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


def average_precision(predicted: np.ndarray, true: np.ndarray, thresholds: tuple[float, ...] = THRESHOLDS) -> float:
    """Return the score of the 2018 Data Science Bowl: the mean of TP / (TP + FP + FN) over thresholds of IoU.

    predicted, true: instance labels (H, W), whole numbers from 0; 0 is background. Two nuclei match if their IoU is
    above the threshold; from 0.5 on, none can match twice. Two empty images score 1.
    Raises ValueError if the shapes differ or a threshold is outside [0.5, 1).
    """
    if predicted.shape != true.shape:
        raise ValueError(f"label images must have the same shape, not {predicted.shape} and {true.shape}")
    if not thresholds or any(not 0.5 <= t < 1 for t in thresholds):
        raise ValueError(f"thresholds must lie in [0.5, 1), not {thresholds}")
    # renumber the labels from 0 without gaps, then count the pixels of every pair of labels at once
    predicted_ids, p = np.unique(np.append(predicted, 0), return_inverse=True)
    true_ids, t = np.unique(np.append(true, 0), return_inverse=True)
    overlap = np.zeros((len(predicted_ids), len(true_ids)))
    np.add.at(overlap, (p[:-1], t[:-1]), 1)
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    iou = overlap[1:, 1:] / np.maximum(union[1:, 1:], 1)
    found, wanted = iou.shape
    if not found and not wanted:
        return 1.0
    matches = [(iou > threshold).sum() for threshold in thresholds]
    return float(np.mean([m / (found + wanted - m) for m in matches]))
