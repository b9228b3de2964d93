# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The flags of every script. No torch in here, so that `--help` and a mistyped flag are answered at once."""

from options.commands import parse_demo, parse_export, parse_preprocess, parse_train, parse_val
from options.inference import parse_infer_om, parse_infer_postprocess, parse_infer_preprocess, parse_write_aipp
from options.table import (
    ANY_SIZE_FLAGS,
    ARCHS,
    AUGMENTATIONS,
    DEFAULT_TILE,
    DEVICES,
    EVALUATION_FLAGS,
    FLAGS,
    INPUT_FLAGS,
    LARGE_PIXELS,
    LOCAL_FLAGS,
    LOSSES,
    NORMALIZATIONS,
    OPTIMIZERS,
    RECIPES,
    RECORDED_FLAGS,
    SCHEDULERS,
    SIDE_MULTIPLE,
    WITH_EPOCHS,
    default_name,
)
