"""torch.compile for the nets, and what makes it worth its while on the CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import InputError
from runtime import Runtime


def _layout_of(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


@torch.library.custom_op("unet::upsample", mutates_args=())
def upsample(x: Tensor) -> Tensor:
    """Bilinear ×2, corners aligned, as nn.Upsample has it: (N, C, H, W) → (N, C, 2H, 2W) in the layout of `x`.

    An operator of its own, which the compiler leaves alone. What it makes of the bilinear one's backward pass adds up
    pixel by pixel, atomically, and takes five times as long on the CPU.
    """
    layout = _layout_of(x)
    x = x.contiguous(memory_format=layout)
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True).contiguous(memory_format=layout)


@torch.library.custom_op("unet::upsample_backward", mutates_args=())
def upsample_backward(gradient: Tensor) -> Tensor:
    """The gradient (N, C, 2H, 2W) of `upsample`'s output → that of its input (N, C, H, W), in the same layout."""
    layout, (height, width) = _layout_of(gradient), (side // 2 for side in gradient.shape[2:])
    gradient, size = gradient.contiguous(memory_format=layout), [*gradient.shape[:2], height, width]
    found = torch.ops.aten.upsample_bilinear2d_backward(gradient, [2 * height, 2 * width], size, True, 2.0, 2.0)
    return found.contiguous(memory_format=layout)


@upsample.register_fake
def _(x: Tensor) -> Tensor:
    larger = x.new_empty((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]))
    return larger.contiguous(memory_format=_layout_of(x))


@upsample_backward.register_fake
def _(gradient: Tensor) -> Tensor:
    smaller = gradient.new_empty((*gradient.shape[:2], gradient.shape[2] // 2, gradient.shape[3] // 2))
    return smaller.contiguous(memory_format=_layout_of(gradient))


upsample.register_autograd(lambda _, gradient: upsample_backward(gradient), setup_context=lambda *_, **__: None)


class _Upsample(nn.Upsample):
    def forward(self, x: Tensor) -> Tensor:
        return upsample(x) if torch.compiler.is_compiling() else super().forward(x)


def compiled(model: nn.Module, runtime: Runtime) -> nn.Module:
    """The model, compiled at its first call, which takes half a minute or more; the model itself stays usable.

    Raises InputError where what torch.compile needs is not there, as on the CPU g++, or what CXX names.
    """
    if lacking := runtime.lacking_to_compile:
        raise InputError(f"--compile: {lacking}; leave it out")
    if runtime.accelerated:
        return torch.compile(model)
    for module in model.modules():
        if isinstance(getattr(module, "up", None), nn.Upsample):
            module.up = _Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    # the layout that the weights have, throughout: which one is faster differs from processor to processor
    return torch.compile(model, options={"layout_optimization": False})
