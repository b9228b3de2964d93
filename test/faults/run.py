# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Test the repository against faults of hosts and disks and against hostile files, and print a table of the outcomes.

    python test/faults/run.py            # everything, takes about 45 minutes
    python test/faults/run.py --quick    # a little of each fault, with a narrow network, as in the unit tests

Kills training at random moments, damages checkpoints, fills the disk during a save, and gives damaged and hostile files
to every script. The exit status is 1 if a script lost data, did not end, left a half-written file, or reported a fault
in more or less than one clear sentence.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults import disks, inputs, kills

PARTS = ("kills", "kills2", "damage", "disk", "inputs")


class Counts(NamedTuple):
    """How often each fault is tried."""

    kills: int  # of a single training process
    kills_of_ranks: int  # of one of two training processes
    damages: int  # of a checkpoint
    full_disks: int
    forks: int  # mutated files that a fork reads
    processes: int  # mutated files that a new Python reads


FULL, QUICK = Counts(100, 20, 500, 20, 1000, 100), Counts(2, 1, 15, 1, 13, 1)


def report(text: str) -> None:
    """Print without a delay: a run takes long."""
    print(text, flush=True)


def try_inputs(forks: int, processes: int, seed: int) -> list[str]:
    """Give mutated files to the scripts, and print the outcomes by kind of file; returns a row for the table."""
    found = inputs.run(forks, processes, seed, Path(tempfile.gettempdir(), "faults_kept"))
    report(f"\n{inputs.as_table(found)}\n")
    counts = Counter(dict.fromkeys(inputs.OUTCOMES, 0))
    for (*_, outcome), count in found.items():
        counts[outcome] += count
    faults = sum(counts[outcome] for outcome in inputs.BAD)
    outcomes = f"{faults} FAULTS" if faults else ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return ["mutated or hostile file, given to a script", f"{forks} in forks, {processes} in processes", outcomes]


def main(args: argparse.Namespace) -> bool:
    """Run the parts; returns whether there was a fault."""
    counts = QUICK if args.quick else FULL
    script = kills.NARROW_TRAIN if args.quick else kills.TRAIN
    parts = {
        "kills": lambda folder: kills.try_kills(folder, script, counts.kills, 1, args.seed, report),
        "kills2": lambda folder: kills.try_kills(folder, script, counts.kills_of_ranks, 2, args.seed, report),
        "damage": lambda folder: disks.try_damage(folder, script, counts.damages, args.seed, report),
        "disk": lambda folder: disks.try_full_disk(folder, script, counts.full_disks, args.seed, report),
        "inputs": lambda _: try_inputs(counts.forks, counts.processes, args.seed),
    }
    rows = []
    with tempfile.TemporaryDirectory(prefix="faults") as data:
        kills.make_data(Path(data))
        for name in args.parts:
            start = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="faults") as folder:
                Path(folder, "inputs").symlink_to(Path(data, "inputs"))
                rows.append([*parts[name](Path(folder)), f"{time.monotonic() - start:.0f} s"])
            report(" | ".join(rows[-1]))
    lines = [("fault", "times", "outcome", "duration"), ("---",) * 4, *rows]
    report("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return any("FAULTS" in row[2] or "NOT RUN" in row[2] for row in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a little of each fault, with a narrow network")
    parser.add_argument("--seed", type=int, default=0, help="of the random faults (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="run only these parts")
    raise SystemExit(main(parser.parse_args()))
