"""How many more images a second N processes train than one, each on one CPU thread: python test/benchmark_scaling.py

Runs train.py as users do, on synthetic images, with one process and with N in turn, several rounds, so that whatever
else the machine does meets both alike. The batch over all processes is the same. Prints each round and the medians.
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
WARM_UP_STEPS = 3


def images_per_second(processes: int, args: argparse.Namespace, folder: Path) -> float:
    """Train one epoch of `args.steps` steps in `folder`; the first steps do not count."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    flags = ["--device=cpu", "--epochs=1", f"--batch_size={args.batch_size}", "--num_workers=0", f"--arch={args.arch}"]
    result = subprocess.run(
        [*launch, ROOT / "train.py", "inputs/synthetic_96", *flags],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        sys.exit(f"train.py failed:\n{result.stdout}{result.stderr}")
    times = [float(time) for time in re.findall(r"^Epoch: .*\tTime +([\d.]+) ", result.stdout, re.MULTILINE)]
    steady = times[WARM_UP_STEPS:]
    return args.batch_size * len(steady) / sum(steady)


def main() -> None:
    """Measure in turn, print as it comes, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default=2, type=int)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--steps", default=10, type=int, help=f"steps of a run, the first {WARM_UP_STEPS} do not count")
    parser.add_argument("--batch_size", default=16, type=int, help="over all processes")
    parser.add_argument("--arch", default="UNet")
    args = parser.parse_args()
    if args.steps <= WARM_UP_STEPS:
        parser.error(f"--steps must be above {WARM_UP_STEPS}")
    images = -(-args.steps * args.batch_size * 5 // 4)  # a fifth of them is for validation
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
    main()
