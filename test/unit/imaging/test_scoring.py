# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Tables of scores against numbers computed by hand."""

import numpy as np
import pytest

from imaging import scoring
from metrics import match_errors, match_nuclei

DARK, PURPLE = (np.full((2, 10, 3), color, np.uint8) for color in ((9, 9, 9), (210, 120, 180)))


def picture(rows: str) -> np.ndarray:
    """Return a label image: a digit per pixel, a blank between rows; a dot is background."""
    return np.array([[0 if c == "." else int(c) for c in row] for row in rows.split()])


def score(img_id: str, image: np.ndarray, predicted: str, true: str) -> scoring.ImageScore:
    labels = picture(predicted), picture(true)
    return scoring.score_image(img_id, f"{img_id}.png", image, match_nuclei(*labels), match_errors(*labels))


@pytest.fixture
def scores() -> list[scoring.ImageScore]:
    true = "1111...222 1111...222"
    return [
        # IoU 0.75 and 1: two matches at 0.50 … 0.70, then one of two and two: AP 1 and 1/3, mean 2/3; Dice 24 / 26
        score("a", DARK, "111....222 111....222", true),
        # one region of 14, IoU 8/14: one match at 0.50 and 0.55: AP 1/2, mean 0.1; Dice 1
        score("b", PURPLE, "1111...111 1111...111", true),
        # a nucleus is missed, one of four pixels is invented: AP 1/3; Dice 16 / 26
        score("c", DARK, "1111.33... 1111.33...", true),
        # no nuclei, none found: all scores are 1
        score("d", DARK, ".......... ..........", ".......... .........."),
    ]


def test_by_image(scores: list[scoring.ImageScore]) -> None:
    table = scoring.image_table(scores).set_index("id")
    steps = [f"ap_0.{k}" for k in range(50, 100, 5)]
    assert table.columns.tolist() == [
        *("path", "kind", "width", "height", "true", "found", "count_error", "ap", *steps, "f1_0.50", "dice"),
        *("merged", "split", "missed", "inexact", "invented"),
    ]
    assert table["path"].tolist() == ["a.png", "b.png", "c.png", "d.png"]
    assert table["kind"].tolist() == ["fluorescence", "stained tissue", "fluorescence", "fluorescence"]
    assert (table["width"] == 10).all() and (table["height"] == 2).all()
    assert table[["true", "found", "count_error"]].values.tolist() == [[2, 2, 0], [2, 1, -1], [2, 2, 0], [0, 0, 0]]
    assert table["ap"].tolist() == pytest.approx([2 / 3, 0.1, 1 / 3, 1])
    assert table.loc["a", steps].tolist() == pytest.approx([1] * 5 + [1 / 3] * 5)
    assert table.loc["b", steps].tolist() == pytest.approx([1 / 2] * 2 + [0] * 8)
    assert table["f1_0.50"].tolist() == pytest.approx([1, 2 / 3, 1 / 2, 1])
    assert table["dice"].tolist() == pytest.approx([24 / 26, 1, 16 / 26, 1])
    assert table.iloc[:, -5:].values.tolist() == [[0] * 5, [1, 0, 0, 0, 0], [0, 0, 1, 0, 1], [0] * 5]
    assert table["true"].dtype.kind == table["merged"].dtype.kind == "i"


def test_summary(scores: list[scoring.ImageScore]) -> None:
    """At 0.50, the images have 2, 1, 1 and 0 matches of 2 + 2, 1 + 2, 2 + 2 and 0 + 0 nuclei."""
    table = scoring.summary_table(scores)
    assert table.index.tolist() == ["all", "fluorescence", "stained tissue"]
    pooled = [4 / 7, 4 / 7, *[3 / 8] * 3, *[2 / 9] * 5]  # 4, 3 and 2 matches of 5 + 6 nuclei
    assert pooled[0] == 4 / (5 + 6 - 4) and pooled[2] == 3 / (5 + 6 - 3) and pooled[-1] == 2 / (5 + 6 - 2)
    expected = {
        **{"images": 4, "true": 6, "found": 5, "mean AP": (2 / 3 + 0.1 + 1 / 3 + 1) / 4},
        **{"AP 0.50": (1 + 1 / 2 + 1 / 3 + 1) / 4, "pooled AP": sum(pooled) / 10, "pooled AP 0.50": 4 / 7},
        **{"pooled F1 0.50": 8 / 11, "Dice": (24 / 26 + 1 + 16 / 26 + 1) / 4, "count error": 1 / 4},
    }
    assert table.columns.tolist() == [*expected]
    assert table.loc["all"].to_dict() == pytest.approx(expected)
    assert table["images"].tolist() == [4, 3, 1] and table["images"].dtype.kind == "i"
    fluorescence = table.loc["fluorescence"]
    assert fluorescence["mean AP"] == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    assert fluorescence["pooled AP 0.50"] == pytest.approx(3 / 5)
    assert table.loc["stained tissue", "count error"] == 1


