"""A training epoch on an accelerator, in whose place the CPU notes what it is handed and when it is asked."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import amp
import engine
import runtime as rt

BATCH = (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), {"img_id": ["a", "b"]})


@dataclass
class Clock:
    """Seconds that pass where a test says so, in place of time.perf_counter."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Device(rt.Runtime):
    """Computes on the CPU, but says that it is faster than the program and works on its own."""

    accelerated = True
    done: list

    def fetch(self, numbers):
        """The numbers, noting when they are asked for."""
        step = sum(what == "forward" for what, _ in self.done)
        return rt.Later(numbers, Arrival(self.done, step))


@dataclass
class Arrival:
    """Stands in for a device's event."""

    done: list
    step: int

    def synchronize(self) -> None:
        self.done.append(("asked", self.step))


def train(steps: int, world_size: int, monkeypatch, loading: float = 1.0) -> tuple[list, dict[str, float], list[float]]:
    """What was done in an epoch of so many steps, its result, and the steps' seconds; only loading takes time."""
    clock, done = Clock(), []
    monkeypatch.setattr(engine.time, "perf_counter", clock)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.mul_(world_size))
    runtime = Device(torch.device("cpu"), 0, 0, world_size)
    object.__setattr__(runtime, "done", done)

    class Loader:
        def __len__(self):
            return steps

        def __iter__(self):
            for _ in range(steps):
                clock.now += loading
                yield BATCH

    model = nn.Conv2d(3, 1, 1)
    model.register_forward_hook(lambda *_: done.append(("forward", sum(what == "forward" for what, _ in done) + 1)))
    precision = amp.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1), runtime, "O0", 1.0)
    so_far = engine.EpochSoFar()
    criterion = engine.build_criterion("BCEWithLogitsLoss")
    result = engine.train_epoch(model, Loader(), criterion, precision, runtime, 0, so_far)
    return done, result, so_far.seconds


def test_a_step_is_asked_for_once_the_next_one_is_under_way(monkeypatch):
    done, _, _ = train(14, 1, monkeypatch)
    asked = {step: done.index(("asked", step)) for step in range(1, 15)}
    for step in range(1, 14):
        # but for the last of those that the speed leaves out
        later = done.index(("forward", step + 1)) < asked[step]
        assert later == (step != 9), step
    assert asked == dict(sorted(asked.items(), key=lambda item: item[1])), "in their order"


@pytest.mark.parametrize(
    "steps, world_size", [(1, 1), (2, 1), (5, 1), (9, 1), (10, 1), (33, 1), (2, 8), (4, 8), (33, 8)]
)
def test_the_speed_of_an_epoch_whose_data_are_slow(steps, world_size, monkeypatch):
    """A batch a second, by definition; the device takes no time. No step is counted with another one's second."""
    _, result, seconds = train(steps, world_size, monkeypatch)
    assert sum(seconds) == pytest.approx(steps)
    assert result["fps"] == pytest.approx(2 * world_size)


def test_what_the_speed_leaves_out():
    expected = {(1, 1): 0, (2, 1): 1, (9, 1): 1, (10, 1): 9, (33, 1): 9, (3, 8): 1, (4, 8): 3}
    assert {key: engine.left_out(*key) for key in expected} == expected
