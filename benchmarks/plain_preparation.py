# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The plain side of part preparation: prepares one image after the other in one process.

Usage: plain_preparation.py ZIP OUTPUT SIZE. It imports nothing of this repository, so that none of our settings of
OpenCV and of memory apply to it.
"""

import re
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np


def prepare(path: Path, output: Path, size: int) -> None:
    """Do what the older editions did, but read from the zip."""
    for folder in ("images", "masks/0"):
        (output / folder).mkdir(parents=True)
    with zipfile.ZipFile(path) as archive:
        images, masks = {}, {}
        for name in archive.namelist():
            found = re.search(r"([^/]+)/(images|masks)/[^/]+\.png$", name)
            if found:
                (images if found[2] == "images" else masks).setdefault(found[1], []).append(name)

        def read(name: str, flags: int) -> np.ndarray:
            return cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), flags)

        for img_id, (name,) in sorted(images.items()):
            image = read(name, cv2.IMREAD_UNCHANGED)
            image = (np.dstack([image] * 3) if image.ndim == 2 else image)[:, :, :3]
            union = np.zeros(image.shape[:2])
            for mask in masks[img_id]:
                union[read(mask, cv2.IMREAD_GRAYSCALE) > 127] = 1
            cv2.imwrite(str(output / "images" / f"{img_id}.png"), cv2.resize(image, (size, size)))
            soft = (cv2.resize(union, (size, size)) * 255).astype(np.uint8)
            cv2.imwrite(str(output / "masks" / "0" / f"{img_id}.png"), soft)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
