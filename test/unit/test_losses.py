# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The losses against their formulas in NumPy, one image and class at a time."""

import re

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from losses import LOSSES, BCEDiceLoss, BCEWithLogitsLoss, BorderLoss, DeepSupervisionLoss, LovaszHingeLoss


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def bce(x: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    p = sigmoid(x)
    return float(np.mean(-t * np.log(p) - (1 - t) * np.log(1 - p))), (p - t) / x.size


def bce_dice(x: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    value, gradient = bce(x, t)
    value, gradient = 0.5 * value + 1, 0.5 * gradient
    for n in range(len(x)):
        p = sigmoid(x[n])
        upper, lower = 2 * np.sum(p * t[n]) + 1e-5, np.sum(p) + np.sum(t[n]) + 1e-5
        value -= upper / lower / len(x)
        gradient[n] -= (2 * t[n] * lower - upper) / lower**2 * p * (1 - p) / len(x)
    return value, gradient


def lovasz_of_one(x: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    """Berman et al. 2018, algorithm 1, for one class of one image: the pixels become wrong one by one."""
    x, t = x.ravel(), t.ravel()
    value, gradient = 0.0, np.zeros_like(x)
    total, seen_true, seen_false, before = t.sum(), 0.0, 0.0, 0.0
    for i in sorted(range(len(x)), key=lambda i: -(1 - x[i] * (2 * t[i] - 1))):
        error = 1 - x[i] * (2 * t[i] - 1)
        seen_true, seen_false = seen_true + t[i], seen_false + 1 - t[i]
        jaccard = 1 - (total - seen_true) / (total + seen_false)
        if error > 0:
            value += error * (jaccard - before)
            gradient[i] = -(2 * t[i] - 1) * (jaccard - before)
        before = jaccard
    return value, gradient


def lovasz(x: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    value, gradient, count = 0.0, np.zeros_like(x), x.shape[0] * x.shape[1]
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            one, slope = lovasz_of_one(x[n, c], t[n, c])
            value += one / count
            gradient[n, c] = slope.reshape(x.shape[2:]) / count
    return value, gradient


def border(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """BCE, in which pixels weigh 6 times as much on borders, the last class, plus 1 − mean Dice of the classes."""
    probability = sigmoid(logits)
    weight = np.broadcast_to(1 + 5 * target[:, -1:], target.shape)
    value = (weight * (np.logaddexp(0, logits) - target * logits)).mean()
    gradient = weight * (probability - target) / target.size
    slope, count = probability * (1 - probability), target.shape[1]
    for k in range(count):
        intersection = (probability[:, k] * target[:, k]).sum()
        total = probability[:, k].sum() + target[:, k].sum() + 1e-5
        dice = (2 * intersection + 1e-5) / total
        value += (1 - dice) / count
        gradient[:, k] -= slope[:, k] * (2 * target[:, k] - dice) / total / count
    return value, gradient


FORMULAS = {BCEWithLogitsLoss: bce, BCEDiceLoss: bce_dice, LovaszHingeLoss: lovasz, BorderLoss: border}
every_loss = pytest.mark.parametrize("cls", FORMULAS)
TARGETS = ["soft", "hard", "empty", "full"]


def sample(kind: str = "soft", shape: tuple[int, ...] = (3, 2, 5, 7), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and targets, float64."""
    rng = np.random.default_rng((seed, TARGETS.index(kind)))
    logits, target = 2 * rng.standard_normal(shape), rng.uniform(0, 1, shape)
    if kind == "soft":  # mostly 0 and 1, with soft edges between
        target = np.clip(3 * target - 1, 0, 1)
    else:
        target = {"hard": (target > 0.6) * 1.0, "empty": 0 * target, "full": 0 * target + 1}[kind]
    return logits, target


def value_and_gradient(loss: torch.nn.Module, logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    logits = torch.tensor(logits, requires_grad=True)
    value = loss(logits, torch.tensor(target))
    assert value.shape == ()
    value.backward()
    return value.item(), logits.grad.numpy()


def test_the_table_names_its_classes() -> None:
    assert {name: cls.__name__ for name, cls in LOSSES.items()} == {name: name for name in LOSSES}
    assert set(LOSSES.values()) == set(FORMULAS)


@every_loss
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("shape", [(3, 2, 5, 7), (1, 1, 1, 1), (2, 1, 8, 8)], ids=str)
def test_value_and_gradient(cls: type, kind: str, shape: tuple[int, ...]) -> None:
    logits, target = sample(kind, shape)
    value, gradient = value_and_gradient(cls(), logits, target)
    expected, slope = FORMULAS[cls](logits, target)
    assert value == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-12)


@every_loss
def test_value_in_float32(cls: type) -> None:
    logits, target = sample("soft", (2, 1, 96, 96))
    value, _ = value_and_gradient(cls(), logits.astype(np.float32), target.astype(np.float32))
    assert value == pytest.approx(FORMULAS[cls](logits, target)[0], rel=1e-5)


@pytest.mark.parametrize("kind", TARGETS)
def test_lovasz_gradient_by_finite_differences(kind: str) -> None:
    """The loss is piecewise linear: a small step stays inside a piece if no two errors are equal and none is zero."""
    logits, target = sample(kind, (2, 2, 3, 4), seed=1)
    errors = np.sort((1 - logits * (2 * target - 1)).reshape(4, -1))
    assert np.diff(errors).min() > 1e-4 and np.abs(errors).min() > 1e-4
    loss, step = LovaszHingeLoss(), 1e-6
    _, gradient = value_and_gradient(loss, logits, target)
    for i in np.ndindex(logits.shape):
        ends = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[i] += sign * step
            ends.append(loss(torch.tensor(moved), torch.tensor(target)).item())
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(gradient[i], abs=1e-7)


def test_lovasz_values_by_hand() -> None:
    """For an empty mask only the largest error counts; for predictions of ±1 the loss is twice the Jaccard loss."""
    loss = LovaszHingeLoss()
    logits = torch.tensor([[[[-3.0, 0.5], [-0.2, -1.5]]]])
    assert loss(logits, torch.zeros(1, 1, 2, 2)).item() == pytest.approx(1.5)
    assert loss(logits - 2, torch.zeros(1, 1, 2, 2)).item() == 0
    # predicted {0, 1}, true {1, 2}: IoU 1/3; a wrong pixel has an error of 2, a correct one of 0
    predicted, true = torch.tensor([[[[1.0, 1.0, -1.0, -1.0]]]]), torch.tensor([[[[0.0, 1.0, 1.0, 0.0]]]])
    assert loss(predicted, true).item() == pytest.approx(2 * (1 - 1 / 3))


@every_loss
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_finite(cls: type, kind: str, scale: float) -> None:
    logits, target = sample(kind)
    value, gradient = value_and_gradient(cls(), (logits * scale).astype(np.float32), target.astype(np.float32))
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("cls", [BCEWithLogitsLoss, BCEDiceLoss, LovaszHingeLoss])
def test_a_batch_is_the_mean_of_its_images(cls: type) -> None:
    logits, target = (torch.tensor(x) for x in sample("soft", (5, 2, 6, 6)))
    target[1], target[3] = 0, 1
    loss = cls()
    singles = [loss(logits[n : n + 1], target[n : n + 1]).item() for n in range(5)]
    assert loss(logits, target).item() == pytest.approx(np.mean(singles), rel=1e-12)
    assert max(singles) - min(singles) > 0.01


def test_lovasz_takes_each_class_alone() -> None:
    """The older editions sorted the pixels of all classes together, which was a fault."""
    logits, target = (torch.tensor(x) for x in sample("soft", (2, 3, 6, 6)))
    loss = LovaszHingeLoss()
    alone = [loss(logits[:, k : k + 1], target[:, k : k + 1]).item() for k in range(3)]
    together = loss(logits, target).item()
    assert together == pytest.approx(np.mean(alone), rel=1e-12)
    assert together != pytest.approx(loss(logits.reshape(2, 1, 18, 6), target.reshape(2, 1, 18, 6)).item(), rel=1e-3)


def test_dice_takes_classes_together() -> None:
    logits, target = (torch.tensor(x) for x in sample("hard", (2, 3, 6, 6)))
    target[:, 1] = 0
    flat = [x.reshape(2, 1, 18, 6) for x in (logits, target)]
    assert BCEDiceLoss()(logits, target).item() == pytest.approx(BCEDiceLoss()(*flat).item(), rel=1e-12)
    alone = [BCEDiceLoss()(logits[:, k : k + 1], target[:, k : k + 1]).item() for k in range(3)]
    assert BCEDiceLoss()(logits, target).item() != pytest.approx(np.mean(alone), rel=1e-3)


class Recorder(TorchDispatchMode):
    """Records every operator that is run on the device."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operators(cls: type, batch: int, classes: int) -> list[str]:
    logits, target = (torch.tensor(x) for x in sample("soft", (batch, classes, 6, 6)))
    logits.requires_grad_()
    with Recorder() as recorder:
        cls()(logits, target).backward()
    return recorder.names


@every_loss
def test_operators_do_not_grow_with_the_batch(cls: type) -> None:
    """The older editions looped over the images, with five synchronizations per step."""
    names = operators(cls, 2, 1)
    assert names == operators(cls, 16, 1) == operators(cls, 16, 4)
    assert any("backward" in name or "mul" in name for name in names)  # the recorder works
    assert [name for name in names if re.search("local_scalar_dense|item|nonzero|_to_cpu", name)] == []


def test_the_recorder_sees_a_copy_to_the_host() -> None:
    with Recorder() as recorder:
        torch.ones(2).sum().item()
    assert any("_local_scalar_dense" in name for name in recorder.names)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(cls: type, dtype: torch.dtype) -> None:
    logits, target = (torch.tensor(x).to(dtype) for x in sample("soft", (2, 1, 96, 96)))
    logits.requires_grad_()
    value = cls()(logits, target)
    value.backward()
    wide = logits.detach().float().requires_grad_()
    expected = cls()(wide, target.float())
    expected.backward()
    assert value.dtype == torch.float32 and logits.grad.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(logits.grad, wide.grad.to(dtype), rtol=0, atol=0)


@every_loss
@pytest.mark.parametrize(
    "logits, target",
    [((2, 1, 4, 4), (2, 2, 4, 4)), ((2, 1, 4, 4), (2, 4, 4)), ((4, 4), (4, 4)), ((2, 1, 4, 4), (1, 1, 4, 4))],
    ids=str,
)
def test_errors_name_the_shapes(cls: type, logits: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Without the check, (2, 1, 4, 4) and (1, 1, 4, 4) would be broadcast and give a wrong number silently."""
    with pytest.raises(ValueError) as error:
        cls()(torch.zeros(logits), torch.zeros(target))
    assert str(logits) in str(error.value) and str(target) in str(error.value)


@every_loss
def test_integers_are_refused(cls: type) -> None:
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        cls()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.uint8))


@every_loss
@pytest.mark.parametrize("container", [list, tuple])
def test_deep_supervision_is_the_mean_over_heads(cls: type, container: type) -> None:
    heads = [torch.tensor(sample("soft", seed=k)[0]) for k in range(4)]
    target = sample("soft")[1]
    expected = np.mean([FORMULAS[cls](head.numpy(), target)[0] for head in heads])
    loss = DeepSupervisionLoss(cls())
    assert loss(container(heads), torch.tensor(target)).item() == pytest.approx(expected, rel=1e-10)
    assert loss(heads[0], torch.tensor(target)).item() == cls()(heads[0], torch.tensor(target)).item()


def test_deep_supervision_trains_every_head() -> None:
    logits, target = sample("soft")
    heads = [torch.tensor(logits, requires_grad=True) for _ in range(4)]
    DeepSupervisionLoss(LovaszHingeLoss())(heads, torch.tensor(target)).backward()
    for head in heads:
        np.testing.assert_allclose(head.grad, lovasz(logits, target)[1] / 4, atol=1e-12)


def test_deep_supervision_needs_a_head() -> None:
    with pytest.raises(ValueError, match="head"):
        DeepSupervisionLoss(BCEDiceLoss())([], torch.zeros(1, 1, 4, 4))
