# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Everything that depends on the kind of device: choosing it, its settings, half type, memory, optimizers."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from runtime.errors import InputError

BACKENDS = {"npu": "hccl", "cuda": "nccl", "cpu": "gloo"}  # the library of collectives for each kind of device
# matches the type or text of the error that a collective raises if another process has died or does not answer
LOST_RANK_ERROR = "^Dist[A-Z]|gloo/|gloo::|hccl|HCCL"
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # mallopt's numbers for them, from malloc.h
# the largest mmap threshold: current glibc takes any number, older versions half a heap
LARGEST, LARGEST_IN_OLD_GLIBC = 2**30, 32 * 2**20
# the values that glibc's adaptive thresholds reach after large blocks have been freed
USUAL_MMAP_THRESHOLD, USUAL_TRIM_THRESHOLD = 32 * 2**20, 64 * 2**20


@dataclass(frozen=True)
class PendingValues:
    """Numbers on their way from the device to the host."""

    values: torch.Tensor  # on the CPU
    copied: object = None  # the device's event for the end of the copy; None if there is nothing to wait for
    order: tuple[float | None, ...] = ()  # numbers of the host among which the values belong, at each None

    def wait(self) -> list[float]:
        values = self.wait_for_tensor().tolist()
        if not self.order:
            return values
        arrived = iter(values)
        return [next(arrived) if number is None else float(number) for number in self.order]

    def wait_for_tensor(self) -> torch.Tensor:
        if self.copied is not None:
            self.copied.synchronize()
        return self.values


class CudaGraph:
    """A CUDA graph with the stream on which its steps run until it is captured."""

    def __init__(self):
        self.graph, self.stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()

    def warm_up(self, function: Callable, *args):
        """Call a function on the stream: what autograd, cuDNN and cuBLAS create for a stream must exist on this one."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = function(*args)
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def capture(self, function: Callable, *args):
        """Record what a function launches, without running it; returns the tensors that each replay overwrites."""
        current = torch.cuda.current_stream()
        try:
            # thread_local: the thread that pins the loader's batches may use CUDA meanwhile
            with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                return function(*args)
        finally:
            torch.cuda.set_stream(current)  # torch leaves the other one if the capture fails

    def replay(self) -> None:
        """Launch all that was recorded, on the current stream and without waiting."""
        self.graph.replay()


@dataclass(frozen=True)
class Device:
    """The device that this process computes on."""

    device: torch.device
    device_id: int = 0  # the number in log lines and result files, also on the CPU

    @property
    def is_accelerator(self) -> bool:
        return self.device.type != "cpu"

    @property
    def supports_channels_last(self) -> bool:
        """False for NPUs, which choose memory formats themselves."""
        return self.device.type in ("cuda", "cpu")

    @property
    def half_dtype(self) -> torch.dtype:
        return torch.float16 if self.is_accelerator else torch.bfloat16

    @property
    def half_is_fast(self) -> bool:
        """Is half precision faster than fp32? On CPUs only if they have bfloat16 instructions."""
        capabilities = {} if self.is_accelerator else torch.cpu.get_capabilities()
        return self.is_accelerator or any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))

    @property
    def saturates_on_overflow(self) -> bool:
        """Does an overflow give the largest number instead of infinity, as on the first Ascend 910?"""
        if self.device.type != "npu":
            return False
        import torch_npu  # only here if an NPU is used

        return not torch_npu.npu.utils.is_support_inf_nan()

    def new_graph(self) -> CudaGraph | None:
        """Return a graph that can capture a training step; None if the device has none that was tried."""
        # torch_npu has torch.npu.NPUGraph of the same interface, which nobody has tried here
        return CudaGraph() if self.device.type == "cuda" else None

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of images (N, C, H, W) in which nets are evaluated fastest."""
        return torch.channels_last if self.supports_channels_last else torch.contiguous_format

    def adam(self, parameters: Iterable, lr: float, weight_decay: float = 0.0, decoupled: bool = False):
        """Return Adam, or AdamW with `decoupled` weight decay; the fused variant if the device has one."""
        if self.device.type == "npu":
            import torch_npu

            fused_adam = torch_npu.optim.NpuFusedAdamW if decoupled else torch_npu.optim.NpuFusedAdam
            return fused_adam(parameters, lr=lr, weight_decay=weight_decay)
        adam = torch.optim.AdamW if decoupled else torch.optim.Adam
        fused = True if self.device.type == "cuda" else None  # None: torch chooses
        return adam(parameters, lr=lr, weight_decay=weight_decay, fused=fused)

    def grad_scaler(self, scale: float):
        """Return a GradScaler that starts at `scale`; on NPUs that saturate, torch_npu's reads their overflow flag."""
        if self.device.type == "npu":
            import torch_npu

            return torch_npu.npu.amp.GradScaler(init_scale=scale)
        return torch.amp.GradScaler(self.device.type, init_scale=scale)

    def profiler(self):
        """Return the module of the device's profiler and the activities to record."""
        if self.device.type == "npu":
            import torch_npu.profiler as tool

            return tool, [tool.ProfilerActivity.CPU, tool.ProfilerActivity.NPU]
        return torch.profiler, list(torch.profiler.supported_activities())

    def random_state(self) -> torch.Tensor | None:
        """Return the state of the device's random generator; None for the CPU, whose generator is torch's own."""
        return torch.get_device_module(self.device).get_rng_state(self.device) if self.is_accelerator else None

    def set_random_state(self, state: torch.Tensor | None) -> None:
        """Restore a `random_state`; a state from another kind of device is ignored."""
        if self.is_accelerator and state is not None:
            torch.get_device_module(self.device).set_rng_state(state, self.device)

    def copy_to_host(self, values: torch.Tensor) -> PendingValues:
        """Start copying numbers to the CPU, without waiting for the device."""
        if not self.is_accelerator:
            return PendingValues(values)
        copy = values.to("cpu", non_blocking=True)  # into pinned memory, which torch keeps for the next copies
        copied = torch.get_device_module(self.device).Event()
        copied.record()
        return PendingValues(copy, copied)

    def snapshot(self, value):
        """Return a copy of nested dicts and lists, with their tensors on the CPU; waits once for the device."""
        copy = _copy_to_host(value)
        if self.is_accelerator:
            torch.get_device_module(self.device).synchronize()
        return copy

    def configure(
        self,
        hf32: bool = False,
        fp32: bool = False,
        bin_mode: int = 0,
        precision_mode: str = "allow_mix_precision",
        deterministic: bool = False,
    ) -> None:
        """Set how the device computes; the help of the flags with these names tells their meaning."""
        if deterministic and self.is_accelerator:  # the CPU's operators are deterministic
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # is read when cuBLAS is used first
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            torch.utils.deterministic.fill_uninitialized_memory = False  # no operator here reads such memory
        if self.device.type == "npu":
            if bin_mode:
                torch.npu.set_compile_mode(jit_compile=False)
            if precision_mode == "must_keep_origin_dtype":
                torch.npu.set_option({"ACL_PRECISION_MODE": precision_mode})
            if hf32 or fp32:
                torch.npu.conv.allow_hf32 = hf32
                torch.npu.matmul.allow_hf32 = hf32
        elif self.device.type == "cuda":
            if hf32 or fp32:
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = hf32
            if bin_mode:
                print("--bin_mode has no effect on CUDA GPUs")
        elif hf32 or fp32 or bin_mode or precision_mode == "must_keep_origin_dtype":
            print("--hf32, --fp32, --bin_mode and --precision_mode must_keep_origin_dtype have no effect on the CPU")


