"""Prepared images and masks on disk → batches: reading, checking, splitting, augmenting, loading.

Layout: `<data_path>/images/<id><img_ext>` and `<data_path>/masks/<class>/<id><mask_ext>`.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import would ask the network for a newer version

import albumentations as A
import cv2
import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset, Sampler

from errors import InputError
from files import IMAGE_EXTENSIONS, list_ids, read_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_LISTED = 20  # problems named one by one; the rest are counted


def split_ids(ids: list[str]) -> tuple[list[str], list[str]]:
    """Training and validation ids: one split in five, fixed by the recipe's seed; every script means this one."""
    train, val = train_test_split(sorted(ids), test_size=0.2, random_state=41)
    return train, val


def check_dataset(data_path: Path, img_ext: str = ".png", mask_ext: str = ".png", num_classes: int = 1) -> list[str]:
    """Return the ids of a prepared data set, or raise one InputError that lists everything wrong with it.

    Every file is decoded once: a missing or unreadable one would otherwise surface epochs later.
    """
    images, masks = data_path / "images", data_path / "masks"
    if not data_path.is_dir():
        raise InputError(
            f"{data_path}: no such data folder; prepare it with preprocess_dsb2018.py, or give the folder that holds "
            "images/ and masks/"
        )
    if not images.is_dir():
        found = next((name for name in ("imgs", "image", "img") if (data_path / name).is_dir()), None)
        remedy = f"rename {data_path / found} to images" if found else "put the images there"
        raise InputError(f"{images}: no such folder; {remedy}")
    ids = list_ids(data_path, img_ext)
    if not ids:
        others = Counter(p.suffix for p in images.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS)
        remedy = f"the files there end in {', '.join(sorted(others))}: pass --img_ext" if others else "put some there"
        raise InputError(f"{images}: no {img_ext} images; {remedy}")
    if len(ids) < 2:
        raise InputError(f"{images}: only one {img_ext} image; training and validation need at least two")
    problems = []
    for name in [str(k) for k in range(num_classes)]:
        folder = masks / name
        if not folder.is_dir():
            loose = any(masks.glob(f"*{mask_ext}"))
            remedy = f"move the masks in {masks} into it" if loose else "each class has a folder, named 0, 1 …"
            problems.append(f"{folder}: no such folder; {remedy}")
    if problems:
        raise InputError(_listed(data_path, problems))
    with ThreadPoolExecutor() as pool:  # OpenCV decodes outside the interpreter's lock
        reports = list(pool.map(lambda i: _check_sample(data_path, i, img_ext, mask_ext, num_classes), ids))
    problems = [problem for found, _ in reports for problem in found]
    # a mask is mostly exactly 0 and 255, a photograph is not
    binary = np.array([shares for _, shares in reports if shares]).reshape(-1, 2)
    if len(binary) and np.median(binary[:, 0]) > 0.6 and np.median(binary[:, 1]) < 0.4:
        problems.insert(0, f"{data_path}: images and masks look swapped; exchange the contents of {images} and {masks}")
    if problems:
        raise InputError(_listed(data_path, problems))
    return ids


def _check_sample(data_path: Path, img_id: str, img_ext: str, mask_ext: str, num_classes: int):
    """Problems of one image and its masks, and the shares of pixels in image and masks that are exactly 0 or 255."""
    problems, shares = [], None
    image_path = data_path / "images" / f"{img_id}{img_ext}"
    try:
        image = read_image(image_path, cv2.IMREAD_COLOR)
    except InputError as error:
        return [str(error)], None
    for name in [str(k) for k in range(num_classes)]:
        path = data_path / "masks" / name / f"{img_id}{mask_ext}"
        if not path.is_file():
            problems.append(f"{path}: no mask for {image_path}; add it or take the image out")
            continue
        try:
            mask = read_image(path, cv2.IMREAD_GRAYSCALE)
        except InputError as error:
            problems.append(str(error))
            continue
        if mask.shape != image.shape[:2]:
            height, width = image.shape[:2]
            problems.append(
                f"{path}: mask is {mask.shape[1]}×{mask.shape[0]}, its image {width}×{height}; resize one to the other"
            )
        elif 0 < mask.max() <= 10 and np.count_nonzero(mask) >= 20:  # soft edges alone are never that dim and that many
            problems.append(
                f"{path}: largest value is {mask.max()}, but masks hold 0 and 255; "
                "multiply by 255, or give each label a class folder of its own"
            )
        elif shares is None:
            shares = tuple(float(((x == 0) | (x == 255)).mean()) for x in (image, mask))
    return problems, shares


def _listed(data_path: Path, problems: list[str]) -> str:
    lines = problems[:MAX_LISTED]
    if len(problems) > MAX_LISTED:
        lines.append(f"… and {len(problems) - MAX_LISTED} more of the kind")
    return "\n  ".join([f"{data_path} cannot be used as it is ({len(problems)} problems):", *lines])


def train_transform(height: int, width: int) -> A.Compose:
    """The recipe's augmentation, then what validation does: uint8 BGR (H, W, 3) → float32 (height, width, 3)."""
    return A.Compose(
        [
            A.RandomRotate90(p=0.5),
            A.OneOf(
                [
                    A.VerticalFlip(p=1),
                    A.HorizontalFlip(p=1),
                    A.Sequential([A.VerticalFlip(p=1), A.HorizontalFlip(p=1)], p=1),
                ],
                p=0.5,
            ),
            # the p of each is its weight here: the group always fires
            A.OneOf(
                [
                    A.HueSaturationValue(hue_shift_limit=20, sat_shift_limit=30, val_shift_limit=20, p=0.5),
                    A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0, p=0.5),
                    A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.2, p=0.5),
                ],
                p=1,
            ),
            *_resize_and_normalise(height, width),
        ]
    )


