# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Compare the speed of plain code, which handles one image at a time, with this repository's: python benchmarks/run.py

Both sides run in the same process, in turn, several times; the table holds medians. Nothing is timed before both sides
have given the same result. --tiny only tests that the benchmark itself works: its times mean nothing.
"""

import argparse
import os
import platform
import re
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runtime import startup

startup.configure_opencv()

import cv2
import numpy as np
import onnxruntime
import pandas as pd
import torch

import archs
from benchmarks import epoch_pause, inference, input_pipeline, loss, net, nuclei, preparation, step
from benchmarks.measure import Bench
from imaging import augment
from runtime.distributed import init_runtime
from runtime.errors import report_errors
from runtime.files import atomic_write

PARTS = {
    "loss": loss.run,
    "step": step.run,
    "epoch_pause": epoch_pause.run,
    "input": input_pipeline.run,
    "preparation": preparation.run,
    "net": net.run,
    "inference": inference.run,
    "nuclei": nuclei.run,
}
TINY_WIDTHS = (4, 4, 8, 8, 8)


def describe_machine() -> str:
    """Return what the times depend on: processor, memory, load, versions."""
    cpu = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {"python": platform.python_version(), "opencv": cv2.__version__}
    versions |= {module.__name__: module.__version__ for module in (torch, np, augment.A, onnxruntime)}
    return "\n".join(
        [
            f"{cpu[1] if cpu else platform.machine()}, {len(os.sched_getaffinity(0))} cores, {total:.1f} GiB",
            f"{date.today()}, load {os.getloadavg()[0]:.2f} before, {torch.get_num_threads()} threads",
            ", ".join(f"{name} {version}" for name, version in versions.items()),
        ]
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", default=",".join(PARTS), help="run only these parts, such as loss,net (default: %(default)s)")
    add("--repeats", type=int, help="number of times that each side runs; the median counts (default: 5)")
    add("--tiny", action="store_true", help="small nets and images, one repeat; the times mean nothing")
    add("--data", metavar="DIR", help="prepared data (default: inputs/dsb2018_96, else synthetic data)")
    add("--zip", metavar="FILE", help="raw zip (default: $DSB2018_ZIP, else inputs/stage1_train.zip, else synthetic)")
    add("--csv", metavar="FILE", help="also write the table to this file")
    add("--profile", action="store_true", help="part net: also print the operators of a training step")
    args = parser.parse_args(argv)
    chosen = args.parts.split(",")
    if unknown := set(chosen) - PARTS.keys():
        parser.error(f"--parts: there is no {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    args.parts = [part for part in PARTS if part in chosen]
    args.repeats = args.repeats or (1 if args.tiny else 5)
    # A path that is given must exist. If a default path does not exist, synthetic data replace it. With --tiny they
    # always do, so that the benchmark's own test is the same on every machine.
    args.data_is_default, args.zip_is_default = args.data is None, args.zip is None
    if not args.tiny:
        args.data = args.data or ROOT / "inputs" / "dsb2018_96"
        args.zip = args.zip or os.environ.get("DSB2018_ZIP") or ROOT / "inputs" / "stage1_train.zip"
    return args


def main(args: argparse.Namespace) -> None:
    """Run the parts, which print their rows as they measure them, then print the table."""
    print(describe_machine(), flush=True)
    if args.tiny:
        archs.WIDTHS = TINY_WIDTHS
        torch.set_num_threads(1)  # on a busy machine, two threads would wait for each other
    init_runtime("cpu")
    with tempfile.TemporaryDirectory(prefix="benchmark") as folder:
        bench = Bench(args, Path(folder))
        for part in args.parts:
            start = time.monotonic()
            print(f"\n{part}", flush=True)
            PARTS[part](bench)
            print(f"{part} took {time.monotonic() - start:.0f} s", flush=True)
    table = pd.DataFrame([row.columns() for row in bench.rows])
    shown = table.astype(object).map(lambda value: f"{value:.4g}" if isinstance(value, float) else value)
    print(f"\n{shown.replace('nan', '').to_string(index=False)}")
    if args.csv:
        with atomic_write(Path(args.csv)) as path:
            table.to_csv(path, index=False)


if __name__ == "__main__":
    with report_errors():
        main(parse())
