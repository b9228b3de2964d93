# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The checkpoint file: writing it so that a readable one always exists, and reading it without running its code."""

import errno
import re
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from runtime.background import BackgroundTask
from runtime.checkpoint_safety import find_damage, is_modest, is_plain, numpy_scalar_types
from runtime.distributed import Runtime
from runtime.errors import InputError, checkpoint_errors
from runtime.files import atomic_write, link_or_copy
from runtime.run_files import Curves, read_history, save_config, write_log
from runtime.state import TrainingState

LATEST, PREVIOUS, BEST = "checkpoint.pth.tar", "checkpoint.prev.pth.tar", "model_best.pth.tar"


class CheckpointSaver:
    """Writes a run's files: config.yml, log.csv, curves.png, and its latest, previous and best checkpoints.

    A checkpoint is written in the background while training goes on. Used as a context, it completes all files at its
    end.
    """

    def __init__(self, folder: Path, about: Mapping, resumed: Path | None):
        """about: entries of each checkpoint besides the training state. resumed: the checkpoint that is continued."""
        self.folder, self.about, self.resumed, self.saved = folder, about, resumed, None
        self.writing, self.curves = BackgroundTask(), Curves(folder)
        # the file that the next checkpoint replaces is kept as the previous one only if it is readable and of this run
        self.keep_previous = resumed is not None and resumed.resolve().parent == folder.resolve()
        self.keep_latest = self.keep_previous and resumed.name == LATEST

    def prepare_folder(self, state: TrainingState) -> None:
        """Write config.yml and copy the best model of a resumed run, with its IoU; all processes must call this."""
        if state.runtime.is_main:
            if not self.keep_previous and (self.folder / BEST).exists():
                print(f"{self.folder} holds an earlier run, whose files this one replaces; --name NAME would keep them")
            save_config(self.about["config"], self.folder)
            if self.resumed:
                state.best_iou = _adopt_best_model(self.resumed, self.folder, state.best_iou)
        state.best_iou = state.runtime.broadcast(state.best_iou)

    def save(self, state: TrainingState, is_best: bool = False) -> None:
        """Start to save the run unless it is saved already; all processes must call this, and the main one writes.

        Waits for the checkpoint before it, and raises InputError if that one could not be written.
        """
        if self.saved == (state.epoch, state.step):
            return
        self.wait()
        contents = {**state.state_dict(), **self.about}
        self.saved = state.epoch, state.step
        if state.runtime.is_main:
            # a copy, since the next steps change the tensors
            self.writing.start(self._write, state.runtime.snapshot(contents), is_best)

    def wait(self) -> None:
        """Wait until all that was saved is on the disk; raises InputError if it could not be written."""
        self.writing.wait()

    def _write(self, contents: dict, is_best: bool) -> None:
        epoch_has_ended = not contents["step"]
        if epoch_has_ended:
            write_log(contents["history"], self.folder)
        # written last, so that the log is never older than it
        previous, best = self.folder / PREVIOUS, self.folder / BEST
        save_checkpoint(
            contents, self.folder / LATEST, previous if self.keep_latest else None, best if is_best else None
        )
        if not self.keep_previous:
            previous.unlink(missing_ok=True)
        self.keep_previous = self.keep_latest = True
        if epoch_has_ended:
            self.curves.update(contents["history"])

    def __enter__(self) -> "CheckpointSaver":
        return self

    def __exit__(self, _kind, error: BaseException | None, _traceback) -> None:
        if error is None:
            self.wait()
            self.curves.draw()
            return
        try:
            self.wait()
        except InputError as failure:
            print(f"warning: {failure}", flush=True)  # the error that ended the run is reported after this
        with suppress(InputError):  # of a full disk, which another sentence has reported
            self.curves.draw()


def restore_training(state: TrainingState, checkpoint: dict, path: Path) -> None:
    """Restore the training state, print what the checkpoint lacks; raises InputError if an entry does not fit."""
    on_plateau = isinstance(state.scheduler, ReduceLROnPlateau)  # the other schedulers need no saved state
    wanted = ("optimizer", "scheduler", "history") if on_plateau else ("optimizer", "history")
    lacking = [key for key in wanted if checkpoint.get(key) is None]
    if not checkpoint.get("history"):  # older editions saved it only in log.csv
        checkpoint["history"] = read_history(path.with_name("log.csv"), checkpoint["epoch"])
    with checkpoint_errors(path):
        state.load_state_dict(checkpoint)
    if lacking:
        rows = f"; log.csv keeps its {len(state.history)} rows" if state.history else ""
        print(f"warning: {path} holds no {', '.join(lacking)}; the run continues without{rows}")
    if checkpoint["processes"] not in (0, state.runtime.world_size):
        print(
            f"warning: {path} was saved by {checkpoint['processes']} processes: BatchNorm saw batches of another size"
        )
    inside = f" and {state.step} steps" if state.step else ""
    print(f"resuming {path} after {state.epoch} epochs{inside}")


def check_same_checkpoint(checkpoint: dict | None, path: Path | None, runtime: Runtime) -> None:
    """Raise InputError unless all processes, which may be on several hosts, have the same checkpoint, or none."""
    own = None
    if checkpoint and runtime.world_size > 1:
        sums = (float(value.double().sum()) for value in checkpoint["state_dict"].values())
        own = checkpoint["epoch"], checkpoint["step"], repr(list(sums))
    all_ranks = runtime.all_gather(own)
    differing = [rank for rank, others in enumerate(all_ranks) if others != all_ranks[0]]
    if differing:
        raise InputError(
            f"rank {differing[0]} and rank 0 would not go on from the same checkpoint; copy rank 0's"
            f"{f', {path},' if path else ''} to the same path on every host"
        )