def test_by_threshold(scores: list[scoring.ImageScore]) -> None:
    table = scoring.threshold_table(scores)
    assert table.index.tolist() == [k / 100 for k in range(50, 100, 5)] and table.index.name == "IoU"
    assert table["pooled AP"].tolist() == pytest.approx([*[4 / 7] * 2, *[3 / 8] * 3, *[2 / 9] * 5])
    assert table["pooled F1"].tolist() == pytest.approx([*[8 / 11] * 2, *[6 / 11] * 3, *[4 / 11] * 5])
    by_image = [[1, 1 / 2, 1 / 3, 1], [1, 0, 1 / 3, 1], [1 / 3, 0, 1 / 3, 1]]
    means = [sum(values) / 4 for values in by_image]
    assert table["AP"].tolist() == pytest.approx([*[means[0]] * 2, *[means[1]] * 3, *[means[2]] * 5])


def test_errors(scores: list[scoring.ImageScore]) -> None:
    table = scoring.error_table([*scores, scores[0]._replace(errors=None)])
    assert table.columns.tolist() == ["true", "matched", "merged", "split", "missed", "inexact", "invented"]
    assert {name: row.tolist() for name, row in table.iterrows()} == {
        "all": [6, 4, 1, 0, 1, 0, 1],
        "fluorescence": [4, 3, 0, 0, 1, 0, 1],
        "stained tissue": [2, 1, 1, 0, 0, 0, 0],
        "0 to 10 px": [6, 4, 1, 0, 1, 0, 1],
    }


def test_classes_of_size() -> None:
    """Squares of 8, 9, 18 and 36 pixels have the area of circles of 9.03, 10.2, 20.3 and 40.6 pixels."""
    true = np.zeros((40, 100), int)
    for label, (left, side) in enumerate([(0, 8), (10, 9), (20, 18), (40, 36)], start=1):
        true[:side, left : left + side] = label
    predicted = np.where(true == 2, 0, true)
    predicted[30:, 90:] = 9
    image = np.zeros((40, 100, 3), np.uint8)
    row = scoring.score_image("x", "x.png", image, match_nuclei(predicted, true), match_errors(predicted, true))
    table = scoring.error_table([row])
    expected = {"0 to 10 px": [1, 1, 0, 0], "10 to 20 px": [1, 0, 1, 1], "20 to 40 px": [1, 1, 0, 0]}
    expected |= {"40 px and more": [1, 1, 0, 0]}
    found = table.loc[[*expected], ["true", "matched", "missed", "invented"]]
    assert {name: own.tolist() for name, own in found.iterrows()} == expected


def test_scores_without_errors_and_without_nuclei(scores: list[scoring.ImageScore]) -> None:
    plain = [score._replace(errors=None) for score in scores]
    assert scoring.image_table(plain).columns[-1] == "dice"
    assert scoring.error_table(plain).loc["all"].tolist() == [0] * 7
    assert scoring.error_table(scores[3:]).index.tolist() == ["all"]
    assert scoring.summary_table(scores[3:]).loc["fluorescence", "pooled AP"] == 1


def test_names_of_files_cannot_break_a_line(scores: list[scoring.ImageScore]) -> None:
    table = scoring.image_table([scores[0]._replace(img_id="a\nb", path="c\rd.png")])
    assert table.loc[0, ["id", "path"]].tolist() == ["a\\nb", "c\\rd.png"]


def test_other_thresholds() -> None:
    labels = picture("1111"), picture("111.")
    matches = match_nuclei(*labels, (0.7, 0.8))
    table = scoring.image_table([scoring.score_image("x", "x.png", DARK, matches)])
    assert table[["ap", "ap_0.70", "ap_0.80", "f1_0.70"]].values.tolist() == [[0.5, 1, 0, 1]]
    assert "pooled F1 0.70" in scoring.summary_table([scoring.score_image("x", "x.png", DARK, matches)])
