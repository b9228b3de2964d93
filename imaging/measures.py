# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A table of nuclei: where they are, how large, of what shape, and how bright."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from skimage.measure import regionprops_table

PROPERTIES = {
    "label": "label",
    "area": "area",
    "centroid-0": "centroid_y",
    "centroid-1": "centroid_x",
    "bbox-0": "top",
    "bbox-1": "left",
    "bbox-2": "bottom",
    "bbox-3": "right",
    "equivalent_diameter_area": "equivalent_diameter",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
}
AREAS, LENGTHS = ("area",), ("centroid_y", "centroid_x", "top", "left", "bottom", "right", "equivalent_diameter")
CHANNELS = ("blue", "green", "red")


def measure_nuclei(
    labels: np.ndarray, image: np.ndarray, pixel_size: float | None = None, is_gray: bool | None = None
) -> pd.DataFrame:
    """Return a row for each nucleus of a label image (H, W), in the order of the labels.

    image: uint8 BGR (H, W, 3); its mean and maximal intensity within each nucleus are in [0, 255]. A gray image has one
    pair of them, a color image one for each channel. Row and column `bottom` and `right` are the first outside of the
    nucleus. pixel_size: micrometers per pixel; lengths and areas are then in micrometers and their squares.
    is_gray: if it is known, as for a part of an image; None: it depends on these pixels.
    """
    if is_gray is None:
        is_gray = (image == image[..., :1]).all()
    channels = image[..., :1] if is_gray else image
    found = regionprops_table(
        labels,
        channels,
        properties=(*dict.fromkeys(name.split("-")[0] for name in PROPERTIES), "intensity_mean", "intensity_max"),
    )
    table = pd.DataFrame(found)
    names = ("gray",) if channels.shape[2] == 1 else CHANNELS
    intensities = {
        f"intensity_{kind}-{k}": f"{kind}_{name}" for kind in ("mean", "max") for k, name in enumerate(names)
    }
    table = table.rename(columns=PROPERTIES | intensities)
    table = table[[*PROPERTIES.values(), *intensities.values()]]
    if pixel_size:
        table[list(LENGTHS)] = table[list(LENGTHS)] * pixel_size
        table["area"] *= pixel_size**2
    return table


def summarize(table: pd.DataFrame, size: Sequence[int], pixel_size: float | None = None) -> dict[str, float]:
    """Return the number of nuclei, their mean and median area, and the share of the image that they cover.

    table: of `measure_nuclei`. size: height and width of the image, in pixels.
    """
    area = size[0] * size[1] * (pixel_size or 1) ** 2
    return {
        "nuclei": len(table),
        "mean_area": float(table["area"].mean()) if len(table) else 0.0,
        "median_area": float(table["area"].median()) if len(table) else 0.0,
        "coverage": float(table["area"].sum() / area),
    }
