# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Mixed precision: `initialize`, `scale_loss` and the state of the loss scale."""

import contextlib
import os
from collections.abc import Iterator, Mapping

import torch

from . import _optimizer
from ._record import recorded

# level → (casts around operators, dtype of the weights, BatchNorm stays fp32, fp32 master weights, loss scale)
LEVELS = {
    "O0": (False, torch.float32, False, False, 1.0),
    "O1": (True, None, False, False, "dynamic"),
    "O2": (False, torch.float16, True, True, "dynamic"),
    "O3": (False, torch.float16, False, False, 1.0),
}


class _Scaler:
    """The factor of the loss: fixed, or halved after an overflow and doubled after 2000 steps without one."""

    def __init__(self, loss_scale: float | str, lowest: float | None, highest: float):
        self.dynamic = loss_scale == "dynamic"
        self.scale = min(highest, 2.0**16) if self.dynamic else float(loss_scale)
        self.lowest, self.highest = lowest or 0.0, highest
        self.unskipped = 0

    def update(self, overflow: bool) -> bool:
        """Count a step; returns whether it must be skipped. Like the real one, a fixed factor skips none."""
        if overflow and self.dynamic:
            self.scale, self.unskipped = max(self.lowest, self.scale / 2), 0
            return True
        self.unskipped += 1
        if self.dynamic and self.unskipped == 2000:
            self.scale, self.unskipped = min(self.highest, self.scale * 2), 0
        return False


_scaler: _Scaler | None = None


def _cast(value: object, dtype: torch.dtype) -> object:
    """Return `value` with all floating-point tensors in it cast."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _cast(item, dtype) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(item, dtype) for item in value)
    return value


def _cast_weights(model: torch.nn.Module, dtype: torch.dtype, keep_batchnorm_fp32: bool) -> None:
    for module in model.modules():
        if not (keep_batchnorm_fp32 and isinstance(module, torch.nn.modules.batchnorm._BatchNorm)):
            for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                tensor.data = _cast(tensor.data, dtype)


def _patch_model(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast the model's inputs to `dtype`, and its outputs and its state_dict to fp32."""
    forward = model.forward
    model.forward = lambda *args, **kwargs: _cast(forward(*_cast(args, dtype), **_cast(kwargs, dtype)), torch.float32)

    def cast_to_fp32(module, state_dict, prefix, local_metadata):
        for name, tensor in state_dict.items():
            state_dict[name] = _cast(tensor, torch.float32)

    model.register_state_dict_post_hook(cast_to_fp32)


def _check(model: torch.nn.Module) -> None:
    if isinstance(model, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
        raise RuntimeError(
            f"Incoming model is an instance of {type(model).__name__}. Parallel wrappers should only be applied to the "
            "model(s) AFTER the model(s) have been returned from amp.initialize."
        )
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float16:
            raise RuntimeError(f"Found param {name} with type {parameter.dtype}, expected fp32")


def _initialize(models, optimizers, enabled, opt_level, keep_batchnorm_fp32, loss_scale, limits, combine_grad):
    global _scaler
    if not enabled:
        _scaler = None
        return models, optimizers
    if opt_level not in LEVELS:
        raise RuntimeError(f"Unexpected optimization level {opt_level}. Options are 'O0', 'O1', 'O2', 'O3'.")
    around_operators, dtype, keep_default, masters, default_scale = LEVELS[opt_level]
    _check(models)
    if dtype is not None:
        _cast_weights(models, dtype, keep_default if keep_batchnorm_fp32 is None else keep_batchnorm_fp32)
        _patch_model(models, dtype)
    _optimizer.patch(optimizers, opt_level, masters, combine_grad)
    _scaler = _Scaler(default_scale if loss_scale is None else loss_scale, *limits)
    if around_operators:  # like the real one, which replaces torch's functions, for the rest of the process
        device = next(models.parameters()).device.type
        torch.set_autocast_enabled(device, True)
        torch.set_autocast_dtype(device, torch.float16)
        torch.set_autocast_cache_enabled(False)
    return models, optimizers


if os.environ.get("STANDIN_APEX_COMBINE_GRAD") == "0":

    @recorded
    def initialize(
        models: torch.nn.Module,
        optimizers: torch.optim.Optimizer,
        enabled: bool = True,
        opt_level: str = "O1",
        keep_batchnorm_fp32: bool | None = None,
        loss_scale: float | str | None = None,
        verbosity: int = 1,
        min_loss_scale: float | None = None,
        max_loss_scale: float = 2.0**24,
    ) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        """Prepare a model and its optimizer for mixed precision, like NVIDIA's apex."""
        limits = min_loss_scale, max_loss_scale
        return _initialize(models, optimizers, enabled, opt_level, keep_batchnorm_fp32, loss_scale, limits, None)

else:

    @recorded
    def initialize(
        models: torch.nn.Module,
        optimizers: torch.optim.Optimizer,
        enabled: bool = True,
        opt_level: str = "O1",
        keep_batchnorm_fp32: bool | None = None,
        loss_scale: float | str | None = None,
        verbosity: int = 1,
        min_loss_scale: float | None = None,
        max_loss_scale: float = 2.0**24,
        combine_grad: bool | None = None,
    ) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        """Prepare a model and its optimizer for mixed precision, like Ascend's apex."""
        limits = min_loss_scale, max_loss_scale
        return _initialize(
            models, optimizers, enabled, opt_level, keep_batchnorm_fp32, loss_scale, limits, combine_grad
        )


@recorded
def scale_loss(loss: torch.Tensor, optimizers: torch.optim.Optimizer) -> contextlib.AbstractContextManager:
    """Return a context with the scaled loss, for its backward pass; at its end, the gradients are unscaled."""
    return _scaled(loss, optimizers)


@contextlib.contextmanager
def _scaled(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    if _scaler is None:
        raise RuntimeError("Invoked 'with amp.scale_loss`, but internal Amp state has not been initialized.")
    stash = optimizer._amp_stash
    stash.before_backward()
    yield loss.float() * _scaler.scale
    overflow = stash.after_backward(_scaler.scale)
    if _scaler.update(overflow):
        stash.skip_next_step(f"Gradient overflow.  Skipping step, loss scaler 0 reducing loss scale to {_scaler.scale}")


@recorded
def master_params(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """Return the parameters that the optimizer steps on."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


@recorded
def state_dict() -> dict:
    """Return the loss scale, and the number of steps since it last changed."""
    return {"loss_scaler0": {"loss_scale": _scaler.scale, "unskipped": _scaler.unskipped}}


@recorded
def load_state_dict(state_dict: dict) -> None:
    """Continue with a scale from `state_dict()`."""
    if set(state_dict) != {"loss_scaler0"}:
        raise RuntimeError(f"Error(s) in loading state_dict. Unexpected key(s) in state_dict: {sorted(state_dict)}")
    _scaler.scale = state_dict["loss_scaler0"]["loss_scale"]
    _scaler.unskipped = state_dict["loss_scaler0"]["unskipped"]
