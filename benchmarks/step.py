# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Part step of benchmarks/run.py: where the time of a training step goes, measured within engine.train_one_epoch."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

import dataset
import engine
import train
import utils
from benchmarks.measure import Bench, Goal, replaced, silence
from runtime.device import PendingValues
from runtime.distributed import Runtime, init_runtime

MAX_OTHER_MS = 15
COMPUTING = ("forward", "backward", "optimizer")
PARTS = ("data", *COMPUTING, "loss", "metric", "sum and read-back", "line", "rest")
READING_METHODS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__")


class Stopwatch:
    """Counts the seconds of each part, without those of parts within it, and how often each part reads a tensor."""

    def __init__(self):
        self.seconds, self.reads, self.stack = Counter(), Counter(), ["rest"]
        self.since = time.perf_counter()

    def _add_seconds(self) -> None:
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Count the time of this context for the part."""
        self._add_seconds()
        self.stack.append(part)
        try:
            yield
        finally:
            self._add_seconds()
            self.stack.pop()

    def timed(self, part: str, function: Callable) -> Callable:
        """Return a function that does the same, and whose time counts for the part."""

        def call(*args, **kwargs):
            with self.within(part):
                return function(*args, **kwargs)

        return call

    def counted(self, method: Callable) -> Callable:
        """Return a tensor's method that does the same, and counts as a read of the part that calls it."""

        def call(*args, **kwargs):
            self.reads[self.stack[-1]] += 1
            return method(*args, **kwargs)

        return call

    def lap(self) -> tuple[Counter, Counter]:
        """Return the seconds and reads by part since the last lap."""
        self._add_seconds()
        lap = self.seconds, self.reads
        self.seconds, self.reads = Counter(), Counter()
        return lap


class TimedLoader:
    """The first `steps` batches of a loader; waiting for them counts for the part data."""

    def __init__(self, loader: Iterable, steps: int, watch: Stopwatch):
        self.loader, self.steps, self.watch = loader, steps, watch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator:
        with self.watch.within("data"):
            batches = iter(self.loader)
        for _ in range(self.steps):
            with self.watch.within("data"):
                batch = next(batches)
            yield batch


def measure_steps(bench: Bench, warmup: int, steps: int) -> list[tuple[Counter, Counter]]:
    """Train as train.py does; returns the seconds and reads by part of each step after the warm-up."""
    runtime, args = init_runtime("cpu"), bench.settings()
    data, _ = dataset.open_dataset(bench.data[0], 1, vars(args), args.cache_mb)
    loader = dataset.train_loader(data, args.batch_size, 1 if bench.tiny else 2)
    steps = min(warmup + steps, len(loader))
    state = train.build_state(args, runtime, steps)
    precision, criterion = state.precision, engine.build_criterion(args.loss)
    watch, laps = Stopwatch(), []
    timed = [
        (state.model, "forward", "forward"),
        (precision, "step", "backward"),
        (precision.optimizer, "step", "optimizer"),
        (criterion, "forward", "loss"),
        (engine, "iou_score", "metric"),
        (Runtime, "sum_async", "sum and read-back"),
        (PendingValues, "wait", "sum and read-back"),
        (utils, "progress_line", "line"),
    ]
    replacements = [(owner, name, watch.timed(part, getattr(owner, name))) for owner, name, part in timed]
    replacements.append((utils, "print", watch.timed("line", print)))
    replacements += [(torch.Tensor, name, watch.counted(getattr(torch.Tensor, name))) for name in READING_METHODS]
    with replaced(*replacements), silence():
        watch.lap()
        timed_loader = TimedLoader(loader, steps, watch)
        engine.train_one_epoch(state, timed_loader, criterion, callbacks=[lambda: laps.append(watch.lap())])
    return laps[min(warmup, steps - 1) :]


def run(bench: Bench) -> None:
    """Add this part's rows."""
    laps = measure_steps(bench, *((1, 2) if bench.tiny else (4, 4 * bench.args.repeats)))
    size = f"UNet, batch {bench.batch_size}, {bench.data[1]}"
    for part in PARTS:
        seconds = statistics.median(seconds[part] for seconds, _ in laps)
        bench.add("step", f"{part} ({size})", "ms", ours=1e3 * seconds)
    total = [sum(seconds.values()) for seconds, _ in laps]
    other = [sum(seconds[part] for part in seconds if part not in COMPUTING) for seconds, _ in laps]
    bench.add("step", "all", "ms", ours=1e3 * statistics.median(total))
    goal = Goal("ours", most=MAX_OTHER_MS)
    bench.add("step", "all but forward, backward, optimizer", "ms", ours=1e3 * statistics.median(other), goal=goal)
    # On the CPU, a read waits for nothing. A test counts what would wait on an accelerator.
    reads = Counter(part for _, reads in laps for part in reads.elements())
    for part, count in reads.items():
        bench.add("step", f"reads of tensors in {part} (for information)", "reads", ours=count / len(laps))
