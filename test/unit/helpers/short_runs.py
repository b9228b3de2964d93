# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Short training runs within the process of the tests, which can be disturbed at a chosen step."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

import engine
import options
import train

RUN = Path("models/run")
REAL_BUILD_CRITERION = engine.build_criterion


def train_run(*flags: str) -> None:
    """Train on inputs/discs for 3 epochs of 3 steps and 1 validation batch; the files are in RUN."""
    train.main(options.parse_train(["inputs/discs", *TINY, "--epochs", "3", "--name", RUN.name, *flags]))


class RandomLoss(torch.nn.Module):
    """A loss that uses every random generator, and that does something at some of its calls."""

    def __init__(self, loss: str, actions: Mapping[int, Callable[[], None]]):
        """actions: by the number of the call, from 1."""
        super().__init__()
        self.loss, self.actions, self.calls = REAL_BUILD_CRITERION(loss), actions, 0

    def forward(self, output, target):
        self.calls += 1
        if self.calls in self.actions:
            self.actions[self.calls]()
        factor = 1 + 0.01 * (random.random() + np.random.rand() + torch.rand(()).item())
        return self.loss(output, target) * factor


def disturb(monkeypatch: pytest.MonkeyPatch, actions: Mapping[int, Callable[[], None]]) -> None:
    """Let the next runs use RandomLoss: an undisturbed epoch calls it four times, three times to train."""
    monkeypatch.setattr(engine, "build_criterion", lambda loss: RandomLoss(loss, actions))


def crash() -> None:
    """End the run as a failure of the program would: nothing is saved."""
    raise KeyboardInterrupt


def use_fixed_scores(monkeypatch: pytest.MonkeyPatch, *ious: float, loss: float = 1.0) -> None:
    """Replace validation: epoch after epoch it finds these IoUs, the last one again and again, and this loss."""
    remaining = list(ious)

    def evaluate(*_args, **_kwargs) -> dict[str, float]:
        iou = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return {"loss": loss, "iou": iou, "dice": iou}

    monkeypatch.setattr(engine, "evaluate", evaluate)


def skip_training(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Replace the steps of an epoch by one of the optimizer; returns a list of its settings, one entry per epoch."""
    seen = []

    def train_one_epoch(state, *_args) -> dict[str, float]:
        optimizer = state.precision.optimizer
        seen.append({**optimizer.param_groups[0], "averages": len(optimizer.state), "epoch": state.epoch})
        optimizer.step()
        return {"loss": 1.0, "iou": 0.5, "fps": 1.0}

    monkeypatch.setattr(engine, "train_one_epoch", train_one_epoch)
    return seen
