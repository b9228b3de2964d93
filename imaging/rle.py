# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Nuclei as the run lengths of the 2018 Data Science Bowl, and the table that the challenge takes.

A nucleus is a text such as `1 3 10 5`: pixels 1, 2, 3 and 10 … 14. Pixels are numbered from 1, from top to bottom, then
from left to right. A pixel belongs to one nucleus at most.
"""

import csv
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from runtime import names
from runtime.files import atomic_write


def encode(labels: np.ndarray) -> list[str]:
    """Return the run lengths of each nucleus, by rising label; labels: integers (H, W), 0 is background."""
    flat = labels.T.reshape(-1)  # column by column
    # a run begins at each pixel whose label is not that of the pixel before it
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)[: flat.size]
    lengths, owners = np.diff(starts, append=flat.size), flat[starts]
    runs = np.column_stack([starts + 1, lengths])[owners > 0]
    owners = owners[owners > 0]
    order = np.argsort(owners, kind="stable")
    firsts = np.flatnonzero(np.diff(owners[order])) + 1  # of the runs of the second nucleus, the third, …
    return [" ".join(map(str, own.ravel().tolist())) for own in np.split(runs[order], firsts) if own.size]


def decode(nuclei: Iterable[str], height: int, width: int) -> np.ndarray:
    """Return the label image, int32 (height, width), of run lengths: the first nucleus is 1, the second 2, …

    Empty texts are skipped, as in the row of an image without nuclei.
    Raises ValueError, with the number of the nucleus, if a text has other words than whole numbers, a start without a
    length, a length below 1, runs outside the image or not in rising order, or if two nuclei overlap.
    """
    flat = np.zeros(height * width, np.int32)
    for number, text in enumerate((text for text in nuclei if text.strip()), start=1):
        for start, stop in _parse_runs(text, number, flat.size):
            if other := flat[start:stop].max():
                raise ValueError(f"nucleus {number}: the run {start + 1} {stop - start} overlaps nucleus {other}")
            flat[start:stop] = number
    return np.ascontiguousarray(flat.reshape(width, height).T)


def write_submission(path: Path, images: Iterable[tuple[str, Iterable[str]]]) -> int:
    """Write the challenge's table, for ids and their encoded nuclei, and return its number of nuclei.

    A row holds an id and a nucleus; an image without nuclei has one row, whose second field is empty. The iterable is
    consumed one image at a time. Raises InputError if the file cannot be written; an old file then stays.
    """
    count = 0
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["ImageId", "EncodedPixels"])
        for img_id, nuclei in images:
            rows = [[names.printable_path(img_id), text] for text in nuclei]
            count += len(rows)
            writer.writerows(rows or [[names.printable_path(img_id), ""]])
    return count


def _parse_runs(text: str, number: int, size: int) -> list[tuple[int, int]]:
    """Return the runs of a nucleus as start and stop, counted from 0; `number` and `size` (of the image) for errors."""
    words, runs, end = text.split(), [], 0
    if wrong := [word for word in words if not re.fullmatch("[0-9]{1,18}", word)]:
        raise ValueError(f"nucleus {number}: {names.printable(wrong[0], 40)!r} is not a whole number")
    if len(words) % 2:
        raise ValueError(f"nucleus {number}: {len(words)} numbers, but each start needs a length")
    for start, length in zip(map(int, words[::2]), map(int, words[1::2])):
        if length < 1 or start < 1 or start - 1 + length > size:
            raise ValueError(
                f"nucleus {number}: the run {start} {length} is empty or not inside the image of {size} pixels"
            )
        if start <= end:
            raise ValueError(f"nucleus {number}: the run {start} {length} begins before the end of the run before it")
        end = start - 1 + length
        runs.append((start - 1, end))
    return runs
