"""Keeping freed memory, with C libraries of several kinds."""

import ctypes
from types import SimpleNamespace

import pytest

from runtime.device import keep_freed_memory

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h


@pytest.mark.parametrize(
    "most, expected",
    [
        (2**31 - 1, [(MMAP_THRESHOLD, 2**30), (TRIM_THRESHOLD, 2**31 - 1)]),
        # older glibc versions refuse the first value; without the second, the threshold would stay at 128 KB
        (2**25, [(MMAP_THRESHOLD, 2**25), (TRIM_THRESHOLD, 2**31 - 1)]),
        (0, []),
    ],
)
def test_the_largest_threshold_that_the_c_library_accepts(most, expected, monkeypatch):
    taken = []

    def mallopt(option: int, value: int) -> int:
        if option == MMAP_THRESHOLD and value > most:
            return 0
        taken.append((option, value))
        return 1

    libc = SimpleNamespace(mallopt=mallopt, malloc_trim=lambda pad: 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    assert keep_freed_memory() == bool(expected)
    assert taken == expected


def test_a_c_library_without_these_functions(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not keep_freed_memory() and not keep_freed_memory(False)
