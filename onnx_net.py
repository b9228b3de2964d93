"""An exported net, computed by onnxruntime on the CPU, in place of one that torch computes."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from archs import STRIDE
from errors import InputError
from files import read_bytes


class OnnxNet(nn.Module):
    """The net of an ONNX file: images (N, 3, height, width) → logits (N, num_classes, height, width), on the CPU.

    Where the file has several outputs the last counts, as with deep supervision. Where its batch is fixed, other
    batches are taken apart and filled up. `recorded` is what the file tells besides, see utils.preparation_from_text.

    height, width: what is wanted; None: what the file fixes, else 96. Raises InputError where the file fixes another
    size, or is not a net that segments colour images.
    """

    def __init__(self, path: Path, height: int | None = None, width: int | None = None):
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what is wrong with a file is ours to tell
        # threads that wait in a loop would take the cores from those that read and write
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        data = read_bytes(path)
        try:
            self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's have no type in common
            raise InputError(f"{path}: onnxruntime cannot read it as an ONNX file ({_reason(error)})") from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            raise InputError(f"{path}: does not take a batch of images of float32, as nets of pthtar2onnx.py do")
        # an open axis has a name or nothing in place of a number
        axes = [axis if isinstance(axis, int) else None for axis in inputs[0].shape]
        self.batch_size, channels, *fixed = axes
        if channels not in (3, None):
            raise InputError(f"{path}: its net takes {channels} channels, but images are read with 3")
        for flag, asked, own in (("--input_h", height, fixed[0]), ("--input_w", width, fixed[1])):
            if asked and own and asked != own:
                raise InputError(
                    f"{flag} {asked}: {path} was exported for {own} alone; leave the flag out, or export the net with "
                    "--dynamic"
                )
        self.size = fixed[0] or height or 96, fixed[1] or width or 96
        self.any_size = fixed == [None, None]
        self.input, self.output = inputs[0].name, self.session.get_outputs()[-1].name
        try:
            self.recorded: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: its metadata are no text ({_reason(error)})") from error
        # one run tells what the file may leave open, and that it can be run at all
        sides = [side + -side % STRIDE for side in self.size] if self.any_size else self.size
        try:
            (tried,) = self._run(np.zeros((self.batch_size or 1, 3, *sides), np.float32))
        except Exception as error:
            raise InputError(f"{path}: onnxruntime cannot run its net ({_reason(error)})") from error
        if tried.ndim != 4 or tried.shape != (self.batch_size or 1, tried.shape[1], *sides) or not tried.shape[1]:
            raise InputError(
                f"{path}: its last output is {_times(tried.shape)} for {sides[0]}×{sides[1]} images; a net that "
                "segments has a number for each class and pixel"
            )
        self.num_classes = tried.shape[1]

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        return self.session.run([self.output], {self.input: images})

    def forward(self, x: Tensor) -> Tensor:
        images, size = x.contiguous().numpy(), self.batch_size or len(x)
        lacking = -len(images) % size
        images = np.concatenate([images, images[:1].repeat(lacking, 0)]) if lacking else images
        logits = [torch.from_numpy(self._run(images[k : k + size])[0]) for k in range(0, len(images), size)]
        return torch.cat(logits)[: len(x)].float()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
