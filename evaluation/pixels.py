# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Scores of masks at the size of a model's input, by batch and by image."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import metrics
from imaging.drawing import write_probabilities
from imaging.reader import read_image, write_image
from imaging.report import Example
from runtime import names
from runtime.background import BackgroundPool

PIXEL_SCORES = {"iou": metrics.iou_score, "mask_dice": metrics.mask_dice, "dice": metrics.dice_coef}


class PixelScores:
    """Collects the scores of whole batches and of each image, by class, and writes the masks.

    The threads of a pool do the work on images. Their rows are complete, and their errors raised, at the pool's end.
    """

    def __init__(self, folder: Path, data, pool: BackgroundPool):
        """folder: for the pictures. data: the NucleiDataset that is evaluated."""
        self.folder, self.data, self.pool, self.batches, self.futures = folder, data, pool, [], []

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, ids: list[str]) -> None:
        """Take in a batch: logits and targets (N, num_classes, H, W), on the CPU."""
        classes = range(logits.shape[1])
        for label, chosen in [("all", slice(None)), *((f"class {k}", k) for k in classes)]:
            scores = {key: score(logits[:, chosen], target[:, chosen]).item() for key, score in PIXEL_SCORES.items()}
            self.batches.append({"label": label, "weight": len(ids), **scores})
        for img_id, own_logits, own_target in zip(ids, logits, target):
            self.futures.append(self.pool.submit(self._score, img_id, own_logits, own_target))

    def _score(self, img_id: str, logits: torch.Tensor, target: torch.Tensor) -> list[dict]:
        """Write an image's pictures and return its row for each class."""
        probability, rows = torch.sigmoid(logits).numpy(), []
        path = names.printable_path(self.data.folder.image_path(img_id))
        write_probabilities(self.folder, img_id, probability)
        for k in range(len(probability)):
            self.pool.check_cancelled()
            mask, true = probability[k] > 0.5, target[k].numpy() > 0.5
            write_image(self.folder / str(k) / f"{img_id}_mask.png", mask.astype("uint8") * 255)
            row = {"id": img_id, "path": path, "class": k}
            row |= {key: score(logits[k], target[k]).item() for key, score in PIXEL_SCORES.items()}
            row["ap"] = metrics.average_precision(metrics.label_instances(mask), metrics.label_instances(true))
            rows.append(row)
        return rows

    def images(self) -> pd.DataFrame:
        """Return a row for each image and class, in the order of the images; call it after the pool's end."""
        return pd.DataFrame([row for future in self.futures for row in future.result()])

    def table(self) -> pd.DataFrame:
        """Return a row for all classes and one for each: batch scores, then the mean IoU, Dice and AP of the images."""
        rows, images = {}, self.images()
        for label, group in pd.DataFrame(self.batches).groupby("label", sort=False):
            own = images if label == "all" else images[images["class"] == int(label.removeprefix("class "))]
            batch = [np.average(group[key], weights=group["weight"]) for key in PIXEL_SCORES]
            rows[label] = [*batch, own["iou"].mean(), own["mask_dice"].mean(), own["ap"].mean()]
        columns = ["IoU", "mask Dice", "soft Dice", "IoU by image", "mask Dice by image", "AP by image"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def example(self, row: Mapping) -> Example:
        """Return the picture of one of the rows of `images`, with the regions of the mask of its class."""
        image, masks = self.data.view(row["id"])
        true = masks[..., row["class"]] > 127
        found = read_image(self.folder / str(row["class"]) / f"{row['id']}_mask.png")[..., 0] > 127
        return Example(row, image, metrics.label_instances(found), metrics.label_instances(true))
