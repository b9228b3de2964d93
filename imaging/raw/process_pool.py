# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Processes that share the work of a script, and end when the script ends, however it ends."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def process_pool(workers: int, initializer: Callable | None = None, *initargs) -> ProcessPoolExecutor:
    """Return a pool of `workers` processes, each of which first calls `initializer(*initargs)`."""
    # spawned, because a forked process can wait forever for a lock that a thread of its parent held
    return ProcessPoolExecutor(workers, get_context("spawn"), _start, (os.getpid(), initializer, initargs))


def _start(parent: int, initializer: Callable | None, initargs: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent handles it
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()
    if initializer:
        initializer(*initargs)


def _exit_after(parent: int) -> None:
    while os.getppid() == parent:  # a killed parent cannot end its workers
        time.sleep(0.5)
    os._exit(1)
