# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The run's processes: ranks, connecting them, sums and means over them, and where each one prints."""

import atexit
import contextlib
import os
import re
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from runtime.device import (
    BACKENDS,
    LOST_RANK_ERROR,
    Device,
    PendingValues,
    choose_device,
    keep_freed_memory,
    select_device,
)
from runtime.errors import InputError, wait_for_torchrun
from runtime.flags import given_device_id
from runtime.interrupts import signal_handlers
from runtime.names import one_line

ECHOED_LINES = 15  # of a failed process's own log, repeated on the terminal


@dataclass(frozen=True)
class Ranks:
    """A process's rank and the number of processes, in the whole run and on its host; ranks count from 0."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int  # 1 if unknown
    torchrun: bool  # started by torchrun


@dataclass(frozen=True)
class Runtime(Device):
    """The device of this process and its rank. Used as a context, it destroys the process group at its end.

    All processes must call its methods, which are collective. A single process gets its own values back.
    """

    rank: int = 0
    world_size: int = 1
    local_size: int = 1  # number of processes on this host; 1 if unknown

    @property
    def is_main(self) -> bool:
        """True for the one process that prints to the terminal and writes the run's files."""
        return self.rank == 0

    def sum(self, *values: float | torch.Tensor) -> list[float]:
        """Return the sum of each number over the processes; waits for the device."""
        return self.sum_async(*values).wait()

    def sum_async(self, *values: float | torch.Tensor) -> PendingValues:
        """Start `sum` without waiting for the device: one all-reduce in float32, since the NPU's has no float64.

        A tensor may hold several numbers.
        """
        if self.world_size == 1:  # the numbers of the host stay there, which saves launches
            tensors = [value for value in values if isinstance(value, torch.Tensor)]
            order = [[None] * value.numel() if isinstance(value, torch.Tensor) else [value] for value in values]
            pending = self.copy_to_host(self.to_tensor(*tensors)) if tensors else PendingValues(torch.empty(0))
            return replace(pending, order=tuple(number for numbers in order for number in numbers))
        total = self.to_tensor(*values)
        dist.all_reduce(total)
        return self.copy_to_host(total)

    def to_tensor(self, *values: float | torch.Tensor) -> torch.Tensor:
        """Return numbers, and the elements of tensors, as one float32 tensor (N,) on the device, without waiting."""

        def on_device(value: float | torch.Tensor) -> torch.Tensor:
            if isinstance(value, torch.Tensor):
                return value.detach().to(self.device, torch.float32).reshape(-1)
            return torch.full((1,), value, dtype=torch.float32, device=self.device)  # copying from the host would wait

        tensors = [on_device(value) for value in values]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def mean_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace floating-point tensors by their means over the processes, in one collective."""
        tensors = list(tensors)
        if self.world_size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, mean in zip(tensors, (flat / self.world_size).split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view_as(tensor))

    def all_gather(self, value) -> list:
        """Return the `value` of every process by rank; it may be anything that can be pickled."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value):
        """Return the main process's `value` in all processes; it may be anything that can be pickled."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def wait_for_main(self) -> None:
        """Wait until the main process calls this too; it does not wait for the others."""
        self.broadcast(None)

    def check_ranks_agree(self, values: Mapping[str, object]) -> None:
        """Raise InputError if the processes, which may be on several hosts, have different values."""
        all_values = self.all_gather(dict(values))
        for rank, others in enumerate(all_values):
            differing = [name for name, value in all_values[0].items() if others[name] != value]
            if differing:
                raise InputError(f"rank {rank} and rank 0 differ in {', '.join(differing)}; start all ranks alike")

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, kind, error, _) -> None:
        if self.world_size == 1:
            return
        # Give gloo's threads time to free the tensors of the last collective, for which they need the interpreter's
        # lock. If Python ends while they wait for it, the process aborts.
        time.sleep(0.3)
        if error is None:
            dist.destroy_process_group()
        elif isinstance(error, RuntimeError) and re.search(LOST_RANK_ERROR, f"{type(error).__name__}: {error}"):
            if "RANK" in os.environ:
                wait_for_torchrun()
            raise InputError(
                f"rank {self.rank}: another process of the run has ended or does not answer; its own output says why "
                f"({one_line(error)})"
            ) from error


def init_runtime(device: str = "auto", device_id: int | None = None, launch: Namespace | None = None) -> Runtime:
    """Choose the device and, if there are several processes, connect them; raises InputError if either fails.

    device_id: None means 0, or the local rank. launch: train.py's flags; None: the script can only run in one process.
    """
    keep_freed_memory()
    ranks = find_ranks(launch)
    if launch is None and ranks.world_size > 1:
        raise InputError("this script runs in one process; start it without torchrun")
    kind, count = choose_device(device)
    if kind != "cpu" and count < ranks.local_size:
        raise InputError(f"{ranks.local_size} processes on this host, but {count} {kind} devices; start fewer")
    if ranks.torchrun and ranks.world_size > 1:
        device_id = ranks.local_rank
    elif (device_id := given_device_id(device_id)) is None:
        device_id = ranks.local_rank % count
    selected = select_device(kind, count, device_id)
    if ranks.world_size > 1:
        if "OMP_NUM_THREADS" not in os.environ:  # otherwise each process would use every core
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks.local_size))
        init_distributed(ranks, kind, launch)
    return Runtime(selected, device_id, ranks.rank, ranks.world_size, ranks.local_size)


def find_ranks(launch: Namespace | None) -> Ranks:
    """Read the ranks from torchrun's environment, else from `launch`; raises InputError if they are impossible."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        if launch is None:
            return Ranks(0, 1, 0, 1, torchrun=False)
        rank, count = launch.rank_id, launch.num_gpus
        if rank >= count:
            raise InputError(f"--rank_id {rank}: with --num_gpus {count} the ranks are 0 to {count - 1}")
        all_here = launch.addr in ("127.0.0.1", "localhost", "::1")
        return Ranks(rank, count, rank, count if all_here else 1, torchrun=False)
    try:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    except ValueError:
        raise InputError("RANK, WORLD_SIZE or LOCAL_RANK in the environment is not a number; unset them") from None
    if not 0 <= rank < world_size:
        raise InputError(f"RANK={rank} and WORLD_SIZE={world_size} in the environment do not fit; unset them")
    return Ranks(rank, world_size, local_rank, local_size, torchrun="LOCAL_RANK" in os.environ)


