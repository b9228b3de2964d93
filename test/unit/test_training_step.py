# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A training step against a plain one that is written out here, bit for bit, over 50 steps."""

import copy
import math
from collections.abc import Iterable

import pytest
import torch
from conftest import TINY
from helpers.fake_graph import FakeGraph
from torch import Tensor, nn

import archs
import engine
import options
import train
from metrics import iou_score
from runtime.distributed import init_runtime
from runtime.graph import ORDINARY_STEPS, StepGraph
from runtime.precision import prepare
from runtime.state import TrainingState

STEPS, OVERFLOWS, SCALE, DECAY = 50, (20, 33), 128.0, 0.9
CPU = init_runtime("cpu")

pytestmark = pytest.mark.usefixtures("narrow")


def batches() -> list[tuple[Tensor, Tensor, dict]]:
    """Return random images and masks, as the training loader yields them."""
    generator = torch.Generator().manual_seed(2)
    draw = lambda channels: torch.rand(4, channels, 16, 16, generator=generator)  # noqa: E731
    return [(draw(3) / 255, draw(1).round(), {"img_id": ["a"] * 4}) for _ in range(STEPS)]


class OverflowingLoss(nn.Module):
    """A loss whose gradient overflows at some of its calls, once it is scaled."""

    def __init__(self, model: nn.Module, calls: Iterable[int]):
        super().__init__()
        self.loss, self.bias, self.calls, self.call = (
            engine.build_criterion("LovaszHingeLoss"),
            model.final.bias,
            calls,
            0,
        )

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        self.call += 1
        bias = self.bias.float()
        # adds 0 to the loss, and to its gradient a number that is infinite after scaling
        return self.loss(output, target) + (bias - bias.detach()).sum() * (3e38 if self.call in self.calls else 0)


def learning_rate(step: int) -> float:
    """Return a rate that changes with each step, counted from 0."""
    return 1e-3 * (1.1 + math.cos(step / 5))


def plain_steps(model: nn.Module, level: str) -> tuple[list[list[float]], dict, dict, list[dict]]:
    """Train a net by loops over its weights; returns each step's numbers, the weights, their EMA, Adam's state."""
    masters = {name: value.detach().clone() for name, value in model.named_parameters()}
    half = level == "O2"
    for module in model.modules() if half else ():
        if isinstance(module, nn.Conv2d):
            module.to(torch.bfloat16)
    for master in masters.values():
        master.requires_grad_()
    optimizer = torch.optim.Adam(masters.values(), weight_decay=1e-4)
    criterion = OverflowingLoss(model, OVERFLOWS if half else ())
    average = {name: value.clone() for name, value in model.state_dict().items()}
    average = {name: value.float() if value.is_floating_point() else value for name, value in average.items()}
    average |= {name: master.detach().clone() for name, master in masters.items()}
    found = []
    for step, (images, target, _) in enumerate(batches()):
        optimizer.param_groups[0]["lr"] = learning_rate(step)
        model.zero_grad()
        output = model(images.bfloat16() if half else images).float()
        loss = criterion(output, target)
        (loss * (SCALE if half else 1)).backward()
        for name, parameter in model.named_parameters():
            masters[name].grad = parameter.grad.float() / (SCALE if half else 1)
        skipped = not all(torch.isfinite(master.grad).all() for master in masters.values())
        if not skipped:
            optimizer.step()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(masters[name])
            weights = model.state_dict() | masters
            decay = min(DECAY, (1 + step) / (10 + step))
            for name, value in average.items():
                value.lerp_(weights[name], 1 - decay) if value.is_floating_point() else value.copy_(weights[name])
        found.append([loss.item(), iou_score(output.detach(), target).item(), float(skipped)])
    return found, weights, average, [optimizer.state[master] for master in masters.values()]


def build_state(level: str, *flags: str) -> TrainingState:
    """Return the state of a training run of one epoch on the CPU."""
    settings = ("--amp", "--opt_level", level, "--ema", str(DECAY), "--scheduler", "ConstantLR", *flags)
    args = options.parse_train([*TINY, "--epochs", "1", "--device", "cpu", "--no-channels_last", *settings])
    torch.manual_seed(4)
    return train.build_state(args, CPU, STEPS)


