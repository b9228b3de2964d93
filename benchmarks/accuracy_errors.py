# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Analyze the errors of a model: python val.py --name NAME && python benchmarks/accuracy_errors.py NAME

Reads the masks that val.py wrote, and the prepared data, which must have one class. Prints where the wrong pixels are:
in which kind of image; and along the outlines of nuclei that were found, or in nuclei that were missed, invented or
merged. For each kind of error, it prints the batch IoU that the model would have without it.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runtime import startup

startup.configure_opencv()

import cv2
import numpy as np
import pandas as pd
import torch

import metrics
import options
import utils
from imaging.masks import read_mask
from imaging.prepared import PreparedFolder
from imaging.reader import read_image
from runtime.checkpoint import load_checkpoint
from runtime.errors import InputError, report_errors
from runtime.settings import recorded_settings

NEIGHBORS = np.ones((3, 3), np.uint8)
MIN_FOUND = 0.25  # share of a nucleus's pixels that must be right for it to count as found


def modality(image: np.ndarray) -> str:
    """Return the kind of microscopy of an image, uint8 BGR (H, W, 3), from its colors and its background."""
    saturation = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[..., 1].mean()
    if saturation > 25:
        return "stained, in color"
    return "bright field, gray" if np.median(image) > 128 else "fluorescence"


def kinds_of_error(predicted: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """Assign each wrong pixel of a mask (H, W) to one kind; returns a boolean (H, W) for each kind.

    missed: in a connected region of the truth that the prediction hardly covers. invented: in a region of the
    prediction that the truth hardly covers. merged: in a predicted region that joins several true ones, between two of
    them that are at most three pixels apart. outline: of the other pixels, those next to the outline of the truth,
    outside or inside. deeper: the rest.
    """
    kinds = {
        "missed": _unmatched(true, predicted) & ~predicted,
        "invented": _unmatched(predicted, true) & ~true,
        "merged": _between(true) & _joining(predicted, true) & ~_unmatched(predicted, true),
    }
    rest = (predicted ^ true) & ~np.logical_or.reduce(list(kinds.values()))
    inner = cv2.erode(true.astype(np.uint8), NEIGHBORS, borderValue=1).astype(bool)
    outer = cv2.dilate(true.astype(np.uint8), NEIGHBORS).astype(bool)
    kinds["outline, too much"] = rest & outer & ~true
    kinds["outline, too little"] = rest & true & ~inner
    kinds["deeper"] = rest & ~np.logical_or.reduce(list(kinds.values()))
    return kinds


def _unmatched(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the connected regions of a mask of which the other mask covers less than MIN_FOUND."""
    labels = metrics.label_instances(mask)
    share = np.bincount(labels[other], minlength=labels.max() + 1) / np.maximum(1, np.bincount(labels.ravel()))
    return mask & (share < MIN_FOUND)[labels]


def _joining(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the connected regions of a prediction that cover parts of two or more regions of the truth."""
    labels = metrics.label_instances(predicted)
    pairs = np.unique(np.stack([labels, metrics.label_instances(true)], -1)[predicted & true], axis=0)
    return predicted & (np.bincount(pairs[:, 0], minlength=labels.max() + 1) > 1)[labels]


def _between(true: np.ndarray) -> np.ndarray:
    """Return the pixels of gaps, at most three pixels wide, between two connected regions of a mask."""
    labels = metrics.label_instances(true)
    labels_or_inf = np.where(true, labels, np.inf).astype(np.float32)

    def has_two_within(distance: int) -> np.ndarray:
        highest = cv2.dilate(labels.astype(np.float32), NEIGHBORS, iterations=distance)
        lowest = cv2.erode(labels_or_inf, NEIGHBORS, iterations=distance)
        return np.isfinite(lowest) & (highest > lowest)

    beside_one = cv2.dilate(true.astype(np.uint8), NEIGHBORS).astype(bool)
    return ~true & (has_two_within(2) | has_two_within(3) & beside_one)


def batch_iou(predicted: np.ndarray, true: np.ndarray, batch_size: int) -> float:
    """Return the batch IoU of masks (N, H, W): the mean over batches, weighted by batch size."""
    meter = utils.AverageMeter("Iou", "6.4f")
    for start in range(0, len(true), batch_size):
        logits, target = (torch.from_numpy(m[start : start + batch_size]).float() for m in (predicted, true))
        meter.update(metrics.iou_score(logits - 0.5, target).item(), len(target))
    return meter.avg


def read_results(name: str, output: str, data_path: str | None) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, int]:
    """Return what val.py found: a row for each image, the predicted and the true masks, and the batch size.

    Raises InputError if val.py has not evaluated the run, or if the run has several classes.
    """
    model = utils.find_model(name)
    settings = recorded_settings(load_checkpoint(model), model, options.RECORDED_FLAGS)
    data_path = utils.find_data(data_path, settings)
    data, folder = PreparedFolder(data_path, settings["img_ext"], settings["mask_ext"]), utils.run_folder(name, output)
    if not (folder / "metrics.csv").exists():
        raise InputError(f"{folder}: no metrics.csv there; run python val.py --name {name} first")
    images = pd.read_csv(folder / "metrics.csv", dtype={"id": str}, keep_default_na=False)
    if set(images.get("class", ())) != {0}:
        raise InputError(f"{folder / 'metrics.csv'}: has several classes, but only one can be analyzed")
    size = settings["input_w"], settings["input_h"]
    predicted, true, kinds = [], [], []
    for img_id in images["id"]:
        predicted.append(read_mask(folder / "0" / f"{img_id}_mask.png") > 127)
        mask = read_mask(data.mask_path(img_id, 0))
        true.append(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) > 127)
        kinds.append(modality(read_image(data.image_path(img_id))))
    return images.assign(kind=kinds), np.array(predicted), np.array(true), settings["batch_size"]


