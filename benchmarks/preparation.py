# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Part preparation of benchmarks/run.py: preprocess_dsb2018.py against plain_preparation.py."""

import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measure import Bench, Goal, Side, medians

ROOT = Path(__file__).resolve().parents[1]
MAX_MB = 500
POLL_SECONDS = 0.05  # between two reads of the processes' memory


def _family(pid: int) -> list[int]:
    """Return the id of a process and those of all its descendants."""
    family = [pid]
    for parent in family:
        try:
            tasks = Path(f"/proc/{parent}/task").glob("*/children")
            family += [int(child) for task in tasks for child in task.read_text().split()]
        except OSError:  # the process has ended
            pass
    return family


def run_command(command: list[object]) -> float:
    """Run Python with these arguments; returns the sum of the peak memory of its processes, in MB.

    The sum is an upper bound: the peaks need not be at the same time, and shared pages count for each process. The
    kernel keeps the peak of each process (VmHWM), so only growth in the last moments of a process can be missed. NaN if
    the kernel does not list the children of a process.
    """
    peaks = {}
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while process.poll() is None:
        for pid in _family(process.pid):
            try:
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            except OSError:
                continue
            if found:
                peaks[pid] = max(peaks.get(pid, 0), int(found[1]) * 1024)
        time.sleep(POLL_SECONDS)
    if process.returncode:
        sys.exit(f"benchmark: {' '.join(map(str, command))} failed:\n{process.stdout.read()}")
    lists_children = Path(f"/proc/self/task/{os.getpid()}/children").exists()
    return sum(peaks.values()) / 1e6 if lists_children else math.nan


def check_same_pictures(plain: Path, ours: Path) -> None:
    """End the benchmark if two folders do not hold the same pixels under the same names."""
    names = [sorted(p.relative_to(folder) for p in folder.rglob("*.png")) for folder in (plain, ours)]
    if names[0] != names[1]:
        sys.exit(f"benchmark: preparation: {len(names[0])} plain pictures and {len(names[1])} of ours differ in name")
    for name in names[0]:
        pictures = [cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED) for folder in (plain, ours)]
        if not np.array_equal(*pictures):
            sys.exit(f"benchmark: preparation: {name} differs between plain preparation and ours")


def run(bench: Bench) -> None:
    """Add this part's rows."""
    path, name = bench.zip
    commands = {
        "plain": [ROOT / "benchmarks" / "plain_preparation.py", path, "{output}", bench.side],
        "ours": [ROOT / "preprocess_dsb2018.py", "--input", path, "--output", "{output}"],
    }
    commands["ours"] += ["--img_size", bench.side, "--workers", "2"]
    outputs, memory = {}, {side: [] for side in commands}

    def prepare(side: str) -> None:
        outputs[side] = bench.folder / f"{side}{len(memory[side])}"
        command = [outputs[side] if part == "{output}" else part for part in commands[side]]
        memory[side].append(run_command(command))

    # a first, untimed run of each: their results are compared, and the zip gets into the page cache
    for side in commands:
        prepare(side)
    check_same_pictures(outputs["plain"], outputs["ours"])
    sides = {side: Side(lambda side=side: prepare(side), side != "plain", warm=False) for side in commands}
    seconds = medians(sides, min(bench.args.repeats, 3))
    bench.add("preparation", f"{name}, 2 workers", "s", seconds["plain"], seconds["ours"], Goal("ratio", least=2))
    peaks = {side: max(megabytes) for side, megabytes in memory.items()}
    what = "peak memory, sum of the processes"
    bench.add("preparation", what, "MB", peaks["plain"], peaks["ours"], Goal("ours", most=MAX_MB))
