# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Part loss of benchmarks/run.py: the Lovász hinge of a whole batch against a loop over its images."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure import Bench, Goal, Side, blobs, check_same, medians
from losses import LovaszHingeLoss

MAX_OPERATORS = 30


def lovasz_grad(sorted_target: Tensor) -> Tensor:
    """Return the gradient of the Lovász extension with respect to sorted errors (Berman et al. 2018, algorithm 1)."""
    total = sorted_target.sum()
    intersection = total - sorted_target.cumsum(0)
    union = total + (1 - sorted_target).cumsum(0)
    jaccard = 1 - intersection / union
    jaccard[1:] = jaccard[1:] - jaccard[:-1]
    return jaccard


def plain_lovasz_hinge(logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss of (N, 1, H, W), computed image by image as in Berman's code and in the older editions."""
    losses = []
    for own_logits, own_target in zip(logits, target):
        own_logits, own_target = own_logits.flatten(), own_target.flatten()
        errors = 1 - own_logits * (2 * own_target - 1)
        errors, order = errors.sort(dim=0, descending=True)
        losses.append(torch.dot(F.relu(errors), lovasz_grad(own_target[order])))
    return torch.stack(losses).mean()


class OperatorCounter(TorchDispatchMode):
    """Counts the operators that torch calls in this context."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += 1
        return operator(*args, **(kwargs or {}))


def realistic_batch(batch_size: int, side: int) -> tuple[Tensor, Tensor]:
    """Return logits and target, float64 (N, 1, H, W): mostly right, with noise, and without equal errors."""
    generator = torch.Generator().manual_seed(batch_size)
    target = blobs(batch_size, side, generator).double()
    noise = torch.randn(target.shape, generator=generator, dtype=torch.float64)
    return 3 * (2 * target - 1) + 2 * noise, target


def sort_share(loss, logits: Tensor, target: Tensor, times: int) -> float:
    """Return the share of sorting in the time of the loss's forward and backward pass, in percent."""
    loss(logits, target).backward()
    with profile() as trace:
        for _ in range(times):
            loss(logits, target).backward()
    events = trace.key_averages()
    sorting = sum(event.self_cpu_time_total for event in events if event.key == "aten::sort")
    return 100 * sorting / sum(event.self_cpu_time_total for event in events)


def run(bench: Bench) -> None:
    """Add this part's rows."""
    ours, counts = LovaszHingeLoss(), []
    for batch_size in (2, 4) if bench.tiny else (16, 128):
        logits, target = realistic_batch(batch_size, bench.side)
        # in float64, because some errors would be equal in float32, and the order of equal ones is not defined
        inputs = [logits.clone().requires_grad_() for _ in range(2)]
        values = [loss(x, target) for loss, x in zip((plain_lovasz_hinge, ours), inputs)]
        for value in values:
            value.backward()
        check_same(f"loss of {batch_size} images", *values, 1e-12)
        check_same(f"gradient of the loss of {batch_size} images", *(x.grad for x in inputs), 1e-12)
        logits, target = logits.float().requires_grad_(), target.float()

        def step(loss, logits=logits, target=target) -> None:
            logits.grad = None
            loss(logits, target).backward()

        calls = 2 if bench.tiny else max(1, 320 // batch_size)
        sides = {
            "plain": Side(lambda step=step: step(plain_lovasz_hinge), keep_memory=False, calls=calls),
            "ours": Side(lambda step=step: step(ours), calls=calls),
        }
        seconds = medians(sides, bench.args.repeats)
        what = f"forward and backward, {batch_size} × 1×{bench.side}×{bench.side}"
        bench.add("loss", what, "ms", 1e3 * seconds["plain"], 1e3 * seconds["ours"], Goal("ratio", least=2.2))
        bench.add("loss", f"share of sorting, {batch_size} images", "%", ours=sort_share(ours, logits, target, calls))
        with OperatorCounter() as counter, torch.no_grad():
            plain_lovasz_hinge(logits, target)
        plain_count = counter.count
        with OperatorCounter() as counter, torch.no_grad():
            ours(logits, target)
        counts.append(counter.count)
        goal = Goal("ours", most=MAX_OPERATORS)
        bench.add("loss", f"forward operators, {batch_size} images", "operators", plain_count, counter.count, goal)
    check_same("number of the loss's operators at both batch sizes", *counts)
