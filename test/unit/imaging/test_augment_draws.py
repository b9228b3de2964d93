# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The recipe's augmentation: how often each transform is applied, in which order, and in which range."""

import re
from collections import Counter
from itertools import pairwise, product
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
from helpers.sample_data import disc, noise, open_set, write_set

from imaging.augment import random_generators, train_transform, val_transform

DRAWS = 2000


def near(count: int, probability: float, draws: int = DRAWS) -> bool:
    """Is a count within five standard deviations of its expectation?"""
    return abs(count - draws * probability) < 5 * (draws * probability * (1 - probability)) ** 0.5


def fits(counts: Counter, probabilities: dict) -> bool:
    """Do the counts pass Pearson's chi-squared test, within five standard deviations?"""
    draws, freedom = counts.total(), len(probabilities) - 1
    statistic = sum((counts[key] - draws * p) ** 2 / (draws * p) for key, p in probabilities.items())
    return set(counts) <= set(probabilities) and statistic < freedom + 5 * (2 * freedom) ** 0.5


def turned(image: np.ndarray, quarters: int, flip: str | None) -> np.ndarray:
    image = np.rot90(image, quarters)
    if flip in ("vertical", "both"):
        image = image[::-1]
    if flip in ("horizontal", "both"):
        image = image[:, ::-1]
    return image


QUARTERS = {None: 1 / 2, 0: 1 / 8, 1: 1 / 8, 2: 1 / 8, 3: 1 / 8}
FLIPS = {None: 1 / 2, "vertical": 1 / 6, "horizontal": 1 / 6, "both": 1 / 6}
COLORS = {"hue": 1 / 3, "brightness": 1 / 3, "contrast": 1 / 3}


