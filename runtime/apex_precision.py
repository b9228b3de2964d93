"""Mixed precision by apex: Ascend's, or an NVIDIA one that still has apex.amp."""

import functools
import importlib
import inspect
import sys

import torch
from torch import Tensor, nn

from runtime.device import Device
from runtime.precision_levels import Precision


def find_apex(device: Device):
    """Return NVIDIA's or Ascend's apex if it is installed and the device is an accelerator, else None."""
    return _import_apex() if device.is_accelerator else None


@functools.cache  # so that the warning is printed once
def _import_apex():
    try:
        apex = importlib.import_module("apex")
        if callable(importlib.import_module("apex.amp").initialize):
            return apex
        reason = "its amp has no initialize"
    except Exception as error:  # an unrelated package of this name may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == "apex":
            return None
        reason = str(error)
    print(
        f"warning: the installed `apex` is ignored ({reason}); PyPI's package of that name is unrelated: "
        "uninstall it, or build Ascend's or NVIDIA's from source",
        file=sys.stderr,
    )
    return None


class Apex(Precision):
    """Any level by apex, called as the NPU edition calls it."""

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
        self.optimizer.step()  # apex skips it after an overflow, and prints that
        return 0

    def state_dict(self) -> dict:
        return self.amp.state_dict()

    def load_state_dict(self, state: dict) -> None:
        if state and self.loss_scale == -1:
            self.amp.load_state_dict(state)
