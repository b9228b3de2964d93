# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The normalization of the published recipe as a configuration of AIPP, which ATC puts before a network."""

import numpy as np

from imaging.normalization import MEAN, STD

# RGB888_U8 means three bytes for each pixel. They stay in their order, BGR, because nothing swaps them.
TEMPLATE = """\
aipp_op {{
    aipp_mode : static
    related_input_rank : 0
    input_format : RGB888_U8
    src_image_size_w : {width}
    src_image_size_h : {height}
    crop : false
    csc_switch : false
    rbuv_swap_switch : false
{values}
}}
"""


def aipp_values(divide_twice: bool) -> tuple[list[float], list[float]]:
    """Return `min_chn` and `var_reci_chn` of the three channels: AIPP computes (byte - min_chn) * var_reci_chn."""
    divisor = 255 if divide_twice else 1
    return [255 * mean for mean in MEAN], [1 / (255 * std * divisor) for std in STD]


def aipp_text(height: int, width: int, divide_twice: bool) -> str:
    """Return the AIPP file for images of this size, uint8 BGR (N, H, W, 3)."""
    columns = dict(zip(("min_chn", "var_reci_chn"), aipp_values(divide_twice)))
    values = [f"    {name}_{k} : {value:.10g}" for name, column in columns.items() for k, value in enumerate(column)]
    return TEMPLATE.format(height=height, width=width, values="\n".join(values))


def apply_aipp(images: np.ndarray, divide_twice: bool) -> np.ndarray:
    """Compute what AIPP does, in float32: uint8 BGR (N, H, W, 3) → input of the network (N, 3, H, W)."""
    least, scale = (np.array(values, np.float32) for values in aipp_values(divide_twice))
    return np.ascontiguousarray(((images - least) * scale).transpose(0, 3, 1, 2))