def _copy_to_host(value):
    """Copy nested dicts and lists; copies of tensors may be incomplete until the device is synchronized."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return value.clone() if value.device.type == "cpu" else value.to("cpu", non_blocking=True)
    if isinstance(value, dict):
        return {key: _copy_to_host(own) for key, own in value.items()}
    return [_copy_to_host(own) for own in value] if isinstance(value, list) else value


def choose_device(name: str) -> tuple[str, int]:
    """Return the kind of device that `--device` asks for, and how many there are; raises InputError if none is."""
    if name in ("gpu", "cuda") and _cuda_means_npu():
        print(f"--device {name}: transfer_to_npu of torch_npu is active, so this means the NPU")
        name = "npu"
    if name in ("npu", "auto") and _has_npu(required=name == "npu"):
        if _cuda_means_npu():
            # torch.distributed.broadcast takes the NPU for a GPU and asks for its version, which torch_npu reads here
            os.environ.setdefault("TORCH_NPU_DEVICE_CAPABILITY", "8.0")
        return "npu", torch.npu.device_count()
    if name in ("gpu", "cuda") or (name == "auto" and torch.cuda.is_available()):
        if not torch.cuda.is_available():
            raise InputError("--device cuda: this torch finds no CUDA GPU; use --device auto or cpu")
        return "cuda", torch.cuda.device_count()
    return "cpu", 1


def select_device(kind: str, count: int, device_id: int) -> torch.device:
    """Make the device with this number the current one; raises InputError if there is no such device."""
    if kind == "cpu":
        return torch.device("cpu")
    if not 0 <= device_id < count:
        raise InputError(f"--device_id {device_id}: there are {count} {kind} devices, numbered from 0")
    torch.get_device_module(kind).set_device(device_id)
    return torch.device(kind, device_id)


def _cuda_means_npu() -> bool:
    """Has transfer_to_npu of torch_npu given the names of CUDA, such as torch.cuda.is_available, to the NPU?"""
    return "torch_npu.contrib.transfer_to_npu" in sys.modules


def _has_npu(required: bool) -> bool:
    """Is there a usable NPU? If `required`, raise InputError with the reason instead of returning False."""
    try:
        import torch_npu  # noqa: F401  # older torch versions do not load it themselves

        if torch.npu.is_available():
            return True
        reason = "torch_npu finds no NPU; check `npu-smi info`"
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch_npu":
            if required:
                raise InputError("--device npu: torch_npu is not installed; see requirements-npu.txt") from None
            return False
        reason = f"torch_npu is installed but cannot be used ({error}); source CANN's set_env.sh or uninstall torch_npu"
    if required:
        raise InputError(f"--device npu: {reason}")
    print(f"warning: the NPU is not used: {reason}")
    return False


def keep_freed_memory(keep: bool = True) -> bool:
    """Keep freed memory in the process; returns whether the C library can do that.

    By default glibc returns a step's activations to the system, which must then clear every page again. Measured on 2
    cores: training is 1.06 to 1.11 times as fast. keep: False restores the default.
    """
    try:
        libc = ctypes.CDLL(None)
        set_option, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):  # not glibc
        return False
    thresholds = (LARGEST, LARGEST_IN_OLD_GLIBC) if keep else (USUAL_MMAP_THRESHOLD,)
    # setting either threshold stops both from adapting, so the second is set only if the first was accepted
    trim_threshold = 2 * LARGEST - 1 if keep else USUAL_TRIM_THRESHOLD
    done = any(set_option(MMAP_THRESHOLD, size) for size in thresholds) and set_option(TRIM_THRESHOLD, trim_threshold)
    if not keep:
        trim(0)
    return bool(done)
