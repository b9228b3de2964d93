# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The levels O0–O3 of mixed precision in native torch."""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from runtime.device import Device

# a dynamic loss scale, as in apex: start, maximum, and steps without overflow until it doubles
INITIAL_SCALE, MAX_SCALE, GROWTH_INTERVAL = 2.0**16, 2.0**24, 2000
NORMS = nn.modules.batchnorm._BatchNorm  # private, but the only common base of BatchNorm and SyncBatchNorm


class Precision:
    """O0, plain fp32, and the interface of all levels. names: of the optimizer's weights, in its order."""

    name = "fp32"

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *_):
        self.model, self.optimizer = model, optimizer
        self.names: list[str] = []
        self.rates: list[Tensor] = []  # learning rates on the device, for a step that will be captured
        self.copied_rates: list[float] = []

    @property
    def is_capturable(self) -> bool:
        """Can a step be captured as a graph? It must not wait for the device: a fused Adam counts its steps there."""
        return all(group.get("fused") and "capturable" in group for group in self.optimizer.param_groups)

    def make_capturable(self) -> None:
        """Prepare the optimizer for a step that will be captured; call it before the first step."""
        for group in self.optimizer.param_groups:
            group["capturable"] = True
            # a captured step reads the learning rates from the device; a number would be part of the graph
            self.rates.append(torch.full((), group["lr"], device=group["params"][0].device))
            self.copied_rates.append(group["lr"])
        # the steps before the capture are ordinary ones
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True", UserWarning)

    def step(self, loss: Tensor) -> Tensor | int:
        """Run the backward pass and the optimizer's step; returns 1 (or a tensor of it) if it was skipped, else 0."""
        self.optimizer.zero_grad()
        loss.backward()
        self._step_optimizer()
        return 0

    def copy_rates(self) -> None:
        """Copy the learning rates that have changed to the device; call it before each captured step."""
        for index, rate in enumerate(self.rates):
            number = self.optimizer.param_groups[index]["lr"]
            if number != self.copied_rates[index]:
                rate.fill_(number)
                self.copied_rates[index] = number

    def _step_optimizer(self) -> None:
        """Let the optimizer step; if it can be captured, with the learning rates on the device.

        Its groups hold tensors only meanwhile, because schedulers, logs and checkpoints need numbers.
        """
        self.copy_rates()
        groups = self.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        for group, rate in zip(groups, self.rates):
            group["lr"] = rate
        try:
            self.optimizer.step()
        finally:
            for group, number in zip(groups, numbers):
                group["lr"] = number

    def trained_tensors(self) -> dict[str, Tensor]:
        """Return references to all that training changes in the model; masters, if there are any, for half weights."""
        named = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        return named | dict(zip(self.names, self._optimized()))

    def weights(self) -> dict[str, Tensor]:
        """Return the model's state_dict in fp32, with the master weights if there are any."""
        state = self.model.state_dict()
        weights = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        return weights | {name: weight.detach().float() for name, weight in zip(self.names, self._optimized())}

    @torch.no_grad()
    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load a fp32 state_dict into the model and the master weights."""
        self.model.load_state_dict(weights)
        for name, weight in zip(self.names, self._optimized()):
            weight.copy_(weights[name])

    def _optimized(self) -> list[Tensor]:
        """The weights that the optimizer steps on."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def state_dict(self) -> dict:
        """Return the state of the loss scale in apex's format; {} if there is none."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Restore a dynamic loss scale; a static one is set by this run's flag."""


