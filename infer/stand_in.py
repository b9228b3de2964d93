"""onnxruntime in place of an inference card: the same input files, the same output files as with ais_bench."""

from pathlib import Path

import numpy as np

from exporting.aipp import apply_aipp
from infer.files import Inputs, output_path
from runtime.errors import InputError
from runtime.files import read_bytes
from runtime.onnx_model import OnnxModel


def run_stand_in(path: Path, inputs: Inputs, output: Path, batch_size: int) -> None:
    """Run an ONNX file on all inputs in batches, and write every output of each image, as ais_bench does.

    If the last batch has too few images, ais_bench repeats its first one, and does not write the outputs of these.
    """
    model = OnnxModel(path)
    height, width = inputs.size
    fixed = (model.batch_size, *model.fixed_size)
    if model.takes_bytes or any(have not in (None, need) for have, need in zip(fixed, (batch_size, height, width))):
        raise InputError(
            f"--stand_in {path}: does not take float32 inputs of {batch_size}×3×{height}×{width}; export it with "
            "pthtar2onnx.py --dynamic"
        )
    model.set_size(height, width, 1)
    for start in range(0, len(inputs.items), batch_size):
        files = [item.bin for item in inputs.items[start : start + batch_size]]
        images = [_read_input(inputs.bins / name, inputs) for name in files]
        batch = np.stack(images + images[:1] * (batch_size - len(images)))
        if inputs.uint8:
            batch = apply_aipp(batch, inputs.settings["divide_twice"])
        for head, values in enumerate(model.session.run(None, {model.input: batch})):
            for name, own in zip(files, values):
                output_path(output, name, head).write_bytes(np.ascontiguousarray(own, "<f4").tobytes())


def _read_input(path: Path, inputs: Inputs) -> np.ndarray:
    """Read an input file: uint8 (H, W, 3) or float32 (3, H, W)."""
    kind, shape = ("u1", (*inputs.size, 3)) if inputs.uint8 else ("<f4", (3, *inputs.size))
    content = read_bytes(path)
    if len(content) != np.dtype(kind).itemsize * int(np.prod(shape)):
        raise InputError(f"{path}: has {len(content)} bytes, which is not the size of an input; preprocess it again")
    return np.frombuffer(content, kind).reshape(shape)
