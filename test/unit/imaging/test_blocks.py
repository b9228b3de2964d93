# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Nuclei found block by block: the same as in one piece, each once, also on seams."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from imaging.blocks import Block, Seams, find_in_blocks, labels_on_disk
from imaging.instances import SplitSettings, find_nuclei
from imaging.large_image import from_pixels
from imaging.raw.synthetic import synthesize
from imaging.tiles import Tiling, probability_strips
from runtime.errors import InputError


def connected_regions(probability: np.ndarray) -> np.ndarray:
    return cv2.connectedComponents((probability[0] > 0.5).astype(np.uint8), connectivity=8)[1]


def split(probability: np.ndarray) -> np.ndarray:
    return find_nuclei(probability, SplitSettings())


def in_strips(probability: np.ndarray, height: int = 50) -> Iterator[np.ndarray]:
    for top in range(0, probability.shape[1], height):
        yield probability[:, top : top + height]


def in_blocks(
    probability: np.ndarray, find: Callable[[np.ndarray], np.ndarray], seams: Seams, image: np.ndarray | None = None
) -> tuple[np.ndarray, list[Block]]:
    shape = probability.shape[1:]
    image = np.zeros((*shape, 3), np.uint8) if image is None else image
    labels = np.zeros(shape, np.int32)
    return labels, list(find_in_blocks(from_pixels(image), in_strips(probability), find, labels, seams))


