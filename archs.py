# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""UNet and UNet++ (`NestedUNet`), and building the model that belongs to given weights.

UNet: Ronneberger et al. 2015. UNet++: Zhou et al. 2018. Old checkpoints depend on the parameter names: blocks are
`conv{level}_{column}`, the layers of a block `conv1 bn1 conv2 bn2`, the heads `final` or `final1` … `final4`.
"""

import textwrap

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (32, 64, 128, 256, 512)
# of the deepest level, after four poolings; height and width must be multiples of it
STRIDE = 2 ** (len(WIDTHS) - 1)


class VGGBlock(nn.Module):
    """(conv3×3 → BN → ReLU) twice; (N, in_channels, H, W) → (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))


class Upsample(nn.Upsample):
    """Bilinear upsampling to twice the side lengths, corners aligned; (N, C, H, W) → (N, C, 2H, 2W).

    Its gradient is the same in each run if `torch.use_deterministic_algorithms` is on, also where torch's own is not.
    """

    def __init__(self):
        super().__init__(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x: Tensor) -> Tensor:
        if torch.are_deterministic_algorithms_enabled() and x.requires_grad:
            return DeterministicUpsample.apply(x)
        return super().forward(x)


class DeterministicUpsample(torch.autograd.Function):
    """Upsample, whose gradient is computed by two matrix products instead of atomic additions."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        exact = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        rows, columns = (_upsampling_matrix(side // 2, exact) for side in gradient.shape[2:])
        return (rows @ exact @ columns.T).to(gradient.dtype)


def _upsampling_matrix(side: int, like: Tensor) -> Tensor:
    """Return the weights (side, 2·side) of linear upsampling: what it makes of the unit vectors."""
    unit_vectors = torch.eye(side, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(unit_vectors, scale_factor=2, mode="linear", align_corners=True)[0]


class _UNetBase(nn.Module):
    """The encoder, pooling, upsampling and checks, which both models share."""

    def __init__(self, num_classes: int, input_channels: int):
        super().__init__()
        for name, value in (("num_classes", num_classes), ("input_channels", input_channels)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        self.num_classes, self.input_channels = num_classes, input_channels
        self.pool = nn.MaxPool2d(2, 2)
        self.up = Upsample()
        for level, width in enumerate(WIDTHS):
            setattr(self, f"conv{level}_0", VGGBlock(WIDTHS[level - 1] if level else input_channels, width))

    def _check_input(self, x: Tensor) -> None:
        if torch.jit.is_tracing():  # sizes are symbolic then, and the export has checked its example input
            return
        if x.ndim != 4 or x.shape[1] != self.input_channels:
            raise ValueError(f"input must be (N, {self.input_channels}, H, W), not {tuple(x.shape)}")
        if x.shape[2] % STRIDE or x.shape[3] % STRIDE or not x.shape[2] * x.shape[3]:
            raise ValueError(f"height and width must be multiples of {STRIDE}, not {x.shape[2]}×{x.shape[3]}")


class UNet(_UNetBase):
    """UNet with 32 to 512 channels and one head: (N, input_channels, H, W) → logits (N, num_classes, H, W).

    H and W are multiples of 16; `forward` raises ValueError for other shapes. deep_supervision: must be False.
    """

    def __init__(self, num_classes: int, input_channels: int = 3, deep_supervision: bool = False):
        if deep_supervision:
            raise ValueError("deep_supervision=True: UNet has a single head; use NestedUNet for deep supervision")
        super().__init__(num_classes, input_channels)
        for level in range(len(WIDTHS) - 2, -1, -1):
            name = f"conv{level}_{len(WIDTHS) - 1 - level}"
            setattr(self, name, VGGBlock(WIDTHS[level] + WIDTHS[level + 1], WIDTHS[level]))
        self.final = nn.Conv2d(WIDTHS[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        self._check_input(x)
        x0_0 = self.conv0_0(x)
        x1_0 = self.conv1_0(self.pool(x0_0))
        x2_0 = self.conv2_0(self.pool(x1_0))
        x3_0 = self.conv3_0(self.pool(x2_0))
        x4_0 = self.conv4_0(self.pool(x3_0))
        x3_1 = self.conv3_1(torch.cat([x3_0, self.up(x4_0)], 1))
        x2_2 = self.conv2_2(torch.cat([x2_0, self.up(x3_1)], 1))
        x1_3 = self.conv1_3(torch.cat([x1_0, self.up(x2_2)], 1))
        x0_4 = self.conv0_4(torch.cat([x0_0, self.up(x1_3)], 1))
        return self.final(x0_4)


class NestedUNet(_UNetBase):
    """UNet++: nested UNets of increasing depth that share their encoder. Shapes and errors are those of UNet.

    deep_supervision: each column of the top row has a head; `forward` returns a list of four logits, the best last.
    """

    def __init__(self, num_classes: int, input_channels: int = 3, deep_supervision: bool = False):
        super().__init__(num_classes, input_channels)
        self.deep_supervision = deep_supervision
        depth = len(WIDTHS) - 1
        for column in range(1, depth + 1):
            for level in range(depth - column + 1):
                in_channels = column * WIDTHS[level] + WIDTHS[level + 1]
                setattr(self, f"conv{level}_{column}", VGGBlock(in_channels, WIDTHS[level]))
        for head in [f"final{k}" for k in range(1, depth + 1)] if deep_supervision else ["final"]:
            setattr(self, head, nn.Conv2d(WIDTHS[0], num_classes, 1))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        self._check_input(x)
        top = self.top_row(x, len(WIDTHS) - 1)
        if self.deep_supervision:
            return [getattr(self, f"final{k}")(top[k]) for k in range(1, len(WIDTHS))]
        return self.final(top[-1])

    def top_row(self, x: Tensor, depth: int) -> list[Tensor]:
        """Return the outputs of conv0_0 … conv0_{depth}; only the blocks that these need are computed."""
        rows = []  # rows[level][column] is the output of block conv{level}_{column}
        for level in range(depth + 1):
            rows.append([getattr(self, f"conv{level}_0")(self.pool(x) if level else x)])
            x = rows[level][0]
            for column in range(1, level + 1):  # the blocks whose inputs are now complete, an anti-diagonal
                row = rows[level - column]
                block = getattr(self, f"conv{level - column}_{column}")
                row.append(block(torch.cat([*row, self.up(rows[level - column + 1][column - 1])], 1)))
        return rows[0]


class PrunedNestedUNet(nn.Module):
    """The part of a NestedUNet that its head `level` (1 … 4) needs; `forward` returns the logits of this head alone.

    Raises ValueError if the net was built without deep supervision, or has no such head.
    """

    def __init__(self, net: nn.Module, level: int):
        super().__init__()
        if not getattr(net, "deep_supervision", False) or not 1 <= level < len(WIDTHS):
            raise ValueError(f"head {level}: pruning needs a NestedUNet with deep supervision, which has heads 1 to 4")
        self.net, self.level = net, level
        self.num_classes, self.input_channels = net.num_classes, net.input_channels

    def forward(self, x: Tensor) -> Tensor:
        self.net._check_input(x)
        return getattr(self.net, f"final{self.level}")(self.net.top_row(x, self.level)[-1])


ARCHS = {"UNet": UNet, "NestedUNet": NestedUNet}


def describe(state_dict: dict[str, Tensor]) -> dict:
    """Derive the name and arguments of a model, which old checkpoints do not record, from its weights.

    Raises ValueError if the weights are not those of a model in ARCHS.
    """
    head = state_dict.get("final.weight", state_dict.get("final4.weight"))
    stem = state_dict.get("conv0_0.conv1.weight")
    if head is None or stem is None or head.ndim != 4 or stem.ndim != 4:
        raise ValueError(f"these are not the weights of {' or '.join(ARCHS)}: conv0_0 or the final head is missing")
    return {
        "arch": "NestedUNet" if "conv0_1.conv1.weight" in state_dict else "UNet",
        "num_classes": head.shape[0],
        "input_channels": stem.shape[1],
        "deep_supervision": "final1.weight" in state_dict,
    }


def from_state_dict(state_dict: dict[str, Tensor]) -> nn.Module:
    """Build the model of the weights and load them into it; raises ValueError if they are not of a model in ARCHS."""
    description = describe(state_dict)
    model = ARCHS[description.pop("arch")](**description)
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:  # torch lists every key, each on its own line
        raise ValueError(textwrap.shorten(str(error), 300, placeholder=" …")) from error
    return model
