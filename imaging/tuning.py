# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Search for the settings of the splitter that fit a model best."""

from collections.abc import Callable, Collection, Iterable

import numpy as np

from imaging.instances import SplitSettings, find_nuclei

# tried for each setting, in this order of the settings
GRID = {
    "threshold": (0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8),
    "border_threshold": (0.3, 0.5, 0.7, 0.9, 1.0),
    "neck": (0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.96),
    "smoothing": (0.0, 0.5, 1.0, 1.5, 2.0),
    "min_area": (4, 8, 12, 16, 24, 32, 48),
    "min_confidence": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
}
ROUNDS = 2


def tune(
    images: list[tuple[np.ndarray, np.ndarray]],
    score: Callable[[np.ndarray, np.ndarray], float],
    start: SplitSettings,
    run: Callable[[Callable, Iterable], Iterable[float]] = map,
    fixed: Collection[str] = (),
) -> tuple[SplitSettings, float, list[dict]]:
    """Change one setting at a time while the mean score rises; returns the best, its score, and all that was tried.

    images: probabilities (C, H, W) and true labels (H, W). score: of predicted and true labels. run: maps a function
    over the images, perhaps in several threads. fixed: names of settings that are not changed.
    """
    tried: dict[SplitSettings, float] = {}

    def mean_score(settings: SplitSettings) -> float:
        if settings not in tried:
            tried[settings] = float(
                np.mean(list(run(lambda image: score(find_nuclei(image[0], settings), image[1]), images)))
            )
        return tried[settings]

    best, with_borders = start, len(images[0][0]) > 1
    for _ in range(ROUNDS):
        before = best
        for name, values in GRID.items():
            if name in fixed or (name == "border_threshold" and not with_borders):
                continue
            candidates = [best, *(best._replace(**{name: value}) for value in values)]
            best = max(candidates, key=mean_score)
        if best == before:
            break
    score_of_best = mean_score(best)  # which is not known yet if all settings are fixed
    return best, score_of_best, [{**settings._asdict(), "score": value} for settings, value in tried.items()]