@pytest.fixture(scope="module")
def draws(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Augment one sample many times; record what each augmentation did, by spies on `apply`, and the resulting pixels.

    The spies see the Compose's own call with the same random generators, because the dataset does not make that call.
    Image and mask hold the same pattern, in gray: hue does not change it, brightness and contrast keep the order of its
    values.
    """
    rng = np.random.default_rng(0)
    pattern = rng.permutation(np.linspace(60, 190, 48 * 48)).reshape(48, 48).astype(np.uint8)
    root = write_set(tmp_path_factory.mktemp("pattern"), ["a"], image=cv2.merge([pattern] * 3))
    calls: list[tuple[str, dict]] = []

    def spy(cls: type, name: str) -> None:
        original = cls.apply

        def apply(self, img: np.ndarray, *args, **params) -> np.ndarray:
            if img.shape[-1] == 3:  # the image; the mask has one channel
                calls.append((name, params))
            return original(self, img, *args, **params)

        patch.setattr(cls, "apply", apply)

    with pytest.MonkeyPatch.context() as patch:
        spy(A.RandomRotate90, "rotate")
        spy(A.VerticalFlip, "vertical")
        spy(A.HorizontalFlip, "horizontal")
        spy(A.HueSaturationValue, "hue")
        spy(A.RandomBrightnessContrast, "light")
        spy(A.Resize, "resize")
        spy(A.Normalize, "normalize")
        data = open_set(root, ["a"], train_transform(48, 48), seed=5)
        patch.setattr(data, "read", lambda img_id: (cv2.merge([pattern] * 3), pattern[..., None]))
        compose, (read, read_mask), found = train_transform(48, 48), data.read("a"), []
        for epoch in range(DRAWS):
            image, mask, _ = data[epoch, 0]
            calls.clear()
            compose.set_random_state(*random_generators(5, epoch, 0))
            compose(image=read, mask=read_mask)
            found.append({"calls": calls.copy(), "image": image.numpy(), "mask": mask.numpy()[0], "pattern": pattern})
    for draw in found:
        names, params = [name for name, _ in draw["calls"]], dict(draw["calls"])
        flips = [name for name in names if name in ("vertical", "horizontal")]
        draw["names"], draw["params"] = names, params
        draw["quarters"] = params["rotate"]["factor"] if "rotate" in params else None
        draw["flip"] = "both" if len(flips) == 2 else flips[0] if flips else None
        if "light" in params:
            draw["color"] = "brightness" if params["light"]["alpha"] == 1 else "contrast"
        else:
            draw["color"] = "hue" if "hue" in params else None
    return found


def test_recorded_transforms_explain_the_pixels(draws: list[dict]) -> None:
    """The mask is rotated and flipped like the image, and its values do not change."""
    for draw in draws:
        expected = turned(draw["pattern"], draw["quarters"] or 0, draw["flip"])
        np.testing.assert_array_equal(draw["mask"], expected.astype(np.float32) / 255)
        for channel in draw["image"]:
            assert np.corrcoef(channel.ravel(), expected.ravel())[0, 1] > 0.99


def test_orientations_of_the_pixels(draws: list[dict]) -> None:
    """Each of the eight orientations of a square is as frequent as independent rotations and flips make it."""
    pattern = draws[0]["pattern"]
    ways = {turned(pattern, *way).tobytes(): way for way in product(range(4), (None, "vertical"))}
    assert len(ways) == 8
    expected = Counter()
    for (quarters, p), (flip, q) in product(QUARTERS.items(), FLIPS.items()):
        expected[ways[turned(pattern, quarters or 0, flip).tobytes()]] += p * q
    seen = Counter(ways[(255 * draw["mask"]).round().astype(np.uint8).tobytes()] for draw in draws)
    assert fits(seen, expected)


@pytest.mark.parametrize(
    "key, probabilities", [("quarters", QUARTERS), ("flip", FLIPS), ("color", COLORS)], ids=lambda x: str(x)[:10]
)
def test_frequencies(draws: list[dict], key: str, probabilities: dict) -> None:
    counts = Counter(draw[key] for draw in draws)
    assert all(near(counts[value], p) for value, p in probabilities.items()), counts
    assert fits(counts, probabilities)


@pytest.mark.parametrize(
    "one, other",
    [
        (("quarters", QUARTERS), ("flip", FLIPS)),
        (("quarters", QUARTERS), ("color", COLORS)),
        (("flip", FLIPS), ("color", COLORS)),
    ],
    ids=["rotation and flip", "rotation and color", "flip and color"],
)
def test_draws_are_independent(draws: list[dict], one: tuple[str, dict], other: tuple[str, dict]) -> None:
    """Transforms with equal seeds would be correlated: each rotated image would also be flipped."""
    counts = Counter((draw[one[0]], draw[other[0]]) for draw in draws)
    expected = {(a, b): p * q for (a, p), (b, q) in product(one[1].items(), other[1].items())}
    assert all(near(counts[key], p) for key, p in expected.items()), counts
    assert fits(counts, expected)


def test_draws_of_successive_epochs_are_independent(draws: list[dict]) -> None:
    pairs = Counter((a["flip"] is None, b["flip"] is None) for a, b in pairwise(draws))
    assert fits(pairs, dict.fromkeys(product((False, True), repeat=2), 1 / 4))


def test_order_of_the_transforms(draws: list[dict]) -> None:
    order = re.compile(r"(rotate )?(vertical |horizontal |vertical horizontal )?(hue |light )resize normalize ")
    for draw in draws:
        assert order.fullmatch("".join(f"{name} " for name in draw["names"])), draw["names"]


@pytest.mark.parametrize(
    "color, value, low, high",
    [
        ("hue", lambda p: p["hue"]["hue_shift"], -20, 20),
        ("hue", lambda p: p["hue"]["sat_shift"], -30, 30),
        ("hue", lambda p: p["hue"]["val_shift"], -20, 20),
        ("brightness", lambda p: p["light"]["beta"] / 255, -0.2, 0.2),
        ("brightness", lambda p: p["light"]["alpha"], 1, 1),
        ("contrast", lambda p: p["light"]["alpha"], 0.8, 1.2),
        ("contrast", lambda p: p["light"]["beta"], 0, 0),
    ],
    ids=["hue", "saturation", "value", "brightness", "contrast stays", "contrast", "brightness stays"],
)
def test_ranges(draws: list[dict], color: str, value, low: float, high: float) -> None:
    """The values are uniform: none is outside the range, and each quarter of it has a quarter of them."""
    values = np.array([value(draw["params"]) for draw in draws if draw["color"] == color])
    assert low <= values.min() and values.max() <= high
    if low < high:
        quarters = np.histogram(values, bins=4, range=(low, high))[0]
        assert all(near(count, 1 / 4, len(values)) for count in quarters)


def test_brightness_and_contrast_of_the_pixels(draws: list[dict]) -> None:
    """Brightness adds up to 0.2 of the range (51 levels), contrast multiplies by 0.8 to 1.2."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for draw in draws[:200]:
        gray = (255 * (255 * draw["image"].transpose(1, 2, 0) * std + mean)).mean(-1)
        plain = turned(draw["pattern"], draw["quarters"] or 0, draw["flip"]).astype(float)
        slope, offset = np.polyfit(plain.ravel(), gray.ravel(), 1)
        wide = {"hue": (1, 1, -20, 20), "brightness": (1, 1, -51, 51), "contrast": (0.8, 1.2, 0, 0)}[draw["color"]]
        assert wide[0] - 0.01 < slope < wide[1] + 0.01 and wide[2] - 1 < offset < wide[3] + 1


def test_colors_change_and_masks_do_not(tmp_path: Path) -> None:
    """Of 60 images a few may stay the same, because a shift can be too small to change a pixel."""
    root = write_set(tmp_path, ["a"], mask=disc())
    data = open_set(root, ["a"], train_transform(24, 24), seed=1)
    # sorting the pixels makes the orientation irrelevant
    plain = [np.sort(x.numpy(), axis=None) for x in open_set(root, ["a"], val_transform(24, 24))[0][:2]]
    changed = 0
    for epoch in range(60):
        image, mask = (np.sort(x.numpy(), axis=None) for x in data[epoch, 0][:2])
        changed += not np.array_equal(image, plain[0])
        np.testing.assert_array_equal(mask, plain[1])
    assert changed > 50


def test_training_resizes_last(tmp_path: Path) -> None:
    """An image that is not square is rotated first and then resized to the size of the model's input."""
    root = write_set(tmp_path, ["a"], image=noise(20, 36), mask=disc(20, 36))
    data = open_set(root, ["a"], train_transform(32, 48))
    for epoch in range(20):
        image, mask, _ = data[epoch, 0]
        assert image.shape == (3, 32, 48) and mask.shape == (1, 32, 48)
