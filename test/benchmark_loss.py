"""test/benchmark.py, part loss: the Lovász hinge of the whole batch against a loop over its images."""

import torch
import torch.nn.functional as F
from benchmark_measure import Bench, Goal, Side, blobs, check_same, medians
from torch import Tensor
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from losses import LovaszHingeLoss

MOST_OPERATORS = 30


def lovasz_grad(sorted_target: Tensor) -> Tensor:
    """Gradient of the Lovász extension with respect to sorted errors (Berman et al. 2018, algorithm 1)."""
    total = sorted_target.sum()
    intersection = total - sorted_target.cumsum(0)
    union = total + (1 - sorted_target).cumsum(0)
    jaccard = 1 - intersection / union
    jaccard[1:] = jaccard[1:] - jaccard[:-1]
    return jaccard


def plain_lovasz_hinge(logits: Tensor, target: Tensor) -> Tensor:
    """One image after the other, as Berman's own code and the older editions have it."""
    losses = []
    for own_logits, own_target in zip(logits, target):
        own_logits, own_target = own_logits.flatten(), own_target.flatten()
        errors = 1 - own_logits * (2 * own_target - 1)
        errors, order = errors.sort(dim=0, descending=True)
        losses.append(torch.dot(F.relu(errors), lovasz_grad(own_target[order])))
    return torch.stack(losses).mean()


class OperatorCounter(TorchDispatchMode):
    """Counts the operators that are called below it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += 1
        return operator(*args, **(kwargs or {}))


def realistic(batch_size: int, side: int) -> tuple[Tensor, Tensor]:
    """Logits and target, float64 (N, 1, H, W): mostly right, with noise, and no two errors equal."""
    draws = torch.Generator().manual_seed(batch_size)
    target = blobs(batch_size, side, draws).double()
    return 3 * (2 * target - 1) + 2 * torch.randn(target.shape, generator=draws, dtype=torch.float64), target


def sort_share(loss, logits: Tensor, target: Tensor, times: int) -> float:
    """Per cent of the time of the loss's forward and backward pass that is spent in sorting."""
    loss(logits, target).backward()
    with profile() as trace:
        for _ in range(times):
            loss(logits, target).backward()
    events = trace.key_averages()
    sorting = sum(event.self_cpu_time_total for event in events if event.key == "aten::sort")
    return 100 * sorting / sum(event.self_cpu_time_total for event in events)


def run(bench: Bench) -> None:
    """Add the part's rows."""
    ours, counts = LovaszHingeLoss(), []
    for batch_size in (2, 4) if bench.tiny else (16, 128):
        logits, target = realistic(batch_size, bench.side)
        # in float32 some would be equal, and which of these comes first is anybody's choice
        exact = [logits.clone().requires_grad_() for _ in range(2)]
        values = [loss(x, target) for loss, x in zip((plain_lovasz_hinge, ours), exact)]
        for value in values:
            value.backward()
        check_same(f"loss of {batch_size} images", *values, 1e-12)
        check_same(f"gradient of the loss of {batch_size} images", *(x.grad for x in exact), 1e-12)
        logits, target = logits.float().requires_grad_(), target.float()

        def step(loss, logits=logits, target=target) -> None:
            logits.grad = None
            loss(logits, target).backward()

        calls = 2 if bench.tiny else max(1, 320 // batch_size)
        sides = {
            "plain": Side(lambda step=step: step(plain_lovasz_hinge), keeps=False, calls=calls),
            "ours": Side(lambda step=step: step(ours), calls=calls),
        }
        found = medians(sides, bench.args.repeats)
        what = f"forward and backward, {batch_size} × 1×{bench.side}×{bench.side}"
        bench.add("loss", what, "ms", 1e3 * found["plain"], 1e3 * found["ours"], Goal("ratio", least=2.2))
        bench.add("loss", f"sort's share at {batch_size}", "%", ours=sort_share(ours, logits, target, calls))
        with OperatorCounter() as counter, torch.no_grad():
            plain_lovasz_hinge(logits, target)
        plain_count = counter.count
        with OperatorCounter() as counter, torch.no_grad():
            ours(logits, target)
        counts.append(counter.count)
        goal = Goal("ours", most=MOST_OPERATORS)
        bench.add("loss", f"forward operators at {batch_size}", "operators", plain_count, counter.count, goal)
    check_same("number of the loss's operators at both batch sizes", *counts)
