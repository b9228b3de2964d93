# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The faster Pipeline against albumentations' own calls: the same pixels, bit for bit, and the same random draws."""

import albumentations as A
import numpy as np
import pytest
import torch

from imaging.augment import AUGMENTATIONS, Pipeline, random_generators, to_input, train_transform, val_transform
from runtime.byte_batches import collate, input_and_target

SIZE = (32, 48)
RNG = np.random.default_rng(0)
SMOOTH = np.stack([*np.meshgrid(np.linspace(0, 255, 48), np.linspace(255, 0, 32)), np.full(SIZE, 99)], -1)
IMAGES = {
    "noise": RNG.integers(0, 256, (*SIZE, 3)),
    "gray": RNG.integers(0, 256, (*SIZE, 1)).repeat(3, 2),
    "almost gray": RNG.integers(100, 103, (*SIZE, 3)),
    "smooth": SMOOTH,
    "extremes": RNG.choice([0, 1, 254, 255], (*SIZE, 3)),
    "black": np.zeros((*SIZE, 3)),
    "white": np.full((*SIZE, 3), 255),
    "square": RNG.integers(0, 256, (40, 40, 3)),
    "large": RNG.integers(0, 256, (90, 71, 3)),
    "one pixel wide": RNG.integers(0, 256, (70, 1, 3)),
}
KEPT = [A.RandomRotate90(p=0.5), A.Resize(*SIZE), A.Normalize()]


def differences(compose: A.Compose, image: np.ndarray, mask: np.ndarray, draws: range) -> list[tuple]:
    """Return the keys (seed, epoch, index) for which pixels or generators differ from those of the Compose's own call.

    Both use the same Compose object, so that a state that a call leaves in it would be noticed too.
    """
    pipeline, found, originals = Pipeline(compose), [], (image.copy(), mask.copy())
    for number in draws:
        key = number % 3, number // 7, number % 11
        ours, theirs = random_generators(*key), random_generators(*key)
        changed = pipeline.augment(image, mask, *ours)
        (x,), (y,) = input_and_target(*collate(*pipeline.finish([changed])))
        compose.set_random_state(*theirs)
        whole = compose(image=image, mask=mask)
        equal = np.array_equal(x, to_input(whole["image"]))
        equal &= np.array_equal(y, (whole["mask"].astype(np.float32) / 255).transpose(2, 0, 1))
        equal &= ours[0].bit_generator.state == theirs[0].bit_generator.state
        equal &= ours[1].getstate() == theirs[1].getstate()
        equal &= all(np.array_equal(a, b) for a, b in zip((image, mask), originals))
        found += [] if equal else [key]
    return found


