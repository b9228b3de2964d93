# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A net as an ONNX graph, with or without the preparation of images in the same file."""

import io
import warnings

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archs
from imaging.augment import MEAN, STD

INPUT, OUTPUT = "actual_input_1", "output"  # the outputs are output1, output2, …


class BytesToProbabilities(nn.Module):
    """A net with normalization and sigmoid: uint8 BGR (N, H, W, 3) → probabilities (N, num_classes, H, W) of each head.

    normalization, divide_twice: as in imaging.augment.val_transform and to_input, which give the same values.
    any_size: repeat the edge of normalized images up to multiples of archs.STRIDE, and crop the outputs.
    """

    def __init__(self, net: nn.Module, normalization: str, divide_twice: bool, any_size: bool):
        super().__init__()
        self.net, self.per_image, self.any_size = net, normalization == "image", any_size
        self.divisor = 255 if divide_twice else 1
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        self.register_buffer("scale", 1 / (255 * self.divisor * std))
        self.register_buffer("shift", mean / (self.divisor * std))

    def forward(self, x: Tensor) -> list[Tensor]:
        height, width = x.shape[1:3]
        x = self._normalize(x.float().permute(0, 3, 1, 2))
        if self.any_size:
            x = F.pad(x, (0, -width % archs.STRIDE, 0, -height % archs.STRIDE), mode="replicate")
        outputs = self.net(x)
        outputs = [torch.sigmoid(logits) for logits in ([outputs] if isinstance(outputs, Tensor) else outputs)]
        return [output[:, :, :height, :width] for output in outputs] if self.any_size else outputs

    def _normalize(self, x: Tensor) -> Tensor:
        if not self.per_image:
            return x * self.scale - self.shift
        # on the scale of 0 to 255, the squares and 1e-4 are within the range of float16, which some devices compute in
        x = x - _mean(x)
        x = (x / (_mean(x * x).sqrt() + 1e-4)).clamp(-20, 20)
        return x / self.divisor if self.divisor > 1 else x


def _mean(x: Tensor) -> Tensor:
    """Return the mean of each image, (N, 1, 1, 1), axis by axis: a float32 sum over millions of pixels is inexact."""
    return x.mean(3, keepdim=True).mean(2, keepdim=True).mean(1, keepdim=True)


def build_graph(model: nn.Module, example: Tensor, opset: int, dynamic: bool) -> onnx.ModelProto:
    """Return a model as ONNX for inputs like `example`: float32 (N, C, H, W), or uint8 (N, H, W, 3).

    dynamic: leave N, H and W open.
    """
    model.eval()  # the exporter restores the mode that it finds in the outermost module, in all others too
    with torch.no_grad():
        outputs = model(example[:1])
    names = [f"{OUTPUT}{k}" for k in range(1, 1 + (1 if isinstance(outputs, Tensor) else len(outputs)))]
    axes = {name: {0: "batch", 2: "height", 3: "width"} for name in names}
    axes[INPUT] = {0: "batch", 1: "height", 2: "width"} if example.dtype == torch.uint8 else axes[names[0]]
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its successor
        torch.onnx.export(
            model,
            example,
            file,
            opset_version=opset,
            input_names=[INPUT],
            output_names=names,
            dynamic_axes=axes if dynamic else None,
            dynamo=False,  # the newer exporter needs opset 18, and Ascend's ATC needs a lower one
        )
    return onnx.load_from_string(file.getvalue())
