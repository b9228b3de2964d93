# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Work in threads beside the main one: reading ahead of it, and writing behind it. OpenCV and torch free the GIL."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Semaphore

THREADS = 4  # more than the cores of a small machine, since each thread also waits for the disk
MAX_WAITING = 2 * THREADS  # items, each with an image of up to 300 MB


@contextmanager
def prefetch(read: Callable, sources: Iterable, count: int = MAX_WAITING) -> Iterator[Iterator[Future]]:
    """Yield an iterator over the futures of `read(source)`, in order; up to `count` sources are read ahead."""
    with ThreadPoolExecutor(THREADS) as pool:
        remaining = iter(sources)
        waiting = deque(pool.submit(read, source) for source in islice(remaining, count))

        def futures() -> Iterator[Future]:
            while waiting:
                future = waiting.popleft()
                waiting.extend(pool.submit(read, source) for source in islice(remaining, 1))
                yield future

        try:
            yield futures()
        finally:
            pool.shutdown(cancel_futures=True)


class BackgroundTask:
    """A thread that does one piece of work at a time; its error is raised by the next `start` or `wait`."""

    def __init__(self):
        self.executor = ThreadPoolExecutor(1)
        self.running: tuple[Future, tuple] | None = None

    def start(self, work: Callable, *arguments) -> None:
        """Call work(*arguments) in the thread, after the work before it has ended."""
        self.wait()
        # The arguments are kept until `wait`, so that they are freed in the thread that made them. Freeing pinned
        # memory calls the device, and that must not happen while another thread captures a CUDA graph.
        self.running = self.executor.submit(work, *arguments), arguments

    def wait(self) -> None:
        """Wait until no work is left; raises its error, once."""
        if self.running:
            (future, _), self.running = self.running, None
            future.result()


class BackgroundPool:
    """Threads that do the submitted work, which may wait for a thread; as a context, waits for all work at its end.

    The first error of the work is raised by the next `submit`, or at the end. If an error or Ctrl-C leaves the context,
    work that has not begun is dropped.
    """

    def __init__(self, threads: int = THREADS):
        self.executor = ThreadPoolExecutor(threads)
        self.slots = Semaphore(2 * threads)  # bounds the memory of the work that waits
        self.unfinished: deque[Future] = deque()
        self.cancelled = False

    def submit(self, work: Callable, *arguments) -> Future:
        """Call work(*arguments) in a thread; waits while twice as many calls as there are threads are unfinished."""
        while self.unfinished and self.unfinished[0].done():
            self.unfinished.popleft().result()
        self.slots.acquire()
        future = self.executor.submit(work, *arguments)
        future.add_done_callback(lambda _: self.slots.release())
        self.unfinished.append(future)
        return future

    def check_cancelled(self) -> None:
        """Raise CancelledError if the pool is being closed; long work calls this between its parts."""
        if self.cancelled:
            raise CancelledError

    def __enter__(self) -> "BackgroundPool":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            while kind is None and self.unfinished:
                self.unfinished.popleft().result()
        finally:
            self.cancelled = True
            self.executor.shutdown(cancel_futures=True)
