# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Scores of single nuclei at the size of their images, and the search for the settings by which they are found."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

import metrics
from imaging import tuning
from imaging.instances import SplitSettings, find_nuclei
from imaging.label_files import read_labels, write_labels
from imaging.predictor import Predictor, describe_diameters
from imaging.report import Example
from imaging.scoring import ImageScore, error_table, image_table, score_image, summary_table, threshold_table
from imaging.truth import Sample
from runtime import names
from runtime.background import BackgroundPool, prefetch
from runtime.errors import InputError
from runtime.files import atomic_write


class NucleiData(NamedTuple):
    """Images with true nuclei: `read` returns the sample of an id; the ids of the training part, and those to score."""

    read: Callable[[str], Sample]
    train: list[str]
    scored: list[str]
    skip_bad: bool = False

    def samples(self, ids: list[str]) -> Iterator[Sample]:
        """Read samples ahead, and yield them in order; with `skip_bad`, leave out those that cannot be read."""
        with prefetch(self.read, ids) as found:
            for future in found:
                try:
                    yield future.result()
                except InputError as error:
                    if not self.skip_bad:
                        raise
                    print(f"warning: skipped: {error}", flush=True)

    def some_train_ids(self, count: int) -> list[str]:
        """Return at most `count` ids, spread over the training part."""
        chosen = np.linspace(0, len(self.train) - 1, min(len(self.train), count)).round().astype(int)
        return [self.train[index] for index in chosen]

    def example(self, folder: Path, row: Mapping) -> Example:
        """Return the picture of a row of image_table, with the labels that score_nuclei wrote."""
        sample = self.read(row["id"])
        return Example(row, sample.image, read_labels(folder / f"{row['id']}_labels.tif"), sample.labels)


def score_nuclei(
    samples: Iterable[Sample],
    predictor: Predictor,
    settings: SplitSettings,
    folder: Path,
    diameter: float | None = None,
) -> list[ImageScore]:
    """Score the nuclei of images at their own size, and write them and the tables to `folder`.

    diameter: of the nuclei in all images, in pixels; None: it is estimated if the predictor needs it.
    Raises InputError if there are no samples.
    """

    def score(sample: Sample, probability: np.ndarray) -> ImageScore:
        labels = find_nuclei(probability, settings)
        write_labels(folder / "labels" / f"{sample.img_id}_labels.tif", labels)
        matches, errors = metrics.match_nuclei(labels, sample.labels), metrics.match_errors(labels, sample.labels)
        return score_image(sample.img_id, sample.path, sample.image, matches, errors)

    futures, diameters = [], []
    with BackgroundPool() as pool:
        for sample in tqdm(samples, disable=None, unit="image"):
            prediction = predictor(sample.image, diameter)
            diameters.append(prediction.diameter)
            futures.append(pool.submit(score, sample, prediction.probability))
    if not futures:
        raise InputError("no image to score could be read; they are named above")
    scores = [future.result() for future in futures]
    table = image_table(scores)
    if any(diameters):
        print(describe_diameters(diameters))
        table["assumed_diameter"] = diameters
    with atomic_write(folder / "nuclei.csv") as partial:
        table.to_csv(partial, index=False)
    for table in (summary_table(scores), threshold_table(scores), error_table(scores)):
        print(table.to_string(float_format="{:.4f}".format))
    print(f"labels: {folder / 'labels'}, by image: {folder / 'nuclei.csv'}")
    return scores


def tune_settings(
    samples: Iterable[Sample],
    predictor: Predictor,
    start: SplitSettings,
    fixed: Collection[str] = (),
    diameter: float | None = None,
) -> SplitSettings:
    """Find the settings with the highest mean AP on the samples, and print the search.

    fixed: names of settings that stay as they are in `start`. diameter: as in score_nuclei.
    Raises InputError if there are no samples.
    """
    images = [(predictor(sample.image, diameter).probability, sample.labels) for sample in samples]
    if not images:
        raise InputError("--tune: no training image could be read; they are named above")
    with ThreadPoolExecutor() as pool:
        best, score, tried = tuning.tune(images, metrics.average_precision, start, pool.map, fixed)
    print(pd.DataFrame(tried).sort_values("score").to_string(index=False, float_format="{:.4f}".format))
    print(f"tuned on {names.counted(len(images), 'training image')}: mean AP {score:.4f}")
    return best
