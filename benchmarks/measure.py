# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What the parts of benchmarks/run.py share: the data, timing in turn, the comparison of results, the table."""

import contextlib
import io
import statistics
import sys
import time
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import archs
import options
from imaging.raw import synthetic
from imaging.raw.preparation import PreparationSettings, prepare
from imaging.raw.rawset import RawSet
from runtime.device import keep_freed_memory

RATES = ("images/s", "GFLOP/s", "%")  # units of which more is better; of other units less is better


class Goal(NamedTuple):
    """A bound for a row's `ratio`, or for `ours` alone."""

    of: str
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        bound = f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"
        return f"{self.of} {bound}"

    def reached(self, row: "Row") -> bool:
        """Does the row reach the goal?"""
        value = row.ratio if self.of == "ratio" else row.ours
        return value >= self.least if self.least is not None else value <= self.most


class Row(NamedTuple):
    """A line of the table."""

    section: str
    what: str
    unit: str
    plain: float | None
    ours: float | None
    goal: Goal | None

    @property
    def ratio(self) -> float | None:
        """How many times better our side is; None if there is only one side."""
        if self.plain is None or self.ours is None:
            return None
        return self.ours / self.plain if self.unit in RATES else self.plain / self.ours

    def columns(self) -> dict[str, object]:
        """Return the row's columns, as they are printed and written to the CSV."""
        numbers = {"plain": self.plain, "ours": self.ours, "ratio": self.ratio}
        rounded = {name: None if value is None else float(f"{value:.4g}") for name, value in numbers.items()}
        reached = "" if not self.goal else "yes" if self.goal.reached(self) else "no"
        labels = {"section": self.section, "what": self.what, "unit": self.unit}
        return labels | rounded | {"goal": str(self.goal or ""), "reached": reached}


@dataclass
class Bench:
    """What each part gets: the flags, a folder for its files, the data, and the table that it adds to."""

    args: Namespace
    folder: Path
    rows: list[Row] = field(default_factory=list)

    @property
    def tiny(self) -> bool:
        """Only test the benchmark itself, with small nets and images?"""
        return self.args.tiny

    @property
    def side(self) -> int:
        """Height and width of the nets' inputs."""
        return 32 if self.tiny else 96

    @property
    def batch_size(self) -> int:
        """The recipe's batch size, or a small one."""
        return 4 if self.tiny else 16

    def add(
        self,
        section: str,
        what: str,
        unit: str,
        plain: float | None = None,
        ours: float | None = None,
        goal: Goal | None = None,
    ) -> None:
        """Add a row, and print it at once."""
        row = Row(section, what, unit, plain, ours, goal)
        self.rows.append(row)
        sides = [f"{name} {value:.4g}" for name, value in (("plain", plain), ("ours", ours)) if value is not None]
        ratio = "" if row.ratio is None else f", ratio {row.ratio:.2f}"
        reached = f", {goal}: {row.columns()['reached']}" if goal else ""
        print(f"  {what}: {', '.join(sides)} {unit}{ratio}{reached}", flush=True)

    @cached_property
    def raw(self) -> tuple[Path, str]:
        """A synthetic raw folder, which replaces missing data, and its name in the table."""
        count = 16 if self.tiny else 80
        folder = self.folder / "raw" / "stage1_train"
        with silence():
            synthetic.write_raw_set(folder, count, seed=0, workers=1 if self.tiny else 2)
        return folder, f"{count} synthetic images"

    @cached_property
    def zip(self) -> tuple[Path, str]:
        """The raw zip, and its name in the table."""
        given = self.args.zip and Path(self.args.zip)
        if given and (given.is_file() or not self.args.zip_is_default):
            return given, given.name
        folder, name = self.raw
        path = self.folder / "raw.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*.png")):
                archive.write(file, file.relative_to(folder))
        return path, name

    @cached_property
    def data(self) -> tuple[Path, str]:
        """The prepared data, and their name in the table."""
        given = self.args.data and Path(self.args.data)
        if given and (given.is_dir() or not self.args.data_is_default):
            return given, given.name
        raw, name = self.raw
        prepared = self.folder / "prepared"
        with silence():
            prepare(RawSet(raw), prepared, PreparationSettings(self.side), workers=1)
        return prepared, name

    def settings(self) -> Namespace:
        """Return train.py's flags for these data; all other flags have the recipe's values."""
        size = ["--input_h", self.side, "--input_w", self.side, "--batch_size", self.batch_size, "--device", "cpu"]
        return options.parse_train([str(self.data[0]), *map(str, size)])


