# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""How often training images are drawn."""

import numpy as np
import pytest

from imaging.balance import Balance
from runtime.errors import InputError

DARK, WHITE = np.full((20, 30, 3), 5, np.uint8), np.full((20, 30, 3), 240, np.uint8)
PINK = WHITE - np.array([60, 120, 0], np.uint8)


def balance_of(images: dict[str, tuple[np.ndarray, float]]) -> Balance:
    balance = Balance()
    for img_id, (image, crops) in images.items():
        balance.add(img_id, image, crops)
    return balance


def test_kinds_count_by_the_square_root_of_their_number() -> None:
    images = {f"d{i}": (DARK, 1) for i in range(16)} | {f"p{i}": (PINK, 1) for i in range(4)} | {"w": (WHITE, 1)}
    shares = balance_of(images).shares(list(images))
    assert shares == pytest.approx(np.array([4 / 16] * 16 + [2 / 4] * 4 + [1]) / 7)
    line = balance_of(images).describe(list(images))
    assert line == (
        "draws: 57% fluorescence (16 of 21 images), 29% stained tissue (4 of 21 images), "
        "14% brightfield (1 of 21 images)"
    )


def test_images_of_a_kind_count_by_the_square_root_of_their_crops() -> None:
    images = {"a": (DARK, 9), "b": (DARK, 4), "c": (DARK, 0.2), "d": (WHITE, 100)}  # less than a crop is one
    shares = balance_of(images).shares(["d", "c", "b", "a"])
    within = np.array([1, 2, 3]) / 6
    assert shares == pytest.approx(np.array([1, *(within * np.sqrt(3))]) / (1 + np.sqrt(3)))


def test_the_training_part_alone_counts() -> None:
    images = {"a": (DARK, 1), "b": (DARK, 1), "c": (WHITE, 1)}
    assert balance_of(images).shares(["a", "b"]) == pytest.approx([0.5, 0.5])


def test_a_training_part_that_cannot_be_read_at_all_is_refused() -> None:
    with pytest.raises(InputError, match=r"^no training image can be read; the reasons are given above$"):
        balance_of({"validation": (DARK, 1)}).shares(["bad", "worse"])


def test_images_that_could_not_be_read_are_not_drawn() -> None:
    balance = balance_of({"a": (DARK, 1), "b": (WHITE, 1)})
    assert balance.shares(["a", "bad", "b"]) == pytest.approx([0.5, 0, 0.5])
    assert balance.describe(["a", "bad"]) == "draws: 100% fluorescence (1 of 2 images)"
