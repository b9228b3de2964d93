# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""How often each training image is drawn, so that rare kinds of images and large images are seen enough."""

import numpy as np

from imaging.modality import KINDS, image_kind
from runtime.errors import InputError


class Balance:
    """Gives each image a share of the draws.

    A kind of image is drawn in proportion to the square root of its number of images, and an image within its kind in
    proportion to the square root of the number of crops that it holds. The square root is a compromise between drawing
    all images equally often, and all kinds and crops equally often: a network may overfit the few images of a rare kind
    if it is drawn as often as the others.
    """

    def __init__(self):
        self.kinds: dict[str, str] = {}
        self.crops: dict[str, float] = {}

    def add(self, img_id: str, image: np.ndarray, crops: float) -> None:
        """Add an image, uint8 BGR (H, W, 3). crops: how many it holds; fewer than one count as one."""
        self.kinds[img_id], self.crops[img_id] = image_kind(image), max(1.0, crops)

    def shares(self, ids: list[str]) -> list[float]:
        """Return the share of each image, with a sum of 1; of those that were not added, 0.

        Raises InputError if none was added.
        """
        if not self.kinds.keys() & set(ids):
            raise InputError("no training image can be read; the reasons are given above")
        kinds = np.array([self.kinds.get(img_id, "") for img_id in ids])
        weights = np.sqrt([self.crops.get(img_id, 0) for img_id in ids])
        for kind in set(kinds) - {""}:
            weights[kinds == kind] *= np.sqrt(np.count_nonzero(kinds == kind)) / weights[kinds == kind].sum()
        return (weights / weights.sum()).tolist()

    def describe(self, ids: list[str]) -> str:
        """Return a line on the images of each kind and their shares."""
        shares, kinds = np.array(self.shares(ids)), np.array([self.kinds.get(img_id, "") for img_id in ids])
        parts = [
            f"{shares[kinds == kind].sum():.0%} {kind} ({np.count_nonzero(kinds == kind)} of {len(ids)} images)"
            for kind in KINDS
            if kind in kinds
        ]
        return f"draws: {', '.join(parts)}"
