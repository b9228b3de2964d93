# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Part epoch_pause of benchmarks/run.py: the time between two epochs, against one plain save of the same state."""

import os
import statistics
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

import dataset
import train
import utils
from benchmarks.measure import Bench, Goal, replaced, silence
from runtime.checkpoint import CheckpointSaver
from runtime.distributed import init_runtime
from runtime.state import TrainingState

PROGRESS_LINE, BATCHES = utils.progress_line, utils.MetricLogger.batches


class PauseTimer:
    """Measures each pause of a run, from the last `Test` line to the beginning of the next step.

    After each pause, before the step, it waits until the files are written, and then saves the state plainly.
    """

    def __init__(self, state: TrainingState, saver: CheckpointSaver):
        self.state, self.saver, self.last_line = state, saver, None
        self.seconds: dict[str, list[float]] = {"pause": [], "until written": [], "plain": []}

    def progress_line(self, prefix: str, *rest) -> str:
        """Replace utils.progress_line: note the time of each line of the validation."""
        if prefix.startswith("Test"):
            self.last_line = time.perf_counter()
        return PROGRESS_LINE(prefix, *rest)

    def batches(self, logger: utils.MetricLogger, loader: Iterable, epoch: int) -> Iterator:
        """Replace MetricLogger.batches, with which the first step of an epoch begins."""
        if self.last_line:
            begin = time.perf_counter()
            self.seconds["pause"].append(begin - self.last_line)
            self.saver.wait()
            self.seconds["until written"].append(time.perf_counter() - begin)
            self.seconds["plain"].append(self.save_plainly())
        yield from BATCHES(logger, loader, epoch)

    def save_plainly(self) -> float:
        """Save what the checkpoint holds to another file, and flush it to the disk; returns the seconds."""
        contents = {**self.state.state_dict(), **self.saver.about}
        start = time.perf_counter()
        with open(self.saver.folder / "plain.pth.tar", "wb") as file:
            torch.save(contents, file)
            file.flush()
            os.fsync(file.fileno())
        return time.perf_counter() - start


def measure_pauses(args: Namespace, folder: Path, epochs: int) -> dict[str, float]:
    """Train epochs of one step as train.py does; returns the median seconds of what PauseTimer measures."""
    runtime, args.epochs = init_runtime(args.device), epochs
    data = dataset.open_dataset(Path(args.data_path), 1, vars(args), args.cache_mb)
    for part in data:
        part.ids = part.ids[: args.batch_size]  # the pause does not depend on the number of images
    train_loader, val_loader = (
        make(part, args.batch_size, 0) for make, part in zip((dataset.train_loader, dataset.val_loader), data)
    )
    state = train.build_state(args, runtime, steps_per_epoch=len(train_loader))
    saver = CheckpointSaver(folder, {"arch": args.arch, "config": vars(args), "data": {}}, None)
    folder.mkdir()
    timer = PauseTimer(state, saver)
    # a lambda, so that the logger passes itself
    batches = lambda logger, loader, epoch: timer.batches(logger, loader, epoch)  # noqa: E731
    replacements = (utils, "progress_line", timer.progress_line), (utils.MetricLogger, "batches", batches)
    with replaced(*replacements):
        train.train(args, state, saver, train_loader, val_loader)
    return {what: statistics.median(seconds) for what, seconds in timer.seconds.items()}


def run(bench: Bench) -> None:
    """Add this part's rows."""
    with silence():
        args = bench.settings()
        seconds = measure_pauses(args, bench.folder / "epoch_pause", 3 if bench.tiny else 1 + 3 * bench.args.repeats)
    pause, until_written, plain = (1e3 * seconds[what] for what in ("pause", "until written", "plain"))
    what = "UNet, from the last Test line to the next step; plain: torch.save and fsync"
    bench.add("epoch_pause", what, "ms", plain, pause, Goal("ratio", least=3))
    bench.add("epoch_pause", "from then on until all files are written", "ms", ours=until_written)
