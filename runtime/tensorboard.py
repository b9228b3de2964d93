# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Curves and a few validation images of a run for TensorBoard, if the package is installed."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime import names
from runtime.errors import InputError

MAX_IMAGES = 4
MAX_SIDE = 256  # pixels; larger images are reduced, since the probabilities are written after every epoch
EVENTS = "events.out.tfevents.*"


def import_writer() -> type:
    """Return torch's SummaryWriter; raises InputError if TensorBoard is not installed, or not usable."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # here, because it is slow and needs a package of its own
    except ImportError as error:
        remedy = "install it with `pip install tensorboard`, or leave the flag out"
        raise InputError(f"--tensorboard needs the package tensorboard; {remedy}") from error
    except Exception as error:  # such as the TypeError of a protobuf that does not fit
        reason = names.one_line(error)
        raise InputError(f"--tensorboard: the package fails ({reason}); reinstall it, or leave the flag out") from error
    return SummaryWriter


class Board:
    """Writes rows of log.csv, and images with their probabilities, as events; without a writer it does nothing."""

    def __init__(self, writer=None, read: Callable[[str], tuple] | None = None):
        """writer: a SummaryWriter. read: returns an image by its id, uint8 BGR (H, W, 3), and other things."""
        self.writer, self.read = writer, read
        self.kept: list[tuple[str, Tensor, Tensor]] = []  # id, probability and truth (num_classes, H, W) of the epoch
        self.shown: set[str] = set()  # ids whose image and truth, which do not change, are written

    @property
    def on_batch(self) -> Callable[[Tensor, Tensor, list[str]], None] | None:
        """What engine.evaluate calls with each batch; None without a writer, so that batches stay on the device."""
        return self.keep_images if self.writer else None

    def keep_images(self, logits: Tensor, target: Tensor, ids: list[str]) -> None:
        """Keep the first images of a validation: logits and targets (N, num_classes, H, W), on the CPU, and ids."""
        count = MAX_IMAGES - len(self.kept)
        if count > 0:
            self.kept += zip(ids, torch.sigmoid(logits[:count]).float(), target[:count])

    def write_epoch(self, row: Mapping[str, float]) -> None:
        """Write a row of log.csv, its epoch as the step, and the images that are kept."""
        if not self.writer:
            return
        self.write_rows([row])
        for img_id, probability, truth in self.kept:
            pictures = {"probability": probability}
            if img_id not in self.shown:
                image = torch.from_numpy(self.read(img_id)[0][..., ::-1].copy()).permute(2, 0, 1) / 255
                pictures |= {"image": _resize(image, truth.shape[1:]), "truth": truth}
            for name, picture in pictures.items():
                # several classes stand side by side
                picture = picture if name == "image" else torch.cat([*picture], -1)[None]
                self.writer.add_image(f"{img_id}/{name}", _fit(picture), row["epoch"])
        self.shown |= {img_id for img_id, _, _ in self.kept}
        self.kept = []
        self.writer.flush()

    def write_rows(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Write rows of log.csv."""
        for row in rows:
            for name in (name for name in row if name != "epoch"):
                self.writer.add_scalar(name, row[name], row["epoch"])

    def close(self) -> None:
        """Write what is left."""
        if self.writer:
            self.writer.close()


def open_board(folder: Path, epoch: int, history: list[dict], read: Callable[[str], tuple]) -> Board:
    """Return a Board that writes to a folder from an epoch on, which counts from 0.

    If the folder holds events of this run, those from this epoch on are withdrawn, because it is trained again. If it
    holds none, the rows of log.csv so far, `history`, are written. read: see Board.
    """
    goes_on = any(folder.glob(EVENTS))
    board = Board(import_writer()(folder, purge_step=epoch if goes_on else None), read)
    if not goes_on:
        board.write_rows(history)
    return board


def remove_events(folder: Path) -> None:
    """Remove the events of an earlier run."""
    for path in folder.glob(EVENTS):
        path.unlink()


def _fit(picture: Tensor) -> Tensor:
    """Reduce a picture (C, H, W) to MAX_SIDE, if it is larger."""
    height, width = picture.shape[1:]
    scale = min(1, MAX_SIDE / max(height, width))
    return _resize(picture, (max(1, round(height * scale)), max(1, round(width * scale))))


def _resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].clip(0, 1)
