"""What the errors of an evaluated model consist of: python val.py --name NAME && python test/accuracy_errors.py NAME

Reads the masks that val.py wrote and the prepared data, of one class, and prints where the wrong pixels lie: in which
kind of image, and whether along the outlines of nuclei that were found, or in nuclei missed, invented or merged. To
each kind of error it tells the batch IoU that would be reached without it.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import startup

startup.prepare_opencv()

import cv2
import numpy as np
import pandas as pd
import torch

import checkpoints
import files
import metrics
import utils
from errors import InputError, one_sentence

NEIGHBOURS = np.ones((3, 3), np.uint8)
FOUND = 0.25  # share of a nucleus's pixels that must be right for it to count as found


def modality(image: np.ndarray) -> str:
    """The kind of microscopy that an image, uint8 BGR (H, W, 3), is of, told by its colours and its ground."""
    saturation = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[..., 1].mean()
    if saturation > 25:
        return "stained, in colour"
    return "bright field, grey" if np.median(image) > 128 else "fluorescence"


def kinds_of_error(predicted: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """Every wrong pixel of a mask (H, W) under one kind: boolean (H, W) each.

    missed, invented: in a connected region of the truth, of the prediction, that the other one hardly has. merged: in a
    predicted region that joins several true ones, between two that are at most three pixels apart. outline: of the
    others, those next to the truth's outline, outside or inside. deeper: the rest.
    """
    kinds = {
        "missed": _unmatched(true, predicted) & ~predicted,
        "invented": _unmatched(predicted, true) & ~true,
        "merged": _between(true) & _joining(predicted, true) & ~_unmatched(predicted, true),
    }
    left = (predicted ^ true) & ~np.logical_or.reduce(list(kinds.values()))
    inner = cv2.erode(true.astype(np.uint8), NEIGHBOURS, borderValue=1).astype(bool)
    outer = cv2.dilate(true.astype(np.uint8), NEIGHBOURS).astype(bool)
    kinds["outline, too much"] = left & outer & ~true
    kinds["outline, too little"] = left & true & ~inner
    kinds["deeper"] = left & ~np.logical_or.reduce(list(kinds.values()))
    return kinds


def _unmatched(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The connected regions of a mask of which the other has less than FOUND."""
    labels = metrics.label_instances(mask)
    share = np.bincount(labels[other], minlength=labels.max() + 1) / np.maximum(1, np.bincount(labels.ravel()))
    return mask & (share < FOUND)[labels]


