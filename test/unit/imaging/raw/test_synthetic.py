# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The synthetic raw set: it is reproducible and well formed, and looks like the three kinds of real images."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from imaging.raw import synthetic
from imaging.raw.synthetic import MIN_AREA, MODALITIES, synthesize, write_raw_set


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def samples(modality: str, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [synthesize(np.random.default_rng((5, index)), modality) for index in range(count)]


def medians(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blue, green, red of a median background pixel and of a median nucleus pixel."""
    return np.median(image[labels == 0], axis=0), np.median(image[labels > 0], axis=0)


@pytest.fixture(scope="module")
def raw_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp("raw") / "deep" / "inputs"
    return folder, write_raw_set(folder, 8, seed=3)


def test_layout_and_masks(raw_set: tuple[Path, int]) -> None:
    folder, nuclei = raw_set
    assert sorted(path.name for path in folder.iterdir()) == [f"synthetic_{index:04d}" for index in range(8)]
    assert not folder.with_name("inputs.partial").exists()
    total = 0
    for index, sample in enumerate(sorted(folder.iterdir())):
        assert [path.name for path in (sample / "images").iterdir()] == [f"{sample.name}.png"]
        image = cv2.imread(str(sample / "images" / f"{sample.name}.png"), cv2.IMREAD_UNCHANGED)
        masks = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (sample / "masks").iterdir()]
        assert all(m.dtype == np.uint8 and m.shape == image.shape[:2] and set(np.unique(m)) == {0, 255} for m in masks)
        overlap = np.sum([mask > 0 for mask in masks], axis=0)
        assert overlap.max() == 1
        expected, labels = synthesize(np.random.default_rng((3, index)))
        assert np.array_equal(image, expected) and np.array_equal(overlap > 0, labels > 0)
        total += len(masks)
    assert total == nuclei


def test_an_image_depends_on_seed_and_index_only(raw_set: tuple[Path, int], tmp_path: Path) -> None:
    whole = files_of(raw_set[0])
    write_raw_set(tmp_path / "two", 2, seed=3)
    assert files_of(tmp_path / "two") == {name: data for name, data in whole.items() if name < "synthetic_0002"}
    assert write_raw_set(tmp_path / "parallel", 8, seed=3, workers=2) == raw_set[1]
    assert files_of(tmp_path / "parallel") == whole
    write_raw_set(tmp_path / "other", 1, seed=4)
    assert files_of(tmp_path / "other").items().isdisjoint(whole.items())


@pytest.mark.parametrize("modality", MODALITIES)
def test_labels(modality: str) -> None:
    touching = at_border = 0
    for image, labels in samples(modality, 6):
        assert image.dtype == np.uint8 and labels.dtype == np.uint16 and image.shape == (*labels.shape, 3)
        areas = np.bincount(labels.ravel())[1:]
        assert areas.size and areas.min() >= MIN_AREA
        for label in range(1, areas.size + 1):
            assert cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)[0] == 2
        for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            touching += np.count_nonzero((a != b) & (a > 0) & (b > 0))
        at_border += np.count_nonzero(labels[0]) + np.count_nonzero(labels[:, -1])
    assert touching and at_border


def test_fluorescence_is_dark_with_dim_and_bright_nuclei() -> None:
    contrasts, sizes = [], set()
    for image, labels in samples("fluorescence", 24):
        assert np.ptp(image, axis=2).max() == 0
        background, nucleus = medians(image, labels)
        assert background[0] < 40 and image.mean() < 80
        contrasts.append(nucleus[0] - background[0])
        sizes.add(labels.shape)
    assert min(contrasts) > 3 and min(contrasts) < 25 and max(contrasts) > 60
    assert len(sizes) >= 3


def test_tissue_has_purple_nuclei_on_a_pale_slide() -> None:
    for image, labels in samples("tissue", 8):
        background, (blue, green, red) = medians(image, labels)
        assert background.min() > 130 and image.mean() > 110
        assert blue > red > green + 10
        assert green < background[1] - 25


def test_brightfield_is_gray_with_darker_nuclei() -> None:
    for image, labels in samples("brightfield", 4):
        assert np.ptp(image, axis=2).max() == 0
        background, nucleus = medians(image, labels)
        assert background[0] > 180 and nucleus[0] < background[0] - 25


def test_all_modalities_are_drawn() -> None:
    bright = colored = dark = 0
    for index in range(40):
        image, _ = synthesize(np.random.default_rng((1, index)))
        dark += image.mean() < 80
        colored += np.ptp(image, axis=2).max() > 20
        bright += image.mean() > 80 and np.ptp(image, axis=2).max() == 0
    assert dark > colored > 0 and bright > 0 and dark + colored + bright == 40


def test_an_unfinished_run_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_midway(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        calls.append(rng)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return synthesize(rng)

    calls: list[np.random.Generator] = []
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "synthesize", fail_midway)
        with pytest.raises(KeyboardInterrupt):
            write_raw_set(tmp_path / "set", 5, seed=0)
    assert not (tmp_path / "set").exists()
    # files of the unfinished run do not get into the next one
    write_raw_set(tmp_path / "set", 1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["synthetic_0000"]


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="full"):
        write_raw_set(tmp_path / "full", 1, seed=0)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "note.txt"]
    (tmp_path / "empty").mkdir()
    assert write_raw_set(tmp_path / "empty", 1, seed=0) > 0


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x-ray"):
        synthesize(np.random.default_rng(0), "x-ray")
    for wrong in ({"count": 0}, {"seed": -1}, {"workers": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*{next(iter(wrong.values()))}"):
            write_raw_set(tmp_path / "set", **{"count": 1, "seed": 0, **wrong})
    assert not list(tmp_path.iterdir())
