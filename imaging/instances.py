"""Nuclei out of a network's probabilities: seeds, watershed, clean-up."""

from typing import NamedTuple

import cv2
import numpy as np
from skimage.feature import peak_local_max
from skimage.measure import label as label_regions
from skimage.measure import regionprops_table
from skimage.segmentation import relabel_sequential, watershed


class SplitSettings(NamedTuple):
    """How probabilities become nuclei; `val.py --tune` finds the values for a model.

    threshold: a pixel belongs to a nucleus if its probability is above it. core_threshold: to the core of a nucleus, if
    its probability of being inside a nucleus and at no border is above it; only for models that predict borders.
    smoothing: of the depth within cores, as a share of the typical depth. distance: between two seeds, as a share of
    twice the typical depth. min_area: of a nucleus, in pixels; smaller ones are dropped.
    """

    threshold: float = 0.5
    core_threshold: float = 0.5
    smoothing: float = 0.25
    distance: float = 0.5
    min_area: int = 10


def find_nuclei(probability: np.ndarray, settings: SplitSettings) -> np.ndarray:
    """Return the nuclei as labels, int32 (H, W): 0 is background, 1 … n are the nuclei, from the top down.

    probability: in [0, 1], (C, H, W); class 0 are the nuclei, class 1, if there is one, the borders between nuclei.
    Each connected region of class 0 is split by a watershed, which starts at the seeds: the peaks of the depth, which
    is the distance of a pixel to the outside of the cores. Holes are filled.
    """
    nuclei = probability[0]
    mask = fill_holes(nuclei > settings.threshold)
    cores = mask
    if len(probability) > 1:
        cores = mask & (nuclei * (1 - probability[1]) > settings.core_threshold)
    depth, typical = smooth_depth(cores, settings.smoothing)
    seeds = np.zeros(mask.shape, np.int32)
    peaks = peak_local_max(
        depth,
        min_distance=max(1, round(2 * typical * settings.distance)),
        labels=label_regions(mask, connectivity=2),
        exclude_border=False,
    )
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-depth, seeds, mask=mask)
    return drop_small(labels, settings.min_area)


def smooth_depth(cores: np.ndarray, smoothing: float) -> tuple[np.ndarray, float]:
    """Return each pixel's distance to the outside of the cores, smoothed, and the depth of the median core.

    cores: boolean (H, W). smoothing: standard deviation of the Gaussian, as a share of the typical depth.
    """
    depth = cv2.distanceTransform(cores.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    regions = label_regions(cores, connectivity=2)
    if not regions.any():
        return depth, 0.0
    deepest = regionprops_table(regions, depth, properties=("intensity_max",))["intensity_max"]
    typical = float(np.median(deepest))
    sigma = smoothing * typical
    return (cv2.GaussianBlur(depth, (0, 0), sigma) if sigma > 0.3 else depth), typical


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Mark also the pixels that marked ones enclose; boolean (H, W)."""
    background = label_regions(~mask, connectivity=1)
    outside = np.unique(np.concatenate([background[[0, -1]].ravel(), background[:, [0, -1]].ravel()]))
    return ~np.isin(background, outside[outside > 0])


def drop_small(labels: np.ndarray, min_area: int) -> np.ndarray:
    """Return labels without those of fewer than `min_area` pixels, numbered without gaps, int32."""
    areas = np.bincount(labels.ravel())
    small = areas < min_area
    small[0] = False
    kept = np.where(small[labels], 0, labels)
    return relabel_sequential(kept)[0].astype(np.int32)
