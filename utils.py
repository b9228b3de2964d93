# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What several commands share: meters and log lines, seeds, and finding a run's folder, model and data."""

import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from runtime import names
from runtime.checkpoint import BEST
from runtime.distributed import Runtime
from runtime.errors import DivergedError, InputError

# the first steps of an epoch do not count into its speed: operators are compiled and queues filled then
WARMUP_STEPS, WARMUP_STEPS_DISTRIBUTED = 9, 3


class AverageMeter:
    """Keeps the last value and the weighted mean; prints as `name val (avg)` in the given format."""

    def __init__(self, name: str, fmt: str):
        self.name, self.fmt = name, fmt
        self.val = self.sum = self.count = 0.0

    @property
    def avg(self) -> float:
        return self.sum / self.count if self.count else 0.0

    def update(self, val: float, n: int = 1) -> None:
        self.val = val
        self.sum += val * n
        self.count += n

    def __str__(self) -> str:
        return f"{self.name} {self.val:{self.fmt}} ({self.avg:{self.fmt}})"


def progress_line(prefix: str, step: int, total: int, meters: Iterable[AverageMeter]) -> str:
    """`prefix[ step/total]⇥meter⇥meter…`, the step padded to the width of the total; harnesses grep it."""
    return "\t".join([f"{prefix}[{step:{len(str(total))}d}/{total}]", *map(str, meters)])


class MetricLogger:
    """Times the steps of a training epoch, prints their lines, and stops the run if a loss is not finite.

    On an accelerator the numbers of a step are read after the next step was launched, so that the device never waits
    for the host. All numbers are those of the whole run, over its processes.
    """

    def __init__(self, runtime: Runtime, save_steps: int = 0, count_warmup: bool = False):
        """count_warmup: the first steps of an epoch count into its speed too."""
        self.runtime, self.save_steps, self.count_warmup = runtime, save_steps, count_warmup
        self.stop_requested = False
        self.reset()

    def reset(self) -> None:
        self.step = 0  # the last one whose numbers were read
        self.seconds: list[float] = []  # of each step
        self.batch_size = 0  # over all processes
        self.skipped = 0  # steps, because their gradients overflowed
        self.unreadable = 0  # images that were replaced by others
        formats = {"Time": "6.3f", "Data": "6.3f", "Loss": "6.8f", "Iou": "6.4f"}
        self.meters = {name: AverageMeter(name, fmt) for name, fmt in formats.items()}

    def batches(self, loader: Iterable, epoch: int) -> Iterator:
        """Yield the loader's batches, which continue after the steps already done; epochs count from 0."""
        self.epoch, self.total = epoch, len(loader)
        # the last step of the epoch, and of the warm-up, so that the time of the counted steps is complete
        self.read_at_once = {self.total, warmup_steps(self.total, self.runtime.world_size)}
        self.pending = deque()
        self.step_start = self.wait_start = time.perf_counter()
        for step, batch in enumerate(loader, self.step + 1):
            self.current = step
            self.waited = time.perf_counter() - self.wait_start
            yield batch

    @property
    def is_last_step(self) -> bool:
        return self.current == self.total

    @property
    def is_save_step(self) -> bool:
        return self.save_steps > 0 and self.current % self.save_steps == 0

    def record(self, batch_size: int, numbers: torch.Tensor, unreadable: int, stop: bool) -> None:
        """Take in a step of this process, and print what has arrived.

        numbers: loss, IoU, and 1 if the step was skipped, else 0. The next step may overwrite them.
        """
        values = self.runtime.sum_async(numbers, self.waited, unreadable, stop)
        self.pending.append((self.current, batch_size, values))
        read_at_once = self.is_save_step or self.current in self.read_at_once
        max_pending = 0 if read_at_once else int(self.runtime.is_accelerator)
        while len(self.pending) > (0 if self.stop_requested else max_pending):
            self._read_and_print(*self.pending.popleft())

    def _read_and_print(self, step: int, batch_size: int, values) -> None:
        world_size = self.runtime.world_size
        *totals, unreadable, stops = values.wait()
        now = time.perf_counter()
        seconds, self.step_start = now - self.step_start, now
        # a plain mean, since all processes have equally large shares of the batch
        loss, iou, skipped, waited = (total / world_size for total in totals)
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} in epoch {self.epoch + 1}, step {step}")
        self.step, self.batch_size = step, batch_size * world_size
        self.seconds.append(seconds)
        self.skipped += round(skipped)
        self.unreadable += round(unreadable)
        self.meters["Time"].update(seconds)
        self.meters["Data"].update(waited)
        self.meters["Loss"].update(loss, self.batch_size)
        self.meters["Iou"].update(iou, self.batch_size)
        self.stop_requested |= bool(stops)
        print(progress_line(f"Epoch: [{self.epoch + 1}]", step, self.total, self.meters.values()), flush=True)

    @contextmanager
    def paused(self):
        """Exclude the time spent in this context from the steps' times."""
        start = time.perf_counter()
        yield
        self.wait_start = time.perf_counter()
        self.step_start += self.wait_start - start

    def finish_epoch(self) -> dict[str, float]:
        """Print the epoch's speed, and return its `loss`, `iou` and `fps`."""
        fps = images_per_second(self.batch_size, self.seconds, self.runtime.world_size, self.count_warmup)
        # "npu id" on every device: harnesses grep it
        print(f"[npu id: {self.runtime.device_id} ] * FPS@all {fps:.3f}", flush=True)
        if self.skipped:
            print(f"{self.skipped} of {self.step} steps were skipped: their gradients overflowed", flush=True)
        if self.unreadable:
            print(f"{self.unreadable} unreadable images were replaced by others in this epoch", flush=True)
        return {"loss": self.meters["Loss"].avg, "iou": self.meters["Iou"].avg, "fps": fps}

    def state_dict(self) -> dict:
        counts = {name: getattr(self, name) for name in ("step", "batch_size", "skipped", "unreadable")}
        meters = {name: [meter.val, meter.sum, meter.count] for name, meter in self.meters.items()}
        return counts | {"seconds": list(self.seconds), "meters": meters}

    def load_state_dict(self, state: dict) -> None:
        """Continue from a state_dict; raises KeyError, TypeError or ValueError if `state` is not one."""
        for key in ("step", "batch_size", "skipped", "unreadable"):
            setattr(self, key, int(state[key]))
        self.seconds = [float(seconds) for seconds in state["seconds"]]
        if len(self.seconds) != self.step or not all(seconds > 0 for seconds in self.seconds):
            raise ValueError(f"{self.step} steps, but not as many times")
        for name, meter in self.meters.items():
            meter.val, meter.sum, meter.count = map(float, state["meters"][name])


