# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""onnxruntime in place of an inference card."""

from pathlib import Path

import numpy as np

from exporting.aipp import apply_aipp
from infer.batches import run_batches
from infer.files import Inputs
from runtime.errors import InputError
from runtime.onnx_model import OnnxModel


def run_stand_in(path: Path, inputs: Inputs, output: Path, batch_size: int) -> None:
    """Run an ONNX file on all inputs, with AIPP's arithmetic if they are bytes."""
    model = OnnxModel(path)
    height, width = inputs.size
    fixed = (model.batch_size, *model.fixed_size)
    if model.takes_bytes or any(have not in (None, need) for have, need in zip(fixed, (batch_size, height, width))):
        raise InputError(
            f"--stand_in {path}: does not take float32 inputs of {batch_size}×3×{height}×{width}; export it with "
            "pthtar2onnx.py --dynamic, without --uint8"
        )
    model.set_size(height, width, 1)

    def compute(batch: np.ndarray) -> list[np.ndarray]:
        if inputs.uint8:
            batch = apply_aipp(batch, inputs.settings["divide_twice"])
        return [values.astype("<f4") for values in model.session.run(None, {model.input: batch})]

    run_batches(inputs, output, batch_size, compute)