def _joining(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The connected regions of a prediction that cover parts of two or more of the truth's."""
    labels = metrics.label_instances(predicted)
    pairs = np.unique(np.stack([labels, metrics.label_instances(true)], -1)[predicted & true], axis=0)
    return predicted & (np.bincount(pairs[:, 0], minlength=labels.max() + 1) > 1)[labels]


def _between(true: np.ndarray) -> np.ndarray:
    """The pixels of gaps, at most three wide, between two connected regions of a mask."""
    labels = metrics.label_instances(true)
    background_last = np.where(true, labels, np.inf).astype(np.float32)

    def has_two_within(distance: int) -> np.ndarray:
        highest = cv2.dilate(labels.astype(np.float32), NEIGHBOURS, iterations=distance)
        lowest = cv2.erode(background_last, NEIGHBOURS, iterations=distance)
        return np.isfinite(lowest) & (highest > lowest)

    beside_one = cv2.dilate(true.astype(np.uint8), NEIGHBOURS).astype(bool)
    return ~true & (has_two_within(2) | has_two_within(3) & beside_one)


def batch_iou(predicted: np.ndarray, true: np.ndarray, batch_size: int) -> float:
    """IoU of masks (N, H, W) as training reports it: of each whole batch, then the mean weighted by their sizes."""
    meter = utils.AverageMeter("Iou", "6.4f")
    for start in range(0, len(true), batch_size):
        logits, target = (torch.from_numpy(m[start : start + batch_size]).float() for m in (predicted, true))
        meter.update(metrics.iou_score(logits - 0.5, target).item(), len(target))
    return meter.avg


def read(name: str, output: str, data_path: str | None) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, int]:
    """What val.py found of a run, in the order of its images: a row for each, its masks, the truth, the batch size.

    Raises InputError where val.py has not been run, or the run has several classes.
    """
    model = utils.find_model(name)
    settings = utils.settings_of(checkpoints.load(model), model)
    data, folder = utils.find_data(data_path, settings), utils.run_folder(name, output)
    if not (folder / "metrics.csv").exists():
        raise InputError(f"{folder}: no metrics.csv there; run python val.py --name {name} first")
    images = pd.read_csv(folder / "metrics.csv", dtype={"id": str}, keep_default_na=False)
    if set(images.get("class", ())) != {0}:
        raise InputError(f"{folder / 'metrics.csv'}: not of one class, as this needs it")
    size = settings["input_w"], settings["input_h"]
    predicted, true, kinds = [], [], []
    for img_id in images["id"]:
        predicted.append(files.read_mask(folder / "0" / f"{img_id}_mask.png") > 127)
        mask = files.read_mask(data / "masks" / "0" / f"{img_id}{settings['mask_ext']}")
        true.append(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) > 127)
        kinds.append(modality(files.read_image(data / "images" / f"{img_id}{settings['img_ext']}")))
    return images.assign(kind=kinds), np.array(predicted), np.array(true), settings["batch_size"]


def by_kind_of_image(images: pd.DataFrame, predicted: np.ndarray, true: np.ndarray) -> pd.DataFrame:
    """A row for each kind of image.

    Where outlines are drawn now closely, now generously, the area found is now more, now less than the true one, and an
    image's errors are on one side: `one-sided` is the share of errors that would remain if each image's pixels too many
    and too few could be set off against each other.
    """
    too_many, too_few = (predicted & ~true).sum((1, 2)), (true & ~predicted).sum((1, 2))
    wrong, area = too_many + too_few, predicted.sum((1, 2)) / np.maximum(1, true.sum((1, 2)))
    rows = {}
    for kind, group in [*images.groupby("kind"), ("all", images)]:
        own = group.index
        rows[kind] = {
            "images": len(own),
            "mean IoU": group["iou"].mean(),
            "median IoU": group["iou"].median(),
            "of all errors": wrong[own].sum() / max(1, wrong.sum()),
            "one-sided": abs(too_many - too_few)[own].sum() / max(1, wrong[own].sum()),
            "area found ÷ true, 10 %": np.quantile(area[own], 0.1),
            "90 %": np.quantile(area[own], 0.9),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def by_kind_of_error(predicted: np.ndarray, true: np.ndarray, batch_size: int) -> pd.DataFrame:
    """A row for each kind of error."""
    each = [kinds_of_error(p, t) for p, t in zip(predicted, true)]
    rows, total = {}, max(1, (predicted ^ true).sum())
    for kind in each[0]:
        mended = np.array([kinds[kind] for kinds in each])
        iou = batch_iou(predicted ^ mended, true, batch_size)
        rows[kind] = {"of all errors": mended.sum() / total, "batch IoU without it": iou}
    return pd.DataFrame.from_dict(rows, orient="index")


def main(args: argparse.Namespace) -> None:
    """Print the tables."""
    images, predicted, true, batch_size = read(args.name, args.output, args.data_path)
    print(by_kind_of_image(images, predicted, true).to_string(float_format="{:.3f}".format))
    print(f"\nbatch IoU {batch_iou(predicted, true, batch_size):.4f}\n")
    print(by_kind_of_error(predicted, true, batch_size).to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a run that val.py has evaluated")
    parser.add_argument("--output", default="outputs", help="folder that val.py wrote to")
    parser.add_argument("--data_path", help="prepared data (default: as in training)")
    with one_sentence():
        main(parser.parse_args())
