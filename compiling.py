"""torch.compile for the nets, and what makes it worth its while on the CPU."""

import os
import shutil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import InputError
from runtime import Runtime


@torch.library.custom_op("unet::upsample", mutates_args=())
def upsample(x: Tensor) -> Tensor:
    """Bilinear ×2, corners aligned, as nn.Upsample has it: (N, C, H, W) → (N, C, 2H, 2W), contiguous.

    An operator of its own, which the compiler leaves alone. What it makes of the bilinear one's backward pass adds up
    pixel by pixel, atomically, and takes five times as long on the CPU.
    """
    return F.interpolate(x.contiguous(), scale_factor=2, mode="bilinear", align_corners=True)


@torch.library.custom_op("unet::upsample_backward", mutates_args=())
def upsample_backward(gradient: Tensor) -> Tensor:
    """The gradient (N, C, 2H, 2W) of `upsample`'s output → that of its input (N, C, H, W)."""
    height, width = gradient.shape[2] // 2, gradient.shape[3] // 2
    size = [*gradient.shape[:2], height, width]
    return torch.ops.aten.upsample_bilinear2d_backward(
        gradient.contiguous(), [2 * height, 2 * width], size, True, 2.0, 2.0
    )


@upsample.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]))


@upsample_backward.register_fake
def _(gradient: Tensor) -> Tensor:
    return gradient.new_empty((*gradient.shape[:2], gradient.shape[2] // 2, gradient.shape[3] // 2))


upsample.register_autograd(lambda _, gradient: upsample_backward(gradient), setup_context=lambda *_, **__: None)


class _Upsample(nn.Upsample):
    def forward(self, x: Tensor) -> Tensor:
        return upsample(x) if torch.compiler.is_compiling() else super().forward(x)


def compiled(model: nn.Module, runtime: Runtime) -> nn.Module:
    """The model, compiled at its first call, which takes half a minute or more; the model itself stays usable.

    Raises InputError where the CPU's compiler, g++ or what CXX names, is not there.
    """
    if runtime.accelerated:
        return torch.compile(model)
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise InputError(f"--compile: on the CPU it needs a C++ compiler, and {compiler} is not there; leave it out")
    for module in model.modules():
        if isinstance(getattr(module, "up", None), nn.Upsample):
            module.up = _Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    # NCHW throughout: the weights' gradients, where most of the time goes, are faster in it
    return torch.compile(model, options={"layout_optimization": False})
