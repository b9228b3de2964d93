# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Run lengths of nuclei, against loops over pixels and the examples of the challenge."""

import csv
from pathlib import Path

import numpy as np
import pytest

from imaging import rle
from runtime.errors import InputError


def encode_by_loops(labels: np.ndarray, label: int) -> str:
    """Return the run lengths of a nucleus, pixel by pixel from top to bottom, then from left to right."""
    height, width = labels.shape
    runs, last = [], None
    for column in range(width):
        for row in range(height):
            if labels[row, column] == label:
                number = column * height + row + 1
                if last == number - 1:
                    runs[-1][1] += 1
                else:
                    runs.append([number, 1])
                last = number
    return " ".join(f"{start} {length}" for start, length in runs)


def test_example_of_the_challenge() -> None:
    """`1 3 10 5` implies pixels 1, 2, 3, 10, 11, 12, 13, 14; 1 is pixel (1, 1), 2 is pixel (2, 1)."""
    expected = np.zeros((4, 5), int)
    expected[[0, 1, 2], 0] = 1  # pixels 1, 2, 3
    expected[[1, 2, 3], 2] = 1  # 10, 11, 12
    expected[[0, 1], 3] = 1  # 13, 14
    labels = rle.decode(["1 3 10 5"], 4, 5)
    assert labels.dtype == np.int32 and labels.shape == (4, 5) and labels.flags.c_contiguous
    assert np.array_equal(labels, expected)
    assert rle.encode(expected) == ["1 3 10 5"]


@pytest.mark.parametrize("seed", range(40))
def test_random_label_images(seed: int) -> None:
    """Touching nuclei, gaps in the labels, nuclei of several parts, images of one row or column."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, rng.integers(1, 7), rng.integers(1, 12, 2))
    if seed % 2:
        labels = np.kron(labels, np.ones(rng.integers(1, 5, 2), int))
    if seed % 3:
        labels = np.array([0, 3, 900, 8, 70000, 2, 5])[labels]
    labels = labels.astype([np.int32, np.uint16, np.int64][seed % 3] if labels.max() < 60000 else np.int32)
    found = [label for label in np.unique(labels) if label]
    texts = rle.encode(labels)
    assert texts == [encode_by_loops(labels, label) for label in found]
    decoded = rle.decode(texts, *labels.shape)
    assert np.array_equal(decoded, np.searchsorted([0, *found], labels))


def test_images_without_nuclei() -> None:
    for shape in [(3, 4), (0, 4), (1, 1)]:
        assert rle.encode(np.zeros(shape, int)) == []
    for nuclei in ([], [""]):
        assert np.array_equal(rle.decode(nuclei, 3, 4), np.zeros((3, 4)))
    assert rle.encode(np.full((3, 4), 9)) == ["1 12"]


@pytest.mark.parametrize(
    "nuclei, message",
    [
        (["1 3", "5"], "nucleus 2: 1 numbers, but each start needs a length"),
        (["1 3 x 2"], "nucleus 1: 'x' is not a whole number"),
        (["1 3.0"], "nucleus 1: '3.0' is not a whole number"),
        (["-1 3"], "nucleus 1: '-1' is not a whole number"),
        (["² 3"], "nucleus 1: '²' is not a whole number"),
        (["1 " + "9" * 5000], "is not a whole number"),
        (["0 3"], "nucleus 1: the run 0 3 is empty or not inside the image of 12 pixels"),
        (["3 0"], "nucleus 1: the run 3 0 is empty or not inside the image of 12 pixels"),
        (["11 3"], "nucleus 1: the run 11 3 is empty or not inside the image of 12 pixels"),
        (["5 2 1 2"], "nucleus 1: the run 1 2 begins before the end of the run before it"),
        (["1 3 3 2"], "nucleus 1: the run 3 2 begins before the end of the run before it"),
        (["1 3", "7 2", "6 2"], "nucleus 3: the run 6 2 overlaps nucleus 2"),
    ],
)
def test_malformed_texts(nuclei: list[str], message: str) -> None:
    with pytest.raises(ValueError) as error:
        rle.decode(nuclei, 3, 4)
    assert message in str(error.value) and len(str(error.value)) < 120


def test_runs_up_to_the_last_pixel() -> None:
    assert rle.decode(["1 1 12 1"], 3, 4)[-1, -1] == 1
    assert np.array_equal(rle.decode(["1 2 3 10"], 3, 4), np.ones((3, 4)))


def test_submission(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    images = [("one", ["1 3 10 5", "20 1"]), ("none", []), ('a,"b"', ["4 4"])]
    assert rle.write_submission(path, iter(images)) == 3
    text = path.read_bytes().decode()
    assert text.splitlines()[:4] == ["ImageId,EncodedPixels", "one,1 3 10 5", "one,20 1", "none,"]
    assert text.endswith("\n") and "\r" not in text
    with open(path, newline="") as file:
        assert [*csv.reader(file)][-1] == ['a,"b"', "4 4"]


def test_an_interrupted_submission_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("old")

    def images():
        yield "one", ["1 3"]
        raise InputError("two.png: cannot be read")

    with pytest.raises(InputError, match=r"two\.png"):
        rle.write_submission(path, images())
    assert [file.name for file in tmp_path.iterdir()] == ["submission.csv"] and path.read_text() == "old"


def test_a_submission_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"submission\.csv: cannot be written"):
        rle.write_submission(tmp_path / "file" / "submission.csv", [])
