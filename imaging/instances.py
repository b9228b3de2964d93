# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Nuclei out of a network's probabilities: seeds, watershed, clean-up."""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from skimage.measure import label as label_regions
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import relabel_sequential, watershed

from runtime.errors import InputError


class SplitSettings(NamedTuple):
    """How probabilities become nuclei; `val.py --tune` finds the values for a model.

    threshold: a pixel belongs to a nucleus if its probability is above it. border_threshold: a pixel is on a border if
    its border probability is above it; 1: there are no borders. Only for models that predict borders. smoothing: of the
    depth, standard deviation in pixels. neck: two peaks of the depth are two nuclei if the depth between them falls
    below this share of the lower peak. min_area: of a nucleus, in pixels; smaller ones are dropped.
    min_confidence: c, from 0 to 1. A nucleus is dropped if the mean probability of its pixels above the threshold is
    below threshold + c * (1 - threshold).
    """

    threshold: float = 0.5
    border_threshold: float = 0.5
    smoothing: float = 1.0
    neck: float = 0.9
    min_area: int = 10
    min_confidence: float = 0.0


def choose_settings(recorded: object, given: Mapping[str, float | None], source: object) -> SplitSettings:
    """Return the settings that are given, else those that a model records, else the defaults.

    recorded: a mapping of the names to the values that `val.py --tune` found, or None. source: of these, for messages.
    Raises InputError if they are not settings.
    """
    if recorded is not None and not _are_settings(recorded):
        raise InputError(f"{source}: its settings for nuclei are not known here; run `val.py --tune` to find new ones")
    found = {**(recorded or {}), **{name: value for name, value in given.items() if value is not None}}
    return SplitSettings(**found)


def check_classes(num_classes: int, loss: str) -> None:
    """Raise InputError unless a model predicts nuclei alone, or nuclei and the borders between them.

    loss: that it was trained with. Two classes may also be two kinds of nuclei; only BorderLoss says that the second
    are borders.
    """
    if num_classes > 1 and (num_classes, loss) != (2, "BorderLoss"):
        raise InputError(
            f"--instances: the model has {num_classes} classes, trained with {loss}; it needs one class, or nuclei and "
            "borders, trained with train.py --num_classes 2 --loss BorderLoss"
        )


def describe_settings(settings: SplitSettings) -> str:
    """Return the settings in words, for the log."""
    return ", ".join(f"{name} {value:g}" for name, value in settings._asdict().items())


def _are_settings(recorded: object) -> bool:
    if not isinstance(recorded, Mapping) or not recorded.keys() <= set(SplitSettings._fields):
        return False
    values = {name: value for name, value in recorded.items() if isinstance(value, (int, float))}
    shares = [value for name, value in values.items() if name != "min_area"]
    area = values.get("min_area", 0)
    return len(values) == len(recorded) and all(0 <= share <= 10 for share in shares) and area in range(10**6)


def find_nuclei(probability: np.ndarray, settings: SplitSettings) -> np.ndarray:
    """Return the nuclei as labels, int32 (H, W): 0 is background, 1 … n are the nuclei.

    probability: in [0, 1], (C, H, W); class 0 are the nuclei, class 1, if there is one, the borders between nuclei.
    The pixels above the threshold, with holes filled, are split by a watershed that starts at the peaks of the depth:
    the distance to the outside, or to a border, times the probability. Which peaks count depends on their neck alone,
    so that nuclei of all sizes are split alike.
    """
    nuclei = probability[0]
    mask = fill_holes(nuclei > settings.threshold)
    inside = mask & (probability[1] <= settings.border_threshold) if len(probability) > 1 else mask
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * nuclei
    if settings.smoothing:
        depth = cv2.GaussianBlur(depth, (0, 0), settings.smoothing) * mask
    # cuts each peak at its neck; peaks with a higher valley between them become one plateau
    filled = reconstruction(depth * settings.neck, depth)
    peaks = local_maxima(filled) & mask
    regions = label_regions(mask, connectivity=2)
    has_peak = np.zeros(regions.max() + 1, bool)
    has_peak[regions[peaks]] = True
    # a region without a peak, as one that fills the whole image, is one nucleus
    peaks |= mask & ~has_peak[regions]
    labels = watershed(-depth, label_regions(peaks, connectivity=2), mask=mask)
    return keep_labels(
        labels, (np.bincount(labels.ravel()) >= settings.min_area) & _are_confident(labels, nuclei, settings)
    )


def _are_confident(labels: np.ndarray, nuclei: np.ndarray, settings: SplitSettings) -> np.ndarray:
    """Return for each label if its mean probability is high enough; filled holes do not count into the mean."""
    above = np.where(nuclei > settings.threshold, nuclei - settings.threshold, 0)
    counts = np.bincount(labels[above > 0], minlength=labels.max() + 1)
    least = settings.min_confidence * (1 - settings.threshold)
    return np.bincount(labels.ravel(), above.ravel()) >= least * counts


def label_masks(masks: np.ndarray) -> np.ndarray:
    """Return the nuclei that masks show, as labels, int32 (H, W): 0 is background.

    masks: uint8 (H, W, num_classes) of 0 and 255, with soft edges; class 1, if there is one, are the borders between
    nuclei. A nucleus is a connected region of class 0, or of what the borders leave of it, up to the middle of them.
    """
    marked = masks > 127
    nuclei = marked[..., 0]
    if masks.shape[2] == 1:
        return label_regions(nuclei, connectivity=2).astype(np.int32)
    cores = label_regions(nuclei & ~marked[..., 1], connectivity=2)
    labels = watershed(np.zeros(nuclei.shape), cores, mask=nuclei)
    rest = label_regions(nuclei & (labels == 0), connectivity=2)  # nuclei that are nothing but borders
    return np.where(rest > 0, rest + labels.max(), labels).astype(np.int32)


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Mark also the pixels that marked ones enclose; boolean (H, W)."""
    background = label_regions(~mask, connectivity=1)
    outside = np.unique(np.concatenate([background[[0, -1]].ravel(), background[:, [0, -1]].ravel()]))
    return ~np.isin(background, outside[outside > 0])


def keep_labels(labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return labels without those that are not kept, numbered without gaps, int32; kept: boolean, by label."""
    return relabel_sequential(np.where(kept[labels], labels, 0))[0].astype(np.int32)
