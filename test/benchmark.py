"""Measure plain, one-image-at-a-time code against this repository's, and print one table: python test/benchmark.py

Both sides run in the same process, in turn, several times; the table holds medians. Before anything is timed, the two
sides must have given the same result. --tiny tries the script itself out: its times tell nothing.
"""

import argparse
import importlib
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

import startup

startup.prepare_opencv()

import benchmark_measure
import cv2
import numpy as np
import onnxruntime
import pandas as pd
import torch

import archs
import augment
import files
import runtime as rt
from errors import one_sentence

PARTS = ("loss", "step", "input", "preparation", "net", "inference")
TINY_WIDTHS = (4, 4, 8, 8, 8)


def describe_machine() -> str:
    """What the figures depend on."""
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
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", default=",".join(PARTS), help="only these, as loss,net")
    add("--repeats", type=int, help="turns of each side, of which the median counts (default: 5)")
    add("--tiny", action="store_true", help="small nets and images, one turn")
    add("--data", metavar="DIR", help="prepared data (default: inputs/dsb2018_96, else synthetic ones)")
    add("--zip", metavar="FILE", help="raw zip (default: DSB2018_ZIP, inputs/stage1_train.zip, else a synthetic one)")
    add("--csv", metavar="FILE", help="write the table there too")
    add("--no-compile", dest="compile", action="store_false", help="without the compiled nets")
    add("--profile", action="store_true", help="part net: the operators of a training step")
    args = parser.parse_args(argv)
    args.parts = args.parts.split(",")
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"--parts: there is no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    args.parts = [part for part in PARTS if part in args.parts]  # what is compiled is compiled first in part net
    args.repeats = args.repeats or (1 if args.tiny else 5)
    # what is asked for must be there, what is a default need not be; a tiny run is the same on every machine
    args.data_is_default, args.zip_is_default = args.data is None, args.zip is None
    if not args.tiny:
        args.data = args.data or ROOT / "inputs" / "dsb2018_96"
        args.zip = args.zip or os.environ.get("DSB2018_ZIP") or ROOT / "inputs" / "stage1_train.zip"
    return args


def main(args: argparse.Namespace) -> None:
    """Run the parts, each of which prints its rows as they come, and print the table."""
    print(describe_machine(), flush=True)
    if args.tiny:
        archs.WIDTHS = TINY_WIDTHS
        torch.set_num_threads(1)  # which of two threads waits for the other on a busy machine is of no interest
    rt.init("cpu")
    with tempfile.TemporaryDirectory(prefix="benchmark") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # else nets that were compiled before compile in no time
        bench = benchmark_measure.Bench(args, Path(folder))
        for part in args.parts:
            begun = time.monotonic()
            print(f"\n{part}", flush=True)
            importlib.import_module(f"benchmark_{part}").run(bench)
            print(f"{part} took {time.monotonic() - begun:.0f} s", flush=True)
    table = pd.DataFrame([row.columns() for row in bench.rows])
    shown = table.astype(object).map(lambda value: f"{value:.4g}" if isinstance(value, float) else value)
    print(f"\n{shown.replace('nan', '').to_string(index=False)}")
    if args.csv:
        with files.replacing(Path(args.csv)) as path:
            table.to_csv(path, index=False)


if __name__ == "__main__":
    with one_sentence():
        main(parse())
