"""test/benchmark.py, part net: a training step and an evaluation, by how memory, layout and compiler are used.

The plain side is the eager net in NCHW whose freed memory goes back to the system, as glibc has it.
"""

import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import torch
from benchmark_measure import Bench, Goal, Side, build_net, check_same, medians, random_batch
from torch import Tensor, nn
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

import amp
import compiling
import engine
import runtime as rt
from errors import InputError

NETS = (("UNet", False), ("NestedUNet", False), ("NestedUNet", True))


class Variant(NamedTuple):
    """A way to run a net."""

    name: str
    keeps: bool = True
    channels_last: bool = False
    compiled: bool = False
    half: bool = False

    def check(self, what: str, expected: Tensor, found: Tensor) -> None:
        """End the script where its loss or logits differ from the plain ones by too great a part of the largest."""
        tolerance = (0.02 if self.half else 1e-4) * expected.abs().max().item()
        check_same(what, expected, found, tolerance)


VARIANTS = (
    Variant("eager", keeps=False),
    Variant("eager, memory kept"),
    Variant("channels_last", channels_last=True),
    Variant("compiled", compiled=True),
    Variant("compiled, channels_last", channels_last=True, compiled=True),
    Variant("bfloat16", half=True),
    Variant("bfloat16, channels_last", channels_last=True, half=True),
)


def why_not_compiled(args: Namespace) -> str:
    """Why compiled nets are left out; empty where they are not."""
    if not args.compile:
        return "--no-compile"
    try:
        compiling.compiled(nn.Identity(), rt.init("cpu"))
    except InputError as error:
        return str(error)
    return ""


def variants(args: Namespace) -> list[Variant]:
    """Those that can be run here, and need not be waited for overlong."""
    left_out, fast_half = why_not_compiled(args), args.tiny or rt.init("cpu").half_is_fast
    return [v for v in VARIANTS if not (left_out and v.compiled) and (fast_half or not v.half)]


def say_what_is_left_out(args: Namespace) -> None:
    """Print what is left out, if anything, and why."""
    if reason := why_not_compiled(args):
        print(f"  without compiled nets: {reason}", flush=True)
    if not any(variant.half for variant in variants(args)):
        print("  without bfloat16: this CPU does not multiply it", flush=True)


def ready(model: nn.Module, images: Tensor, variant: Variant) -> tuple[nn.Module, Tensor]:
    """The model and its input as the variant has them; the only place that knows how to compile."""
    runtime = rt.init("cpu")
    if variant.channels_last:
        model = engine.lay_out_channels_last(model, runtime)
        images = images.contiguous(memory_format=torch.channels_last)
    if variant.compiled:
        model = compiling.compiled(model, runtime)
    return model, images


def training(model: nn.Module, images: Tensor, target: Tensor, half: bool = False) -> Callable[[], Tensor]:
    """A function that makes a step with the recipe's loss and optimiser, returning the loss; `half`: as --amp does."""
    runtime, criterion, level = rt.init("cpu"), engine.build_criterion("LovaszHingeLoss"), "O2" if half else "O0"
    optimizer = amp.adam(model.parameters(), runtime, level, lr=1e-3, weight_decay=1e-4)
    precision = amp.prepare(model, optimizer, runtime, level, 128.0)

    def step() -> Tensor:
        loss = criterion(model(images), target)
        precision.step(loss)
        return loss.detach()

    return step


def evaluation(model: nn.Module, images: Tensor, half: bool = False) -> Callable[[], Tensor]:
    """A function that returns the last head's logits; `half`: as --amp does."""
    if half:
        amp.halve(model, rt.init("cpu"))

    @torch.inference_mode()
    def run() -> Tensor:
        return engine.last_head(model(images))

    return run


def sgemm_gflops(size: int) -> float:
    """GFLOP/s of a float32 matrix product, the median of twenty: about the most that this machine can do."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / medians({"sgemm": Side(lambda: a @ b)}, 20)["sgemm"] / 1e9


def gflop(run: Callable[[], object]) -> float:
    """Floating-point operations of a call, in 10⁹: those of convolutions and matrix products, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def prepare_all(bench: Bench, arch: str, deep_supervision: bool, images: Tensor, trained: bool) -> dict[Variant, tuple]:
    """For each variant a net of its own and its input, ready to run."""
    torch.compiler.reset()  # it gives up on a net's code that it has compiled eight times, and says nothing
    return {
        variant: ready(build_net(arch, deep_supervision, trained), images, variant) for variant in variants(bench.args)
    }


def measure(bench: Bench, what: str, runs: dict[Variant, Callable[[], Tensor]], ceiling: float, goal=None) -> None:
    """Time the variants in turn, having compared the first result of each with the plain one's."""
    (plain, run_plainly), *others = runs.items()
    expected, first_calls = run_plainly(), {}
    for variant, run in others:
        begun = time.perf_counter()
        found = run()
        first_calls[variant] = time.perf_counter() - begun
        variant.check(f"{what}, {variant.name}", expected, found)
    operations = gflop(run_plainly)
    bench.add("net", f"{what}: work in a batch", "GFLOP", ours=operations)
    sides = {variant: Side(run, variant.keeps) for variant, run in runs.items()}
    rate = {variant: bench.batch_size / seconds for variant, seconds in medians(sides, bench.args.repeats).items()}
    share = {variant: 100 * rate[variant] / bench.batch_size * operations / ceiling for variant in runs}
    bench.add("net", f"{what}, {plain.name}", "images/s", plain=rate[plain])
    for variant, _ in others:
        bench.add("net", f"{what}, {variant.name}", "images/s", rate[plain], rate[variant])
        if not variant.half:
            bench.add("net", f"{what}, {variant.name}: share of sgemm", "%", share[plain], share[variant])
        if variant.compiled:
            bench.add("net", f"{what}, {variant.name}: first call", "s", ours=first_calls[variant])
    add_best(bench, "net", what, rate, plain, goal)


