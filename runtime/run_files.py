# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The files of a run that people read: config.yml with its flags, log.csv and curves.png with its epochs."""

import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import yaml

from runtime.files import atomic_write

COLUMNS = ("epoch", "lr", "loss", "iou", "val_loss", "val_iou")  # of every edition; ours adds more
SECONDS_BETWEEN_CURVES = 10  # one drawing takes 0.2 seconds


def save_config(config: Mapping, folder: Path) -> None:
    """Write `<folder>/config.yml`: all flags, as plain YAML."""
    with atomic_write(folder / "config.yml") as path:
        path.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_log(history: list[dict], folder: Path) -> None:
    """Write `log.csv`, one row per epoch."""
    with atomic_write(folder / "log.csv") as path:
        pd.DataFrame(history).to_csv(path, index=False)


class Curves:
    """Draws `curves.png`, but not after every epoch: this can take longer than the epoch."""

    def __init__(self, folder: Path):
        self.folder, self.history = folder, []
        self.drawn_epochs, self.drawn_at = 0, time.monotonic()

    def update(self, history: list[dict]) -> None:
        """Take in the rows of `log.csv`, and draw them if that is due."""
        self.history = history
        if time.monotonic() >= self.drawn_at + SECONDS_BETWEEN_CURVES:
            self.draw()

    def draw(self) -> None:
        """Draw the rows unless they are drawn already."""
        if len(self.history) == self.drawn_epochs:
            return
        with atomic_write(self.folder / "curves.png") as path:
            plot_curves(pd.DataFrame(self.history), path)
        self.drawn_epochs, self.drawn_at = len(self.history), time.monotonic()


def plot_curves(history: pd.DataFrame, path: Path) -> None:
    """Draw loss and IoU over the epochs (columns of log.csv; epochs are shown from 1) to a PNG."""
    import matplotlib  # here: only training plots, and the import is slow

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    epochs, marker = history["epoch"] + 1, "o" if len(history) < 30 else None
    for axis, key, label in ((axes[0], "loss", "loss"), (axes[1], "iou", "IoU")):
        axis.plot(epochs, history[key], marker=marker, markersize=3, label="training")
        axis.plot(epochs, history[f"val_{key}"], marker=marker, markersize=3, label="validation")
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend()
    best = history["val_iou"].idxmax()
    axes[1].set(ylim=(0, 1), title=f"best {history['val_iou'][best]:.4f} in epoch {epochs[best]}")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def check_history(history: list[dict]) -> None:
    """Raise ValueError, TypeError or KeyError if these are not rows of log.csv."""
    pd.DataFrame(history)[list(COLUMNS)].astype(float)


def read_history(log: Path, epochs: int) -> list[dict]:
    """Read the rows of the first `epochs` epochs from a log.csv; [] if there is none that can be read."""
    try:
        rows = pd.read_csv(log)
        return rows[rows["epoch"] < epochs].to_dict("records") if len(rows[list(COLUMNS)]) else []
    except (OSError, ValueError, KeyError):
        return []