def init_distributed(ranks: Ranks, kind: str, launch: Namespace) -> None:
    """Form the process group, by torchrun's environment or at an address; raises InputError if that fails."""
    backend = launch.dist_backend or BACKENDS[kind]
    capable = [name for name, kinds in dist.Backend.backend_capability.items() if kind in kinds and name != "fake"]
    usable = [name for name in capable if dist.is_backend_available(name)]
    if backend not in usable:
        raise InputError(f"--dist_backend {backend}: for {kind} this torch has {' and '.join(usable) or 'none'}")
    addr = os.environ.get("MASTER_ADDR", launch.addr)
    port = os.environ.get("MASTER_PORT", launch.port)
    timeout = launch.dist_timeout
    if not ranks.torchrun:
        meeting = f"meeting the others at {addr}:{port}, up to {timeout:g} s"
        print(f"rank {ranks.rank} of {ranks.world_size}: {meeting}", flush=True)
    # a signal ends the process while it waits for the others in C++, which no handler in Python could interrupt
    default_signals = signal_handlers(dict.fromkeys((signal.SIGTERM, signal.SIGINT), signal.SIG_DFL))
    try:
        with default_signals, _silent_stderr():
            dist.init_process_group(
                backend,
                init_method="env://" if ranks.torchrun else f"tcp://{addr}:{port}",
                rank=ranks.rank,
                world_size=ranks.world_size,
                timeout=timedelta(seconds=timeout),
            )
    except (ValueError, RuntimeError) as error:  # dist.DistError is a RuntimeError
        if "EADDRINUSE" in str(error):
            raise InputError(f"--port {port}: taken by another program; give all ranks another one") from error
        raise InputError(
            f"rank {ranks.rank} did not meet the other ranks of {ranks.world_size} at {addr}:{port} in "
            f"{timeout:g} s; see that all are started, with the same --addr and --port ({one_line(error, 160)})"
        ) from error


@contextlib.contextmanager
def _silent_stderr():
    """Drop what C++ libraries write to stderr: a page of addresses before the error that they raise."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


@contextlib.contextmanager
def redirect_output(rank: int, path: Path, append: bool = False):
    """Write what a process of rank 1 or higher prints to a file; if it fails, repeat its last lines on stderr."""
    if rank == 0:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(sys.stderr.fileno())
    sys.stdout.flush()
    with path.open("a" if append else "w", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):  # the file descriptors, since C++ libraries print too
            os.dup2(log.fileno(), stream.fileno())
    try:
        yield
    except Exception:
        atexit.register(_echo, rank, path, terminal)  # at exit the error message is in the file
        raise


def _echo(rank: int, path: Path, terminal: int) -> None:
    # without the lines that a harness would take for the run's results
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line for line in lines if not re.search("FPS|AVG|Epoch:|Test", line)][-ECHOED_LINES:]
    os.write(terminal, "".join(f"[rank {rank}] {line}\n" for line in lines).encode())
