# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Part net of benchmarks/run.py: training steps and evaluation, by memory handling, memory layout and precision.

The plain side is a net in NCHW, and freed memory goes back to the system, as it does with glibc's defaults.
"""

import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

import engine
from benchmarks.measure import Bench, Goal, Side, build_net, check_same, medians, random_batch
from runtime.distributed import init_runtime
from runtime.precision import adam, prepare
from runtime.precision_levels import to_half

NETS = (("UNet", False), ("NestedUNet", False), ("NestedUNet", True))


class Variant(NamedTuple):
    """A way to run a net."""

    name: str
    keep_memory: bool = True
    channels_last: bool = False
    half: bool = False

    def check(self, what: str, expected: Tensor, found: Tensor) -> None:
        """End the benchmark if the loss or logits differ too much from the plain ones, relative to the largest."""
        tolerance = (0.02 if self.half else 1e-4) * expected.abs().max().item()
        check_same(what, expected, found, tolerance)


VARIANTS = (
    Variant("NCHW", keep_memory=False),
    Variant("memory kept"),
    Variant("channels_last", channels_last=True),
    Variant("bfloat16", half=True),
    Variant("bfloat16, channels_last", channels_last=True, half=True),
)


def usable_variants(args: Namespace) -> list[Variant]:
    """Return the variants that are not too slow on this CPU."""
    half = args.tiny or init_runtime("cpu").half_is_fast
    return [variant for variant in VARIANTS if half or not variant.half]


def report_omitted(args: Namespace) -> None:
    """Print which variants are omitted, if any, and why."""
    if not any(variant.half for variant in usable_variants(args)):
        print("  without bfloat16: this CPU has no instructions for it", flush=True)


def apply_layout(model: nn.Module, images: Tensor, variant: Variant) -> tuple[nn.Module, Tensor]:
    """Return the model and its input in the variant's memory layout."""
    if variant.channels_last:
        model = engine.to_channels_last(model, init_runtime("cpu"))
        images = images.contiguous(memory_format=torch.channels_last)
    return model, images


def training(model: nn.Module, images: Tensor, target: Tensor, half: bool = False) -> Callable[[], Tensor]:
    """Return a function that does a step with the recipe's loss and optimizer and returns the loss.

    half: as with --amp.
    """
    runtime, criterion, level = init_runtime("cpu"), engine.build_criterion("LovaszHingeLoss"), "O2" if half else "O0"
    optimizer = adam(model.parameters(), runtime, level, lr=1e-3, weight_decay=1e-4)
    precision = prepare(model, optimizer, runtime, level, 128.0)

    def step() -> Tensor:
        loss = criterion(model(images), target)
        precision.step(loss)
        return loss.detach()

    return step


def evaluation(model: nn.Module, images: Tensor, half: bool = False) -> Callable[[], Tensor]:
    """Return a function that returns the logits of the final head. half: as with --amp."""
    if half:
        to_half(model, init_runtime("cpu"))

    @torch.inference_mode()
    def run() -> Tensor:
        return engine.final_head(model(images))

    return run


def sgemm_gflops(size: int) -> float:
    """Return the GFLOP/s of a float32 matrix product, about the maximum of this machine; the median of 20."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / medians({"sgemm": Side(lambda: a @ b)}, 20)["sgemm"] / 1e9


def count_gflop(run: Callable[[], object]) -> float:
    """Return the floating-point operations of a call in 10⁹: those of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def build_nets(
    bench: Bench, arch: str, deep_supervision: bool, images: Tensor, trained: bool
) -> dict[Variant, tuple[nn.Module, Tensor]]:
    """Return a net of its own, and its input, for each variant."""
    return {
        variant: apply_layout(build_net(arch, deep_supervision, trained), images, variant)
        for variant in usable_variants(bench.args)
    }


def compare_variants(
    bench: Bench, what: str, runs: dict[Variant, Callable[[], Tensor]], max_gflops: float, goal: Goal | None = None
) -> None:
    """Compare the first result of each variant with the plain one, then time them in turn, and add their rows."""
    (plain, run_plain), *others = runs.items()
    expected = run_plain()
    for variant, run in others:
        variant.check(f"{what}, {variant.name}", expected, run())
    gflop = count_gflop(run_plain)
    bench.add("net", f"{what}: work in a batch", "GFLOP", ours=gflop)
    sides = {variant: Side(run, variant.keep_memory) for variant, run in runs.items()}
    rate = {variant: bench.batch_size / seconds for variant, seconds in medians(sides, bench.args.repeats).items()}
    share = {variant: 100 * rate[variant] / bench.batch_size * gflop / max_gflops for variant in runs}
    bench.add("net", f"{what}, {plain.name}", "images/s", plain=rate[plain])
    for variant, _ in others:
        bench.add("net", f"{what}, {variant.name}", "images/s", rate[plain], rate[variant])
        if not variant.half:
            bench.add("net", f"{what}, {variant.name}: share of sgemm", "%", share[plain], share[variant])
    add_best(bench, "net", what, rate, plain, goal)