def val_transform(height: int, width: int) -> A.Compose:
    """Resize and normalise: uint8 BGR (H, W, 3) → float32 (height, width, 3)."""
    return A.Compose(_resize_and_normalise(height, width))


def _resize_and_normalise(height: int, width: int) -> list[A.BasicTransform]:
    # BGR channels against RGB statistics: deliberate, published numbers and old checkpoints rest on it
    return [A.Resize(height, width), A.Normalize(mean=MEAN, std=STD)]


def to_input(image: np.ndarray) -> torch.Tensor:
    """Normalised float32 (H, W, 3) → the net's input, float32 (3, H, W).

    The division by 255 comes after normalising, a second time: deliberate, for the same reason as the channel order.
    """
    return torch.from_numpy(np.ascontiguousarray((image.astype(np.float32) / 255).transpose(2, 0, 1)))


class NucleiDataset(Dataset):
    """Samples of a prepared data set: image float32 (3, H, W), mask float32 (num_classes, H, W) in [0, 1], {"img_id"}.

    An item is asked for by (epoch, index), or by index alone for epoch 0: the augmentation is drawn from
    (seed, epoch, index), so that it does not depend on which worker, process or run draws it.
    """

    def __init__(
        self,
        data_path: Path,
        ids: list[str],
        transform: A.Compose,
        img_ext: str = ".png",
        mask_ext: str = ".png",
        num_classes: int = 1,
        seed: int = 0,
    ):
        self.images, self.masks = data_path / "images", data_path / "masks"
        self.ids, self.transform, self.seed = ids, transform, seed
        self.img_ext, self.mask_ext, self.num_classes = img_ext, mask_ext, num_classes

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, img_id: str) -> tuple[np.ndarray, np.ndarray]:
        """An image, uint8 BGR (H, W, 3), and its masks, uint8 (H, W, num_classes), as they lie on the disk."""
        image = read_image(self.images / f"{img_id}{self.img_ext}", cv2.IMREAD_COLOR)
        paths = [self.masks / str(k) / f"{img_id}{self.mask_ext}" for k in range(self.num_classes)]
        return image, np.dstack([read_image(path, cv2.IMREAD_GRAYSCALE) for path in paths])

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, dict]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        img_id = self.ids[index]
        image, mask = self.read(img_id)
        # one generator shared by all transforms: seeding each with the same number would tie their draws together
        draws = np.random.default_rng((self.seed, epoch, index))
        self.transform.set_random_state(draws, Random(int(draws.integers(2**63))))
        augmented = self.transform(image=image, mask=mask)
        # soft mask edges stay soft: deliberate, part of the recipe
        mask = augmented["mask"].reshape(*augmented["mask"].shape[:2], self.num_classes).astype(np.float32) / 255
        return to_input(augmented["image"]), torch.from_numpy(mask.transpose(2, 0, 1).copy()), {"img_id": img_id}


def open_dataset(data_path: Path, num_classes: int, settings: Mapping) -> tuple[NucleiDataset, NucleiDataset]:
    """Check a prepared data set and open its training and validation parts.

    settings: train.py's flags or a config.yml; `img_ext mask_ext input_h input_w seed` count, where they are there.
    Raises InputError with everything that is wrong with the files.
    """
    files = {"img_ext": settings.get("img_ext", ".png"), "mask_ext": settings.get("mask_ext", ".png")}
    size = settings.get("input_h", 96), settings.get("input_w", 96)
    train_ids, val_ids = split_ids(check_dataset(data_path, num_classes=num_classes, **files))
    files |= {"num_classes": num_classes, "seed": settings.get("seed", 0)}
    return (
        NucleiDataset(data_path, train_ids, train_transform(*size), **files),
        NucleiDataset(data_path, val_ids, val_transform(*size), **files),
    )


class EpochSampler(Sampler):
    """Yields (epoch, index) over `size` samples, shuffled afresh for each epoch by (seed, epoch) alone."""

    def __init__(self, size: int, seed: int):
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """To be called before each epoch's iteration; epochs count from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        return ((self.epoch, int(index)) for index in order)


# the flag counts over all ranks, and how many processors there are does not change the result
warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)


def _quiet_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one thread a worker: they are many already


def train_loader(dataset: NucleiDataset, batch_size: int, num_workers: int, pin_memory: bool = False) -> DataLoader:
    """Shuffled batches, the incomplete last one dropped; raises InputError where no batch would be left."""
    if len(dataset) < batch_size:
        raise InputError(f"--batch_size {batch_size} is more than the {len(dataset)} training images; lower it")
    sampler = EpochSampler(len(dataset), dataset.seed)
    return _loader(dataset, batch_size, num_workers, pin_memory, sampler=sampler, drop_last=True)


def val_loader(dataset: NucleiDataset, batch_size: int, num_workers: int, pin_memory: bool = False) -> DataLoader:
    """Batches in the order of the ids, every image once."""
    return _loader(dataset, batch_size, num_workers, pin_memory)


def _loader(dataset, batch_size, num_workers, pin_memory, **kwargs) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        worker_init_fn=_quiet_worker,
        **kwargs,
    )