class ValidationLogger:
    """Averages the scores of the batches of a validation pass, weighted by their size, and prints a line for each.

    On an accelerator the numbers of a batch are read after the next batch was launched, so that the device never waits
    for the host. All numbers are those of the whole run, over its processes.
    """

    def __init__(self, runtime: Runtime, steps: int):
        """steps: number of batches of the process that has most of them."""
        self.runtime, self.steps = runtime, steps
        self.step = 0  # the last one whose numbers were read
        self.unreadable = 0  # images that were left out
        self.stop_requested = False
        self.batch_time, self.loss = AverageMeter("Time", "6.3f"), AverageMeter("Loss", ".4e")
        self.iou, self.dice = AverageMeter("Iou", "6.4f"), AverageMeter("Dice", "6.4f")
        self.pending, self.start = deque(), time.perf_counter()

    def record(self, scores: Iterable, meta: Mapping, stop: bool, on_read: Callable[[], None] | None = None) -> None:
        """Take in a batch of this process, and print what has arrived.

        scores: the number of images, and loss, IoU and Dice times this number, as numbers or tensors of one number; 0
        without a batch. meta: of the batch. on_read: is called before the batch's line is printed.
        """
        values = self.runtime.sum_async(*scores, len(meta.get("unreadable", ())), stop)
        self.pending.append((values, meta, on_read))
        is_last = self.step + len(self.pending) == self.steps
        while len(self.pending) > (0 if is_last or self.stop_requested else int(self.runtime.is_accelerator)):
            self._read_and_print(*self.pending.popleft())

    def _read_and_print(self, values, meta: Mapping, on_read: Callable[[], None] | None) -> None:
        count, *totals, unreadable, stops = values.wait()
        if on_read:
            on_read()
        report_unreadable(meta)
        for meter, total in zip((self.loss, self.iou, self.dice), totals):
            if count:
                meter.update(total / count, count)
        self.step += 1
        self.unreadable += int(unreadable)
        self.stop_requested |= bool(stops)
        now = time.perf_counter()
        self.batch_time.update(now - self.start)
        self.start = now
        print(progress_line("Test: ", self.step, self.steps, (self.batch_time, self.loss, self.iou)), flush=True)

    def finish(self) -> dict[str, float]:
        """Print the IoU, and return `loss`, `iou` and `dice`; raises InputError if no image could be read."""
        if not self.loss.count:
            raise InputError("no image to validate with could be read; they are named above")
        if self.unreadable:
            print(f"{self.unreadable} unreadable images were left out of the validation", flush=True)
        # "npu id" on every device: harnesses grep it
        print(f"[npu id: {self.runtime.device_id} ] [AVG-IOU] * Iou {self.iou.avg:.4f}", flush=True)
        return {"loss": self.loss.avg, "iou": self.iou.avg, "dice": self.dice.avg}