def add_best(
    bench: Bench, section: str, what: str, rate: dict[Variant, float], plain: Variant, goal: Goal | None
) -> None:
    """Add a row for the fastest variant in each precision."""
    for precision, half in (("fp32", False), ("bfloat16", True)):
        if variants := [variant for variant in rate if variant.half == half]:
            best = max(variants, key=rate.get)
            bench.add(section, f"{what}, best in {precision}: {best.name}", "images/s", rate[plain], rate[best], goal)


def run(bench: Bench) -> None:
    """Add this part's rows."""
    images, target = random_batch(bench.batch_size, bench.side)
    report_omitted(bench.args)
    max_gflops = sgemm_gflops(128 if bench.tiny else 2048)
    bench.add("net", "sgemm, the maximum of this machine", "GFLOP/s", ours=max_gflops)
    for arch, deep_supervision in NETS:
        name = f"{arch}{' with deep supervision' if deep_supervision else ''}"
        nets = build_nets(bench, arch, deep_supervision, images, trained=False)
        runs = {variant: training(*net, target, variant.half) for variant, net in nets.items()}
        goal = Goal("ratio", least=1.35) if arch == "UNet" else None
        compare_variants(bench, f"train {name}", runs, max_gflops, goal)
        if arch == "UNet" and bench.args.profile:
            print_profile(next(iter(runs.values())))
            for variant in (variant for variant in runs if variant.keep_memory):
                print_primitives(variant.name, runs[variant])
        if not deep_supervision:
            nets = build_nets(bench, arch, deep_supervision, images, trained=True)
            runs = {variant: evaluation(*net, variant.half) for variant, net in nets.items()}
            compare_variants(bench, f"evaluate {name}", runs, max_gflops)


def print_profile(step: Callable[[], object], times: int = 3) -> None:
    """Print where the operators of a training step spend its time, and how fast the convolutions of each shape are."""
    for _ in range(times):  # until the memory that it needs is allocated
        step()
    with profile(record_shapes=True) as trace:
        for _ in range(times):
            step()
    events = trace.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    print(f"  operators of a training step, {total / times / 1e3:.1f} ms in total")
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:15]:
        milliseconds = event.self_cpu_time_total / times / 1e3
        print(f"    {event.key:45} {milliseconds:9.2f} ms {100 * event.self_cpu_time_total / total:5.1f} %")
    print("  convolutions by shape: number in a step, milliseconds of one, GFLOP/s")
    by_shape = trace.key_averages(group_by_input_shape=True)
    for event in sorted(by_shape, key=lambda event: -event.cpu_time_total):
        if event.key in ("aten::convolution", "aten::convolution_backward"):
            # in the backward pass, the first input is the gradient of the output
            images, weight = event.input_shapes[event.key.endswith("backward") :][:2]
            operations = 2 * images[0] * images[2] * images[3] * torch.Size(weight).numel()
            if event.key.endswith("backward"):  # the gradients of weight and input; the first layer needs no second one
                operations *= 1 if images[1] == 3 else 2
            seconds = event.cpu_time_total / event.count / 1e6
            shapes = f"{'×'.join(map(str, images))} by {'×'.join(map(str, weight))}"
            rate = operations / seconds / 1e9
            print(f"    {event.key[6:]:22} {shapes:38} {event.count // times:3} {1e3 * seconds:8.2f} {rate:7.1f}")


def print_primitives(name: str, step: Callable[[], object]) -> None:
    """Print which primitives of oneDNN, which computes convolutions on the CPU, a step uses, and their times."""
    step()
    sys.stdout.flush()
    terminal = os.dup(1)
    with tempfile.TemporaryFile("w+") as output:
        os.dup2(output.fileno(), 1)  # the library writes to the file descriptor
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                step()
        finally:
            os.dup2(terminal, 1)
            os.close(terminal)
        output.seek(0)
        lines = [line.strip().split(",") for line in output if ",exec," in line]
    if not lines:
        print(f"  oneDNN, {name}: not used")
        return
    # a line: …,exec,engine,primitive,implementation,pass,…,milliseconds
    rows = [(*line[line.index("exec") + 2 :][:3], float(line[-1])) for line in lines]
    table = pd.DataFrame(rows, columns=["primitive", "implementation", "pass", "ms"])
    table = table.groupby(["primitive", "implementation", "pass"])["ms"].agg(["sum", "count"]).reset_index()
    print(f"  oneDNN, {name}: {table['sum'].sum():.1f} ms in a step, of which")
    for row in table[table["sum"] > 1].sort_values("sum", ascending=False).itertuples(index=False):
        primitive, implementation, direction, milliseconds, times = row
        what = primitive if direction == "undef" else f"{primitive} {direction}"
        print(f"    {milliseconds:8.1f} ms in {times:3} × {what} by {implementation}")