class PureHalf(Precision):
    """O3: weights, BatchNorm and inputs in half precision, without a loss scale."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: Device, *_):
        super().__init__(model, optimizer)
        self.name = f"O3, {device.half_dtype}".replace("torch.", "")
        model.to(device.half_dtype)
        _cast_inputs_and_outputs(model, device.half_dtype)

    def state_dict(self) -> dict:
        return _loss_scale_state(1.0, 0)


class ScaledLoss(Precision):
    """What O1 and O2 share, a loss scale: a step whose gradients overflow is skipped and halves a dynamic scale.

    A static scale never waits for the device: the optimizer always steps, and after an overflow the step is undone on
    the device, which also counts the steps without one. A dynamic scale, or a device that saturates, needs a
    GradScaler, which waits in each step.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: Device, loss_scale: float):
        super().__init__(model, optimizer)
        self.device = device
        self.dynamic = loss_scale == -1
        self.scale = INITIAL_SCALE if self.dynamic else float(loss_scale)
        self.scaler = device.grad_scaler(self.scale) if self.dynamic or device.saturates_on_overflow else None
        # since the last overflow or growth; on the device if that counts them
        self.clean_steps = 0 if self.scaler else torch.zeros((), dtype=torch.int64, device=device.device)

    @property
    def is_capturable(self) -> bool:
        return super().is_capturable and self.scaler is None

    def step(self, loss: Tensor) -> Tensor | int:
        self.optimizer.zero_grad()
        return self._step_with_scaler(loss) if self.scaler else self._step_on_device(loss)

    def _step_on_device(self, loss: Tensor) -> Tensor:
        (loss * self.scale).backward()
        self._pass_gradients()
        gradients = [parameter.grad for parameter in self._optimized() if parameter.grad is not None]
        overflow, inverse = torch.zeros((), device=loss.device), torch.full((), 1 / self.scale, device=loss.device)
        # private, but it is what GradScaler.unscale_ calls: it unscales and checks all gradients in one pass
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflow, inverse)
        self._step_unless(overflow)
        self.clean_steps.add_(1).mul_(overflow == 0)
        return overflow

    def _step_unless(self, overflow: Tensor) -> None:
        """Let the optimizer step; the step has no effect if `overflow`, a 0 or 1 on the device, is 1."""
        # private, but it is how GradScaler.step finds the fused optimizers, which check `found_inf` themselves
        if getattr(self.optimizer, "_step_supports_amp_scaling", False):
            self.optimizer.found_inf, self.optimizer.grad_scale = overflow, None
            self._step_optimizer()
            return
        if not self.device.is_accelerator and self.optimizer.state:  # on the CPU, reading the flag waits for nothing
            if not overflow:
                self._step_optimizer()
            return
        before = {tensor: tensor.detach().clone() for tensor in self._stepped_tensors()}
        self._step_optimizer()
        with torch.no_grad():
            for tensor in self._stepped_tensors():  # what this step created had no value before: it becomes 0
                tensor.copy_(torch.where(overflow.to(tensor.device) > 0, before.get(tensor, 0.0), tensor))

    def _stepped_tensors(self) -> list[Tensor]:
        state = [value for own in self.optimizer.state.values() for value in own.values()]
        return [tensor for tensor in (*self._optimized(), *state) if isinstance(tensor, Tensor)]

    def _step_with_scaler(self, loss: Tensor) -> int:
        self.scaler.scale(loss).backward()
        self._pass_gradients()
        self.scaler.unscale_(self.optimizer)
        # private, but the public step() does not tell whether it skipped the optimizer
        overflow = any(found.item() for found in self.scaler._found_inf_per_device(self.optimizer).values())
        if not overflow:
            self._step_optimizer()
        self._update_scale(overflow)
        self.scaler.update(self.scale)
        return int(overflow)

    def _pass_gradients(self) -> None:
        """Pass the gradients from the model's weights to the optimizer's, if these differ."""

    def _update_scale(self, overflow: bool) -> None:
        self.clean_steps = 0 if overflow else self.clean_steps + 1
        if self.dynamic and overflow:
            self.scale /= 2
        elif self.dynamic and self.clean_steps == GROWTH_INTERVAL:
            self.scale, self.clean_steps = min(self.scale * 2, MAX_SCALE), 0

    def state_dict(self) -> dict:
        return _loss_scale_state(self.scale, int(self.clean_steps))

    def load_state_dict(self, state: dict) -> None:
        if not state:
            return
        clean_steps = int(state["loss_scaler0"]["unskipped"])
        if self.scaler is None:
            self.clean_steps.fill_(clean_steps)
        else:
            self.clean_steps = clean_steps
        if self.dynamic:
            self.clean_steps %= GROWTH_INTERVAL  # a checkpoint of a static scale can have a larger count
            self.scale = float(state["loss_scaler0"]["loss_scale"])
            self.scaler = self.device.grad_scaler(self.scale)


class Autocast(ScaledLoss):
    """O1: fp32 weights; torch.autocast chooses the type of each operator."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: Device, loss_scale: float):
        super().__init__(model, optimizer, device, loss_scale)
        self.name = f"O1, {device.half_dtype}".replace("torch.", "")
        model.forward = torch.autocast(device.device.type, dtype=device.half_dtype)(model.forward)
        model.register_forward_hook(lambda _, __, output: _to_fp32(output))


class MasterWeights(ScaledLoss):
    """O2: half weights, fp32 BatchNorm; the weights are rounded copies of fp32 masters, which the optimizer holds."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: Device, loss_scale: float):
        super().__init__(model, optimizer, device, loss_scale)
        self.name = f"O2, {device.half_dtype}".replace("torch.", "")
        self.halves = list(_parameters_outside_norms(model))
        self.masters = [parameter.detach().clone().requires_grad_() for parameter in self.halves]
        self.gradients: list[Tensor] = []  # those of the masters, which stay at the same addresses
        master_of = dict(zip(self.halves, self.masters))
        to_half(model, device)
        for group in optimizer.param_groups:
            group["params"] = [master_of.get(parameter, parameter) for parameter in group["params"]]

    def step(self, loss: Tensor) -> Tensor | int:
        for parameter in self.halves:
            parameter.grad = None
        skipped = super().step(loss)
        with torch.no_grad():
            torch._foreach_copy_(self.halves, self.masters)  # private, but a single launch for all weights
        return skipped

    def _pass_gradients(self) -> None:
        if self.masters[0].grad is None:  # most optimizers drop the gradients in zero_grad, the NPU's keeps them
            self.gradients = self.gradients or [torch.empty_like(master) for master in self.masters]
            for master, gradient in zip(self.masters, self.gradients):
                master.grad = gradient
        torch._foreach_copy_([master.grad for master in self.masters], [half.grad for half in self.halves])


def to_half(model: nn.Module, device: Device) -> nn.Module:
    """Cast a model for evaluation: half weights, but fp32 BatchNorm; its inputs and outputs stay fp32."""
    for parameter in _parameters_outside_norms(model):
        parameter.data = parameter.data.to(device.half_dtype)
    _cast_inputs_and_outputs(model, device.half_dtype)
    return model


def _parameters_outside_norms(model: nn.Module) -> Iterator[nn.Parameter]:
    modules = (module for module in model.modules() if not isinstance(module, NORMS))
    return (parameter for module in modules for parameter in module.parameters(recurse=False))


def _cast_inputs_and_outputs(model: nn.Module, half_dtype: torch.dtype) -> None:
    model.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(half_dtype),))
    model.register_forward_hook(lambda _, __, output: _to_fp32(output))


def _to_fp32(output: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return output.float() if isinstance(output, Tensor) else [head.float() for head in output]


def _loss_scale_state(scale: float, clean_steps: int) -> dict:
    return {"loss_scaler0": {"loss_scale": scale, "unskipped": clean_steps}}
