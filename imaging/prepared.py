# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The files of a prepared data set."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imaging.masks import align, decode_mask, to_training_mask
from imaging.reader import Picture, decode_picture
from runtime import names
from runtime.errors import InputError


@dataclass(frozen=True)
class PreparedFolder:
    """A prepared data set: `<path>/images/<id><img_ext>` and `<path>/masks/<class>/<id><mask_ext>`.

    `<class>` is 0 … num_classes - 1. `channel` is read from images that hold several, from 1. `zero_one`: do the masks
    hold 0 and 1 in place of 0 and 255?
    """

    path: Path
    img_ext: str = ".png"
    mask_ext: str = ".png"
    num_classes: int = 1
    channel: int = 0
    zero_one: bool = False

    @property
    def images(self) -> Path:
        """The folder of the images."""
        return self.path / "images"

    def masks(self, class_index: int) -> Path:
        """Return the folder of the masks of a class."""
        return self.path / "masks" / str(class_index)

    def image_path(self, img_id: str) -> Path:
        """Return the path of an image."""
        return self.images / f"{img_id}{self.img_ext}"

    def mask_path(self, img_id: str, class_index: int) -> Path:
        """Return the path of an image's mask for a class."""
        return self.masks(class_index) / f"{img_id}{self.mask_ext}"

    def list_ids(self) -> list[str]:
        """Return the names of the images without extension, sorted, because the order of a listing depends on the disk.

        Raises InputError if a name is not safe: ids are printed, and results are named after them.
        """
        found = (path.name for path in self.images.glob(f"*{self.img_ext}"))
        # macOS adds files whose names begin with `._`
        ids = sorted(name[: -len(self.img_ext)] for name in found if not name.startswith("."))
        for img_id in ids:
            if not names.is_safe(img_id):
                raise InputError(
                    f"{self.images}: the name {names.printable(img_id)}{self.img_ext} is too long or holds a backslash "
                    "or control characters; rename the file"
                )
        return ids

    def read(self, img_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return an image, uint8 BGR (H, W, 3), and its masks, uint8 (H, W, num_classes), in the values of their files.

        Raises InputError if a file is missing or unreadable, or if a mask has another size than its image.
        """
        paths = [self.mask_path(img_id, k) for k in range(self.num_classes)]
        masks = [decode_mask(path, path, judged=True) for path in paths]
        for path, mask in zip(paths, masks):
            to_training_mask(mask, path)
        image, pixels, _ = align(self.read_picture(img_id), masks, paths)
        return image, np.dstack(pixels)

    def read_picture(self, img_id: str) -> Picture:
        """Return an image that is not yet turned; raises InputError naming it if it cannot be read."""
        path = self.image_path(img_id)
        return decode_picture(path, path, channel=self.channel)