def by_kind_of_image(images: pd.DataFrame, predicted: np.ndarray, true: np.ndarray) -> pd.DataFrame:
    """Return a row for each kind of image.

    An outline can be drawn closely or generously. Then the area found is too small or too large, and the errors of an
    image are on one side. `one-sided` is the share of errors that would remain if the surplus pixels of each image
    could make up for its missing ones.
    """
    surplus, missing = (predicted & ~true).sum((1, 2)), (true & ~predicted).sum((1, 2))
    wrong, area = surplus + missing, predicted.sum((1, 2)) / np.maximum(1, true.sum((1, 2)))
    rows = {}
    for kind, group in [*images.groupby("kind"), ("all", images)]:
        own = group.index
        rows[kind] = {
            "images": len(own),
            "mean IoU": group["iou"].mean(),
            "median IoU": group["iou"].median(),
            "of all errors": wrong[own].sum() / max(1, wrong.sum()),
            "one-sided": abs(surplus - missing)[own].sum() / max(1, wrong[own].sum()),
            "area found ÷ true, 10 %": np.quantile(area[own], 0.1),
            "90 %": np.quantile(area[own], 0.9),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def by_kind_of_error(predicted: np.ndarray, true: np.ndarray, batch_size: int) -> pd.DataFrame:
    """Return a row for each kind of error."""
    all_kinds = [kinds_of_error(p, t) for p, t in zip(predicted, true)]
    rows, total = {}, max(1, (predicted ^ true).sum())
    for kind in all_kinds[0]:
        errors = np.array([kinds[kind] for kinds in all_kinds])
        iou = batch_iou(predicted ^ errors, true, batch_size)
        rows[kind] = {"of all errors": errors.sum() / total, "batch IoU without it": iou}
    return pd.DataFrame.from_dict(rows, orient="index")


def main(args: argparse.Namespace) -> None:
    """Print the tables."""
    images, predicted, true, batch_size = read_results(args.name, args.output, args.data_path)
    print(by_kind_of_image(images, predicted, true).to_string(float_format="{:.3f}".format))
    print(f"\nbatch IoU {batch_iou(predicted, true, batch_size):.4f}\n")
    print(by_kind_of_error(predicted, true, batch_size).to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a run that val.py has evaluated")
    parser.add_argument("--output", default="outputs", help="folder that val.py wrote to")
    parser.add_argument("--data_path", help="prepared data (default: as in training)")
    with report_errors():
        main(parser.parse_args())
