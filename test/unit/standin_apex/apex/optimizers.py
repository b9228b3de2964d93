# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The fused Adam, which works only after amp.initialize."""

import torch


class NpuFusedAdam(torch.optim.Optimizer):
    """Adam whose state counts the steps in an int."""

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
    ):
        if amsgrad:
            raise NotImplementedError("not in this stand-in")
        self.is_npu_fused_optimizer = True
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": False})

    @torch.no_grad()
    def step(self, closure=None):
        """Do a step of Adam, with weight decay added to the gradient."""
        if not hasattr(self, "_amp_stash"):
            raise RuntimeError("NpuFusedAdam: amp.initialize(model, optimizer) first")
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        if not isinstance(state["step"], int):
            raise RuntimeError(
                "NpuFusedAdam: the loaded state's step is not an int; the real one would count each step twice"
            )
        state["step"] += 1
        beta1, beta2 = group["betas"]
        gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        parameter.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1 ** state["step"]))
