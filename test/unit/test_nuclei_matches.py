# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Matching nuclei against hand-made cases and against sets of pixels, pair by pair."""

import functools
from fractions import Fraction

import numpy as np
import pytest

from imaging import scoring
from metrics import OUTCOMES, THRESHOLDS, average_precision, match_errors, match_nuclei

NUCLEI = dict[int, set[tuple[int, int]]]  # pixels by label


def picture(rows: str) -> np.ndarray:
    """Return a label image: a digit per pixel, a blank between rows; a dot is background."""
    return np.array([[0 if c == "." else int(c) for c in row] for row in rows.split()])


def pixels(labels: np.ndarray) -> NUCLEI:
    """Return the pixels of each nucleus, by rising label."""
    found = {label: set() for label in sorted({int(label) for label in labels.flat} - {0})}
    for place, label in np.ndenumerate(labels):
        if label:
            found[int(label)].add(place)
    return found


def count_hits(predicted: NUCLEI, true: NUCLEI) -> list[int]:
    """Count the pairs above each threshold, with exact fractions."""
    ious = [Fraction(len(p & t), len(p | t)) for p in predicted.values() for t in true.values()]
    return [sum(iou > Fraction(k, 100) for iou in ious) for k in range(50, 100, 5)]


def find_outcomes(predicted: NUCLEI, true: NUCLEI) -> tuple[list[str], list[bool]]:
    """Tell the outcome of each true nucleus, and whether each predicted one is invented, by the definitions."""
    covered = {i: [j for j, t in true.items() if len(p & t) > len(t) / 2] for i, p in predicted.items()}
    outcomes = []
    for j, t in true.items():
        inside = [i for i, p in predicted.items() if len(p & t) > len(p) / 2]
        covering = [i for i, own in covered.items() if j in own]
        if any(Fraction(len(p & t), len(p | t)) > Fraction(1, 2) for p in predicted.values()):
            outcomes.append("matched")
        elif any(len(covered[i]) > 1 for i in covering):
            outcomes.append("merged")
        elif len(inside) > 1:
            outcomes.append("split")
        else:
            outcomes.append("inexact" if inside or covering else "missed")
    lies_in = {i: any(len(p & t) > len(p) / 2 for t in true.values()) for i, p in predicted.items()}
    return outcomes, [not covered[i] and not lies_in[i] for i in predicted]


