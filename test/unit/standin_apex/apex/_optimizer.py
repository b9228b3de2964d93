# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What `amp.initialize` adds to an optimizer: master weights, gradients from the model, skipped steps."""

import types

import torch


class Stash:
    """The optimizer's attribute `_amp_stash`; creates master weights at the first backward pass or zero_grad."""

    def __init__(self, optimizer: torch.optim.Optimizer, masters: bool, combined: bool):
        self.optimizer, self.masters, self.combined = optimizer, masters, combined
        self.pairs = []  # (the model's fp16 parameter, its fp32 master)
        self.plain = []  # parameters that are their own masters
        self.adopted = {}  # with combined gradients: parameter → its gradient tensor of the first step
        self.before = {}
        self.ready = False
        self.step = optimizer.step
        if masters:
            optimizer.step = types.MethodType(_step, optimizer)
        if masters or combined:
            optimizer.zero_grad = types.MethodType(_zero_grad, optimizer)

    def prepare(self) -> None:
        """Replace the model's parameters in the optimizer by their masters."""
        if self.ready:
            return
        self.ready = True
        for group in self.optimizer.param_groups:
            for place, parameter in enumerate(group["params"]):
                if self.masters and parameter.dtype == torch.float16:
                    master = parameter.detach().float().requires_grad_()
                    group["params"][place] = master
                    self.pairs.append((parameter, master))
                    if parameter in self.optimizer.state:
                        self.optimizer.state[master] = self.optimizer.state.pop(parameter)
                else:
                    self.plain.append(parameter)
        if self.masters:
            self.optimizer.load_state_dict(self.optimizer.state_dict())  # casts the state to the masters' dtype

    def models(self) -> list[torch.Tensor]:
        """Return the model's parameters."""
        return [model for model, _ in self.pairs] + self.plain

    def before_backward(self) -> None:
        """Put existing gradients aside, so that only the scaled ones are there after the backward pass."""
        self.prepare()
        for parameter in self.models():
            if self.adopted and parameter.grad is not self.adopted.get(parameter):
                raise RuntimeError(
                    "combined gradients: p.grad is another tensor than at the first step; the real apex would keep "
                    "using the old one without a message. Clear gradients with the optimizer's zero_grad()"
                )
        for parameter in self.models():
            self.before[parameter] = parameter.grad
            if self.adopted and parameter.grad is not None:
                self.before[parameter] = parameter.grad.clone()
                parameter.grad.zero_()
            else:
                parameter.grad = None

    @torch.no_grad()
    def after_backward(self, scale: float) -> bool:
        """Unscale the gradients and pass those of fp16 parameters to the masters; returns True if one overflowed."""
        overflow = False
        for parameter in self.plain:
            if parameter.grad is not None:
                parameter.grad.div_(scale)
                overflow |= not parameter.grad.isfinite().all().item()
                if self.before[parameter] is not None:
                    parameter.grad.add_(self.before[parameter])
            else:
                parameter.grad = self.before[parameter]
        for model, master in self.pairs:
            if model.grad is not None:
                gradient = model.grad.float().div_(scale)
                overflow |= not gradient.isfinite().all().item()
                if master.grad is None:
                    master.grad = gradient
                else:
                    master.grad.add_(gradient)
        if self.combined and not self.adopted:
            self.adopted = {parameter: parameter.grad for parameter in self.models()}
        return overflow

    def skip_next_step(self, message: str) -> None:
        """Let the next call of step() only print `message`."""
        optimizer, step = self.optimizer, self.optimizer.step

        def skip_step(closure=None) -> None:
            print(message)
            self.clear_masters()
            optimizer.step = step

        optimizer.step = skip_step

    def clear_masters(self) -> None:
        """Remove the gradients of the masters."""
        for _, master in self.pairs:
            if self.combined and master.grad is not None:
                master.grad.zero_()
            else:
                master.grad = None


def _step(self, closure=None):
    if closure is not None:
        raise RuntimeError("Currently, Amp does not support closure use with optimizers.")
    stash = self._amp_stash
    result = stash.step()
    with torch.no_grad():
        for model, master in stash.pairs:
            model.copy_(master)
    stash.clear_masters()
    return result


def _zero_grad(self) -> None:  # without `set_to_none`, like the real one
    self._amp_stash.prepare()
    for parameter in self._amp_stash.models():
        if parameter.grad is not None:
            parameter.grad.detach_().zero_()
    self._amp_stash.clear_masters()


def patch(optimizer: torch.optim.Optimizer, opt_level: str, masters: bool, combine_grad: bool | None) -> None:
    """Give `optimizer` its `_amp_stash`."""
    if hasattr(optimizer, "_amp_stash"):
        raise RuntimeError("A given optimizer should only be passed through amp.initialize once.")
    fused = getattr(optimizer, "is_npu_fused_optimizer", False)
    if fused and opt_level not in ("O1", "O2"):
        raise RuntimeError("Currently, npu fused optimizer can only be used when opt_level='O1' or opt_level='O2'")
    optimizer._amp_stash = Stash(optimizer, masters, bool(combine_grad or fused))