def prepared_data(folder: Path, side: int, images: int) -> Path:
    """Prepare synthetic images in a folder, and return that of the prepared data."""
    raw, prepared = folder / "raw" / "stage1_train", folder / "prepared"
    with silence():
        synthetic.write_raw_set(raw, images, seed=0, workers=1 if images < 100 else 2)
        prepare(RawSet(raw), prepared, PreparationSettings(side), workers=1 if images < 100 else 2)
    return prepared


class Side(NamedTuple):
    """One of several ways to do the same.

    run: does it once. keep_memory: freed memory stays in the process, as in our scripts; plain sides use the defaults
    of the C library. calls: are timed together, if one is too short. warm: call it once before, untimed.
    """

    run: Callable[[], object]
    keep_memory: bool = True
    calls: int = 1
    warm: bool = True


def medians(sides: dict[str, Side], repeats: int) -> dict[str, float]:
    """Return the median seconds of each side. They run in turn, so that other load on the machine affects all."""
    found = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            keep_freed_memory(side.keep_memory)
            if side.warm:
                side.run()
            start = time.perf_counter()
            for _ in range(side.calls):
                side.run()
            found[name].append((time.perf_counter() - start) / side.calls)
    keep_freed_memory()
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def check_same(what: str, plain: object, ours: object, tolerance: float = 0.0) -> None:
    """End the benchmark if two results differ by more than `tolerance`: their times could not be compared."""
    plain, ours = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x) for x in (plain, ours))
    if plain.shape != ours.shape:
        sys.exit(f"benchmark: {what}: the plain side has the shape {plain.shape}, ours {ours.shape}")
    difference = np.abs(plain.astype(np.float64) - ours.astype(np.float64)).max(initial=0)
    if not difference <= tolerance:
        sys.exit(f"benchmark: {what}: plain and ours differ by {difference:.3g}, and {tolerance:g} is allowed")


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hide what the scripts print, with their progress bars."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def replaced(*replacements: tuple[object, str, object]) -> Iterator[None]:
    """Replace attributes (owner, name, value) within the context."""
    with contextlib.ExitStack() as undo:
        for owner, name, value in replacements:
            if name in vars(owner):
                undo.callback(setattr, owner, name, vars(owner)[name])
            else:  # the owner inherits it
                undo.callback(delattr, owner, name)
            setattr(owner, name, value)
        yield


def build_net(arch: str, deep_supervision: bool = False, trained: bool = False) -> torch.nn.Module:
    """Return a net with random weights. trained: in evaluation mode, with BatchNorm statistics as after training."""
    torch.manual_seed(0)
    model = archs.ARCHS[arch](1, 3, deep_supervision)
    for name, buffer in model.named_buffers() if trained else ():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
        elif name.endswith("running_mean"):
            buffer.copy_(torch.randn_like(buffer) * 0.1)
    return model.eval() if trained else model.train()


def random_batch(batch_size: int, side: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (N, 3, H, W) on the scale of prepared ones, divided by 255 twice, and masks (N, 1, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch_size, 3, side, side, generator=generator) / 255
    return images, blobs(batch_size, side, generator)


def blobs(batch_size: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Return masks, float32 (N, 1, H, W) in [0, 1]: discs with soft edges that cover about a sixth of the area."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centers = torch.rand(batch_size, 8, 2, 1, 1, generator=generator) * side
    radii = (0.05 + 0.06 * torch.rand(batch_size, 8, 1, 1, generator=generator)) * side
    distance = torch.hypot(rows - centers[:, :, 0], columns - centers[:, :, 1])
    return (radii - distance + 0.5).clamp(0, 1).amax(1, keepdim=True)
