"""Mixed precision O0–O3 behind one interface: by NVIDIA's or Ascend's apex if it is installed, else native torch.

O0 computes in fp32. O1 is autocast. O2 keeps half weights with fp32 BatchNorm, and its optimizer steps on fp32 master
weights. O3 is half throughout. The levels follow NVIDIA's apex.
"""

import importlib
from collections.abc import Iterable

import torch
from torch import nn

from runtime.apex_precision import Apex, find_apex
from runtime.device import Device
from runtime.precision_levels import Autocast, MasterWeights, Precision, PureHalf


def choose_opt_level(amp: bool | None, opt_level: str, precision_mode: str, device: Device) -> str:
    """Return the run's level: `opt_level` if mixed precision is on, else O0.

    amp: the flag --amp/--no-amp; None: on for accelerators. The precision mode must_keep_origin_dtype switches it off.
    """
    if precision_mode == "must_keep_origin_dtype" or not (device.is_accelerator if amp is None else amp):
        return "O0"
    return opt_level


def prepare(model: nn.Module, optimizer: torch.optim.Optimizer, device: Device, level: str, loss_scale: float):
    """Cast the model for the level, give the optimizer fp32 master weights if the level has them; return the Precision.

    model: holds its fp32 weights, on the device. optimizer: has not stepped yet. loss_scale: for O1 and O2; -1 means
    dynamic.
    """
    if level != "O0":
        warn_if_half_is_slow(device)
    if level in ("O0", "O3"):
        loss_scale = 1.0
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    names = [name_of[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    if level != "O0" and find_apex(device):
        precision = Apex(model, optimizer, level, loss_scale)
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
    if level != "O0" and find_apex(device):
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
