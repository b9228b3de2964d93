# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A prepared data set as batches: split, Dataset, data loaders."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset

from imaging import augment, split
from imaging.balance import Balance
from imaging.cache import ImageCache
from imaging.checks import check_dataset
from imaging.crops import Cropper, typical_diameter
from imaging.prepared import PreparedFolder
from runtime.batch_sampler import EpochBatchSampler, batch_size_per_rank
from runtime.byte_batches import collate, input_and_target, largest_batch_bytes
from runtime.errors import InputError
from runtime.loader_worker import add_path_to_errors, num_workers_that_fit, start_loader_worker

# (id, image, masks, random generator) → a window of the image and of the masks, at the size of the input
Crop = Callable[[str, np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
# of a sample: (epoch, index), or index alone for epoch 0; with an epoch, it may be image + k * len(data) for any k
Key = int | tuple[int, int]
# images (N, 3, H, W) and masks (N, num_classes, H, W), uint8, or None if no sample could be read, and facts about them
Batch = tuple[torch.Tensor | None, torch.Tensor | None, dict]

# --num_workers counts over all ranks, and the results do not depend on it
warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)


def split_ids(ids: list[str], inner: bool = False) -> tuple[list[str], list[str]]:
    """Return the training and validation ids, a fifth of all; raises InputError if there are too few images.

    inner: split the training ids in the same way, to choose settings without fitting them to the validation images.
    """
    if len(ids) < (needed := 3 if inner else 2):
        what = "the inner split (train.py --inner_split)" if inner else "the split"
        raise InputError(
            f"{what} needs at least {needed} images, but the data set has {len(ids)}; add some, or score all of them "
            "with val.py --all"
        )
    train, val = train_test_split(sorted(ids), test_size=0.2, random_state=41)
    return split_ids(train) if inner else (train, val)


class NucleiDataset(Dataset):
    """Samples: image float32 (3, H, W), mask float32 (num_classes, H, W) in [0, 1], {"img_id": id}.

    The random draws of the augmentation depend on (seed, epoch, index) alone, and so not on the worker, process or run.

    shares: how often training draws each image, see EpochBatchSampler.
    on_unreadable: "raise" raises InputError. "skip" returns None for image and mask. "replace" returns the next sample
    that can be read. In the last two cases, the reason is in the sample's "unreadable".
    """

    def __init__(
        self,
        folder: PreparedFolder,
        ids: list[str],
        pipeline: augment.Pipeline,
        seed: int = 0,
        on_unreadable: Literal["raise", "skip", "replace"] = "raise",
        cache: ImageCache | None = None,
        crop: Crop | None = None,
    ):
        self.folder, self.ids, self.pipeline, self.seed = folder, ids, pipeline, seed
        self.on_unreadable, self.cache, self.crop = on_unreadable, cache, crop
        self.shares: list[float] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, img_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return an image, uint8 BGR (H, W, 3), and its masks, uint8 (H, W, num_classes), without augmentation."""
        image, masks = self.cache[img_id] if self.cache and img_id in self.cache else self.folder.read(img_id)
        return image, masks * 255 if self.folder.zero_one else masks

    def view(self, img_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return what `read` does, cut out and scaled as for the evaluation of a network trained with crops."""
        return self.crop(img_id, *self.read(img_id), np.random.default_rng(0)) if self.crop else self.read(img_id)

    def __getitem__(self, key: Key) -> tuple[torch.Tensor | None, torch.Tensor | None, dict]:
        if isinstance(key, int) and key >= len(self):
            raise IndexError(f"{key} of {len(self)} samples")  # ends loops over the samples
        images, masks, meta = self.__getitems__([key])
        sample = {"img_id": meta["img_id"][0] if meta["img_id"] else self.ids[_epoch_and_index(key)[1] % len(self)]}
        if meta["unreadable"]:
            sample["unreadable"] = meta["unreadable"][0]
        if images is None:
            return None, None, sample
        (image,), (mask,) = input_and_target(images, masks, meta["tables"])
        return image, mask, sample

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """Return a collated batch for DataLoaders.

        Its third item has lists "img_id" and "unreadable" (reasons), and "tables", which turn images and masks into
        input and target, see runtime.byte_batches.input_and_target.
        """
        ids, samples, unreadable = [], [], []
        for epoch, index in map(_epoch_and_index, keys):
            img_id, arrays, reason = self._read_or_replace(index % len(self))
            if reason:
                unreadable.append(reason)
            if arrays is None:
                continue
            with add_path_to_errors(self.folder.image_path(img_id)):
                generators = augment.random_generators(self.seed, epoch, index)
                arrays = self.crop(img_id, *arrays, generators[0]) if self.crop else arrays
                samples.append(self.pipeline.augment(*arrays, *generators))
            ids.append(img_id)
        images, masks, tables = collate(*self.pipeline.finish(samples)) if samples else (None,) * 3
        return images, masks, {"img_id": ids, "unreadable": unreadable, "tables": tables}

    def _read_or_replace(self, index: int) -> tuple[str, tuple[np.ndarray, np.ndarray] | None, str | None]:
        """Return an id, its image and masks, and why the sample at `index` is unreadable, if it is."""
        try:
            return self.ids[index], self.read(self.ids[index]), None
        except InputError as error:
            if self.on_unreadable == "raise":
                raise
            reason = str(error)
        if self.on_unreadable == "skip":
            return self.ids[index], None, reason
        for img_id in [*self.ids[index + 1 :], *self.ids[:index]]:
            with suppress(InputError):
                return img_id, self.read(img_id), reason
        raise InputError(f"{reason}; no other training image can be read either")


def _epoch_and_index(key: Key) -> tuple[int, int]:
    return key if isinstance(key, tuple) else (0, key)


def open_dataset(
    data_path: Path,
    num_classes: int,
    settings: Mapping,
    cache_mb: float = 0,
    augmentation: str = "published",
    recorded: object = None,
) -> tuple[NucleiDataset, NucleiDataset]:
    """Check a prepared data set and open its training and validation parts.

    settings: train.py's flags or a checkpoint's settings. With `skip_bad`, unreadable files are replaced in training
    and left out in validation. cache_mb: keep what the check decodes in memory if it needs no more megabytes.
    recorded: what a checkpoint records of its data. Raises InputError with everything that is wrong with the files.
    """
    folder = PreparedFolder(data_path, settings["img_ext"], settings["mask_ext"], num_classes, settings["channel"])
    folder, ids, cropper, cache, balance = _check(folder, settings, cache_mb)
    fixed = split.fixed_split(settings, recorded, ids, folder.images, split_ids)
    train_ids, val_ids = fixed or split_ids(ids, settings["inner_split"])
    size = settings["input_h"], settings["input_w"]
    transform = augment.train_transform(*size, augmentation, settings["normalization"])
    pipeline = augment.Pipeline(transform, settings["divide_twice"])
    on_unreadable = "replace" if settings.get("skip_bad") is True else "raise"
    crop = cropper.random if cropper else None
    train = NucleiDataset(folder, train_ids, pipeline, settings["seed"], on_unreadable, cache, crop)
    if balance:
        train.shares = balance.shares(train_ids)
        print(balance.describe(train_ids), flush=True)
    return train, _val_dataset(folder, val_ids, settings, cropper, cache)


def open_all(data_path: Path, num_classes: int, settings: Mapping) -> NucleiDataset:
    """Check a prepared data set and open all of its images, or its single image, as the validation part is opened.

    settings: as of open_dataset. Raises InputError with everything that is wrong with the files.
    """
    folder = PreparedFolder(data_path, settings["img_ext"], settings["mask_ext"], num_classes, settings["channel"])
    folder, ids, cropper, *_ = _check(folder, settings, cache_mb=0)
    return _val_dataset(folder, ids, settings, cropper)


def _check(
    folder: PreparedFolder, settings: Mapping, cache_mb: float
) -> tuple[PreparedFolder, list[str], Cropper | None, ImageCache, Balance | None]:
    """Check a data set and print what was found.

    Returns it, its ids, how to crop its images, a cache of them, and how often to draw them.
    """
    size, diameter, diameters = (settings["input_h"], settings["input_w"]), settings["crop_diameter"], {}
    cropper = Cropper(*size, diameter, diameters) if diameter else None
    cache, balance = ImageCache(cache_mb), Balance() if settings.get("balance") else None

    def keep(img_id: str, image: np.ndarray, masks: np.ndarray) -> None:
        cache.add(img_id, image, masks)
        if cropper:
            diameters[img_id] = typical_diameter(masks)
        if balance:
            balance.add(img_id, image, cropper.count(img_id, image) if cropper else 1)

    survey = check_dataset(folder, settings.get("skip_bad") is True, settings["dense_masks"], keep)
    cache.close()
    print(cropper.describe() if cropper else survey.describe(*size), flush=True)
    return replace(folder, zero_one=survey.zero_one), survey.ids, cropper, cache, balance


def _val_dataset(
    folder: PreparedFolder, ids: list[str], settings: Mapping, cropper: Cropper | None, cache: ImageCache | None = None
) -> NucleiDataset:
    transform = augment.val_transform(settings["input_h"], settings["input_w"], settings["normalization"])
    pipeline = augment.Pipeline(transform, settings["divide_twice"])
    on_unreadable = "skip" if settings.get("skip_bad") is True else "raise"
    crop = cropper.center if cropper else None
    return NucleiDataset(folder, ids, pipeline, settings["seed"], on_unreadable, cache, crop)


def describe(train: NucleiDataset, val: NucleiDataset, settings: Mapping, recorded: object = None) -> dict:
    """Identify the data of a run: sizes of its parts, a checksum of their ids, and the ids of a fixed split."""
    data = {"train_images": len(train), "val_images": len(val), "images": split.checksum(train.ids, val.ids)}
    if split.has_fixed_split(settings, recorded):
        data["split"] = split.record_split(train.ids, val.ids)
    return data


def warn_of_trained_images(val: NucleiDataset, recorded: object) -> None:
    """Print a warning if a model was trained on images of `val`; recorded: what a checkpoint records of its data."""
    split.warn_of_trained_images(recorded, val.folder.list_ids(), val.ids, split_ids)


def choose_num_workers(settings: Mapping, num_classes: int, world_size: int = 1, local_size: int = 1) -> int:
    """Return `--num_workers`, or as many as have room for their batches in /dev/shm; see num_workers_that_fit.

    settings: `num_workers`, `batch_size`, `input_h` and `input_w` are used.
    """
    share = batch_size_per_rank(settings["batch_size"], world_size)
    batch_bytes = largest_batch_bytes(share, 3 + num_classes, settings["input_h"], settings["input_w"])
    return num_workers_that_fit(settings["num_workers"], batch_bytes, world_size, local_size)


def train_loader(
    data: NucleiDataset, batch_size: int, num_workers: int, pin_memory: bool = False, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """Return a loader of a rank's shares of the shuffled, full training batches; arguments as in `val_loader`."""
    if len(data) < batch_size:
        raise InputError(f"--batch_size {batch_size} is more than the {len(data)} training images; lower it")
    batches = EpochBatchSampler(len(data), batch_size, data.seed, rank, world_size, data.shares)
    return _build_loader(data, batches, num_workers, pin_memory, world_size)


def val_loader(
    data: NucleiDataset, batch_size: int, num_workers: int, pin_memory: bool = False, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """Return a loader of a rank's validation batches: every image once, in the order of the ids.

    batch_size and num_workers are totals over all ranks, which take batches of batch_size / world_size in turn.
    """
    share = batch_size_per_rank(batch_size, world_size)
    batches = [range(start, min(start + share, len(data))) for start in range(0, len(data), share)]
    return _build_loader(data, batches[rank::world_size], num_workers, pin_memory, world_size)


def _build_loader(data: NucleiDataset, batches, num_workers: int, pin_memory: bool, world_size: int) -> DataLoader:
    workers_per_rank = math.ceil(num_workers / world_size)
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=workers_per_rank,
        pin_memory=pin_memory,
        persistent_workers=workers_per_rank > 0,
        # prefetch_factor stays torch's 2: the workers are faster than the model, and /dev/shm, which holds the
        # waiting batches, is often small
        worker_init_fn=start_loader_worker,
        collate_fn=_identity,
        # without its own generator, a loader draws from torch's global one whenever it starts workers
        generator=torch.Generator(),
    )


def _identity(batch: Batch) -> Batch:
    return batch
