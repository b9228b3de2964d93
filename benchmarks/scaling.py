# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Measure how many images a second N training processes handle, compared with one: python benchmarks/scaling.py

Runs train.py on synthetic images, with one process and with N in turn, on one CPU thread each, so that other load on
the machine affects both. The batch over all processes is the same. Prints each round and the medians.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
WARMUP_STEPS = 3


def images_per_second(processes: int, args: argparse.Namespace, folder: Path) -> float:
    """Train one epoch of `args.steps` steps in `folder`; the warm-up steps do not count."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    flags = ["--device=cpu", "--epochs=1", f"--batch_size={args.batch_size}", "--num_workers=0", f"--arch={args.arch}"]
    result = subprocess.run(
        [*torchrun, ROOT / "train.py", "inputs/synthetic_96", *flags],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        sys.exit(f"train.py failed:\n{result.stdout}{result.stderr}")
    times = [float(time) for time in re.findall(r"^Epoch: .*\tTime +([\d.]+) ", result.stdout, re.MULTILINE)]
    counted = times[WARMUP_STEPS:]
    return args.batch_size * len(counted) / sum(counted)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default=2, type=int, help="number of processes to compare with one")
    parser.add_argument("--rounds", default=5, type=int, help="number of runs of each")
    parser.add_argument("--steps", default=10, type=int, help=f"steps of a run; the first {WARMUP_STEPS} do not count")
    parser.add_argument("--batch_size", default=16, type=int, help="images per step, over all processes")
    parser.add_argument("--arch", default="UNet", help="UNet or NestedUNet")
    args = parser.parse_args(argv)
    if args.steps <= WARMUP_STEPS:
        parser.error(f"--steps must be above {WARMUP_STEPS}")
    return args


def main(args: argparse.Namespace) -> None:
    """Measure in turn, print each round, then the medians."""
    images = -(-args.steps * args.batch_size * 5 // 4)  # a fifth of them validates
    found = []
    with tempfile.TemporaryDirectory() as folder:
        make = [sys.executable, ROOT / "preprocess_dsb2018.py", "--synthetic", str(images)]
        subprocess.run(make, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for number in range(1, args.rounds + 1):
            one, several = (images_per_second(n, args, Path(folder)) for n in (1, args.processes))
            found.append((one, several, several / one))
            print(f"round {number}: 1 process {one:.2f}, {args.processes} processes {several:.2f} images/s", flush=True)
    one, several, ratio = (median(column) for column in zip(*found))
    print(f"medians of {args.rounds}: {one:.2f}, {several:.2f} images/s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main(parse())