def pair(kind: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    image = IMAGES[kind].astype(np.uint8)
    return image, RNG.integers(0, 256, (*image.shape[:2], classes), np.uint8)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("kind", IMAGES)
def test_the_recipes_transforms_bit_for_bit(kind: str, classes: int) -> None:
    image, mask = pair(kind, classes)
    assert differences(train_transform(*SIZE), image, mask, range(300)) == []
    for augmentation in ("turns", "warps"):
        assert differences(train_transform(*SIZE, augmentation, "image"), image, mask, range(30)) == []
    assert differences(val_transform(*SIZE), image, mask, range(3)) == []


def test_each_shift_of_hue_saturation_and_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Including zero, less than a gray level, and more than the recipe draws; for all colors in steps of 17."""
    levels = np.arange(0, 256, 17)
    image = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(64, 64, 3).astype(np.uint8)
    compose = A.Compose([A.HueSaturationValue(p=1)])
    for shifts in [
        *np.random.default_rng(1).uniform(-300, 300, (200, 3)),
        *np.mgrid[-1:2, -1:2, -1:2].reshape(3, -1).T,
    ]:
        names = ("hue_shift", "sat_shift", "val_shift")
        for exact in (shifts, shifts / 2, np.trunc(shifts)):
            params = dict(zip(names, exact.tolist()))
            monkeypatch.setattr(A.HueSaturationValue, "get_params", lambda self, params=params: dict(params))
            assert differences(compose, image, image[..., :1], range(1)) == [], params


@pytest.mark.parametrize(
    "steps",
    [
        [A.ElasticTransform(p=0.7), *KEPT],
        [A.GaussNoise(p=0.5), A.OneOf([A.CLAHE(), A.OneOf([A.VerticalFlip(), A.Blur()], p=0.3)], p=0.8), *KEPT],
        [A.SomeOf([A.HorizontalFlip(p=1), A.VerticalFlip(p=1), A.RandomGamma(p=1)], n=2, p=0.6), *KEPT],
        [A.Compose([A.HueSaturationValue(p=0.5)], p=0.5), A.Sequential([A.VerticalFlip(p=0.5)], p=0.5), *KEPT],
        [A.RandomBrightnessContrast(brightness_by_max=False, p=0.5), A.Resize(*SIZE, p=0.5), A.Normalize(p=0.5)],
        [*KEPT[:2], A.Normalize(normalization="image")],
        [A.ToFloat(), A.HueSaturationValue(p=0.5), A.RandomBrightnessContrast(p=0.5), *KEPT],
        [*KEPT, A.VerticalFlip(p=0.5)],
        [A.VerticalFlip(p=0.5)],
        [],
    ],
    ids=["elastic", "nested", "some of", "groups", "by chance", "by image", "floats", "flip last", "bytes", "nothing"],
)
def test_any_other_compose(steps: list[A.BasicTransform]) -> None:
    for compose in (A.Compose(steps), A.Compose(steps, p=0.5)):
        assert differences(compose, *pair("noise", 2), range(40)) == []


@pytest.mark.parametrize("kind", [A.Compose, A.ReplayCompose])
def test_kinds_of_compose(kind: type) -> None:
    steps = [A.HorizontalFlip(p=0.5), *KEPT]
    assert differences(kind(steps), *pair("noise", 1), range(20)) == []


def test_many_classes() -> None:
    """OpenCV itself cannot rotate images with that many channels."""
    image, mask = pair("large", 11)
    assert differences(train_transform(*SIZE), image, mask, range(40)) == []


@pytest.mark.parametrize("normalization", ["standard", "image", "none"])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_each_augmentation_gives_bytes(augmentation: str, normalization: str) -> None:
    """So that batches of the product always are bytes, one per pixel and channel."""
    pipeline = Pipeline(train_transform(*SIZE, augmentation, normalization))
    for index in range(60):
        sample = pipeline.augment(*pair("noise", 2), *random_generators(0, 0, index))
        assert [pixels.dtype for pixels in sample] == [np.uint8] * 2
        assert pipeline.finish([sample])[2].shape == ((1, 2, 256) if normalization == "image" else (1, 4, 256))


@pytest.mark.parametrize("divide_twice", [True, False])
@pytest.mark.parametrize("normalization", ["standard", "image", "none"])
def test_tables_of_a_batch_bit_for_bit(normalization: str, divide_twice: bool) -> None:
    """Random images of all means and contrasts, constant ones of every gray level, and one of all bytes.

    Each image of a batch gets its own values, which are albumentations' own; masks are divided by 255 in float32.
    """
    rng = np.random.default_rng(7)
    levels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    images = [levels, *(np.full((16, 16, 3), level, np.uint8) for level in range(256))]
    for _ in range(1200):
        middle, spread = rng.uniform(0, 255), rng.choice([0.3, 3, 30, 300])
        images.append(rng.normal(middle, spread, (16, 16, 3)).clip(0, 255).astype(np.uint8))
    images += [np.asfortranarray(image) for image in images[-50:]]
    masks = [np.stack([np.arange(256).reshape(16, 16), rng.integers(0, 256, (16, 16))], -1).astype(np.uint8)]
    masks += [rng.integers(0, 256, (16, 16, 2), np.uint8) for _ in images[1:]]
    transform = val_transform(16, 16, normalization)
    batch = collate(*Pipeline(transform, divide_twice).finish([*zip(images, masks)]))
    assert batch[0].dtype == batch[1].dtype == torch.uint8
    inputs, targets = (values.numpy() for values in input_and_target(*batch))
    assert inputs.dtype == targets.dtype == np.float32 and inputs.flags.c_contiguous and targets.flags.c_contiguous
    for image, mask, found, target in zip(images, masks, inputs, targets, strict=True):
        normalized = transform(image=image)["image"].astype(np.float32)
        expected = (normalized / 255 if divide_twice else normalized).transpose(2, 0, 1)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(target, np.divide(mask, np.float32(255)).transpose(2, 0, 1))


def test_a_batch_of_bytes_and_floats() -> None:
    """A transform that is applied by chance gives both; the batch is then made of floats."""
    compose = A.Compose([A.Resize(*SIZE), A.Normalize(p=0.5)])
    pipeline, samples, expected = Pipeline(compose), [], []
    for index in range(8):
        image, mask = pair("noise", 1)
        samples.append(pipeline.augment(image, mask, *random_generators(0, 0, index)))
        compose.set_random_state(*random_generators(0, 0, index))
        expected.append(to_input(compose(image=image, mask=mask)["image"]))
    assert len({image.dtype for image, _ in samples}) == 2
    images, _, tables = collate(*pipeline.finish(samples))
    assert tables is None and np.array_equal(images, np.stack(expected))
