# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Turn the outputs of infer/infer_om.py into masks, and score them as val.py does if the images have masks."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import options
from runtime import startup

if __name__ == "__main__":
    ARGS = startup.parse_flags(options.parse_infer_postprocess)

from argparse import Namespace
from collections.abc import Callable
from itertools import groupby
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from evaluation.pixels import PixelScores
from imaging.drawing import to_mask
from imaging.prepared import PreparedFolder
from imaging.reader import write_image
from infer.files import Inputs, Item, check_inputs, count_heads, output_path, read_inputs, read_maps
from runtime import names
from runtime.background import BackgroundPool
from runtime.files import atomic_write

Read = Callable[[Item], np.ndarray]  # the logits of an image, float32 (num_classes, H, W)


def write_masks(inputs: Inputs, read: Read, output: Path) -> pd.DataFrame:
    """Write <class>/<id>_mask.png at the size of each image; returns the share of nucleus pixels by image and class."""
    rows = []
    for item in inputs.items:
        for k, probability in enumerate(torch.sigmoid(torch.from_numpy(read(item))).numpy()):
            mask = to_mask(probability, item.height, item.width)
            write_image(output / str(k) / f"{item.id}_mask.png", mask.astype(np.uint8) * 255)
            rows.append({"id": item.id, "path": item.path, "class": k, "share": mask.mean()})
    return pd.DataFrame(rows)


def score(inputs: Inputs, read: Read, output: Path, batch_size: int) -> PixelScores:
    """Score batches of the validation split, and write masks at the size of the network's input, as val.py does."""
    folder = PreparedFolder(Path(inputs.data_path), inputs.settings["img_ext"], inputs.settings["mask_ext"])
    with BackgroundPool() as pool:
        scores = PixelScores(output, SimpleNamespace(folder=folder), pool)
        for _, batch in groupby(inputs.items, lambda item: item.index // batch_size):
            items = list(batch)
            logits, target = (
                torch.from_numpy(np.stack(maps))
                for maps in ([*map(read, items)], [read_maps(inputs.targets / item.bin, inputs) for item in items])
            )
            scores(logits, target, [item.id for item in items])
    return scores


def main(args: Namespace) -> None:
    """Read the final output of each image, write masks and tables, print the scores."""
    inputs, predictions, output = read_inputs(Path(args.input)), Path(args.predictions), Path(args.output)
    check_inputs(predictions, inputs)
    final = count_heads(predictions, inputs) - 1  # with deep supervision, the last head is the best

    def read(item: Item) -> np.ndarray:
        return read_maps(output_path(predictions, item.bin, final), inputs)

    scores = None
    if inputs.data_path:
        scores = score(inputs, read, output, args.batch_size or inputs.settings["batch_size"])
        table = scores.images()
    else:
        table = write_masks(inputs, read, output)
    with atomic_write(output / "metrics.csv") as partial:
        table.to_csv(partial, index=False)
    print(f"masks of {names.counted(len(inputs.items), 'image')}: {output}, by image: {output / 'metrics.csv'}")
    if scores:
        print(scores.table().to_string(float_format="{:.4f}".format))
        print(f"IoU: {scores.table().loc['all', 'IoU']:.6f}")


if __name__ == "__main__":
    startup.run(main, ARGS)