def save_checkpoint(state: dict, path: Path, previous: Path | None = None, best: Path | None = None) -> None:
    """Write a checkpoint and read it back before it replaces the old one, which is kept as `previous`, if given.

    state: its tensors are on the CPU. best: if given, becomes another name of the new file, or a copy, before `path`
    does; a run that dies in between trains that epoch again.
    """
    if previous and path.is_file():
        with atomic_write(previous) as old:  # it is renamed when this block ends, after the new file is in place
            link_or_copy(path, old)
            save_checkpoint(state, path, best=best)
        return
    with atomic_write(path) as partial:
        try:
            with open(partial, "wb") as file:
                torch.save(state, file)
        except RuntimeError as error:  # torch reports a full disk only in this way
            raise InputError(f"{path}: cannot be written: the disk is full, or fails") from error
        if damage := find_damage(partial):
            raise InputError(f"{path}: cannot be written: the file read back is {damage}")
        if best:
            with atomic_write(best) as same:
                link_or_copy(partial, same)


def load_checkpoint(path: Path, trust: bool = False) -> dict:
    """Read a checkpoint of this or an older edition onto the CPU.

    Returns a dict with at least `state_dict` (without `module.` prefixes), `epoch` (finished epochs, 0 if unknown),
    `step` (steps done in the next one), `processes` (0 if unknown) and `best_iou` (float, or None if unknown).
    trust: the file may hold any Python objects, which can run code.
    Raises InputError if the file is missing, damaged, no checkpoint, or holds more than weights, numbers and text.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train first, or give another path")
    if damage := find_damage(path):
        raise InputError(f"{path}: not a readable checkpoint: {damage}; give another file")
    checkpoint = _unpickle(path, trust)
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint")
    if "state_dict" not in checkpoint:
        checkpoint = {"state_dict": checkpoint}
    weights, best_iou = checkpoint["state_dict"], checkpoint.get("best_iou")
    counts = {key: checkpoint.get(key, 0) for key in ("epoch", "step", "processes")}
    complete = isinstance(weights, dict) and weights and all(map(_is_count, counts.values()))
    if not complete or not all(isinstance(k, str) and is_plain(v) for k, v in weights.items()):
        raise InputError(f"{path}: holds no weights; give a checkpoint that train.py wrote")
    if not trust and not is_modest(checkpoint):
        raise InputError(
            f"{path}: holds more than a run's state, or odd tensors; give a checkpoint that train.py wrote"
        )
    if not (best_iou is None or (isinstance(best_iou, (int, float, np.number)) and 0 <= best_iou <= 1)):
        raise InputError(f"{path}: its best_iou is not a number; give a checkpoint that train.py wrote")
    return {
        **checkpoint,
        **{key: int(count) for key, count in counts.items()},
        "state_dict": {re.sub(r"^(module\.|_orig_mod\.)+", "", name): value for name, value in weights.items()},
        "best_iou": None if best_iou is None else float(best_iou),
    }


def load_latest_checkpoint(path: Path, trust: bool = False) -> tuple[dict, Path]:
    """Read a checkpoint, or the run's previous one if its latest is damaged; returns it and its path."""
    path = Path(path)
    previous = path.with_name(PREVIOUS)
    try:
        return load_checkpoint(path, trust), path
    except InputError as error:
        if path.name != LATEST or not previous.is_file():
            raise
        try:
            checkpoint = load_checkpoint(previous, trust)
        except InputError as another:
            raise InputError(f"{error}; nor can the one before it be read: {another}") from error
        print(f"warning: {error}; going on from the one before it, {previous}")
        return checkpoint, previous


def find_checkpoint(resume: str | None, folder: Path) -> Path | None:
    """Return the checkpoint that `--resume` names; "auto" means the latest in `folder`, None if it has none."""
    if resume != "auto":
        return Path(resume) if resume else None
    exists = any((folder / name).exists() for name in (LATEST, PREVIOUS))
    return folder / LATEST if exists else None


def _adopt_best_model(resumed: Path, folder: Path, best_iou: float) -> float:
    """Copy the best model of a resumed run into this run's folder; returns the IoU to beat."""
    best, source = folder / BEST, resumed.with_name(BEST)
    if not source.is_file():
        best.unlink(missing_ok=True)  # it belongs to another run
        return 0.0  # so that the next epoch's model becomes the best
    if not (best.exists() and best.samefile(source)):
        with atomic_write(best) as partial:
            shutil.copyfile(source, partial)
    return best_iou


def _unpickle(path: Path, trust: bool):
    if trust:
        print(f"warning: --trust_checkpoint: any code in {path} is run")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(numpy_scalar_types()):
            warnings.simplefilter("ignore")  # about formats; a failure raises as well
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises many types, and advises to trust the file
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a file cut off: read before its start
            raise
        if foreign := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(
                f"{path}: refused, and nothing of it was run: it calls {foreign[1]}, but weights and numbers need no "
                "such call; get another file, or pass --trust_checkpoint if you know who made it and trust them"
            ) from error
        raise InputError(
            f"{path}: not a readable checkpoint, and nothing of it was run: damaged, or it holds more than weights and "
            "numbers; give another file"
        ) from error


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= value < 2**31
