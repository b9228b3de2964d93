"""The recipe's augmentation, and the short way to its pixels."""

import os
from collections.abc import Iterator
from random import Random

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import would ask the network for a newer version

import albucore
import albumentations as A
import cv2
import numpy as np
import torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVELS = np.arange(256, dtype=np.uint8).reshape(-1, 1)


def train_transform(
    height: int, width: int, augmentation: str = "published", normalization: str = "standard"
) -> A.Compose:
    """Augmentation, then what validation does: uint8 BGR (H, W, 3) → floats (height, width, 3).

    augmentation: a key of AUGMENTATIONS.
    """
    return A.Compose([*AUGMENTATIONS[augmentation](), *_resize_and_normalise(height, width, normalization)])


def val_transform(height: int, width: int, normalization: str = "standard") -> A.Compose:
    """Resize and normalise: uint8 BGR (H, W, 3) → floats (height, width, 3).

    normalization: "standard": x / 255 less the recipe's MEAN, divided by its STD; "image": x less the image's own mean,
    divided by its own deviation + 1e-4, both over all channels, and clipped to [-20, 20].
    """
    return A.Compose(_resize_and_normalise(height, width, normalization))


def _turns() -> list[A.BasicTransform | A.BaseCompose]:
    return [
        A.RandomRotate90(p=0.5),
        A.OneOf(
            [
                A.VerticalFlip(p=1),
                A.HorizontalFlip(p=1),
                A.Sequential([A.VerticalFlip(p=1), A.HorizontalFlip(p=1)], p=1),
            ],
            p=0.5,
        ),
    ]


def _turns_and_colours() -> list[A.BasicTransform | A.BaseCompose]:
    # the p of each is its weight here: the group always fires
    colours = A.OneOf(
        [
            A.HueSaturationValue(hue_shift_limit=20, sat_shift_limit=30, val_shift_limit=20, p=0.5),
            A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0, p=0.5),
            A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.2, p=0.5),
        ],
        p=1,
    )
    return [*_turns(), colours]


def _turns_and_warps() -> list[A.BasicTransform | A.BaseCompose]:
    edges = {"border_mode": cv2.BORDER_REFLECT_101}
    affine = A.Affine(scale=(0.8, 1.25), rotate=(-45, 45), translate_percent=(-0.06, 0.06), p=0.5, **edges)
    return [*_turns(), affine, A.ElasticTransform(alpha=30, sigma=5, p=0.3, **edges)]


AUGMENTATIONS = {"published": _turns_and_colours, "turns": _turns, "warps": _turns_and_warps}


def _resize_and_normalise(height: int, width: int, normalization: str) -> list[A.BasicTransform]:
    # BGR channels against RGB statistics: deliberate, published numbers and old checkpoints rest on it
    return [A.Resize(height, width), A.Normalize(mean=MEAN, std=STD, normalization=normalization)]


def to_input(image: np.ndarray, divide_twice: bool = True) -> torch.Tensor:
    """Normalised floats (H, W, 3) → the net's input, float32 (3, H, W).

    The division by 255 comes after normalising, a second time: deliberate, for the same reason as the channel order.
    Without `divide_twice` it is left out.
    """
    image = image.astype(np.float32) / 255 if divide_twice else image.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def generators(seed: int, epoch: int, index: int) -> tuple[np.random.Generator, Random]:
    """The two generators that a sample's augmentation is drawn from."""
    # shared by all transforms: seeding each with the same number would tie their draws together
    draws = np.random.default_rng((seed, epoch, index))
    return draws, Random(int(draws.integers(2**63)))


