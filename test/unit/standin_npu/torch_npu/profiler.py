# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The device's profiler: that of torch, with the arguments, activities and folders of the real one."""

import enum
import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.profiler import schedule as torch_schedule  # transfer_to_npu replaces it in torch.profiler


class ProfilerActivity(enum.Enum):
    """What to trace; torch's own enumeration is not accepted."""

    CPU = 0
    NPU = 1


def supported_activities() -> set[ProfilerActivity]:
    """Return all activities."""
    return set(ProfilerActivity)


class Schedule:
    """When to wait, warm up and record; like torch's, but a class, and `warmup` is optional."""

    def __init__(
        self, wait: int, active: int, warmup: int = 0, repeat: int = 0, skip_first: int = 0, skip_first_wait: int = 0
    ):
        self._action = torch_schedule(
            wait=wait,
            warmup=warmup,
            active=active,
            repeat=repeat,
            skip_first=skip_first,
            skip_first_wait=skip_first_wait,
        )

    def __call__(self, step: int) -> torch.profiler.ProfilerAction:
        return self._action(step)


schedule = Schedule


def tensorboard_trace_handler(
    dir_name: str | None = None, worker_name: str | None = None, analyse_flag: bool = True, async_mode: bool = False
) -> Callable[[torch.profiler.profile], None]:
    """Return a function that writes a trace under `dir_name`, in a folder like those of the real one."""
    if dir_name is not None and not isinstance(dir_name, str):
        raise TypeError("dir_name must be a str: the real one uses the current folder instead of anything else")

    def write(profile: torch.profiler.profile) -> None:
        worker = f"{worker_name or socket.gethostname()}_{os.getpid()}_{time.strftime('%Y%m%d%H%M%S')}_ascend_pt"
        folder = Path(dir_name or ".") / worker / "ASCEND_PROFILER_OUTPUT"
        folder.mkdir(parents=True, exist_ok=True)
        profile.export_chrome_trace(str(folder / "trace_view.json"))

    return write


class profile(torch.profiler.profile):
    """Traces what the CPU does, because the device's work is done there."""

    def __init__(
        self,
        *,
        activities: Iterable[ProfilerActivity] | None = None,
        schedule: Callable[[int], torch.profiler.ProfilerAction] | None = None,
        on_trace_ready: Callable[[torch.profiler.profile], None] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        with_modules: bool = False,
    ):
        unknown = [activity for activity in activities or () if not isinstance(activity, ProfilerActivity)]
        if unknown:
            raise TypeError(f"not a torch_npu.profiler.ProfilerActivity: {unknown}")
        super().__init__(
            activities=[torch.profiler.ProfilerActivity.CPU],
            schedule=schedule,
            on_trace_ready=on_trace_ready,
            record_shapes=record_shapes,
            profile_memory=profile_memory,
            with_stack=with_stack,
            with_flops=with_flops,
            with_modules=with_modules,
        )
