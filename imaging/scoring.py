# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Tables of the scores of nuclei: by image, over all images, by kind of image, by threshold, and of the errors.

They are made of what `metrics.match_nuclei` and `metrics.match_errors` return for each image.
"""

from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from imaging.modality import KINDS, image_kind
from runtime import names

OUTCOMES = ("matched", "merged", "split", "missed", "inexact")  # of true nuclei, as in metrics.NucleiErrors
DIAMETERS = (10, 20, 40)  # pixels; between them lie the classes of size of `error_table`


class ImageScore(NamedTuple):
    """An image, what it shows, and how its nuclei were found.

    path: for the table. kind: see `image_kind`. matches: metrics.NucleiMatches. errors: metrics.NucleiErrors or None.
    """

    img_id: str
    path: object
    kind: str
    height: int
    width: int
    matches: Any
    errors: Any = None


def score_image(img_id: str, path: object, image: np.ndarray, matches: Any, errors: Any = None) -> ImageScore:
    """Return the scores of an image, uint8 BGR (H, W, 3); the other arguments are those of ImageScore."""
    return ImageScore(img_id, path, image_kind(image), *image.shape[:2], matches, errors)


def by_kind(scores: list[ImageScore]) -> dict[str, list[ImageScore]]:
    """Return the images of each kind that occurs, after `all`; of no images, an empty dict."""
    groups = {"all": scores} | {kind: [score for score in scores if score.kind == kind] for kind in KINDS}
    return {kind: group for kind, group in groups.items() if group}


def image_table(scores: list[ImageScore]) -> pd.DataFrame:
    """Return a row for each image.

    ap is the mean of ap_0.50 … ap_0.95. f1_0.50 is the F1 at the first threshold. The numbers of merged, split, missed,
    inexact and invented nuclei are given if `errors` is.
    """
    return pd.DataFrame([_image_row(score) for score in scores])


def summary_table(scores: list[ImageScore]) -> pd.DataFrame:
    """Return a row for all images, and one for each kind of image.

    mean AP: over the thresholds, then over the images; the score of the 2018 Data Science Bowl
    AP 0.50, Dice, count error: means over the images, of the count error without its sign
    pooled AP, pooled AP 0.50, pooled F1 0.50: from the matches of all images together
    0.50 stands for the first threshold.
    """
    return pd.DataFrame.from_dict({kind: _summary(group) for kind, group in by_kind(scores).items()}, orient="index")


def threshold_table(scores: list[ImageScore]) -> pd.DataFrame:
    """Return a row for each threshold of IoU: AP as a mean over the images, and AP and F1 of all images together."""
    pooled = _pool(scores)
    columns = {
        "AP": np.mean([score.matches.average_precision for score in scores], axis=0),
        "pooled AP": pooled.average_precision,
        "pooled F1": pooled.f1,
    }
    return pd.DataFrame(columns, index=pd.Index(pooled.thresholds, name="IoU"))


def error_table(scores: list[ImageScore]) -> pd.DataFrame:
    """Return what became of the nuclei of images that have `errors`: a row for all, each kind of image, and each size.

    true: number of true nuclei, the sum of matched, merged, split, missed and inexact. invented: of predicted nuclei.
    metrics.NucleiErrors defines them. The size is the diameter of the circle of the same area, of a true nucleus or of
    an invented one.
    """
    nuclei = pd.DataFrame(
        [row for score in scores if score.errors is not None for row in _list_nuclei(score)],
        columns=["kind", "outcome", "diameter"],
    )
    columns = [*OUTCOMES, "invented"]
    groups = {"all": nuclei} | {kind: nuclei[nuclei["kind"] == kind] for kind in KINDS}
    for low, high in pairwise([0, *DIAMETERS, np.inf]):
        name = f"{low} to {high} px" if high < np.inf else f"{low} px and more"
        groups[name] = nuclei[(nuclei["diameter"] >= low) & (nuclei["diameter"] < high)]
    rows = {
        name: group["outcome"].value_counts().reindex(columns, fill_value=0)
        for name, group in groups.items()
        if len(group) or name == "all"
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table.insert(0, "true", table[list(OUTCOMES)].sum(axis=1))
    return table


def _pool(scores: list[ImageScore]) -> Any:
    """Return the matches of all images together."""
    return reduce(lambda a, b: a.plus(b), (score.matches for score in scores))


def _image_row(score: ImageScore) -> dict:
    matches = score.matches
    row = {
        "id": names.printable_path(score.img_id),
        "path": names.printable_path(score.path),
        "kind": score.kind,
        "width": score.width,
        "height": score.height,
        "true": matches.wanted,
        "found": matches.found,
        "count_error": matches.count_error,
        "ap": matches.average_precision.mean(),
    }
    row |= {f"ap_{t:.2f}": value for t, value in zip(matches.thresholds, matches.average_precision)}
    row |= {f"f1_{matches.thresholds[0]:.2f}": matches.f1[0], "dice": matches.dice}
    if score.errors is not None:
        row |= {outcome: np.count_nonzero(score.errors.outcomes == outcome) for outcome in OUTCOMES[1:]}
        row["invented"] = np.count_nonzero(score.errors.invented)
    return row


def _summary(scores: list[ImageScore]) -> dict:
    pooled, precisions = _pool(scores), np.array([score.matches.average_precision for score in scores])
    first = f"{pooled.thresholds[0]:.2f}"
    return {
        "images": len(scores),
        "true": pooled.wanted,
        "found": pooled.found,
        "mean AP": precisions.mean(),
        f"AP {first}": precisions[:, 0].mean(),
        "pooled AP": pooled.average_precision.mean(),
        f"pooled AP {first}": pooled.average_precision[0],
        f"pooled F1 {first}": pooled.f1[0],
        "Dice": np.mean([score.matches.dice for score in scores]),
        "count error": np.mean([abs(score.matches.count_error) for score in scores]),
    }


def _list_nuclei(score: ImageScore) -> list[tuple[str, str, float]]:
    """Return kind of image, outcome and diameter of each true and each invented nucleus."""
    errors = score.errors
    invented = errors.predicted_areas[errors.invented]
    outcomes = [*errors.outcomes.tolist(), *["invented"] * len(invented)]
    diameters = np.sqrt(np.append(errors.areas, invented) * (4 / np.pi))
    return [(score.kind, outcome, diameter) for outcome, diameter in zip(outcomes, diameters.tolist())]
