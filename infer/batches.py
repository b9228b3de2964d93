# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Running a network on the files of infer/preprocess.py in batches, with files of outputs as ais_bench writes them."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from infer.files import Inputs, output_path
from runtime.errors import InputError
from runtime.files import read_bytes


def run_batches(
    inputs: Inputs, output: Path, batch_size: int, compute: Callable[[np.ndarray], Iterable[np.ndarray]]
) -> None:
    """Compute all inputs in batches, and write every output of each image.

    compute: takes uint8 (batch_size, H, W, 3) or float32 (batch_size, 3, H, W), and returns the outputs of the network;
    the first axis of each is the batch. If the last batch has too few images, its first one is repeated, as ais_bench
    does; the outputs of these copies are not written.
    """
    for start in range(0, len(inputs.items), batch_size):
        files = [item.bin for item in inputs.items[start : start + batch_size]]
        images = [_read_input(inputs.bins / name, inputs) for name in files]
        batch = np.stack(images + images[:1] * (batch_size - len(images)))
        for head, values in enumerate(compute(batch)):
            for name, own in zip(files, values):
                output_path(output, name, head).write_bytes(own.tobytes())


def _read_input(path: Path, inputs: Inputs) -> np.ndarray:
    """Read an input file: uint8 (H, W, 3) or float32 (3, H, W)."""
    kind, shape = ("u1", (*inputs.size, 3)) if inputs.uint8 else ("<f4", (3, *inputs.size))
    content = read_bytes(path)
    if len(content) != np.dtype(kind).itemsize * int(np.prod(shape)):
        raise InputError(f"{path}: has {len(content)} bytes, which is not the size of an input; preprocess it again")
    return np.frombuffer(content, kind).reshape(shape)
