# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Measure training on a GPU, with and without a CUDA graph: python benchmarks/gpu.py

Prints images per second of training steps whose data are already on the device, their share of the speed of large
matrix products, and whole runs of train.py with the loader. Both versions of a step run in turn; numbers are medians.
--tiny only tests that the benchmark itself works, also on the CPU.
"""

import argparse
import contextlib
import gc
import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runtime import startup

startup.configure_opencv()

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

import archs
import engine
import options
import train
from benchmarks.measure import prepared_data, silence
from runtime.distributed import init_runtime
from runtime.errors import report_errors
from runtime.files import atomic_write
from runtime.graph import ORDINARY_STEPS
from runtime.state import TrainingState

PARTS = ("peak", "steps", "loader")
LEVELS = ("O0", "O1", "O2")
TINY_WIDTHS = (4, 4, 8, 8, 8)
BLOCK_IMAGES, MIN_BLOCK = 640, 10  # images and steps that are timed together, at least


class Table:
    """The rows that were measured, with those of an earlier file beside them."""

    def __init__(self, against: str | None):
        earlier = pd.read_csv(against) if against else pd.DataFrame(columns=["what", "value"])
        self.earlier = dict(zip(earlier["what"], earlier["value"]))
        self.rows: list[dict] = []

    def add(self, what: str, unit: str, value: float, remark: str = "") -> None:
        """Add a row, and print it at once."""
        value = float(f"{value:.4g}")
        self.rows.append({"what": what, "unit": unit, "value": value, "remark": remark})
        before = self.earlier.get(what)
        compared = "" if before is None else f", earlier {before:g}, ratio {value / before:.2f}"
        print(f"  {what}: {value:g} {unit}{compared}{f' ({remark})' if remark else ''}", flush=True)


class Bench:
    """What each part gets: flags, device, data, table."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args, self.folder = args, folder
        self.table, self.runtime = Table(args.against), init_runtime(args.device)
        self.side, self.batch_sizes = (32, (4, 8)) if args.tiny else (96, (16, 128))
        self.data = (
            Path(args.data).resolve() if args.data else prepared_data(folder, self.side, 40 if args.tiny else 400)
        )
        self.peaks: dict[torch.dtype, float] = {}  # FLOP/s of large matrix products

    def flags(self, *more: object) -> list[str]:
        """Return flags of train.py."""
        size = ("--input_h", self.side, "--input_w", self.side, "--device", self.args.device)
        return [str(flag) for flag in (self.data, *size, *more)]

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.runtime.is_accelerator:
            torch.get_device_module(self.runtime.device).synchronize()


def measure_peak(bench: Bench) -> None:
    """Multiply large matrices in each precision."""
    size, repeats = (64, 1) if bench.args.tiny else (8192, 20)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True  # as cuDNN's convolutions use by default
    for dtype in (torch.float32, bench.runtime.half_dtype):
        a, b = (torch.randn(size, size, device=bench.runtime.device).to(dtype) for _ in range(2))
        (a @ b, bench.synchronize())
        start = time.perf_counter()
        for _ in range(repeats):
            a @ b
        bench.synchronize()
        bench.peaks[dtype] = 2 * size**3 * repeats / (time.perf_counter() - start)
        name = str(dtype).removeprefix("torch.") + (" (TF32 on GPUs)" if dtype == torch.float32 else "")
        bench.table.add(f"matrix product, {name}", "TFLOP/s", bench.peaks[dtype] / 1e12)
    torch.backends.cuda.matmul.allow_tf32 = allowed


def flops_per_image(arch: str, side: int) -> float:
    """Return the floating-point operations of convolutions in a forward and backward pass."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        archs.ARCHS[arch](1)(torch.empty(1, 3, side, side)).sum().backward()
    return counter.get_total_flops()


def load_batch(bench: Bench, batch_size: int) -> tuple:
    """Return one batch of the training loader, on the device."""
    device = bench.runtime.device
    with silence():
        args = options.parse_train(bench.flags("-b", batch_size, "--num_workers", 0))
        train_loader, _ = train.build_loaders(args, bench.runtime)
    images, masks, meta = next(iter(train_loader))
    return images.to(device), masks.to(device), meta | {"tables": meta["tables"].to(device)}


def build_state(bench: Bench, *flags: object) -> TrainingState:
    """Return the training state of a run."""
    args = options.parse_train(bench.flags(*flags))
    torch.manual_seed(args.seed)
    with silence():
        return train.build_state(args, bench.runtime, MIN_BLOCK)


def run_block(bench: Bench, state: TrainingState, batch: tuple, steps: int) -> float:
    """Train an epoch of this many steps; returns its seconds."""
    criterion = engine.build_criterion("LovaszHingeLoss")
    bench.synchronize()
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        engine.train_one_epoch(state, [batch] * steps, criterion)
    bench.synchronize()
    seconds = time.perf_counter() - start
    state.logger.reset()
    print("".join(line for line in printed.getvalue().splitlines(True) if "warning" in line), end="")
    return seconds


def measure_steps(bench: Bench) -> None:
    """Measure each net, precision and batch size without and with a graph."""
    for batch_size in bench.batch_sizes:
        batch = load_batch(bench, batch_size)
        for arch in archs.ARCHS:
            for level in LEVELS:
                measure_pair(bench, arch, level, batch)
                gc.collect()  # optimizers and schedulers refer to each other
                if bench.runtime.is_accelerator:
                    torch.get_device_module(bench.runtime.device).empty_cache()


def measure_pair(bench: Bench, arch: str, level: str, batch: tuple) -> None:
    """Measure a step without and with a graph in turn."""
    batch_size = len(batch[0])
    name, flops = f"{arch}, {level}, batch {batch_size}", flops_per_image(arch, bench.side)
    flags = ("--arch", arch, "--amp", "--opt_level", level, "-b", batch_size)
    can_capture = bench.runtime.new_graph() is not None
    sides = {"eager": build_state(bench, *flags, "--cuda_graph", "off")}
    if can_capture:
        sides["graph"] = build_state(bench, *flags, "--cuda_graph", "on")
    block, seconds, repeats = max(MIN_BLOCK, BLOCK_IMAGES // batch_size), bench.args.seconds, 3
    if bench.args.tiny:
        block, seconds, repeats = 1, 0.0, 1
    for state in sides.values():
        run_block(bench, state, batch, 1 if bench.args.tiny else ORDINARY_STEPS + 2)
    if can_capture and not sides["graph"].step_graph.inputs:
        sys.exit(f"benchmark: {name}: the step was not captured")
    times: dict[str, list[float]] = {side: [] for side in sides}
    while sum(map(sum, times.values())) < seconds * len(sides) or len(times["eager"]) < repeats:
        for side, state in sides.items():
            times[side].append(run_block(bench, state, batch, block))
    peak = bench.peaks.get(torch.float32 if level == "O0" else bench.runtime.half_dtype)
    for side, found in times.items():
        rate = batch_size * block / statistics.median(found)
        share = f"{rate * flops / peak:.0%} of the matrix product" if peak else ""
        bench.table.add(f"step, {name}, {side}", "images/s", rate, share)


def timed_lines(command: list, folder: Path) -> Iterator[tuple[float, str]]:
    """Run a command in a folder; yields when each line arrives, and the line."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=folder, **pipes) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            yield time.perf_counter(), line
    if process.returncode:
        sys.exit(f"benchmark: {' '.join(map(str, command))} failed:\n{''.join(lines[-15:])}")


