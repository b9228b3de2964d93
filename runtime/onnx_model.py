# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""An exported net that onnxruntime computes on the CPU. Needs no torch."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime

from runtime.errors import InputError
from runtime.files import read_bytes
from runtime.names import one_line

FLOATS, BYTES = "tensor(float)", "tensor(uint8)"  # the types of an export's input


class OnnxModel:
    """The net of an ONNX file: images, float32 (N, 3, height, width) → one map for each class, float32.

    takes_bytes: the file normalizes images itself. The values of the images are then those from 0 to 255, and the file
    gets them as uint8 (N, height, width, 3). Otherwise they are normalized.
    gives_probabilities: the last operator of the file is the sigmoid.
    `set_size` must be called before the first use. Raises InputError if the file is not a net for color images.
    """

    def __init__(self, path: Path, content: bytes | None = None):
        """content: of the file; None: it is read from `path`, which error messages name in both cases."""
        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _threads()
        options.log_severity_level = 4  # the errors below say what is wrong with a file
        # threads that spin while they wait would take the cores from those that read and write
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        content = read_bytes(path) if content is None else content
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no type in common
            raise InputError(f"{path}: onnxruntime cannot read it as an ONNX file ({one_line(error)})") from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in (FLOATS, BYTES):
            raise InputError(
                f"{path}: does not take a batch of float32 or uint8 images, as exports of pthtar2onnx.py do"
            )
        self.takes_bytes = inputs[0].type == BYTES
        # an open axis has a name or None instead of a number
        axes = [axis if isinstance(axis, int) else None for axis in inputs[0].shape]
        channels = axes.pop(3 if self.takes_bytes else 1)
        self.batch_size, *self.fixed_size = axes
        if channels not in (3, None):
            raise InputError(f"{path}: its net takes {channels} channels, but images are read with 3")
        # of several heads, the last one is the best
        self.input, self.output = inputs[0].name, self.session.get_outputs()[-1].name
        try:
            self.metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: its metadata are not text ({one_line(error)})") from error
        self.gives_probabilities = self.metadata.get("output") == "probability"

    def check_usual_split(self) -> None:
        """Raise InputError if the validation images are not known: the net was trained on a split of its own."""
        if self.metadata.get("split") == "fixed":
            raise InputError(
                f"{self.path}: its net was trained on a split of its own, which the file does not record; name the "
                "images with --input (infer/preprocess.py: or with --val_ids)"
            )

    @property
    def any_size(self) -> bool:
        return self.fixed_size == [None, None]

    def set_size(self, height: int, width: int, multiple_of: int) -> None:
        """Choose the size, unless the file fixes it, and try the net; raises InputError if it does not segment.

        multiple_of: of images of other sizes, the edge is repeated up to multiples of this, unless the file does that.
        """
        self.size = self.fixed_size[0] or height, self.fixed_size[1] or width
        self.multiple_of = multiple_of if self.any_size and not self.takes_bytes else 1
        count, sides = self.batch_size or 1, [side + -side % self.multiple_of for side in self.size]
        try:
            output = self._run(np.zeros((count, 3, *sides), np.float32))
        except Exception as error:
            raise InputError(f"{self.path}: onnxruntime cannot run its net ({one_line(error)})") from error
        if output.ndim != 4 or output.shape != (count, output.shape[1], *sides) or not output.shape[1]:
            shape = "×".join(map(str, output.shape))
            raise InputError(
                f"{self.path}: its last output is {shape} for {sides[0]}×{sides[1]} images; a net that "
                "segments has a number for each class and pixel"
            )
        self.num_classes = output.shape[1]

    def predict(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield probabilities, float32 (N, num_classes, height, width), for each batch of images."""
        for images in batches:
            values = self._compute(images)
            # far from 0, float32 has no other values than 0 and 1, and the exponential could overflow
            yield values if self.gives_probabilities else 1 / (1 + np.exp(-values.clip(-80, 80)))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return logits, float32 (N, num_classes, height, width); of an export with probabilities, those within ±16."""
        values = self._compute(images)
        if not self.gives_probabilities:
            return values
        values = values.clip(1e-7, 1 - 1e-7)
        return np.log(values / (1 - values))

    def _compute(self, images: np.ndarray) -> np.ndarray:
        (height, width), count = images.shape[2:], len(images)
        if any(fixed not in (None, side) for fixed, side in zip(self.fixed_size, (height, width))):
            raise InputError(
                f"{self.path}: takes images of {self.size[0]}×{self.size[1]} alone, not {height}×{width}; export the "
                "net with pthtar2onnx.py --dynamic"
            )
        bottom, right = -height % self.multiple_of, -width % self.multiple_of
        if bottom or right:
            images = np.pad(images, ((0, 0), (0, 0), (0, bottom), (0, right)), mode="edge")
        # if the file fixes the batch size, other batches are split and padded
        size = self.batch_size or count
        if missing := -count % size:
            images = np.concatenate([images, images[:1].repeat(missing, 0)])
        values = np.concatenate([self._run(images[k : k + size]) for k in range(0, len(images), size)])
        return values[:count, :, :height, :width].astype(np.float32, copy=False)

    def _run(self, images: np.ndarray) -> np.ndarray:
        if self.takes_bytes:
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1), np.uint8)
        return self.session.run([self.output], {self.input: images})[0]


def _threads() -> int:
    """Return OMP_NUM_THREADS, which torch obeys too, else the number of cores that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and 0 < int(given) < 1000 else len(os.sched_getaffinity(0))
