# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A step that was captured: its operators alone, replayed, update the state as ordinary steps do."""

import math

import pytest
import torch
from conftest import TINY
from helpers.recording_graph import RecordingGraph
from torch import Tensor, nn

import engine
import options
import train
from runtime.distributed import Runtime
from runtime.graph import ORDINARY_STEPS
from runtime.precision_levels import Precision
from runtime.state import TrainingState

STEPS, OVERFLOWS = 30, (3, 15, 24)

pytestmark = pytest.mark.usefixtures("narrow")


class WithGraphs(Runtime):
    """A CPU that claims to have graphs."""

    def adam(self, parameters, lr: float, weight_decay: float = 0.0, decoupled: bool = False):
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        return kind(parameters, lr=lr, weight_decay=weight_decay, fused=True)

    def new_graph(self) -> RecordingGraph:
        return RecordingGraph(lambda: changed_tensors(self.state))


class OverflowingLoss(nn.Module):
    """A loss whose gradient overflows, once it is scaled, if `slope` is large; adds 0 to the loss."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.loss, self.bias, self.slope = engine.build_criterion("LovaszHingeLoss"), model.final.bias, torch.zeros(())

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        bias = self.bias.float()
        return self.loss(output, target) + ((bias - bias.detach()) * self.slope).sum()


def changed_tensors(state: TrainingState) -> list[Tensor]:
    moments = [value for own in state.precision.optimizer.state.values() for value in own.values()]
    own = [*moments, getattr(state.precision, "clean_steps", None), *getattr(state.precision, "gradients", [])]
    return [*state.trained_tensors.values(), *state.model.parameters(), *(x for x in own if isinstance(x, Tensor))]


def bytes_batches() -> list[list[Tensor]]:
    """Return images, masks, and a table for each image, as the loader yields them with the normalization "image"."""
    generator = torch.Generator().manual_seed(2)
    draw = lambda channels: torch.randint(0, 256, (4, channels, 16, 16), generator=generator, dtype=torch.uint8)  # noqa: E731
    return [[draw(3), draw(1), torch.rand(4, 2, 256, generator=generator)] for _ in range(STEPS)]


def train_steps(level: str, with_graph: bool) -> dict[str, Tensor]:
    """Return the numbers of each step, and all that a checkpoint would hold."""
    runtime = WithGraphs(torch.device("cpu"))
    args = options.parse_train([*TINY, "--amp", "--opt_level", level, "--ema", "0.9", "--epochs", "1"])
    torch.manual_seed(4)
    state = train.build_state(args, runtime, STEPS)
    object.__setattr__(runtime, "state", state)
    if with_graph:
        state.use_graph("on", profiling=False)
    else:
        state.precision.make_capturable()  # so that its Adam reads rates of the same precision
    criterion, numbers = OverflowingLoss(state.model), []
    step = lambda *batch: engine.training_step(state, criterion, *batch)  # noqa: E731
    state.net.train()
    for number, batch in enumerate(bytes_batches()):
        state.precision.optimizer.param_groups[0]["lr"] = 1e-3 * (1.1 + math.cos(number / 5))
        criterion.slope.fill_(3e38 if number in OVERFLOWS and level in ("O1", "O2") else 0)
        state.precision.copy_rates()
        numbers.append(state.step_graph(step, *batch).clone())
        state.after_step()
    assert bool(state.step_graph.inputs) == with_graph
    found = {
        "numbers": torch.stack(numbers),
        "scale": torch.tensor(list(state.precision.state_dict().get("loss_scaler0", {}).values())),
    }
    found |= state.precision.weights() | {f"EMA {key}": value for key, value in state.ema.module.state_dict().items()}
    moments = state.precision.optimizer.state_dict()["state"]
    return found | {f"{index} {key}": value for index, own in moments.items() for key, value in own.items()}


def differences(some: dict[str, Tensor], others: dict[str, Tensor]) -> list[str]:
    assert some.keys() == others.keys()
    return [name for name, value in some.items() if not torch.equal(value, others[name])]


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_replays_are_ordinary_steps_bit_for_bit(level: str):
    ordinary, replayed = train_steps(level, False), train_steps(level, True)
    assert differences(ordinary, replayed) == []
    skipped = ordinary["numbers"][:, 2].nonzero().flatten().tolist()
    assert skipped == (list(OVERFLOWS) if level in ("O1", "O2") else []) and OVERFLOWS[1] > ORDINARY_STEPS


def test_a_rate_that_is_not_copied_would_be_noticed(monkeypatch):
    ordinary = train_steps("O2", False)
    monkeypatch.setattr(Precision, "copy_rates", lambda own: None)
    assert differences(ordinary, train_steps("O2", True))
