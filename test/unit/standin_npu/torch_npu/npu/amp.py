# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Mixed precision: a loss scaler with the arguments, the output and the state of the real one."""

import torch
from torch.amp.grad_scaler import _refresh_per_optimizer_state


class GradScaler(torch.amp.GradScaler):
    """Scales the loss by a factor that changes (`dynamic`), or always by init_scale.

    Like the real one, a static scaler does not check for overflows and skips no step.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        dynamic: bool = True,
        enabled: bool = True,
    ):
        super().__init__("npu", init_scale, growth_factor, backoff_factor, growth_interval, enabled)
        self._dynamic = dynamic

    def scale(self, outputs):
        """Return `outputs`, one or several tensors on the device, multiplied by the factor."""
        if self._enabled and isinstance(outputs, torch.Tensor) and outputs.device.type != "npu":
            raise ValueError("Device type of outputs should be npu.")
        return super().scale(outputs)

    def _unscale_grads_(self, optimizer, inv_scale, found_inf, allow_fp16):
        if hasattr(optimizer, "is_fused_optimizer"):
            optimizer.adopt_gradients()
        if self._dynamic:
            return super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(inv_scale)
        return {found_inf.device: found_inf}

    def _maybe_opt_step(self, optimizer, optimizer_state, *args, **kwargs):
        if any(found.item() for found in optimizer_state["found_inf_per_device"].values()):
            print("Gradient overflow. Skipping step")
            return None
        return optimizer.step(*args, **kwargs)

    def update(self, new_scale: "float | torch.Tensor | None" = None) -> None:
        """Set the factor to `new_scale`; without it, halve or double a dynamic factor if the last steps require it."""
        if not self._enabled:
            return
        if self._dynamic or new_scale is not None:
            before = self.get_scale()
            super().update(new_scale)
            if new_scale is None and self.get_scale() != before:
                change = "reducing" if self.get_scale() < before else "increasing"
                print(f"Loss scaler {change} loss scale to {self.get_scale()}")
        else:
            self._check_scale_growth_tracker("update")
            self._per_optimizer_states.clear()
            self._per_optimizer_states.default_factory = _refresh_per_optimizer_state

    def state_dict(self) -> dict:
        """Return the state of torch's scaler, and `dynamic`."""
        state = super().state_dict()
        return state | {"dynamic": self._dynamic} if self._enabled else state

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state; like the real one, raises KeyError if it lacks `dynamic`, as states of torch's scaler do."""
        super().load_state_dict(state_dict)
        if self._enabled:
            self._dynamic = state_dict["dynamic"]
