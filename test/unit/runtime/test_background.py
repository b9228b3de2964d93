# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Work beside the main thread: the same items and results in order, bounded memory, errors in turn, an end at once."""

import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from threading import Event, Thread, active_count, get_ident

import pytest
from conftest import ROOT

from runtime.background import BackgroundPool, BackgroundTask, prefetch
from runtime.errors import InputError


def test_prefetch_gives_all_in_order_from_other_threads():
    def read(k: int) -> tuple[int, int]:
        time.sleep(0.001 * (k % 3))
        return k, get_ident()

    with prefetch(read, range(100), 5) as found:
        found = [future.result() for future in found]
    assert [k for k, _ in found] == list(range(100)) and {thread for _, thread in found}.isdisjoint({get_ident()})


def test_prefetch_reads_no_more_than_a_number_ahead():
    read = []
    with prefetch(read.append, range(20), 3) as found:
        for taken in range(20):
            wait_until(lambda: len(read) == min(20, taken + 3))  # noqa: B023
            next(found)
        assert list(found) == []
    threads = active_count()
    with prefetch(read.append, range(20), 3) as found:
        next(found)
    assert len(read) <= 20 + 4 and active_count() == threads, "the threads have ended with the context"


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; it must then hold for some time, and within 10 seconds."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.01)
    assert condition()


def test_prefetch_raises_an_error_in_its_turn():
    def read(k: int) -> int:
        if k == 2:
            raise InputError("a.png: broken")
        return k

    with prefetch(read, range(9), 4) as found:
        assert [next(found).result(), next(found).result()] == [0, 1]
        with pytest.raises(InputError, match="broken"):
            next(found).result()
        assert next(found).result() == 3


def test_a_pool_does_all_its_work_and_keeps_the_order_of_results():
    with BackgroundPool() as pool:
        futures = [pool.submit(lambda k: time.sleep(0.01 * (k % 3)) or k, k) for k in range(20)]
    assert [future.result() for future in futures] == list(range(20))


def test_a_pool_lets_as_much_work_wait_as_it_has_threads():
    """What waits holds images in memory."""
    go_on, begun, submitted = Event(), [], []

    def work(k: int) -> None:
        begun.append(k)
        go_on.wait(10)

    def submit_all(pool: BackgroundPool) -> None:
        for k in range(20):
            pool.submit(work, k)
            submitted.append(k)

    with BackgroundPool(threads=3) as pool:
        thread = Thread(target=submit_all, args=(pool,))
        thread.start()
        wait_until(lambda: len(begun) == 3 and len(submitted) == 6)
        go_on.set()
        thread.join()
    assert sorted(begun) == list(range(20))


def fail(text):
    raise InputError(text)


def test_a_pool_raises_the_earliest_error_and_drops_the_rest():
    done = []
    with pytest.raises(InputError, match="first"), BackgroundPool(threads=1) as pool:
        pool.submit(fail, "first")
        pool.submit(fail, "second")
        for k in range(1000):
            pool.submit(lambda k=k: time.sleep(0.01) or done.append(k))
    assert len(done) < 50
    with pytest.raises(InputError, match="at the end"), BackgroundPool() as pool:
        pool.submit(fail, "at the end")


def test_work_that_has_begun_ends_at_its_next_check():
    begun, parts = Event(), []

    def work():
        begun.set()
        for part in range(1000):
            pool.check_cancelled()
            parts.append(part)
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt), BackgroundPool() as pool:
        future = pool.submit(work)
        assert begun.wait(10)
        raise KeyboardInterrupt
    assert isinstance(future.exception(), CancelledError) and len(parts) < 100


@pytest.mark.parametrize("waiting", ["next(found).result()", "[pool.submit(work) for _ in range(9)]", "time.sleep(60)"])
def test_ctrl_c_ends_the_work_whatever_the_main_thread_waits_for(waiting):
    script = f"""
import time
from runtime.background import BackgroundPool, prefetch
from runtime.errors import report_errors
def read(k):
    time.sleep(2 * k)
def work():
    while True:
        pool.check_cancelled()
        time.sleep(0.01)
with report_errors(), prefetch(read, range(2), 2) as found, BackgroundPool(threads=1) as pool:
    next(found)
    pool.submit(work)
    print("ready", flush=True)
    {waiting}
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and output == "[Stopped] by Ctrl-C\n"
    assert time.monotonic() - start < 5


def test_a_background_task_does_one_thing_at_a_time_in_another_thread():
    task, goes_on, done = BackgroundTask(), Event(), []

    def work(number: int) -> None:
        goes_on.wait(10)
        done.append((number, get_ident()))

    task.wait()
    task.start(work, 1)
    assert done == []
    Thread(target=lambda: (time.sleep(0.05), goes_on.set())).start()
    task.start(work, 2)
    assert done[0][0] == 1, "the second call waited for the first"
    task.wait()
    assert [number for number, _ in done] == [1, 2] and get_ident() not in {thread for _, thread in done}


@pytest.mark.parametrize("by", ["start", "wait"])
def test_an_error_of_a_background_task_is_raised_once(by):
    def fail() -> None:
        raise InputError("full")

    task, done = BackgroundTask(), []
    task.start(fail)
    with pytest.raises(InputError, match="full"):
        task.start(done.append, 1) if by == "start" else task.wait()
    task.wait()
    task.start(done.append, 2)
    task.wait()
    assert done == [2]


def test_the_arguments_of_a_background_task_are_freed_by_the_thread_that_waits():
    class Argument:
        pass

    task, freed_by, ended = BackgroundTask(), [], Event()
    argument = Argument()
    weakref.finalize(argument, lambda: freed_by.append(get_ident()))
    task.start(lambda _: ended.set(), argument)
    del argument
    ended.wait(10)
    time.sleep(0.05)
    assert freed_by == []
    task.wait()
    assert freed_by == [get_ident()]
