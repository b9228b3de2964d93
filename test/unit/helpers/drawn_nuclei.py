# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Drawn nuclei, whose true labels are known."""

import numpy as np


def disks(size: tuple[int, int], *circles: tuple[float, float, float]) -> np.ndarray:
    """Return the labels of circles (y, x, radius), int32 (H, W); later ones lie above earlier ones."""
    y, x = np.indices(size)
    labels = np.zeros(size, np.int32)
    for label, (center_y, center_x, radius) in enumerate(circles, 1):
        labels[(y - center_y) ** 2 + (x - center_x) ** 2 <= radius**2] = label
    return labels
