# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The AIPP file: its numbers are those of the recipe's normalization."""

import re

import numpy as np
import pytest

from exporting.aipp import aipp_text, apply_aipp
from imaging import augment
from imaging.normalization import MEAN, STD


def numbers(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+) : ([\d.e-]+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("divide_twice", [True, False])
def test_the_numbers_of_the_file_normalize_as_the_recipe_does(divide_twice):
    """The first channel is blue, and gets the first mean, as in training."""
    found = numbers(aipp_text(32, 48, divide_twice))
    assert (found["src_image_size_h"], found["src_image_size_w"]) == (32, 48)
    image = np.random.default_rng(0).integers(256, size=(32, 48, 3), dtype=np.uint8)
    wanted = augment.to_input(augment.val_transform(32, 48)(image=image)["image"], divide_twice)
    for k in range(3):
        assert found[f"min_chn_{k}"] == pytest.approx(255 * MEAN[k], rel=1e-9)
        assert found[f"var_reci_chn_{k}"] == pytest.approx(1 / 255 / STD[k] / (255 if divide_twice else 1), rel=1e-9)
        values = (image[..., k] - found[f"min_chn_{k}"]) * found[f"var_reci_chn_{k}"]
        assert np.abs(values - wanted[k]).max() < 1e-6 * np.abs(wanted).max() + 1e-9
    assert np.abs(apply_aipp(image[None], divide_twice)[0] - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_the_channels_stay_in_their_order():
    text = aipp_text(32, 32, True)
    assert "input_format : RGB888_U8" in text and "rbuv_swap_switch : false" in text and "csc_switch : false" in text


def test_half_precision_keeps_the_numbers():
    """AIPP keeps its parameters in float16, whose normal numbers begin at 6.1e-5."""
    for name, value in numbers(aipp_text(32, 32, True)).items():
        if "chn" in name:
            assert value > np.finfo(np.float16).tiny and float(np.float16(value)) == pytest.approx(value, rel=1e-3)
