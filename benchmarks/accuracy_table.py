# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Print the accuracy table of runs from their logs: python benchmarks/accuracy_table.py NAME… [--plot FILE]"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import matplotlib
import pandas as pd

import utils
from runtime.checkpoint import LATEST, load_checkpoint
from runtime.errors import InputError, report_errors
from runtime.files import atomic_write

PUBLISHED = {"published, 8 GPUs": 0.8391, "published, 8 NPUs": 0.8331}  # after 100 epochs


def read_run(name: str) -> tuple[pd.DataFrame, dict]:
    """Return a run's log.csv and its latest checkpoint; raises InputError if they are missing or too old."""
    folder = utils.run_folder(name)
    if not (folder / "log.csv").exists():
        raise InputError(f"{folder}: no log.csv there; run its line of benchmarks/accuracy.sh first")
    log, checkpoint = pd.read_csv(folder / "log.csv"), load_checkpoint(folder / LATEST)
    if not {"val_iou", "images_per_s"} <= set(log) or not {"config", "data"} <= checkpoint.keys():
        raise InputError(f"{folder}: of an older edition, which does not record what the table needs; train it again")
    return log, checkpoint


def table_row(name: str, log: pd.DataFrame, checkpoint: dict) -> list:
    """Return a run's row of the table; its minutes are those of the training steps, without validation."""
    settings, images = checkpoint["config"], checkpoint["data"]["train_images"]
    used = images // settings["batch_size"] * settings["batch_size"]
    best = log["val_iou"].idxmax()
    minutes = (used / log["images_per_s"]).sum() / 60
    ious = [f"{100 * log['val_iou'][row]:.2f}" for row in (len(log) - 1, best)]
    return [name, settings["seed"], len(log), ious[0], f"{ious[1]} ({best + 1})", f"{minutes:.1f}"]


def plot(logs: dict[str, pd.DataFrame], path: Path) -> None:
    """Draw the runs' validation IoU over their epochs, with the published values, to a PNG."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # after the choice of the backend

    figure, axis = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for name, log in logs.items():
        axis.plot(log["epoch"] + 1, log["val_iou"], label=name, linewidth=1.2)
    for (label, value), style in zip(PUBLISHED.items(), ("--", ":")):
        axis.axhline(value, color="gray", linestyle=style, linewidth=1, label=label)
    axis.set(xlabel="epoch", ylabel="validation IoU", xscale="log", ylim=(0.6, 0.88))
    ticks = [1, 2, 5, 10, 20, 50, 100]
    axis.set_xticks(ticks, ticks)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper")  # outside, because the curves fill the axes
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=100)


def main(args: argparse.Namespace) -> None:
    """Print the table as Markdown, and draw the plot if `--plot` is given."""
    runs = {name: read_run(name) for name in args.names}
    columns = ["run", "seed", "epochs", "last IoU", "best IoU (epoch)", "minutes"]
    lines = [columns, ["---"] * len(columns), *(table_row(name, *run) for name, run in runs.items())]
    print("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))
    if args.plot:
        plot({name: log for name, (log, _) in runs.items()}, args.plot)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a run under models/")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG to draw the curves to")
    with report_errors():
        main(parser.parse_args())
