# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Compare training with and without a CUDA graph, number by number: python benchmarks/gpu_equality.py

Trains 50 steps at O0, O1 and O2, with an EMA, a learning rate that changes in each step, and overflows, from the same
weights on the same batches. With --deterministic, losses, IoU, weights, EMA and moments must be equal to the bit.
Without it, two runs without a graph differ too, and the graph may differ from them three times as much.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runtime import startup

startup.configure_opencv()

import torch
from torch import Tensor, nn

import archs
import engine
import options
import train
from benchmarks.measure import prepared_data, silence
from runtime.byte_batches import tensors_of
from runtime.distributed import Runtime, init_runtime
from runtime.errors import report_errors

LEVELS = ("O0", "O1", "O2")
OVERFLOWS = (5, 20, 33)  # the first one before the capture
FACTOR = 3  # by which the graph may differ more than a second run without one
FLOOR = 1e-7  # a difference that is always allowed, relative to the largest number


class OverflowingLoss(nn.Module):
    """The loss of the recipe; its gradient overflows, once it is scaled, if `slope` on the device is 3e38."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.loss, self.bias = engine.build_criterion("LovaszHingeLoss"), next(reversed(list(model.parameters())))
        self.slope = torch.zeros((), device=self.bias.device)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        bias = self.bias.float()
        return self.loss(output, target) + ((bias - bias.detach()) * self.slope).sum()


def run(data: Path, level: str, choice: str, args: argparse.Namespace, runtime: Runtime) -> dict[str, Tensor]:
    """Train; returns each step's numbers, and all that a checkpoint would hold."""
    size = ("--input_h", "32", "--input_w", "32") if args.tiny else ()
    flags = (*size, "--arch", args.arch, "--amp", "--opt_level", level, "--ema", "0.9", "--num_workers", "0")
    own = options.parse_train([str(data), *flags, "--epochs", "2", "--cuda_graph", choice, "--device", args.device])
    with silence():
        torch.manual_seed(own.seed)
        loader, _ = train.build_loaders(own, runtime)
        state = train.build_state(own, runtime, args.steps)
    if choice == "off" and state.precision.is_capturable:
        state.precision.make_capturable()  # so that Adam reads the learning rates in float32 on both sides
    criterion, batches = OverflowingLoss(state.model), [tensors_of(batch) for batch in loader]
    step, numbers = lambda *batch: engine.training_step(state, criterion, *batch), []
    state.net.train()
    for number in range(args.steps):
        state.precision.optimizer.param_groups[0]["lr"] = 1e-3 * (1.1 + math.cos(number / 5))
        criterion.slope.fill_(3e38 if number in OVERFLOWS and level != "O0" else 0)
        state.precision.copy_rates()
        numbers.append(state.step_graph(step, *batches[number % len(batches)]).clone())
        state.after_step()
    if choice == "on" and not state.step_graph.inputs:
        sys.exit(f"{level}: the step was not captured")
    found = {"loss, IoU, skipped": torch.stack(numbers)}
    found |= {f"weight {name}": value for name, value in state.precision.weights().items()}
    found |= {f"EMA {name}": value for name, value in state.ema.module.state_dict().items()}
    moments = state.precision.optimizer.state_dict()["state"]
    found |= {f"moment {index} {key}": value for index, values in moments.items() for key, value in values.items()}
    found["loss scale"] = torch.tensor([int(state.precision.state_dict().get("loss_scaler0", {}).get("unskipped", 0))])
    return {name: value.detach().cpu().double() for name, value in found.items()}


def largest_difference(some: dict[str, Tensor], others: dict[str, Tensor], names: Iterable[str]) -> tuple[float, str]:
    """Return the largest difference relative to the largest number of a tensor, and the name of this tensor."""
    if some.keys() != others.keys():
        sys.exit(f"different tensors: {sorted(some.keys() ^ others.keys())[:5]}")
    found = [
        (float((some[name] - others[name]).abs().max() / some[name].abs().max().clamp(min=1e-30)), name)
        for name in names
    ]
    return max(found)


def compare(level: str, data: Path, args: argparse.Namespace, runtime: Runtime) -> bool:
    """Compare the graph with ordinary steps at a level, and print the outcome; returns whether it is good."""
    eager = run(data, level, "off", args, runtime)
    graph = run(data, level, args.graph, args, runtime)
    skipped = int(eager["loss, IoU, skipped"][:, 2].sum())
    expected = 0 if level == "O0" else sum(number < args.steps for number in OVERFLOWS)
    difference, name = largest_difference(eager, graph, eager)
    allowed = 0.0
    if not args.deterministic:
        allowed = max(FLOOR, FACTOR * largest_difference(eager, run(data, level, "off", args, runtime), eager)[0])
    good = difference <= allowed and skipped == expected
    outcome = "equal" if difference == 0 else f"differ by {difference:.2g} in {name}, {allowed:.2g} is allowed"
    print(f"{level}: {outcome}; {skipped} steps skipped, {expected} expected: {'good' if good else 'BAD'}", flush=True)
    return good


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--deterministic", action="store_true", help="use deterministic operators, and demand equal bits")
    add("--steps", default=50, type=int, help="to train (default: %(default)s)")
    add("--arch", default="UNet", choices=archs.ARCHS, help="net (default: %(default)s)")
    add("--levels", default=",".join(LEVELS), help="of mixed precision (default: %(default)s)")
    add("--device", default="auto", help="as for train.py")
    add("--data", metavar="DIR", help="prepared data (default: synthetic images)")
    add("--graph", default="on", choices=("on", "auto"), help="auto: also on devices without graphs (default: on)")
    add("--tiny", action="store_true", help="small nets and images")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    """Compare all levels; the exit code is 1 if one of them is bad."""
    if args.tiny:
        archs.WIDTHS = (4, 4, 8, 8, 8)
    runtime = init_runtime(args.device)
    runtime.configure(deterministic=args.deterministic)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(args.data) if args.data else prepared_data(Path(folder), 32 if args.tiny else 96, 60)
        outcomes = [compare(level, data, args, runtime) for level in args.levels.split(",")]
    sys.exit(0 if all(outcomes) else 1)


if __name__ == "__main__":
    with report_errors():
        main(parse())
