# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Mask files of every kind: each is read as it was written, or refused with its name and the cause."""

import functools
from collections import Counter

import cv2
import numpy as np
import pytest
from helpers.grid_table import mask_outcome
from helpers.mask_grid import all_masks, verdict

from imaging.masks import decode_mask

FILES = all_masks()
# how many of these files are read at least; whoever changes the reader sees here if it reads fewer
LEAST_READ = {
    **{"two values": 235, "soft edges": 140, "lossy compression": 100, "numbered nuclei": 175},
    **{"colors, palettes and alpha": 100, "pages and what is no mask": 9},
}


@functools.cache  # for the last test
def result_of(number: int) -> str:
    return mask_outcome(FILES[number], "x.png")


@pytest.mark.parametrize("number", range(len(FILES)), ids=[file.id for file in FILES])
def test_a_mask_is_read_right_or_refused(number: int) -> None:
    assert verdict(FILES[number], result_of(number)) == ""


def test_how_many_masks_are_read() -> None:
    counts = Counter((file.family, result_of(number)) for number, file in enumerate(FILES))
    assert {result for _, result in counts} == {"right", "refused"}
    assert len({file.id for file in FILES}) == len(FILES) > 900
    assert {family for family, _ in counts} == LEAST_READ.keys()
    assert {family for family, least in LEAST_READ.items() if counts[family, "right"] < least} == set()


@pytest.mark.parametrize("side", [16, 32, 96, 200])
@pytest.mark.parametrize("seed", range(5))
def test_masks_that_the_preparation_resizes_are_no_numbered_nuclei(seed: int, side: int) -> None:
    """As in DSB2018, with nuclei of a few pixels after resizing."""
    draws = np.random.default_rng(seed)
    large = np.zeros((256, 320), np.float64)
    for _ in range(30):
        axes = draws.integers(6, 18, 2).tolist()
        center = draws.integers((0, 0), (320, 256)).tolist()
        cv2.ellipse(large, center, axes, float(draws.integers(180)), 0, 360, 1, -1)
    mask = (cv2.resize(large, (side, side)) * 255).astype(np.uint8)
    found = decode_mask(cv2.imencode(".png", mask)[1].tobytes(), "x.png")
    assert (found.kind, found.problem) == ("marks", "") and np.array_equal(found.pixels, mask)