def report_unreadable(meta: Mapping) -> int:
    """Print why images of a batch could not be read; returns their number."""
    for reason in meta.get("unreadable", ()):
        print(f"warning: skipped: {reason}", flush=True)
    return len(meta.get("unreadable", ()))


def warmup_steps(steps: int, world_size: int = 1) -> int:
    """Return how many of an epoch's first steps do not count into its speed; only the first if none would remain."""
    most = WARMUP_STEPS_DISTRIBUTED if world_size > 1 else WARMUP_STEPS
    return most if steps > most else int(steps > 1)


def images_per_second(
    batch_size: int, step_seconds: list[float], world_size: int = 1, count_warmup: bool = False
) -> float:
    """Return the global batch size ÷ the mean time of the steps after the warm-up, or of all steps."""
    counted = step_seconds if count_warmup else step_seconds[warmup_steps(len(step_seconds), world_size) :]
    return batch_size * len(counted) / sum(counted)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def run_folder(name: str, parent: str = "models") -> Path:
    """Return `<parent>/<name>`; raises InputError if the name would lead out of the parent folder."""
    if not names.is_safe(name) or name.startswith("-"):
        raise InputError(
            f"--name {names.printable(repr(name))}: use a plain folder name, without slashes, control characters or a "
            "leading dash, and not too long"
        )
    return Path(parent) / name


def find_model(name: str) -> Path:
    """Return a run's best model, or the GPU edition's `model.pth`; raises InputError if the run has neither."""
    folder = run_folder(name)
    for path in (folder / BEST, folder / "model.pth"):
        if path.is_file():
            return path
    raise InputError(f"{folder}: no {BEST} or model.pth there; train it first, or give another --name")


def find_data(data_path: str | None, settings: Mapping, dataset: str | None = None) -> Path:
    """Return the folder of `--data_path` or `--dataset`, else that of the training; raises InputError if it is gone."""
    if data_path or dataset:
        return Path(data_path) if data_path else Path("inputs") / dataset
    fallback, recorded = Path("inputs") / settings["dataset"], settings.get("data_path")
    if isinstance(recorded, str) and Path(recorded).is_dir():
        return Path(recorded)
    if isinstance(recorded, str) and Path(recorded).name != fallback.name:
        raise InputError(
            f"{recorded}: the data that the model was trained on are gone; give their path "
            "(val.py --data_path DIR, demo.py --data_path DIR, train.py DIR)"
        )
    return fallback


def is_training_data(data_path: Path, settings: Mapping) -> bool:
    """Is this the folder of the images that the model was trained on, as far as `settings` record it?"""
    recorded = settings.get("data_path") or Path("inputs") / settings["dataset"]
    return Path(recorded).resolve() == data_path.resolve()
