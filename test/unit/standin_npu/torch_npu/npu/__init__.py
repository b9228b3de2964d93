# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The device's module, which is also `torch.npu`."""

import contextlib
import os

import torch

_ops = torch.ops.standin_npu


class _Options:
    """Settings of the real device. They have no effect here, but a test can read them."""

    def __init__(self, **values: bool):
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: bool) -> None:
        if name not in self.__dict__:  # the real one ignores it without a message
            raise AttributeError(f"torch_npu has no option {name}")
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be a bool, but got {type(value).__name__}")
        self.__dict__[name] = value


conv = _Options(allow_hf32=True)
matmul = _Options(allow_hf32=False)
config = _Options(allow_internal_format=True)

# only in the stand-in: what set_compile_mode and set_option have set
compile_mode = _Options(jit_compile=True)
options: dict[str, str] = {}
_OPTIONS = {
    "ACL_PRECISION_MODE": ("allow_fp32_to_fp16", "must_keep_origin_dtype"),
    "ACL_OP_SELECT_IMPL_MODE": ("high_performance", "high_precision"),
    "ACL_OP_COMPILER_CACHE_MODE": ("disable", "enable", "force"),
}


def set_compile_mode(jit_compile: bool = False) -> None:
    """Compile operators when they are needed (True) or use precompiled ones; sets `compile_mode.jit_compile`."""
    compile_mode.jit_compile = jit_compile


def set_option(option: dict[str, str]) -> None:
    """Set options of the compiler by name; raises ValueError for a value that the real one does not know."""
    if not isinstance(option, dict):
        raise TypeError("npu option must be a dict.")
    for name, value in option.items():
        if value not in _OPTIONS.get(name, (value,)):
            raise ValueError(f"value of {name} should be in {_OPTIONS[name]} but got {value}")
    options.update(option)


def is_jit_compile_false() -> bool:
    """Are precompiled operators used?"""
    return not compile_mode.jit_compile


def device_count() -> int:
    """Return the value that STANDIN_NPU_COUNT had when this process started."""
    return _ops.device_count()


def is_available() -> bool:
    """Is there a device?"""
    return device_count() > 0


def is_initialized() -> bool:
    """Has this process used the device?"""
    return _ops.is_initialized()


def _is_in_bad_fork() -> bool:
    return _ops.is_in_bad_fork()


def _lazy_init() -> None:
    """Do nothing; torch calls this before it creates a storage on the device."""


def _index(device: "int | str | torch.device | None") -> int:
    if not isinstance(device, int):
        device = torch.device("npu" if device is None else device).index
    return current_device() if device is None else device


def set_device(device: "int | str | torch.device") -> None:
    """Make `device` the current one; raises RuntimeError if there is no such device."""
    torch.accelerator.set_device_index(_index(device))


def current_device() -> int:
    """Return the index of the current device."""
    return torch.accelerator.current_device_index()


@contextlib.contextmanager
def device(device: "int | str | torch.device"):
    """Make `device` the current one within this context."""
    before = current_device()
    set_device(device)
    try:
        yield
    finally:
        set_device(before)


def get_device_name(device: "int | str | torch.device | None" = None) -> str:
    """Return a name."""
    return "Ascend stand-in"


def get_device_capability(device: "int | str | torch.device | None" = None) -> tuple[int, int] | None:
    """Return what TORCH_NPU_DEVICE_CAPABILITY holds, such as 8.0; None without it."""
    major, _, minor = os.environ.get("TORCH_NPU_DEVICE_CAPABILITY", "").partition(".")
    return (int(major), int(minor)) if minor else None


def synchronize(device: "int | str | torch.device | None" = None) -> None:
    """Wait for the device; only copies are asynchronous here."""
    _ops.wait(True)


def waits() -> int:
    """Return how often this process has waited for a device, not counting events; only in the stand-in."""
    return _ops.waits()


class Event:
    """A point in the device's queue; after waiting for it, the copies before it have arrived."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False):
        pass

    def record(self, stream: "Stream | None" = None) -> None:
        """Do nothing: waiting for an event completes all copies here."""

    def synchronize(self) -> None:
        """Wait for the event."""
        _ops.wait(False)


class Stream:
    """A queue of the device's work, which is always done at once here."""

    def __init__(self, device: "int | str | torch.device | None" = None, priority: int = 0):
        self.device = torch.device("npu", _index(device))

    def synchronize(self) -> None:
        """Do nothing: there is nothing to wait for."""

    def wait_stream(self, stream: "Stream") -> None:
        """Do nothing: there is nothing to wait for."""


def current_stream(device: "int | str | torch.device | None" = None) -> Stream:
    """Return the device's only queue."""
    return Stream(device)


def stream(stream: Stream) -> contextlib.AbstractContextManager:
    """Return a context whose work is queued on `stream`."""
    return contextlib.nullcontext()


def is_current_stream_capturing() -> bool:
    """Return False: there are no graphs here."""
    return False


def manual_seed(seed: int) -> None:
    """Seed the current device's generator."""
    _ops.default_generator(-1).manual_seed(int(seed))


def manual_seed_all(seed: int) -> None:
    """Seed the generators of all devices; torch.manual_seed calls this."""
    for index in range(device_count()):
        _ops.default_generator(index).manual_seed(int(seed))


def get_rng_state(device: "int | str | torch.device" = "npu") -> torch.Tensor:
    """Return the state of the device's generator."""
    return _ops.default_generator(_index(device)).get_state()


def set_rng_state(new_state: torch.Tensor, device: "int | str | torch.device" = "npu") -> None:
    """Set the state of the device's generator."""
    _ops.default_generator(_index(device)).set_state(new_state)


def get_rng_state_all() -> list[torch.Tensor]:
    """Return the states of the generators of all devices."""
    return [get_rng_state(index) for index in range(device_count())]


def set_rng_state_all(new_states: list[torch.Tensor]) -> None:
    """Set the states of the generators of all devices."""
    for index, state in enumerate(new_states):
        set_rng_state(state, index)


def get_amp_supported_dtype() -> list[torch.dtype]:
    """Return the types for autocast; torch.autocast calls this."""
    return [torch.float16, torch.bfloat16, torch.float32]


def is_bf16_supported() -> bool:
    """Return True, as newer devices do."""
    return True


def memory_allocated(device: "int | str | torch.device | None" = None) -> int:
    """Return 0: memory is not counted here."""
    return 0


def max_memory_allocated(device: "int | str | torch.device | None" = None) -> int:
    """Return 0: memory is not counted here."""
    return 0


def memory_reserved(device: "int | str | torch.device | None" = None) -> int:
    """Return 0: memory is not counted here."""
    return 0


def max_memory_reserved(device: "int | str | torch.device | None" = None) -> int:
    """Return 0: memory is not counted here."""
    return 0


def reset_peak_memory_stats(device: "int | str | torch.device | None" = None) -> None:
    """Do nothing: memory is not counted here."""


def empty_cache() -> None:
    """Do nothing: no memory is cached here."""