def measure_loader(bench: Bench) -> None:
    """Run train.py, and measure its speed and what an epoch takes besides its steps."""
    for batch_size, workers in zip(bench.batch_sizes, (0, 0) if bench.args.tiny else (4, 12)):
        for choice in ("off", "on") if bench.runtime.new_graph() else ("off",):
            side = "graph" if choice == "on" else "eager"
            run_train(bench, f"batch {batch_size}, {workers} workers, {side}", batch_size, workers, choice)


def run_train(bench: Bench, name: str, batch_size: int, workers: int, choice: str) -> None:
    """Run train.py once, and add its rows."""
    epochs = 2 if bench.args.tiny else 6
    flags = ("--epochs", epochs, "-b", batch_size, "--num_workers", workers, "--cuda_graph", choice)
    script = ROOT / "test" / "faults" / "narrow_train.py" if bench.args.tiny else ROOT / "train.py"
    command = [sys.executable, script, *bench.flags(*flags, "--name", "benchmark")]
    tested, pauses, finished, rates = None, [], [], []
    for now, line in timed_lines(command, bench.folder):
        if line.startswith("Test: "):
            tested = now
        elif (found := re.match(r"Epoch: \[\d+\]\[ *1/.*\tTime +([\d.]+)", line)) and tested:
            pauses.append(now - tested - float(found[1]))
        elif found := re.search(r"FPS@all ([\d.]+)", line):
            finished.append(now)
            rates.append(float(found[1]))
    best = statistics.median(rates[1:])  # the first epoch fills the cache of decoded images
    bench.table.add(f"train.py, {name}", "images/s", best)
    bench.table.add(
        f"train.py, {name}: a whole epoch", "s", statistics.median(map(float.__sub__, finished[1:], finished))
    )
    bench.table.add(f"train.py, {name}: from the last Test line to the next step", "s", statistics.median(pauses))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", default=",".join(PARTS), help="run only these parts, such as peak,steps (default: %(default)s)")
    add("--device", default="auto", help="as for train.py")
    add("--data", metavar="DIR", help="prepared data (default: synthetic images)")
    add("--seconds", default=0.8, type=float, help="to measure each version of a step (default: %(default)s)")
    add("--csv", metavar="FILE", help="also write the table to this file")
    add("--against", metavar="FILE", help="show the values of an earlier --csv beside the new ones")
    add("--tiny", action="store_true", help="small nets and images; the times mean nothing")
    args = parser.parse_args(argv)
    if unknown := set(args.parts.split(",")) - set(PARTS):
        parser.error(f"--parts: there is no {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    return args


def main(args: argparse.Namespace) -> None:
    """Run the parts, which print their rows as they measure them."""
    if args.tiny:
        archs.WIDTHS = TINY_WIDTHS
    with tempfile.TemporaryDirectory(prefix="benchmark") as folder:
        bench = Bench(args, Path(folder))
        module = torch.get_device_module(bench.runtime.device)
        name = module.get_device_name() if bench.runtime.is_accelerator else "CPU"
        print(f"{name}, torch {torch.__version__}, data {bench.data}", flush=True)
        for part, measure in (("peak", measure_peak), ("steps", measure_steps), ("loader", measure_loader)):
            if part in args.parts.split(","):
                print(f"\n{part}", flush=True)
                start = time.monotonic()
                measure(bench)
                print(f"{part} took {time.monotonic() - start:.0f} s", flush=True)
    if args.csv:
        with atomic_write(Path(args.csv)) as path:
            pd.DataFrame(bench.table.rows).to_csv(path, index=False)


if __name__ == "__main__":
    with report_errors():
        main(parse())
