"""Processes that share a script's work, and end with it however it ends."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import memory


def process_pool(workers: int, initializer: Callable | None = None, *initargs) -> ProcessPoolExecutor:
    """A pool of `workers` processes that each call `initializer(*initargs)` first.

    They start afresh, since a forked one can hang on what the parent's threads held.
    """
    return ProcessPoolExecutor(workers, get_context("spawn"), _start, (os.getpid(), initializer, initargs))


def _start(parent: int, initializer: Callable | None, initargs: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; it is the parent's to handle
    memory.keep_freed()
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    if initializer:
        initializer(*initargs)


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:  # a killed parent cannot tell its workers
        time.sleep(0.5)
    os._exit(1)
