# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Automatic migration: after the import of this module, code that was written for CUDA runs on the NPU.

It changes those parts of torch that this repository, or torch on its behalf, calls. A test compares the names in the
tables with the sources of the real module.
"""

import functools
import warnings

import torch
import torch.distributed as dist

import torch_npu

# their arguments may name a device
FUNCTIONS = ("arange", "as_tensor", "empty", "empty_like", "full", "full_like", "get_device_module", "linspace", "load")
FUNCTIONS += ("ones", "ones_like", "rand", "randint", "randn", "randperm", "tensor", "zeros", "zeros_like")
TENSOR_METHODS = ("new_empty", "new_full", "new_ones", "new_tensor", "new_zeros", "pin_memory", "to")
MODULE_METHODS = ("to", "to_empty")
DEVICE_ARGUMENTS = ("device", "device_type", "map_location", "device_id")
# torch.cuda has these from torch.npu
CUDA_NAMES = ("is_available", "device_count", "is_initialized", "current_device", "set_device", "device", "synchronize")
CUDA_NAMES += ("Event", "Stream", "stream", "current_stream", "get_device_name", "empty_cache", "memory_allocated")
CUDA_NAMES += ("manual_seed", "manual_seed_all", "get_rng_state", "set_rng_state", "max_memory_allocated")
CUDA_NAMES += ("get_device_capability", "is_current_stream_capturing")


def to_npu(value: object, numbers: bool = False) -> object:
    """Return an argument with the NPU in place of CUDA; numbers: an int is the number of a device."""
    if isinstance(value, str):
        return value.replace("cuda", "npu")
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("npu", value.index) if value.index is not None else torch.device("npu")
    if isinstance(value, dict):
        return {to_npu(key): to_npu(own) if isinstance(own, str) else own for key, own in value.items()}
    return f"npu:{value}" if numbers and type(value) is int else value


def moved(function):
    """Return a function that passes the NPU to `function` in place of CUDA."""

    @functools.wraps(function)
    def call(*args, **more):
        args = [to_npu(value, function.__name__ in MODULE_METHODS) for value in args]
        more = {name: to_npu(value, True) if name in DEVICE_ARGUMENTS else value for name, value in more.items()}
        return function(*args, **more)

    return call


def with_hccl(function):
    """Return a function that passes hccl to `function` in place of nccl."""

    @functools.wraps(function)
    def call(*args, **more):
        args = [value.replace("nccl", "hccl") if isinstance(value, str) else value for value in args]
        if isinstance(more.get("backend"), str):
            more["backend"] = more["backend"].replace("nccl", "hccl")
        return function(*args, **more)

    return call


class _GeneratorType(type(torch.Generator)):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _Generator)


_Generator = torch.Generator


class Generator(_Generator, metaclass=_GeneratorType):
    """A generator whose device may be named cuda."""

    def __new__(cls, device: "str | torch.device" = "cpu"):
        return super().__new__(cls, to_npu(device))


def _replace(name: str, change) -> None:
    """Set an attribute, given by its dotted name in torch, to what `change` makes of it."""
    *parents, last = name.split(".")
    owner = functools.reduce(getattr, parents, torch)
    setattr(owner, last, change(getattr(owner, last)))


def _enabled(function):
    return lambda device_type=None: function(to_npu(device_type or "npu"))


# what is replaced, by its dotted name in torch
REPLACED = {
    "Generator": lambda old: Generator,
    "amp.autocast_mode.autocast.__init__": moved,
    "is_autocast_enabled": _enabled,
    "get_autocast_dtype": moved,
    "Tensor.cuda": lambda old: torch.Tensor.npu,
    "Tensor.is_cuda": lambda old: torch.Tensor.is_npu,
    "nn.Module.cuda": lambda old: torch.nn.Module.npu,
    "distributed.init_process_group": lambda old: moved(with_hccl(old)),
    "distributed.is_nccl_available": lambda old: lambda: True,
    "jit.script": lambda old: lambda function, *args, **more: function,
    "jit.script_method": lambda old: lambda function: function,
}
PROFILER_NAMES = ("profile", "schedule", "tensorboard_trace_handler")


def _replace_all() -> None:
    warnings.filterwarnings("once")
    warnings.warn("torch.cuda.* is replaced with torch.npu.*", ImportWarning, stacklevel=2)
    warnings.warn("torch.jit.script is disabled by transfer_to_npu", RuntimeWarning, stacklevel=2)
    for name in CUDA_NAMES:
        setattr(torch.cuda, name, getattr(torch_npu.npu, name))
    for name in ("set_device", "synchronize", "current_stream", "get_rng_state", "set_rng_state", "get_device_name"):
        _replace(f"cuda.{name}", moved)
    for owner, names in (("", FUNCTIONS), ("Tensor.", TENSOR_METHODS), ("nn.Module.", MODULE_METHODS)):
        for name in names:
            _replace(owner + name, moved)
    for name, change in REPLACED.items():
        _replace(name, change)
    for name in PROFILER_NAMES:
        setattr(torch.profiler, name, getattr(torch_npu.profiler, name))
    torch.nn.parallel.DistributedDataParallel.__init__ = moved(torch.nn.parallel.DistributedDataParallel.__init__)
    dist.Backend.default_device_backend_map.pop("cuda", None)


_replace_all()
