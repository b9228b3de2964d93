# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Epochs on a stand-in for an accelerator: when the numbers of a step or batch are read, and what the speed counts."""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import engine
import options
import train
import utils
from runtime import checkpoint
from runtime.device import PendingValues
from runtime.distributed import Runtime
from runtime.interrupts import Interrupted
from runtime.precision import prepare
from runtime.state import TrainingState

BATCH = (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), {"img_id": ["a", "b"]})


@dataclass
class Clock:
    """Replaces time.perf_counter; its seconds pass only where a test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class FakeAccelerator(Runtime):
    """Computes on the CPU, but claims to be an accelerator, and records when numbers are read from it."""

    is_accelerator = True
    events: list[tuple[str, int]]

    def copy_to_host(self, values: torch.Tensor) -> PendingValues:
        step = sum(what == "forward" for what, _ in self.events)
        return PendingValues(values.clone(), FakeEvent(self.events, step))

    def random_state(self) -> None:
        return None


@dataclass
class FakeEvent:
    """The end of a copy from the device."""

    events: list
    step: int

    def synchronize(self) -> None:
        self.events.append(("read", self.step))


class SlowLoader:
    """Yields batches, each of which takes some seconds of the clock."""

    batch_sampler = SimpleNamespace(set_epoch=lambda epoch, start: None)

    def __init__(self, steps: int, clock: Clock, seconds: float):
        self.steps, self.clock, self.seconds = steps, clock, seconds

    def __len__(self) -> int:
        return self.steps

    def __iter__(self):
        for _ in range(self.steps):
            self.clock.now += self.seconds
            yield BATCH


def build_state(events: list, world_size: int = 1, save_steps: int = 0, steps: int = 1) -> TrainingState:
    """Return the training state of a net of one convolution, on a fake accelerator."""
    runtime = FakeAccelerator(torch.device("cpu"), 0, 0, world_size)
    object.__setattr__(runtime, "events", events)
    model = nn.Conv2d(3, 1, 1)
    model.register_forward_hook(lambda *_: events.append(("forward", sum(w == "forward" for w, _ in events) + 1)))
    precision = prepare(model, torch.optim.SGD(model.parameters(), lr=0.1), runtime, "O0", 1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(precision.optimizer, lambda epoch: 1.0)
    logger = utils.MetricLogger(runtime, save_steps)
    return TrainingState(model, precision, None, scheduler, logger, epochs=9, steps_per_epoch=steps)


def train_epoch(steps: int, world_size: int, monkeypatch, seconds: float = 1.0) -> tuple[list, dict, list[float]]:
    """Train an epoch in which only loading takes time; returns the events, the result, and the seconds of each step."""
    clock, events = Clock(), []
    monkeypatch.setattr(utils.time, "perf_counter", clock)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.mul_(world_size))
    state = build_state(events, world_size, steps=steps)
    criterion = engine.build_criterion("BCEWithLogitsLoss")
    result = engine.train_one_epoch(state, SlowLoader(steps, clock, seconds), criterion)
    return events, result, state.logger.seconds


def test_a_step_is_read_when_the_next_one_has_been_launched(monkeypatch):
    """Except the last warm-up step, so that the time of the counted steps is complete."""
    events, _, _ = train_epoch(14, 1, monkeypatch)
    read = {step: events.index(("read", step)) for step in range(1, 15)}
    for step in range(1, 14):
        later = events.index(("forward", step + 1)) < read[step]
        assert later == (step != 9), step
    assert read == dict(sorted(read.items(), key=lambda item: item[1])), "in their order"


@pytest.mark.parametrize(
    "steps, world_size", [(1, 1), (2, 1), (5, 1), (9, 1), (10, 1), (33, 1), (2, 8), (4, 8), (33, 8)]
)
def test_the_speed_of_an_epoch_whose_data_are_slow(steps, world_size, monkeypatch):
    """A batch takes a second to load, and the device no time: no step is counted with the second of another one."""
    _, result, seconds = train_epoch(steps, world_size, monkeypatch)
    assert sum(seconds) == pytest.approx(steps)
    assert result["fps"] == pytest.approx(2 * world_size)


def test_time_in_callbacks_is_not_the_steps(monkeypatch):
    """Saving and profiling do not count into the speed."""
    clock = Clock()
    monkeypatch.setattr(utils.time, "perf_counter", clock)
    state = build_state([])

    def wait() -> None:
        clock.now += 100

    criterion = engine.build_criterion("BCEDiceLoss")
    result = engine.train_one_epoch(state, SlowLoader(12, clock, 1.0), criterion, callbacks=[wait])
    assert sum(state.logger.seconds) == pytest.approx(12) and result["fps"] == pytest.approx(2)


@pytest.mark.usefixtures("unplotted")
def test_a_run_on_an_accelerator_saves_complete_steps(tmp_path, monkeypatch):
    """Each checkpoint has as many steps as its weights, though the numbers of most steps arrive late."""
    state, saved = build_state(events := [], save_steps=3, steps=10), []

    def record(contents: dict, path: Path, *_files: Path | None) -> None:
        saved.append((path.name, contents["epoch"], contents["step"], contents["launched"]))

    state_dict = state.state_dict
    monkeypatch.setattr(
        state, "state_dict", lambda: state_dict() | {"launched": sum(what == "forward" for what, _ in events)}
    )
    monkeypatch.setattr(checkpoint, "save_checkpoint", record)
    monkeypatch.setattr(engine, "evaluate", lambda *_, **__: {"loss": 1.0, "iou": 0.0, "dice": 0.0})
    args = options.parse_train(["--epochs", "2", "--save_steps", "3"])
    saver = checkpoint.CheckpointSaver(tmp_path, {"arch": "UNet", "config": {}, "data": {}}, None)
    unread = SimpleNamespace(dataset=SimpleNamespace(view=None))
    train.train(args, state, saver, SlowLoader(10, Clock(), 0), unread)
    steps = [(epoch, step, 10 * epoch + step) for epoch in (0, 1) for step in (3, 6, 9, 10)]
    expected = [(epoch + step // 10, step % 10, launched) for epoch, step, launched in steps]
    assert saved == [("checkpoint.pth.tar", *row) for row in expected]


@pytest.mark.parametrize("asked, stopped", [(1, 2), (5, 6), (9, 9), (14, 14)])
def test_a_run_on_an_accelerator_stops_with_all_steps_read(monkeypatch, asked, stopped):
    """The request of a step is read with its numbers, when the next step has been launched; that step is then read."""
    events, clock = [], Clock()
    monkeypatch.setattr(utils.time, "perf_counter", clock)
    state = build_state(events)
    launched = lambda: sum(what == "forward" for what, _ in events)  # noqa: E731
    with pytest.raises(Interrupted):
        engine.train_one_epoch(
            state, SlowLoader(14, clock, 1.0), engine.build_criterion("BCEDiceLoss"), lambda: launched() >= asked
        )
    assert launched() == state.step == len(state.logger.seconds) == stopped


class TwoPixelNet(nn.Conv2d):
    """Gives one class; records each batch that it gets."""

    def __init__(self, events: list):
        super().__init__(3, 1, 1)
        self.events, self.batches = events, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches += 1
        self.events.append(("forward", self.batches))
        return super().forward(x)


def validation_batches(sizes: list[int]) -> list[tuple]:
    """Return batches of random images and masks; a size of 0 is a batch of which no image could be read."""
    generator, batches = torch.Generator().manual_seed(2), []
    for number, size in enumerate(sizes, 1):
        images, masks = (torch.rand(size, channels, 4, 4, generator=generator) for channels in (3, 1))
        unreadable = [] if size == 3 else [f"file of batch {number}"]
        meta = {"img_id": [f"{number}.{k}" for k in range(size)], "unreadable": unreadable}
        batches.append((images, masks, meta) if size else (None, None, meta))
    return batches


def evaluate(runtime: Runtime, sizes: list[int], events: list, stop=lambda: False) -> dict[str, float]:
    torch.manual_seed(0)
    criterion = engine.build_criterion("BCEDiceLoss")
    on_batch = lambda logits, target, ids: events.append(("handed over", ids))  # noqa: E731
    return engine.evaluate(TwoPixelNet(events), validation_batches(sizes), criterion, runtime, on_batch, stop)


def untimed(printed: str) -> str:
    return re.sub(r"Time\s+\S+ \(\s*\S+\)", "", printed)


@pytest.mark.parametrize("sizes", [[3], [3, 3, 3, 2], [0, 3, 2], [3, 0], [3, 3, 0, 0, 1]], ids=str)
def test_a_validation_batch_is_read_when_the_next_one_has_been_launched(sizes, capsys):
    """Numbers, lines and their order are those of the CPU, where each batch is read at once."""
    expected = evaluate(Runtime(torch.device("cpu"), 0), sizes, at_once := [])
    lines = untimed(capsys.readouterr().out)
    runtime = FakeAccelerator(torch.device("cpu"), 0)
    object.__setattr__(runtime, "events", events := [])
    assert evaluate(runtime, sizes, events) == pytest.approx(
        expected, rel=1e-6
    )  # another memory format rounds otherwise
    assert untimed(capsys.readouterr().out) == lines
    assert lines.count("Test: [") == len(sizes) and lines.count("warning: skipped: ") == sum(s != 3 for s in sizes)
    batches = [number for number, size in enumerate(sizes, 1) if size]
    handed_over = [what for what in events if what[0] == "handed over"]
    assert handed_over == [what for what in at_once if what[0] == "handed over"]
    for earlier, later in pairwise(range(len(batches))):
        # if both batches follow each other, else the empty one between them has taken the place of the later one
        if batches[later] == batches[earlier] + 1:
            assert events.index(("forward", later + 1)) < events.index(handed_over[earlier])
            assert at_once.index(("forward", later + 1)) > at_once.index(handed_over[earlier])


def test_batches_stay_on_the_device_if_nobody_wants_them():
    """Only the sums of scores are copied, one for each batch."""
    runtime = FakeAccelerator(torch.device("cpu"), 0)
    object.__setattr__(runtime, "events", events := [])
    model, criterion = TwoPixelNet(events), engine.build_criterion("BCEDiceLoss")
    engine.evaluate(model, validation_batches([3] * 5), criterion, runtime)
    reads = [number for what, number in events if what == "read"]
    assert reads == [1, 2, 3, 4, 5] and events.index(("read", 1)) > events.index(("forward", 2))


@pytest.mark.parametrize("asked, launched", [(1, 2), (2, 3), (4, 5), (5, 5)])
def test_a_validation_on_an_accelerator_stops_with_all_lines_printed(asked, launched, capsys):
    runtime = FakeAccelerator(torch.device("cpu"), 0)
    object.__setattr__(runtime, "events", events := [])
    forwards = lambda: sum(what == "forward" for what, _ in events)  # noqa: E731
    with pytest.raises(Interrupted):
        evaluate(runtime, [3] * 5, events, lambda: forwards() >= asked)
    assert forwards() == launched == capsys.readouterr().out.count("Test: [")


def test_scores_of_a_validation_by_their_formula():
    """Means over batches, weighted by their size, from NumPy in double precision."""
    result = evaluate(Runtime(torch.device("cpu"), 0), [3, 2, 1], [])
    torch.manual_seed(0)
    net = nn.Conv2d(3, 1, 1)
    (weight, bias), ious = (p.detach().double().numpy() for p in net.parameters()), []
    for images, masks, _ in validation_batches([3, 2, 1]):
        logits = np.einsum("nchw,c->nhw", images.double().numpy(), weight[0, :, 0, 0]) + bias[0]
        found, true = logits > 0, masks[:, 0].numpy() > 0.5
        ious.append((np.sum(found & true) + 1e-5) / (np.sum(found | true) + 1e-5))
    assert result["iou"] == pytest.approx(np.average(ious, weights=[3, 2, 1]), abs=1e-6)
