# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What an exported network says of its input."""

from argparse import Namespace
from pathlib import Path

import options
from runtime.errors import InputError
from runtime.onnx_model import OnnxModel
from runtime.settings import apply_recorded_settings, settings_from_metadata


def open_network(args: Namespace, with_aipp: bool) -> OnnxModel:
    """Set the flags that are not given as the file of `--onnx` records them; returns the network.

    with_aipp: will AIPP normalize the images? Raises InputError if the network cannot be used that way.
    """
    model = OnnxModel(path := Path(args.onnx))
    if model.takes_bytes:
        raise InputError(f"--onnx {path}: takes bytes; export it with pthtar2onnx.py without --uint8")
    settings = settings_from_metadata(model.metadata, path, options.ANY_SIZE_FLAGS)
    for flag, fixed in zip(("input_h", "input_w"), model.fixed_size):
        settings[flag] = fixed or settings[flag]
        if flag in args.given and fixed not in (None, vars(args)[flag]):
            raise InputError(f"--{flag} {vars(args)[flag]}: {path} was exported for {fixed} alone; leave the flag out")
    apply_recorded_settings(args, settings, options.ANY_SIZE_FLAGS)
    for flag in ("input_h", "input_w"):
        if (side := vars(args)[flag]) % options.SIDE_MULTIPLE:
            raise InputError(f"--{flag} {side}: not a multiple of {options.SIDE_MULTIPLE}, which the network needs")
    if args.crop_diameter:
        raise InputError(f"--onnx {path}: needs images scaled to their nuclei, and so of all sizes; use demo.py --onnx")
    if with_aipp and args.normalization != "standard":
        raise InputError(
            f"--onnx {path}: was trained with train.py --normalization {args.normalization}, which AIPP "
            "cannot compute; give it float32 inputs"
        )
    model.set_size(args.input_h, args.input_w, 1)
    return model