def add_best(bench: Bench, section: str, what: str, rate: dict[Variant, float], plain: Variant, goal) -> None:
    """Add a row of the fastest variant in each precision."""
    for precision, half in (("fp32", False), ("bfloat16", True)):
        if own := [variant for variant in rate if variant.half == half]:
            best = max(own, key=rate.get)
            bench.add(section, f"{what}, best in {precision}: {best.name}", "images/s", rate[plain], rate[best], goal)


def run(bench: Bench) -> None:
    """Add the part's rows."""
    images, target = random_batch(bench.batch_size, bench.side)
    say_what_is_left_out(bench.args)
    ceiling = sgemm_gflops(128 if bench.tiny else 2048)
    bench.add("net", "sgemm, what this machine can do", "GFLOP/s", ours=ceiling)
    for arch, deep_supervision in NETS:
        name = f"{arch}{' with deep supervision' if deep_supervision else ''}"
        nets = prepare_all(bench, arch, deep_supervision, images, trained=False)
        runs = {variant: training(*net, target, variant.half) for variant, net in nets.items()}
        measure(bench, f"train {name}", runs, ceiling, Goal("ratio", least=1.35) if arch == "UNet" else None)
        if arch == "UNet" and bench.args.profile:
            print_profile(next(iter(runs.values())))
            for variant in (variant for variant in runs if not variant.compiled and variant.keeps):
                print_primitives(variant.name, runs[variant])
        if not deep_supervision:
            nets = prepare_all(bench, arch, deep_supervision, images, trained=True)
            runs = {variant: evaluation(*net, variant.half) for variant, net in nets.items()}
            measure(bench, f"evaluate {name}", runs, ceiling)


def print_profile(step: Callable[[], object], times: int = 3) -> None:
    """Print where the operators of a training step spend its time, and how fast the convolutions of each shape are."""
    for _ in range(times):  # until it has the memory that it needs
        step()
    with profile(record_shapes=True) as trace:
        for _ in range(times):
            step()
    events = trace.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    print(f"  operators of a training step, {total / times / 1e3:.1f} ms in all")
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:15]:
        milliseconds = event.self_cpu_time_total / times / 1e3
        print(f"    {event.key:45} {milliseconds:9.2f} ms {100 * event.self_cpu_time_total / total:5.1f} %")
    print("  convolutions by shape: times in a step, milliseconds of one, GFLOP/s")
    by_shape = trace.key_averages(group_by_input_shape=True)
    for event in sorted(by_shape, key=lambda event: -event.cpu_time_total):
        if event.key in ("aten::convolution", "aten::convolution_backward"):
            # behind the gradient of the output, which has its size
            images, weight = event.input_shapes[event.key.endswith("backward") :][:2]
            operations = 2 * images[0] * images[2] * images[3] * torch.Size(weight).numel()
            if event.key.endswith("backward"):  # of the weights, and but for the first layer of the input
                operations *= 1 if images[1] == 3 else 2
            seconds = event.cpu_time_total / event.count / 1e6
            shapes = f"{'×'.join(map(str, images))} by {'×'.join(map(str, weight))}"
            rate = operations / seconds / 1e9
            print(f"    {event.key[6:]:22} {shapes:38} {event.count // times:3} {1e3 * seconds:8.2f} {rate:7.1f}")


def print_primitives(name: str, step: Callable[[], object]) -> None:
    """Print what oneDNN, which computes the convolutions on the CPU, does in a step, and by which of its ways."""
    step()
    sys.stdout.flush()
    terminal = os.dup(1)
    with tempfile.TemporaryFile("w+") as told:
        os.dup2(told.fileno(), 1)  # the library writes there by itself
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                step()
        finally:
            os.dup2(terminal, 1)
            os.close(terminal)
        told.seek(0)
        lines = [line.strip().split(",") for line in told if ",exec," in line]
    if not lines:
        print(f"  oneDNN, {name}: it does nothing here")
        return
    # … exec, engine, primitive, implementation, pass, … milliseconds
    rows = [(*line[line.index("exec") + 2 :][:3], float(line[-1])) for line in lines]
    table = pd.DataFrame(rows, columns=["primitive", "implementation", "pass", "ms"])
    table = table.groupby(["primitive", "implementation", "pass"])["ms"].agg(["sum", "count"]).reset_index()
    print(f"  oneDNN, {name}: {table['sum'].sum():.1f} ms in a step, of which")
    for row in table[table["sum"] > 1].sort_values("sum", ascending=False).itertuples(index=False):
        primitive, implementation, direction, milliseconds, times = row
        what = primitive if direction == "undef" else f"{primitive} {direction}"
        print(f"    {milliseconds:8.1f} ms in {times:3} × {what} by {implementation}")
