# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The fused Adam, which raises an error if it is used in a way that the real one does not support."""

import math

import torch


class NpuFusedAdam(torch.optim.Optimizer):
    """Adam over all parameters at once.

    The real one copies all parameters and gradients into one block of memory at the first step, and then reads only
    that block. Other gradient tensors and states that are loaded later have no effect, without any message. Here they
    raise RuntimeError.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
    ):
        if min(lr, eps, weight_decay, *betas) < 0 or max(betas) >= 1:
            raise ValueError("Invalid learning rate, betas, eps or weight_decay")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(params, defaults)
        self.is_fused_optimizer = True
        self._adopted = {}  # parameter → its gradient of the first step

    def adopt_gradients(self) -> None:
        """At the first call, keep the gradients; later, check that they are still the parameters' gradients."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        if not self._adopted:
            found = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
            for parameter, gradient in found.items():
                if parameter.dtype not in (torch.float32, torch.float16):
                    raise TypeError(f"Fused optimizer's parameters must be float32 or float16, not {parameter.dtype}")
                if parameter.device.type != "npu" or gradient.device.type != "npu":
                    raise RuntimeError("Tensors to combine must be on NPU")
                if not parameter.is_contiguous() or not gradient.is_contiguous():
                    raise RuntimeError("Tensors to combine must be contiguous.")
            self._adopted = found
        for parameter in parameters:
            if parameter.grad is not self._adopted.get(parameter):
                raise RuntimeError(
                    "NpuFusedAdam: p.grad is another tensor than at the first step; the real NpuFusedAdam would keep "
                    "using the old one without a message. Clear gradients with this optimizer's zero_grad()"
                )

    @torch.no_grad()
    def zero_grad(self, set_to_none: bool = False) -> None:
        """Set the gradients to zero; they cannot be set to None."""
        if set_to_none:
            raise ValueError("set_to_none is not supported in fused optimizers")
        self.adopt_gradients()
        for gradient in self._adopted.values():
            gradient.detach_().zero_()

    @torch.no_grad()
    def step(self, closure=None):
        """Do a step of Adam, with weight decay added to the gradient."""
        loss = None if closure is None else closure()
        self.adopt_gradients()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self._adopted:
                    self._update(parameter, self._adopted[parameter], group)
        return loss

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(parameter)
        if not isinstance(state["step"], int):
            raise RuntimeError(
                f"NpuFusedAdam: the loaded state's step is a {type(state['step']).__name__}, with which the real "
                "NpuFusedAdam would count each step twice; make it an int"
            )
        state["step"] += 1
        beta1, beta2 = group["betas"]
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        mean = state["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if group["amsgrad"]:
            square = torch.maximum(state["max_exp_avg_sq"], square, out=state["max_exp_avg_sq"])
        denominator = (square.sqrt() / math.sqrt(1 - beta2 ** state["step"])).add_(group["eps"])
        parameter.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1 ** state["step"]))

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state; only before the first step."""
        if self._adopted:
            raise RuntimeError("NpuFusedAdam: a state loaded after the first step has no effect on the real one")
        super().load_state_dict(state_dict)


class NpuFusedAdamW(NpuFusedAdam):
    """The fused Adam with decoupled weight decay."""

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict) -> None:
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        super()._update(parameter, gradient, group | {"weight_decay": 0})
