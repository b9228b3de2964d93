# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The bookkeeping of StepGraph, with a stand-in for the graph of a device."""

import re

import pytest
import torch
from conftest import TINY
from helpers.fake_graph import FakeGraph
from torch import Tensor

import options
import train
from runtime.distributed import Runtime, init_runtime
from runtime.errors import InputError
from runtime.graph import ORDINARY_STEPS, StepGraph

CPU = init_runtime("cpu")


class Steps:
    """A step function that adds its batch to a sum, as an optimizer changes weights."""

    def __init__(self):
        self.total, self.calls = torch.zeros(2), 0

    def __call__(self, batch: Tensor, offset: Tensor) -> Tensor:
        self.calls += 1
        self.total += batch.sum(0) + offset
        return torch.stack([self.total.sum(), batch.sum(), offset.sum()])


def batch(step: int, size: int = 3) -> tuple[Tensor, Tensor]:
    return torch.full((size, 2), float(step)), torch.tensor([step / 8, 0.5])


def assert_sequence(graph: StepGraph, sizes: list[int]) -> Steps:
    """Do a step for each batch size, and compare all numbers and sums with plain steps."""
    steps, plain = Steps(), Steps()
    for number, size in enumerate(sizes):
        found = graph(steps, *batch(number, size)).tolist()
        assert found == plain(*batch(number, size)).tolist(), number
        assert torch.equal(steps.total, plain.total), number
    return steps


def test_ordinary_steps_then_replays(capsys):
    fake = FakeGraph()
    steps = assert_sequence(StepGraph(CPU, fake), [3] * 20)
    assert fake.events == ["warm_up"] * ORDINARY_STEPS + ["capture"] + ["replay"] * (20 - ORDINARY_STEPS)
    assert steps.calls == 20
    assert f"step {ORDINARY_STEPS + 1} of this process and later ones" in capsys.readouterr().out


def test_the_batch_is_copied_to_the_same_tensors():
    fake = FakeGraph()
    graph = StepGraph(CPU, fake)
    assert_sequence(graph, [3] * 13)
    addresses, own = [x.data_ptr() for x in graph.inputs], [batch(50), batch(51)]
    for inputs in own:
        graph(Steps(), *inputs)
    assert [x.data_ptr() for x in graph.inputs] == addresses
    assert torch.equal(graph.inputs[0], own[1][0]) and graph.inputs[0] is not own[1][0]


def test_another_shape_is_an_ordinary_step():
    fake = FakeGraph()
    assert_sequence(StepGraph(CPU, fake), [3] * (ORDINARY_STEPS + 3) + [2, 3, 1, 3])
    assert fake.events[ORDINARY_STEPS:] == ["capture", *["replay"] * 3, "warm_up", "replay", "warm_up", "replay"]


def test_a_failed_capture_loses_no_step(capsys):
    fake = FakeGraph(error=RuntimeError("operation not permitted\nwhen stream is capturing"))
    assert_sequence(StepGraph(CPU, fake), [3] * 20)
    assert fake.events == ["warm_up"] * ORDINARY_STEPS + ["capture"]
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    cause = r"RuntimeError at fake_graph.py:\d+: operation not permitted when stream is capturing\); training goes on"
    assert len(warnings) == 1 and re.search(cause, warnings[0])


def test_without_a_graph_all_steps_are_ordinary(capsys):
    graph = StepGraph(CPU)
    assert assert_sequence(graph, [3] * 20).calls == 20
    assert not graph.inputs and capsys.readouterr().out == ""


class WithGraphs(Runtime):
    """A CPU that claims to have graphs."""

    def new_graph(self) -> FakeGraph:
        return FakeGraph()

    def adam(self, parameters, lr: float, weight_decay: float = 0.0, decoupled: bool = False):
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        return kind(parameters, lr=lr, weight_decay=weight_decay, fused=True)


def has_graph(*flags: str, runtime: Runtime | None = None) -> bool:
    """Do the steps of a run with these flags run as a graph?"""
    args = options.parse_train([*TINY, "--amp", "--epochs", "1", "--cuda_graph", "auto", *flags])
    state = train.build_state(args, runtime or WithGraphs(torch.device("cpu")), steps_per_epoch=3)
    return state.step_graph.graph is not None


@pytest.mark.usefixtures("narrow")
def test_when_a_graph_is_used(monkeypatch):
    for level in ("O0", "O1", "O2", "O3"):
        assert has_graph("--opt_level", level) and has_graph("--opt_level", level, "--cuda_graph", "on")
    assert has_graph("--no-amp") and has_graph("--optimizer", "AdamW") and not has_graph("--cuda_graph", "off")
    two = WithGraphs(torch.device("cpu"), world_size=2)
    monkeypatch.setattr("engine.wrap_ddp", lambda model, runtime: model)
    for flags, runtime, reason in (
        (("--loss_scale", "-1"), None, "loss scale is not capturable"),
        (("--optimizer", "SGD"), None, "with this optimizer"),
        (("--profiling", "GE"), None, "--profiling"),
        ((), two, "several processes"),
        ((), CPU, "has no graphs"),
    ):
        assert not has_graph(*flags, runtime=runtime)
        with pytest.raises(InputError, match=f"--cuda_graph on: .*{reason}"):
            has_graph(*flags, "--cuda_graph", "on", runtime=runtime)