def run_epoch(state: TrainingState, level: str, monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Train for an epoch with changing learning rates; returns loss, IoU and whether it was skipped of each step."""
    optimizer, found, record = state.precision.optimizer, [], state.logger.record
    optimizer.param_groups[0]["lr"] = learning_rate(0)

    def record_numbers(size: int, numbers: Tensor, *others) -> None:
        found.append(numbers.tolist())
        record(size, numbers, *others)

    def change_rate() -> None:
        optimizer.param_groups[0]["lr"] = learning_rate(len(found))

    monkeypatch.setattr(state.logger, "record", record_numbers)
    criterion = OverflowingLoss(state.model, OVERFLOWS if level == "O2" else ())
    engine.train_one_epoch(state, batches(), criterion, callbacks=[change_rate])
    return found


def assert_same(state: TrainingState, level: str, found: list[list[float]]) -> None:
    """Compare all that a run changes with the plain steps."""
    torch.manual_seed(4)
    numbers, weights, average, moments = plain_steps(archs.UNet(1, 3), level)
    assert found == numbers
    assert [step for step, (_, _, skipped) in enumerate(found, 1) if skipped] == list(
        OVERFLOWS if level == "O2" else ()
    )
    for expected, own in ((weights, state.precision.weights()), (average, state.ema.module.state_dict())):
        assert expected.keys() == own.keys()
        assert [name for name, value in expected.items() if not torch.equal(value, own[name])] == []
    adams = state.precision.optimizer.state_dict()["state"]
    for index, own in adams.items():
        for key, value in own.items():
            assert torch.equal(value, moments[index][key]), (index, key)
    unskipped = {"O2": {"loss_scaler0": {"loss_scale": SCALE, "unskipped": STEPS - OVERFLOWS[-1]}}}
    assert state.precision.state_dict() == unskipped.get(level, {})


@pytest.mark.parametrize("graph", [None, FakeGraph()], ids=["eager", "graph"])
@pytest.mark.parametrize("level", ["O0", "O2"])
def test_a_step_is_the_plain_one_bit_for_bit(level, graph, monkeypatch):
    """Also if most steps are replays of a graph."""
    state = build_state(level)
    state.step_graph = StepGraph(CPU, graph)
    assert_same(state, level, run_epoch(state, level, monkeypatch))
    assert graph is None or graph.events[-(STEPS - ORDINARY_STEPS) :] == ["replay"] * (STEPS - ORDINARY_STEPS)


def test_a_captured_step_reads_the_learning_rates_from_the_device(monkeypatch):
    """A number would stay in the graph as it was at the capture; schedulers, logs and checkpoints see numbers."""
    state = build_state("O0")
    optimizer = torch.optim.Adam(state.model.parameters(), lr=0.5, fused=True)
    state.precision = prepare(state.model, optimizer, CPU, "O0", SCALE)
    state.precision.make_capturable()
    state.step_graph, seen, found = StepGraph(CPU, FakeGraph()), [], []
    optimizer.register_step_pre_hook(lambda own, *_: seen.append(own.param_groups[0]["lr"]))

    def note_rates() -> None:
        saved = optimizer.state_dict()["param_groups"][0]["lr"]
        found.append([seen[-1].item(), type(state.learning_rate), type(saved)])

    monkeypatch.setattr(state, "after_step", note_rates)
    run_epoch(state, "O0", monkeypatch)
    assert len({rate.data_ptr() for rate in seen}) == 1
    assert [rate for rate, *_ in found] == pytest.approx([learning_rate(step) for step in range(STEPS)], rel=1e-6)
    assert {kind for _, *kinds in found for kind in kinds} == {float}
    assert optimizer.param_groups[0]["capturable"] is True


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_the_ema_follows_the_weights_of_each_level(level, monkeypatch):
    """Its lists hold the tensors that training changes: it equals the average of each step's weights."""
    state = build_state(level)
    average = copy.deepcopy(state.ema.module.state_dict())
    steps, after_step = [], state.after_step

    def average_and_step() -> None:
        decay = min(DECAY, (1 + len(steps)) / (10 + len(steps)))
        for name, value in state.precision.weights().items():
            own = average[name]
            own.lerp_(value, 1 - decay) if own.is_floating_point() else own.copy_(value)
        steps.append(decay)
        after_step()

    monkeypatch.setattr(state, "after_step", average_and_step)
    engine.train_one_epoch(state, batches()[:20], engine.build_criterion("LovaszHingeLoss"))
    found = state.ema.module.state_dict()
    assert len(steps) == 20 and [name for name in average if not torch.equal(average[name], found[name])] == []
    assert not torch.equal(found["final.weight"], state.precision.weights()["final.weight"])
