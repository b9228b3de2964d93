"""background.py: the same items and results in order, bounded memory, errors in their turn, an end at once."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from threading import Event, active_count, get_ident

import numpy as np
import pytest
from conftest import ROOT

import background
from errors import InputError


def test_ahead_gives_all_in_order_from_another_thread():
    with background.ahead((k, get_ident()) for k in range(100)) as items:
        found = list(items)
    assert [k for k, _ in found] == list(range(100)) and {thread for _, thread in found}.isdisjoint({get_ident()})


def test_ahead_makes_no_more_than_may_wait():
    made = []

    def items():
        for k in range(20):
            made.append(k)
            yield k, np.zeros(100 if k else 1000, np.uint8)

    with background.ahead(items(), most=300) as found:
        assert next(found)[0] == 0 and len(made) <= 5
        deadline = time.monotonic() + 10
        while len(made) < 5 and time.monotonic() < deadline:  # three wait, and one more is in the thread's hand
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(made) == 5
    assert len(made) <= 6 and active_count() == 1, "the thread has ended with the context"


def test_ahead_raises_in_its_turn():
    def items():
        yield (1,)
        yield (2,)
        raise InputError("a.png: broken")

    with background.ahead(items()) as found:
        assert [next(found), next(found)] == [(1,), (2,)]
        with pytest.raises(InputError, match="broken"):
            next(found)


def test_a_pool_does_all_and_keeps_the_order_of_results():
    with background.Pool() as pool:
        futures = [pool.submit(lambda k: time.sleep(0.01 * (k % 3)) or k, k) for k in range(20)]
    assert [future.result() for future in futures] == list(range(20))


def test_a_pool_holds_no_more_than_it_may():
    open_now, most_open = [], []

    def work(array):
        open_now.append(array.nbytes)
        most_open.append(sum(open_now))
        time.sleep(0.005)
        open_now.remove(array.nbytes)

    with background.Pool(threads=4, most=250) as pool:
        for nbytes in [100] * 8 + [1000] + [100] * 8:
            pool.submit(work, np.zeros(nbytes, np.uint8))
    assert max(most_open) == 1000 and max(s for s in most_open if s != 1000) <= 200


def fail(text):
    raise InputError(text)


def test_a_pool_raises_the_earliest_error_and_drops_the_rest():
    done = []
    with pytest.raises(InputError, match="first"), background.Pool(threads=1) as pool:
        pool.submit(fail, "first")
        pool.submit(fail, "second")
        for k in range(1000):
            pool.submit(lambda k=k: time.sleep(0.01) or done.append(k))
    assert len(done) < 50
    with pytest.raises(InputError, match="at the end"), background.Pool() as pool:
        pool.submit(fail, "at the end")


def test_work_that_has_begun_ends_at_its_next_part():
    begun, parts = Event(), []

    def work():
        begun.set()
        for part in range(1000):
            pool.go_on()
            parts.append(part)
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt), background.Pool() as pool:
        future = pool.submit(work)
        assert begun.wait(10)
        raise KeyboardInterrupt
    assert isinstance(future.exception(), CancelledError) and len(parts) < 100


@pytest.mark.parametrize("waiting", ["next(found)", "pool.submit(work, np.zeros(10))", "time.sleep(60)"])
def test_ctrl_c_ends_it_whatever_the_main_thread_waits_for(waiting):
    script = f"""
import time, background, numpy as np
from errors import one_sentence
def slow():
    yield (1,)
    time.sleep(2)
def work(array):
    while True:
        pool.go_on()
        time.sleep(0.01)
with one_sentence(), background.ahead(slow()) as found, background.Pool(threads=1, most=100) as pool:
    next(found)
    pool.submit(work, np.zeros(100))
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
