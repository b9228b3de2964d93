# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Print the tables of docs/data.md: how many files of each kind are read, and how many are refused.

    PYTHONPATH=.:test/unit python -m helpers.grid_table            # as in docs/data.md
    PYTHONPATH=.:test/unit python -m helpers.grid_table --details  # a row for each family of TIFF

The names of the families say what the files have in common.
"""

import sys

from runtime import startup

startup.configure_opencv()

from helpers import image_grid, mask_grid  # noqa: E402
from helpers.format_grid import all_formats  # noqa: E402
from helpers.mask_grid import all_masks  # noqa: E402
from helpers.stack_grid import all_stacks  # noqa: E402
from helpers.tiff_grid import all_tiffs  # noqa: E402
from imaging.masks import decode_mask, to_training_mask  # noqa: E402
from imaging.reader import decode_picture, turn_upright  # noqa: E402


def image_outcome(file: image_grid.GridFile, name: str) -> str:
    """Read every view of an image file; returns "right", "refused", or what is wrong."""

    def decode(page, channel):
        picture = decode_picture(file.data, name, page, channel)
        return turn_upright(picture.pixels, picture.orientation)

    return image_grid.outcome(file, decode, name)


def mask_outcome(file: mask_grid.MaskFile, name: str) -> str:
    """Read every page of a mask file; returns "right", "refused", or what is wrong."""
    return mask_grid.outcome(
        file, lambda page: decode_mask(file.data, name, page), to_training_mask, turn_upright, name
    )


def summary(family: str) -> str:
    """Return the row of the table in docs/data.md that a family belongs to."""
    if family.startswith("TIFF"):
        several = ("several pages", "pages that differ", "thumbnails", "ImageJ", "OME")
        kind = "several pages or channels" if family.removeprefix("TIFF, ").startswith(several) else "one picture"
        return "TIFF, damaged" if "damaged" in family else f"TIFF, {kind}"
    return family


if __name__ == "__main__":
    details = "--details" in sys.argv
    files = [*all_formats(), *all_tiffs(), *all_stacks()]
    results = [(file.family, image_outcome(file, f"x{file.extension}")) for file in files]
    print(image_grid.as_table((family if details else summary(family), result) for family, result in results))
    results = [(f"masks: {file.family}", mask_outcome(file, "x.png")) for file in all_masks()]
    print(f"\n{image_grid.as_table(results)}")
