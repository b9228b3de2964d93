# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Images with their true nuclei, from a raw set or a prepared one."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imaging.instances import label_masks
from imaging.raw.compose import compose
from imaging.raw.rawset import RawSet


class Sample(NamedTuple):
    """image: uint8 BGR (H, W, 3). labels: its true nuclei, int32 (H, W), 0 is background. path: of the image."""

    img_id: str
    path: Path
    image: np.ndarray
    labels: np.ndarray


def raw_sample(raw: RawSet, channel: int, img_id: str) -> Sample:
    """Read an image of a raw set, with a nucleus for each of its mask files; raises InputError if that fails."""
    sample = compose(raw, img_id, channel)
    return Sample(img_id, raw.path / raw.images[img_id][0], sample.image, sample.labels)


def prepared_sample(
    read: Callable[[str], tuple[np.ndarray, np.ndarray]], path_of: Callable[[str], Path], img_id: str
) -> Sample:
    """Read an image of a prepared set, with the nuclei that its masks show; see label_masks."""
    image, masks = read(img_id)
    return Sample(img_id, path_of(img_id), image, label_masks(masks))