@functools.cache
def random_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return 1,000 pairs of predicted and true label images, of blocks that touch; some have no nuclei."""
    rng = np.random.default_rng(5)
    pairs = []
    for number in range(1000):
        block = rng.integers(1, 5, 2)
        true = np.kron(rng.integers(0, rng.integers(1, 9), rng.integers(1, 5, 2)), np.ones(block, int))
        predicted = np.roll(true, rng.integers(0, 3, 2), axis=(0, 1))
        predicted = np.where(rng.uniform(size=true.shape) < rng.choice([0, 0.1, 0.3]), 0, predicted)
        joined = rng.integers(0, 9, 2)  # two nuclei as one
        predicted = np.where(predicted == joined[0], joined[1], predicted)
        if number % 5 == 0:  # the lower rows as nuclei of their own
            predicted = np.where((np.arange(len(true)) % 2 > 0)[:, None] & (predicted > 0), predicted + 20, predicted)
        if number % 7 == 0:  # more pairs of nuclei than pixels
            predicted = np.arange(true.size).reshape(true.shape)
        if number % 3 == 0:  # gaps, and labels in another order
            predicted, true = rng.permutation(400)[predicted], np.where(true, 70000 - 31 * true, 0)
        pairs.append((predicted, true))
    return pairs


def test_random_pairs_hold_every_case() -> None:
    """Otherwise, the tests below would not test it."""
    shapes = {predicted.shape for predicted, _ in random_pairs()}
    assert len(shapes) > 50 and any(height != width for height, width in shapes)
    counts = [(len(pixels(predicted)), len(pixels(true))) for predicted, true in random_pairs()]
    assert {(0, 0), (0, 1), (1, 0)} <= {(min(found, 1), min(wanted, 1)) for found, wanted in counts}
    assert any(found * wanted > true.size for (found, wanted), (_, true) in zip(counts, random_pairs()))


def test_matches_of_random_pairs() -> None:
    hits_of_all = np.zeros(10, int)
    for predicted, true in random_pairs():
        p, t = pixels(predicted), pixels(true)
        hits = count_hits(p, t)
        matches = match_nuclei(predicted, true)
        assert (matches.found, matches.wanted, matches.hits.tolist()) == (len(p), len(t), hits)
        assert matches.thresholds == THRESHOLDS and matches.count_error == len(p) - len(t)
        all_p, all_t = set().union(*p.values()), set().union(*t.values())
        assert matches[3:6] == (len(all_p), len(all_t), len(all_p & all_t))
        assert matches.dice == (2 * len(all_p & all_t) / (len(all_p) + len(all_t)) if all_p or all_t else 1)
        wrong = [len(p) + len(t) - 2 * hit for hit in hits]  # FP + FN
        expected = [hit / (hit + miss) if hit + miss else 1 for hit, miss in zip(hits, wrong)]
        assert matches.average_precision.tolist() == expected
        assert average_precision(predicted, true) == pytest.approx(sum(expected) / 10, abs=1e-12)
        assert matches.f1.tolist() == [
            2 * hit / (2 * hit + miss) if hit + miss else 1 for hit, miss in zip(hits, wrong)
        ]
        hits_of_all += hits
    assert hits_of_all[0] > hits_of_all[5] > hits_of_all[-1] > 100


def test_errors_of_random_pairs() -> None:
    seen = []
    for predicted, true in random_pairs():
        p, t = pixels(predicted), pixels(true)
        outcomes, invented = find_outcomes(p, t)
        errors = match_errors(predicted, true)
        assert errors.outcomes.tolist() == outcomes and errors.invented.tolist() == invented
        assert errors.areas.tolist() == [len(own) for own in t.values()]
        assert errors.predicted_areas.tolist() == [len(own) for own in p.values()]
        best = [max((len(a & b) / len(a | b) for a in p.values()), default=0) for b in t.values()]
        assert errors.best_iou.tolist() == pytest.approx(best, abs=1e-12)
        seen += outcomes + ["invented"] * sum(invented)
    assert all(seen.count(outcome) > 50 for outcome in (*OUTCOMES, "invented"))


TWO = picture("1111...222 1111...222")
BY_HAND = {
    # 6 of 8 pixels: IoU 0.75; 6 of 6: IoU 1
    "smaller": ("111....222 111....222", (2, 2, [2] * 5 + [1] * 5), 24 / 26),
    # one region of 14, IoU 8 / 14 = 0.571 and 6 / 14
    "merged": ("1111...111 1111...111", (1, 2, [1, 1] + [0] * 8), 1),
    # halves of 4: IoU 0.5, which is not above 0.5
    "split": ("1133...222 1133...222", (3, 2, [1] * 10), 1),
    "missed and invented": ("1111.33... 1111.33...", (2, 2, [1] * 10), 16 / 26),
    "empty": (".......... ..........", (0, 2, [0] * 10), 0),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_matches_by_hand(case: str) -> None:
    rows, expected, dice = BY_HAND[case]
    matches = match_nuclei(picture(rows), TWO)
    assert (matches.found, matches.wanted, matches.hits.tolist()) == expected
    assert matches.dice == pytest.approx(dice) and type(matches.dice) is float
    assert matches.count_error == expected[0] - 2


ERRORS_BY_HAND = {
    "perfect": ("1111...222 1111...222", ["matched", "matched"], 0),
    "merged; the larger one matches": ("1111...111 1111...111", ["matched", "merged"], 0),
    "both merged": ("1111111111 1111111111", ["merged", "merged"], 0),
    "split in halves": ("1133...222 1133...222", ["split", "matched"], 0),
    "missed": ("1111...... 1111......", ["matched", "missed"], 0),
    "missed, but for a speck inside": ("1111...2.. 1111......", ["matched", "inexact"], 0),
    "missed; a region reaches into it": ("1111.333.. 1111.333..", ["matched", "missed"], 1),
    "too small": ("1......222 1......222", ["inexact", "matched"], 0),
    "too large": ("1111.22222 1111.22222 .....22222", ["matched", "inexact"], 0),
    "invented": ("1111.3.222 1111.3.222", ["matched", "matched"], 1),
    "nothing found": (".......... ..........", ["missed", "missed"], 0),
}


@pytest.mark.parametrize("case", ERRORS_BY_HAND)
def test_errors_by_hand(case: str) -> None:
    rows, outcomes, invented = ERRORS_BY_HAND[case]
    predicted = picture(rows)
    errors = match_errors(predicted, np.pad(TWO, ((0, len(predicted) - 2), (0, 0))))
    assert errors.outcomes.tolist() == outcomes and errors.invented.sum() == invented


def test_no_nuclei() -> None:
    matches = match_nuclei(0 * TWO, 0 * TWO)
    assert matches.average_precision.tolist() == matches.f1.tolist() == [1] * 10 and matches.dice == 1
    errors = match_errors(0 * TWO, 0 * TWO)
    assert [len(values) for values in errors] == [0] * 5
    assert match_nuclei(np.zeros((0, 4), int), np.zeros((0, 4), int)).found == 0


def test_pooled_matches_count_each_nucleus_once() -> None:
    """A region matches one of two nuclei, and nothing is found of two others: 1 TP, 0 FP, 3 FN."""
    pooled = match_nuclei(picture("1111...111 1111...111"), TWO).plus(match_nuclei(0 * TWO, TWO))
    assert pooled[:2] == (1, 4) and pooled.hits.tolist() == [1, 1] + [0] * 8
    assert pooled.average_precision[0] == 1 / 4 and pooled.f1[0] == 2 / 5
    assert pooled.dice == 2 * 14 / (14 + 28) and pooled.count_error == -3
    with pytest.raises(ValueError, match=r"\(0\.5,\)"):
        pooled.plus(match_nuclei(TWO, TWO, (0.5,)))


def test_chosen_thresholds() -> None:
    matches = match_nuclei(picture("1111...111 1111...111"), TWO, [0.5, 0.6])
    assert matches.hits.tolist() == [1, 0] and matches.thresholds == (0.5, 0.6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_labels_of_any_integer_type_up_to_its_largest(dtype: type) -> None:
    """The two largest uint64 are the same number as float64."""
    top = np.iinfo(dtype).max
    predicted = np.choose(TWO, np.array([0, top, top - 1], dtype))
    assert predicted.dtype == dtype
    assert match_nuclei(predicted, TWO.astype(dtype)).hits.tolist() == [2] * 10


def test_label_images_that_are_not_contiguous() -> None:
    expected = match_nuclei(TWO[:, ::2].copy(), TWO[:, ::2].copy())
    assert [*map(str, match_nuclei(TWO[:, ::2], TWO.T.copy().T[:, ::2]))] == [*map(str, expected)]


@pytest.mark.parametrize("wrong", [TWO.astype(np.float32), TWO - 1], ids=["float", "negative"])
def test_labels_are_checked(wrong: np.ndarray) -> None:
    for images in ((wrong, TWO), (TWO, wrong)):
        with pytest.raises(ValueError, match=f"integers from 0, not {wrong.dtype}"):
            match_nuclei(*images)


def test_the_tables_know_every_outcome() -> None:
    assert scoring.OUTCOMES == OUTCOMES