def best_overlaps(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the highest IoU with a nucleus of `others` for each nucleus of `labels`."""
    areas, other_areas = (np.bincount(found.ravel()) for found in (labels, others))
    pairs, shared = np.unique(labels.astype(np.int64) * len(other_areas) + others, return_counts=True)
    own, other = np.divmod(pairs, len(other_areas))
    result = np.zeros(len(areas))
    overlaps = shared / (areas[own] + other_areas[other] - shared)
    np.maximum.at(result, own[other > 0], overlaps[other > 0])
    return result[1:]


def draw_discs(rng: np.random.Generator, shape: tuple[int, int], count: int, radii: tuple[int, int]) -> np.ndarray:
    """Return labels of discs that neither touch nor overlap; some are cut by the edge of the image."""
    labels = np.zeros(shape, np.int32)
    for _ in range(count):
        disc = np.zeros(shape, np.uint8)
        center = tuple(rng.integers(0, shape[::-1]).tolist())
        cv2.circle(disc, center, int(rng.integers(*radii)), 1, -1)
        if not labels[cv2.dilate(disc, np.ones((5, 5))) > 0].any():
            labels[disc > 0] = labels.max() + 1
    return labels


SEAMS = [Seams(40, 24), Seams(64, 24), Seams(33, 30), Seams(500, 10)]


@pytest.mark.parametrize("seams", SEAMS)
@pytest.mark.parametrize("seed", range(3))
def test_separate_discs_are_found_exactly_once(seed: int, seams: Seams) -> None:
    true = draw_discs(np.random.default_rng(seed), (211, 170), 120, (2, 12))
    labels, blocks = in_blocks((true > 0)[None].astype(np.float32), connected_regions, seams)
    count = int(true.max())
    assert sum(block.count for block in blocks) == count > 40
    pairs = np.unique(np.stack([true.ravel(), labels.ravel()]), axis=1)
    assert pairs.shape[1] == count + 1 and len(set(pairs[0])) == len(set(pairs[1])) == count + 1


def test_nuclei_of_50_synthetic_images_with_and_without_blocks() -> None:
    """At least 99 % of the nuclei match with an IoU above 0.9, in both directions."""
    overlaps = []
    for seed in range(50):
        _, true = synthesize(np.random.default_rng(seed))
        probability = cv2.GaussianBlur((true > 0).astype(np.float32), (0, 0), 1)[None]
        expected = split(probability)
        labels, _ = in_blocks(probability, split, Seams(100, 64))
        overlaps += [best_overlaps(expected, labels), best_overlaps(labels, expected)]
    overlaps = np.concatenate(overlaps)
    assert len(overlaps) > 2000 and (overlaps > 0.9).mean() >= 0.99, (len(overlaps), (overlaps > 0.9).mean())


def test_nuclei_of_50_synthetic_images_with_and_without_windows_and_blocks() -> None:
    """From the image on, with a stand-in for the net that sees a few pixels around each."""

    def predict(batch: np.ndarray) -> np.ndarray:
        return np.stack([cv2.GaussianBlur(window[0], (0, 0), 1.5) for window in batch])[:, None]

    overlaps = []
    for seed in range(50):
        image, true = synthesize(np.random.default_rng(seed), "fluorescence")
        inside = np.median(image[true > 0])
        outside = np.median(image[true == 0])
        table = ((np.arange(256) - outside) / max(inside - outside, 1)).clip(0, 1).astype(np.float32)

        def prepare(window: np.ndarray, table=table) -> np.ndarray:
            return table[window].transpose(2, 0, 1)

        expected = split(predict(prepare(image)[None])[0])
        labels = np.zeros(image.shape[:2], np.int32)
        strips = probability_strips(from_pixels(image), prepare, lambda batches: map(predict, batches), Tiling(96, 32))
        for _ in find_in_blocks(from_pixels(image), strips, split, labels, Seams(128, 64)):
            pass
        overlaps += [best_overlaps(expected, labels), best_overlaps(labels, expected)]
    overlaps = np.concatenate(overlaps)
    assert len(overlaps) > 2000 and (overlaps > 0.9).mean() >= 0.99, (len(overlaps), (overlaps > 0.9).mean())


@pytest.mark.parametrize("seed", range(5))
def test_blocks_that_see_a_nucleus_differently_neither_lose_nor_double_it(seed: int) -> None:
    """Each block sees all nuclei moved by up to a pixel, so that the centroids lie in one block or in another."""
    rng = np.random.default_rng(seed)
    true = draw_discs(rng, (260, 260), 300, (6, 10))

    def find(probability: np.ndarray) -> np.ndarray:
        return ndimage.shift(connected_regions(probability), rng.integers(-1, 2, 2), order=0)

    labels, blocks = in_blocks((true > 0)[None].astype(np.float32), find, Seams(45, 24))
    found = []
    for number in range(1, int(labels.max()) + 1):
        inside = true[labels == number]
        found.append(int(np.bincount(inside[inside > 0]).argmax()))
    inner = set(range(1, int(true.max()) + 1)) - set(true[[*range(9), *range(-9, 0)]].ravel().tolist())
    inner -= set(true[:, [*range(9), *range(-9, 0)]].ravel().tolist())
    assert len(found) == len(set(found)) and inner <= set(found) and len(inner) > 50
    assert sum(block.count for block in blocks) == len(found)


def test_blocks_hold_what_was_written_and_their_pixels() -> None:
    rng = np.random.default_rng(3)
    true = draw_discs(rng, (200, 260), 150, (4, 12))
    image = rng.integers(0, 256, (*true.shape, 3), np.uint8)
    labels, blocks = in_blocks((true > 0)[None].astype(np.float32), connected_regions, Seams(70, 26), image)
    pasted, first = np.zeros_like(labels), 0
    for block in blocks:
        height, width = block.labels.shape
        window = slice(block.top, block.top + height), slice(block.left, block.left + width)
        assert np.array_equal(block.image, image[window])
        assert block.first == first and set(np.unique(block.labels)) - {0} == set(range(1, block.count + 1))
        first += block.count
        assert not pasted[window][block.labels > 0].any()
        pasted[window] += np.where(block.labels > 0, block.labels + block.first, 0)
    assert np.array_equal(pasted, labels) and first == labels.max() == true.max()


def test_nuclei_larger_than_the_margin_are_counted() -> None:
    probability = np.zeros((1, 300, 300), np.float32)
    cv2.circle(probability[0], (150, 150), 120, 1, -1)
    cv2.circle(probability[0], (10, 10), 15, 1, -1)  # cut by the image, not by a block
    labels, blocks = in_blocks(probability, connected_regions, Seams(100, 20))
    assert not labels[probability[0] == 0].any() and sum(block.cut for block in blocks) > 0
    _, blocks = in_blocks(probability, connected_regions, Seams(100, 120))
    assert [(block.count, block.cut) for block in blocks if block.count] == [(1, 0), (1, 0)]


def test_empty_images_and_blocks_of_one_row() -> None:
    labels, blocks = in_blocks(np.zeros((1, 101, 30), np.float32), connected_regions, Seams(100, 5))
    assert not labels.any() and [block.count for block in blocks] == [0, 0]
    labels, blocks = in_blocks(np.ones((1, 1, 1), np.float32), connected_regions, Seams(100, 5))
    assert labels == [[1]] and blocks[0].count == 1


def test_the_memory_on_the_disk_is_used_like_an_array_and_leaves_no_file(tmp_path: Path) -> None:
    true = draw_discs(np.random.default_rng(0), (150, 150), 60, (4, 12))
    probability = (true > 0)[None].astype(np.float32)
    expected, _ = in_blocks(probability, connected_regions, SEAMS[0])
    with labels_on_disk(tmp_path / "new", true.shape) as labels:
        assert labels.dtype == np.int32 and not labels.any()
        image = from_pixels(np.zeros((*true.shape, 3), np.uint8))
        for _ in find_in_blocks(image, in_strips(probability), connected_regions, labels, SEAMS[0]):
            pass
        assert isinstance(labels, np.memmap) and np.array_equal(labels, expected)
        assert list((tmp_path / "new").iterdir()) == []


def test_no_space_for_the_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    expected = pytest.raises(InputError, match="no space for 400 MB of labels: No space left")
    with expected, labels_on_disk(tmp_path, (10_000, 10_000)):
        pass


def test_wrong_shapes_are_refused() -> None:
    probability = np.zeros((1, 60, 60), np.float32)
    with pytest.raises(ValueError, match=r"labels of the shape \(30, 60\)"):
        in_blocks(probability, lambda part: connected_regions(part)[::2], Seams(100, 5))
    image, labels = from_pixels(np.zeros((90, 60, 3), np.uint8)), np.zeros((90, 60), np.int32)
    with pytest.raises(ValueError, match="end at row 60, before row 90"):
        list(find_in_blocks(image, in_strips(probability), connected_regions, labels, Seams(100, 5)))
