"""An exported net that onnxruntime computes on the CPU, in place of one that torch computes."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.files import read_bytes
from runtime.names import one_line


class OnnxModel(nn.Module):
    """The net of an ONNX file: images (N, 3, height, width) → logits (N, num_classes, height, width), on the CPU.

    `set_size` must be called before the first use. Raises InputError if the file is not a net for color images.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # the errors below say what is wrong with a file
        # threads that spin while they wait would take the cores from those that read and write
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        data = read_bytes(path)
        try:
            self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no type in common
            raise InputError(f"{path}: onnxruntime cannot read it as an ONNX file ({one_line(error)})") from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            raise InputError(f"{path}: does not take a batch of float32 images, as exports of pthtar2onnx.py do")
        # an open axis has a name or None instead of a number
        axes = [axis if isinstance(axis, int) else None for axis in inputs[0].shape]
        self.batch_size, channels, *self.fixed_size = axes
        if channels not in (3, None):
            raise InputError(f"{path}: its net takes {channels} channels, but images are read with 3")
        # of several heads, the last one is the best
        self.input, self.output = inputs[0].name, self.session.get_outputs()[-1].name
        try:
            self.metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: its metadata are not text ({one_line(error)})") from error

    @property
    def any_size(self) -> bool:
        return self.fixed_size == [None, None]

    def set_size(self, height: int, width: int, multiple_of: int) -> None:
        """Choose the size, unless the file fixes it, and try the net; raises InputError if it does not segment."""
        self.size = self.fixed_size[0] or height, self.fixed_size[1] or width
        sides = [side + -side % multiple_of for side in self.size] if self.any_size else self.size
        try:
            (output,) = self._run(np.zeros((self.batch_size or 1, 3, *sides), np.float32))
        except Exception as error:
            raise InputError(f"{self.path}: onnxruntime cannot run its net ({one_line(error)})") from error
        if output.ndim != 4 or output.shape != (self.batch_size or 1, output.shape[1], *sides) or not output.shape[1]:
            shape = "×".join(map(str, output.shape))
            raise InputError(
                f"{self.path}: its last output is {shape} for {sides[0]}×{sides[1]} images; a net that "
                "segments has a number for each class and pixel"
            )
        self.num_classes = output.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        images, size = x.contiguous().numpy(), self.batch_size or len(x)
        # if the file fixes the batch size, other batches are split and padded
        missing = -len(images) % size
        images = np.concatenate([images, images[:1].repeat(missing, 0)]) if missing else images
        logits = [torch.from_numpy(self._run(images[k : k + size])[0]) for k in range(0, len(images), size)]
        return torch.cat(logits)[: len(x)].float()

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        return self.session.run([self.output], {self.input: images})
