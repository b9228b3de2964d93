"""What goes on beside the main thread's work: reading ahead of it, and writing behind it. What waits is bounded.

Threads are enough: OpenCV, the disk and torch let the others go on while they work.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from queue import SimpleQueue
from threading import Condition, Thread

THREADS = 4  # that write: more than cores where those are few, since each waits for the disk
MOST_BYTES = 2**28  # that wait; an image of 100 million pixels is more, and waits alone


def _weight(things: Iterable) -> int:
    return sum(getattr(thing, "nbytes", 0) for thing in things)


class _Room:
    """So many bytes may be in it; what weighs more is let in once it is empty."""

    def __init__(self, most: int):
        self.most, self.taken, self.closed, self.changed = most, 0, False, Condition()

    def enter(self, weight: int) -> bool:
        """Wait for room and take it; False where the room was closed."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or not self.taken or self.taken + weight <= self.most)
            self.taken += weight
            return not self.closed

    def leave(self, weight: int) -> None:
        with self.changed:
            self.taken -= weight
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def ahead(items: Iterable[tuple], most: int = MOST_BYTES) -> AbstractContextManager[Iterator[tuple]]:
    """As a context, an iterator over the same items in the same order, made by a thread before they are asked for.

    The thread starts with the first one asked for, and ends with the context. The arrays and tensors of the items that
    wait are of at most `most` bytes, or it is a single item. What `items` raises is raised in its turn.
    """
    return closing(_ahead(items, most))


def _ahead(items: Iterable[tuple], most: int) -> Iterator[tuple]:
    room, made = _Room(most), SimpleQueue()

    def make() -> None:
        try:
            for item in items:
                if not room.enter(_weight(item)):
                    return
                made.put((item, None))
            made.put((None, None))
        except BaseException as error:
            made.put((None, error))

    thread = Thread(target=make)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error:
                raise error
            if item is None:
                return
            room.leave(_weight(item))
            yield item
    finally:
        room.close()
        thread.join()


class Pool:
    """Threads that work off what they are given; as a context, ends once all of it is done.

    The earliest error of the work is raised by the next `submit`, or at the end. Where the context is left by an
    error, or by Ctrl-C, what has not begun is dropped, and what has is ended at its next `go_on`.
    """

    def __init__(self, threads: int = THREADS, most: int = MOST_BYTES):
        self.room, self.threads = _Room(most), ThreadPoolExecutor(threads)
        self.unfinished: deque[Future] = deque()

    def submit(self, work: Callable, *arguments) -> Future:
        """Have work(*arguments) called; waits while the arrays among the arguments would be too much to keep."""
        while self.unfinished and self.unfinished[0].done():
            self.unfinished.popleft().result()
        weight = _weight(arguments)
        self.room.enter(weight)
        self.unfinished.append(self.threads.submit(work, *arguments))
        self.unfinished[-1].add_done_callback(lambda _: self.room.leave(weight))
        return self.unfinished[-1]

    def go_on(self) -> None:
        """To be called by work that takes long, between its parts; raises CancelledError where it is to end."""
        if self.room.closed:
            raise CancelledError

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            while kind is None and self.unfinished:
                self.unfinished.popleft().result()
        finally:
            self.room.close()
            self.threads.shutdown(cancel_futures=True)
