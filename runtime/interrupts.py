# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Signals that stop a run after its current step, and the lock that keeps a folder to one run at a time."""

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from runtime.errors import InputError

LOCKS_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # by some network file systems
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Interrupted(Exception):
    """The run was asked to stop, and its current step is done."""


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self):
        self.signal: int | None = None
        self.pid = os.getpid()
        self.torchrun = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def __call__(self) -> bool:
        """Was this process asked to stop, or has the torchrun that would pass the signal on ended?"""
        return self.signal is not None or self.torchrun not in (None, os.getppid())

    def handle(self, number: int, _frame) -> None:
        """Remember a signal; a second SIGINT then ends the process at once."""
        if os.getpid() != self.pid:
            return  # a data loading process that was just forked; its training process handles the signal
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self.signal is None:
            self.signal = number
            # not by print, which the signal may have interrupted
            os.write(2, f"[Stopping] by {signal.Signals(number).name}, after this step\n".encode())

    @property
    def exit_code(self) -> int:
        """128 + the signal's number; SIGTERM's if another process of the run got the signal."""
        return 128 + (self.signal or signal.SIGTERM)


@contextlib.contextmanager
def signal_handlers(handlers: Mapping[int, Callable | signal.Handlers]):
    """Handle signals in this way within the context, and as before after it."""
    earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def handle_signals():
    """Yield a StopRequest; within the context, the signals that stop a run are only recorded in it."""
    request = StopRequest()
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup and `&` ignore
    with signal_handlers(dict.fromkeys(handled, request.handle)):
        yield request


@contextlib.contextmanager
def lock_folder(folder: Path):
    """Create and lock a run's folder, and remove it if it stays empty; raises InputError if it cannot be locked."""
    lock = FileLock(folder / ".lock", fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{folder}: another run is at work there; wait for it, or give this one another --name"
        ) from None
    except OSError as error:
        if error.errno not in LOCKS_UNSUPPORTED:
            raise InputError(f"{folder}: cannot be written: {error.strerror}") from error
        print(f"warning: {folder} cannot be locked ({error.strerror}); make sure that no other run writes there")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()  # while it is still held, so that no other run's lock is removed
        lock.release()
        with contextlib.suppress(OSError):
            os.removedirs(folder)
