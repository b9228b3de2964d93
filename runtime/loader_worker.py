# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Setting up the processes that load data: how many of them /dev/shm has room for, and what each does at its start."""

import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.utils.data import get_worker_info

from runtime.interrupts import SIGNALS

SHARED_MEMORY = "/dev/shm"
SEMAPHORE_BYTES = 2**17  # of the queues of a worker; measured: 90 kB for one worker of both loaders, 164 kB for four


def num_workers_that_fit(num_workers: int, batch_bytes: int, world_size: int = 1, local_size: int = 1) -> int:
    """Return how many workers have room for their batches in /dev/shm; prints a line if not all have.

    num_workers: wanted, over all ranks. batch_bytes: of one rank's batch. local_size: number of ranks on this host.
    Of a rank's loaders, only one at a time has batches waiting, because training and validation take turns.
    """
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:  # the system keeps shared memory elsewhere
        return num_workers
    free = status.f_bavail * status.f_frsize
    # Two batches of each worker are under way (DataLoader's prefetch_factor). The training process holds two while it
    # changes to the next one. A third stays mapped if it exists when the workers of the second loader are forked.
    fitting = max(0, (free // local_size - 3 * batch_bytes) // (2 * batch_bytes + SEMAPHORE_BYTES))
    if fitting >= math.ceil(num_workers / world_size):
        return num_workers
    print(
        f"--num_workers is lowered from {num_workers} to {fitting * world_size}: {SHARED_MEMORY} has only "
        f"{free / 1e6:.1f} MB free; a larger --shm-size of the container gives more",
        flush=True,
    )
    return fitting * world_size


def start_loader_worker(_worker_id: int) -> None:
    """Prepare a data loading process; for DataLoader's `worker_init_fn`.

    Launchers and schedulers send signals to all processes of a run. The training process then finishes its step, for
    which it needs the batches of its workers, and ends them afterwards by SIGTERM.
    """
    for number in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_on_sigterm_of, args=(os.getppid(),), daemon=True).start()
    # One thread of the worker hands a batch to the training process while another makes the next batch. By default,
    # the first one may wait 5 ms for its turn.
    sys.setswitchinterval(0.0005)
    sys.excepthook = _report_unless_disconnected


@contextmanager
def add_path_to_errors(path: Path) -> Iterator[None]:
    """Put the path of an image into any error.

    In a data loading process, the error becomes a RuntimeError with the path in its text, because only the text reaches
    the user. Elsewhere the error stays as it is, and Python prints the path below its traceback.
    """
    try:
        yield
    except Exception as error:
        if get_worker_info() is None:
            if hasattr(error, "add_note"):  # since Python 3.11
                error.add_note(f"The image is {path}.")
            raise
        text = " ".join(str(error).split())
        raise RuntimeError(f"{path}: {type(error).__name__}: {text}") from error


def _exit_on_sigterm_of(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _report_unless_disconnected(kind: type, error: BaseException, trace) -> None:
    """Do not report that the training process ended while it received a batch; the dataset's errors are sent to it."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
