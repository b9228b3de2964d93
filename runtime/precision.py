# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Mixed precision O0–O3 behind one interface: by NVIDIA's or Ascend's apex if it is installed, else native torch.

O0 computes in fp32. O1 is autocast. O2 keeps half weights with fp32 BatchNorm, and its optimizer steps on fp32 master
weights. O3 is half throughout. The levels follow NVIDIA's apex.
"""

import functools
import importlib
import inspect
import sys
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from runtime.device import Device
from runtime.precision_levels import Autocast, MasterWeights, Precision, PureHalf


def choose_opt_level(amp: bool | None, opt_level: str, precision_mode: str, device: Device) -> str:
    """Return the run's level: `opt_level` if mixed precision is on, else O0. amp: None means on for accelerators."""
    if precision_mode == "must_keep_origin_dtype" or not (device.is_accelerator if amp is None else amp):
        return "O0"
    return opt_level


def prepare(model: nn.Module, optimizer: torch.optim.Optimizer, device: Device, level: str, loss_scale: float):
    """Cast a fp32 model for a level and return its Precision; loss_scale: for O1 and O2, -1 means dynamic."""
    if level != "O0":
        warn_if_half_is_slow(device)
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    names = [name_of[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    if _by_apex(level, device):
        precision = Apex(model, optimizer, level, 1.0 if level == "O3" else loss_scale)
    else:
        levels = {"O0": Precision, "O1": Autocast, "O2": MasterWeights, "O3": PureHalf}
        precision = levels[level](model, optimizer, device, loss_scale)
    precision.names = names
    return precision


def warn_if_half_is_slow(device: Device) -> None:
    """Warn if mixed precision takes longer than fp32 on this device."""
    if not device.half_is_fast:
        print("warning: this CPU has no bfloat16 instructions; mixed precision is slower than fp32 here")


def adam(
    parameters: Iterable[nn.Parameter] | list[dict], device: Device, level: str, decoupled: bool = False, **settings
) -> torch.optim.Optimizer:
    """Return Adam, or AdamW with `decoupled` weight decay; fused if available. settings: lr, weight_decay."""
    if _by_apex(level, device):
        if level == "O3":  # Ascend's apex accepts no fused optimizer with it
            return (torch.optim.AdamW if decoupled else torch.optim.Adam)(parameters, **settings)
        optimizers = importlib.import_module("apex.optimizers")
        if fused := getattr(optimizers, "NpuFusedAdamW" if decoupled else "NpuFusedAdam", None):
            return fused(parameters, **settings)
    return device.adam(parameters, decoupled=decoupled, **settings)


def param_groups_weight_decay(model: nn.Module, weight_decay: float) -> list[dict]:
    """Return parameter groups: weight decay for the convolutions' weights, none for biases and BatchNorm."""
    parameters = list(model.parameters())
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _by_apex(level: str, device: Device) -> bool:
    return level != "O0" and device.is_accelerator and has_apex()


@functools.cache  # so that the warning is printed once
def has_apex() -> bool:
    """Is NVIDIA's or Ascend's apex installed? Warns if another package has this name."""
    try:
        if callable(importlib.import_module("apex.amp").initialize):
            return True
        reason = "its amp has no initialize"
    except Exception as error:  # an unrelated package of this name may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == "apex":
            return False
        reason = str(error)
    print(
        f"warning: the installed `apex` is ignored ({reason}); PyPI's package of that name is unrelated: "
        "uninstall it, or build Ascend's or NVIDIA's from source",
        file=sys.stderr,
    )
    return False


class Apex(Precision):
    """Any level by apex, called as the NPU edition calls it."""

    is_capturable = False  # scale_loss reads whether gradients overflowed

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, level: str, loss_scale: float):
        self.amp, self.loss_scale = importlib.import_module("apex.amp"), loss_scale
        exact = [parameter.detach().clone() for group in optimizer.param_groups for parameter in group["params"]]
        settings = {"opt_level": level, "loss_scale": "dynamic" if loss_scale == -1 else loss_scale}
        if "combine_grad" in inspect.signature(self.amp.initialize).parameters:  # Ascend's apex
            settings["combine_grad"] = True
        super().__init__(*self.amp.initialize(model, optimizer, **settings))
        self.name = f"{level} by apex"
        # apex creates its masters in the first zero_grad, from rounded weights. They must exist before an optimizer's
        # state is loaded, because the state is cast to the type of the weights that the optimizer holds.
        self.optimizer.zero_grad()
        with torch.no_grad():
            for parameter, value in zip(self._optimized(), exact):
                parameter.copy_(value)

    def step(self, loss: Tensor) -> int:
        self.optimizer.zero_grad()
        with self.amp.scale_loss(loss, self.optimizer) as scaled:
            scaled.backward()
        self.optimizer.step()  # with a dynamic scale, apex skips it after an overflow, and prints that
        return 0

    def state_dict(self) -> dict:
        return self.amp.state_dict()

    def load_state_dict(self, state: dict) -> None:
        if state and self.loss_scale == -1:
            self.amp.load_state_dict(state)