class Pipeline:
    """Does what a Compose does to an image and its mask: the same draws in the same order, and the same pixels.

    divide_twice: see `to_input`.

    A Compose's own call checks, and packs into dictionaries, before each transform. Here the transforms' own parts are
    called directly where that is known to be all there is to them; any others are called as the Compose would.
    """

    def __init__(self, compose: A.Compose, divide_twice: bool = True):
        self.table, self.normalise, self.divide_twice = None, None, divide_twice
        self.is_plain = type(compose) is A.Compose and compose.p == 1 and not compose.processors
        self.steps = list(compose.transforms) if self.is_plain else [compose]
        self.drawing = list(_each(compose))
        last = self.steps[-1] if self.steps else None
        if type(last) is A.Normalize and last.p == 1 and last.normalization == "standard":
            # it and to_input act on each byte alone: what they make of all 256, (3, 256), is all they can make
            self.normalise = self.steps.pop()
            levels = self.normalise(image=LEVELS.repeat(3, 1)[:, None])["image"]
            self.table = to_input(levels, divide_twice)[..., 0].numpy()

    def augment(
        self, image: np.ndarray, mask: np.ndarray, draws: np.random.Generator, random: Random
    ) -> tuple[np.ndarray, np.ndarray]:
        """An image (H, W, 3) and its mask (H, W, C), uint8, before the last step, which is left to `write`."""
        for part in self.drawing:  # as set_random_state does, which looks through the whole tree anew
            part.random_generator, part.py_random = draws, random
        if self.is_plain:
            random.random()  # a Compose draws whether to act, even where it always does
        for step in self.steps:
            image, mask = _run(step, image, mask)
        return image, mask

    def write(self, image: np.ndarray, mask: np.ndarray, image_out: np.ndarray, mask_out: np.ndarray) -> None:
        """Turn what `augment` gave into the net's input and target: float32 (3, H, W) and (C, H, W) in [0, 1]."""
        if self.table is not None and image.dtype == np.uint8:
            for channel, (levels, out) in enumerate(zip(self.table, image_out, strict=True)):
                np.take(levels, image[..., channel], out=out, mode="clip")  # other modes buffer `out`
        else:
            image = self.normalise(image=image)["image"] if self.normalise else image
            image_out[:] = to_input(image, self.divide_twice).numpy()
        # soft mask edges stay soft: deliberate, part of the recipe
        mask = mask.reshape(*mask.shape[:2], len(mask_out)).transpose(2, 0, 1)
        np.divide(mask, np.float32(255), out=mask_out, dtype=np.float32)


def _each(step: A.BasicTransform | A.BaseCompose) -> Iterator[A.BasicTransform | A.BaseCompose]:
    yield step
    for part in step.transforms if isinstance(step, A.BaseCompose) else ():
        yield from _each(part)


def _run(
    step: A.BasicTransform | A.BaseCompose, image: np.ndarray, mask: np.ndarray, forced: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    kind = type(step)
    if kind is A.OneOf:
        if forced or step.py_random.random() < step.p:
            chosen = step.random_generator.choice(len(step.transforms), p=step.transforms_ps)
            return _run(step.transforms[chosen], image, mask, True)
    elif kind is A.Sequential:
        if forced or step.py_random.random() < step.p:
            for part in step.transforms:
                image, mask = _run(part, image, mask)
    elif kind is A.HueSaturationValue and image.dtype == np.uint8 and image.shape[2] == 3:
        if step.should_apply(forced):
            image = _shift_hsv(image, **step.get_params())
    elif kind in (A.RandomRotate90, A.VerticalFlip, A.HorizontalFlip, A.RandomBrightnessContrast, A.Resize):
        if step.should_apply(forced):
            params = step.get_params()
            params |= step.get_params_dependent_on_data(params, {"image": image})
            image = _contiguous(step.apply(image, **params))
            if isinstance(step, A.DualTransform):
                mask = _contiguous(step.apply_to_mask(mask, **params))
    else:
        found = step(image=image, mask=mask, force_apply=forced)
        return found["image"], found["mask"]
    return image, mask


def _contiguous(image: np.ndarray) -> np.ndarray:
    if image.flags.c_contiguous:
        return image
    # a pixel at a time, not a byte
    pixels = np.ascontiguousarray(image.view(f"V{image.shape[2] * image.itemsize}"))
    return pixels.view(image.dtype).reshape(image.shape)


def _shift_hsv(image: np.ndarray, hue_shift: float, sat_shift: float, val_shift: float) -> np.ndarray:
    """HueSaturationValue's `apply`, whose arithmetic on whole planes is a map of single bytes, and so a table."""
    if not (hue_shift or sat_shift or val_shift):
        return image
    hue = np.mod(LEVELS.astype(np.int16) + hue_shift, 180).astype(np.uint8)
    saturation, value = (albucore.add_constant(LEVELS, shift) for shift in (sat_shift, val_shift))
    saturation[0] = 0  # grey stays grey
    shifted = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), cv2.merge((hue, saturation, value)))
    return cv2.cvtColor(shifted, cv2.COLOR_HSV2RGB)
