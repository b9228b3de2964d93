"""Do to the repository what hosts, disks and strangers do to it, and print a table of what became of it.

    python test/faults.py            # all of it, for a night or a free hour
    python test/faults.py --quick    # a little of each, as the tests do

Kills training at random moments, damages checkpoints, fills the disk while one is saved, and feeds damaged and hostile
files to every script. Ends with 1 if anything was lost, hung, half written, or not told in a sentence.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import fault_disks
import fault_inputs
import fault_kills

# how many of each: kills, kills with two processes, damages, full disks, mutated files in forks, in processes
FULL, QUICK = (100, 20, 500, 20, 1000, 100), (3, 1, 15, 1, 20, 1)
PARTS = ("kills", "kills2", "damage", "disk", "inputs")


def say(text: str) -> None:
    """Print at once: a run is long."""
    print(text, flush=True)


def try_inputs(forks: int, processes: int, seed: int) -> list[str]:
    """Feed mutated files to the scripts, and say what became of each kind; a row for the table."""
    found = fault_inputs.run(forks, processes, seed, Path(tempfile.gettempdir(), "faults_kept"))
    say(f"\n{fault_inputs.as_table(found)}\n")
    counts = Counter(dict.fromkeys(fault_inputs.OUTCOMES, 0))
    for (*_, outcome), count in found.items():
        counts[outcome] += count
    faults = sum(counts[outcome] for outcome in fault_inputs.BAD)
    told = f"{faults} FAULTS" if faults else ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return ["mutated or hostile file, fed to a script", f"{forks} in forks, {processes} in processes", told]


def main(args: argparse.Namespace) -> bool:
    """Run the parts; returns whether anything went wrong."""
    kills, kills2, damages, disks, forks, processes = QUICK if args.quick else FULL
    parts = {
        "kills": lambda folder: fault_kills.try_kills(folder, kills, 1, args.seed, say),
        "kills2": lambda folder: fault_kills.try_kills(folder, kills2, 2, args.seed, say),
        "damage": lambda folder: fault_disks.try_damage(folder, damages, args.seed, say),
        "disk": lambda folder: fault_disks.try_full_disk(folder, disks, args.seed, say),
        "inputs": lambda _: try_inputs(forks, processes, args.seed),
    }
    rows = []
    for name in args.parts:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="faults") as folder:
            rows.append([*parts[name](Path(folder)), f"{time.monotonic() - begun:.0f} s"])
        say(" | ".join(rows[-1]))
    lines = [("fault", "times", "outcome", "took"), ("---",) * 4, *rows]
    say("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return any("FAULTS" in row[2] or "NOT RUN" in row[2] for row in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a little of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="only these")
    raise SystemExit(main(parser.parse_args()))
