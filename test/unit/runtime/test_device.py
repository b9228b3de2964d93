# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Keeping freed memory, with C libraries of several kinds; what is specific to CUDA, with a stand-in."""

import contextlib
import ctypes
from types import SimpleNamespace

import pytest
import torch

from runtime.device import Device, keep_freed_memory

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


class FakeStream:
    """A stream that notes which other ones it waits for."""

    def __init__(self, name: str, events: list):
        self.name, self.events = name, events

    def wait_stream(self, other: "FakeStream") -> None:
        self.events.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def fake_cuda(monkeypatch) -> list[str]:
    """Replace what CudaGraph uses of torch.cuda; returns a list of what happens."""
    events = []
    streams = [FakeStream("default", events)]  # the last one is current

    @contextlib.contextmanager
    def stream(other: FakeStream):
        streams.append(other)
        yield
        streams.pop()

    @contextlib.contextmanager
    def graph(_graph, stream: FakeStream, capture_error_mode: str):
        events.append(f"capture on {stream.name}, {capture_error_mode}")
        streams.append(stream)
        yield  # after an error the stream stays current, as in torch if the capture cannot be ended
        streams.pop()

    replacements = {
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: events.append("replay")),
        "Stream": lambda: FakeStream("side", events),
        "current_stream": lambda: streams[-1],
        "set_stream": lambda other: streams.append(other),
        "stream": stream,
        "graph": graph,
    }
    for name, value in replacements.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return events


def test_a_cuda_graph_runs_and_captures_on_its_own_stream(fake_cuda):
    graph = Device(torch.device("cuda")).new_graph()
    current = lambda *args: (torch.cuda.current_stream().name, *args)  # noqa: E731
    assert graph.warm_up(current, 1) == ("side", 1) and torch.cuda.current_stream().name == "default"
    assert graph.capture(current, 2) == ("side", 2) and torch.cuda.current_stream().name == "default"
    graph.replay()
    waits = ["side waits for default", "default waits for side"]
    assert fake_cuda == [*waits, "capture on side, thread_local", "replay"]


def test_a_failed_capture_leaves_the_stream_as_it_was(fake_cuda):
    with pytest.raises(ZeroDivisionError):
        Device(torch.device("cuda")).new_graph().capture(lambda: 1 / 0)
    assert torch.cuda.current_stream().name == "default"


@pytest.mark.parametrize("kind, wanted", [("cuda", True), ("cpu", None)])
def test_adam_of_a_gpu_is_fused(kind, wanted, monkeypatch):
    seen = {}
    for name in ("Adam", "AdamW"):
        monkeypatch.setattr(torch.optim, name, lambda parameters, **settings: seen.update(settings))
        Device(torch.device(kind)).adam([], lr=0.1)
        assert seen["fused"] == wanted
