"""Do to the repository what hosts, disks and strangers do to it, and print a table of what became of it.

    python test/faults.py            # all of it, for a night or a free hour
    python test/faults.py --quick    # a little of each, as the tests do

Kills training at random moments, damages checkpoints, fills the disk while one is saved, and feeds damaged and hostile
files to every script. Ends with 1 if anything was lost, hung, half written, or not told in a sentence.
"""

import argparse
import tempfile
import time
from pathlib import Path

import fault_disks
import fault_inputs
import fault_kills

# how many of each: kills, kills with two processes, damages, full disks, mutated files in forks, in processes
FULL, QUICK = (100, 20, 500, 20, 1000, 100), (4, 1, 30, 2, 40, 2)
PARTS = ("kills", "kills2", "damage", "disk", "inputs")


def say(text: str) -> None:
    """Print at once: a run is long."""
    print(text, flush=True)


def main(args: argparse.Namespace) -> int:
    """Run the parts; returns the exit code."""
    kills, kills2, damages, disks, forks, processes = QUICK if args.quick else FULL
    parts = {
        "kills": lambda folder: fault_kills.try_kills(folder, kills, 1, args.seed, say),
        "kills2": lambda folder: fault_kills.try_kills(folder, kills2, 2, args.seed, say),
        "damage": lambda folder: fault_disks.try_damage(folder, damages, args.seed, say),
        "disk": lambda folder: fault_disks.try_full_disk(folder, disks, args.seed, say),
    }
    rows = []
    for name, part in parts.items():
        if name in args.parts:
            begun = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="faults") as folder:
                rows.append([*part(Path(folder)), f"{time.monotonic() - begun:.0f} s"])
            say(" | ".join(rows[-1]))
    bad = [row for row in rows if "FAULTS" in row[2] or "NOT RUN" in row[2]]
    if "inputs" in args.parts:
        begun = time.monotonic()
        found = fault_inputs.run(forks, processes, args.seed, Path(tempfile.gettempdir(), "faults_kept"))
        bad += [row for row in found if row[2] in fault_inputs.BAD]
        say(f"\n{fault_inputs.as_table(found)}\n{time.monotonic() - begun:.0f} s\n")
    lines = [("fault", "times", "outcome", "took"), ("---",) * 4, *rows]
    say("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return 1 if bad else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a little of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="only these")
    raise SystemExit(main(parser.parse_args()))
