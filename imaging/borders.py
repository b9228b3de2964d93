# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Where nuclei touch: the borders that a net learns beside the nuclei, to tell neighbors apart."""

import cv2
import numpy as np
from skimage.measure import regionprops

# of a nucleus's diameter: as far beyond its outline, a pixel may belong to a border
REACH = 1 / 12


def find_borders(labels: np.ndarray) -> np.ndarray:
    """Return the pixels close to two or more nuclei, boolean (H, W): in the gap between them and on both their edges.

    labels: whole numbers (H, W), 0 is background. A pixel is close to a nucleus if it is not further away than a
    twelfth of the nucleus's diameter, that of a circle of its area, but at least one pixel. Only neighbors have
    borders, and large nuclei have wider ones: so did the best entries of the 2018 Data Science Bowl.
    """
    height, width = labels.shape
    close_to = np.zeros(labels.shape, np.uint8)  # number of nuclei, at most 2
    for nucleus in regionprops(labels):
        reach = max(1, round(nucleus.equivalent_diameter_area * REACH))
        top, left, bottom, right = nucleus.bbox
        top, left, bottom, right = max(0, top - reach), max(0, left - reach), bottom + reach, right + reach
        around = slice(top, min(height, bottom)), slice(left, min(width, right))
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        grown = cv2.dilate((labels[around] == nucleus.label).astype(np.uint8), disk)
        close_to[around] = np.minimum(close_to[around] + grown, 2)
    return close_to == 2
