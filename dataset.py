"""Prepared images and masks on disk → batches: splitting, reading, augmenting, loading.

Layout: `<data_path>/images/<id><img_ext>` and `<data_path>/masks/<class>/<id><mask_ext>`.
"""

import math
import os
import signal
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import would ask the network for a newer version

import albumentations as A
import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from checks import check_dataset
from errors import InputError
from files import read_image, read_mask

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def split_ids(ids: list[str]) -> tuple[list[str], list[str]]:
    """Training and validation ids: one split in five, fixed by the recipe's seed; every script means this one."""
    train, val = train_test_split(sorted(ids), test_size=0.2, random_state=41)
    return train, val


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

    A file that cannot be read raises InputError. With `skip_bad` the reason is in the item's "unreadable" instead, and
    image and mask are None, or with `replace_bad` those of the next image that can be read.
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
        skip_bad: bool = False,
        replace_bad: bool = False,
    ):
        self.skip_bad, self.replace_bad = skip_bad, replace_bad
        self.images, self.masks = data_path / "images", data_path / "masks"
        self.ids, self.transform, self.seed = ids, transform, seed
        self.img_ext, self.mask_ext, self.num_classes = img_ext, mask_ext, num_classes

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, img_id: str) -> tuple[np.ndarray, np.ndarray]:
        """An image, uint8 BGR (H, W, 3), and its masks, uint8 (H, W, num_classes), as they lie on the disk."""
        image = read_image(self.images / f"{img_id}{self.img_ext}")
        paths = [self.masks / str(k) / f"{img_id}{self.mask_ext}" for k in range(self.num_classes)]
        masks = [read_mask(path) for path in paths]
        for path, mask in zip(paths, masks):
            if mask.shape != image.shape[:2]:
                raise InputError(
                    f"{path}: {mask.shape[1]}×{mask.shape[0]}, its image {image.shape[1]}×{image.shape[0]}"
                )
        return image, np.dstack(masks)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor | None, torch.Tensor | None, dict]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        try:
            return self._sample(epoch, index, self.ids[index])
        except InputError as error:
            if not self.skip_bad:
                raise
            reason = str(error)
        for neighbour in [*self.ids[index + 1 :], *self.ids[:index]] if self.replace_bad else ():
            with suppress(InputError):
                image, mask, meta = self._sample(epoch, index, neighbour)
                return image, mask, meta | {"unreadable": reason}
        if self.replace_bad:
            raise InputError(f"{reason}; nor can any other training image be read")
        return None, None, {"img_id": self.ids[index], "unreadable": reason}

    def _sample(self, epoch: int, index: int, img_id: str) -> tuple[torch.Tensor, torch.Tensor, dict]:
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

    settings: train.py's flags, or utils.settings_of; `img_ext mask_ext input_h input_w seed` count, and `skip_bad`,
    with which files that cannot be read are replaced in training and left out in validation.
    Raises InputError with everything that is wrong with the files.
    """
    skip_bad = settings.get("skip_bad", False) is True
    files = {"img_ext": settings["img_ext"], "mask_ext": settings["mask_ext"], "num_classes": num_classes}
    size, seed = (settings["input_h"], settings["input_w"]), settings["seed"]
    train_ids, val_ids = split_ids(check_dataset(data_path, **files, skip_bad=skip_bad))
    skipping = {"seed": seed, "skip_bad": skip_bad}
    return (
        NucleiDataset(data_path, train_ids, train_transform(*size), **files, **skipping, replace_bad=True),
        NucleiDataset(data_path, val_ids, val_transform(*size), **files, **skipping),
    )


def describe(train: NucleiDataset, val: NucleiDataset) -> dict[str, int]:
    """What tells a run's data from other data: the numbers of its images, and a checksum of their names."""
    names = zlib.crc32("\n".join([*train.ids, "", *val.ids]).encode(errors="surrogateescape"))
    return {"train_images": len(train), "val_images": len(val), "images": names}


class EpochBatches(Sampler):
    """Yields one rank's share of each full batch, as a list of (epoch, index).

    The batches over all ranks are those of a single process: `size` samples shuffled afresh for each epoch by
    (seed, epoch) alone, what is left over at the end dropped.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.size, self.batch_size, self.seed, self.epoch, self.start = size, batch_size, seed, 0, 0
        share = share_of(batch_size, world_size)
        self.own = slice(rank * share, (rank + 1) * share)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """To be called before each epoch's iteration; epochs count from 0. Its first `start` batches are left out."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        batches = order[: len(self) * self.batch_size].reshape(len(self), self.batch_size)
        for batch in batches[self.start :]:
            yield [(self.epoch, int(index)) for index in batch[self.own]]


def share_of(batch_size: int, world_size: int) -> int:
    """Images of a batch that each of the processes gets; raises InputError where they cannot be dealt evenly."""
    share, left = divmod(batch_size, world_size)
    if left or not share:
        below = f"{share * world_size} or " if share else ""
        raise InputError(
            f"--batch_size {batch_size} is for all {world_size} processes together and cannot be divided among them; "
            f"use {below}{(share + 1) * world_size}"
        )
    return share


# the flag counts over all ranks, and how many processors there are does not change the result
warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)


def _start_worker(_: int) -> None:
    # launchers and schedulers signal all of a run's processes; it is for the parent to finish its step, with batches
    # from its workers, and then to end them
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_at_parents_word, args=(os.getppid(),), daemon=True).start()
    sys.excepthook = _unless_the_parent_left


def _end_at_parents_word(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _unless_the_parent_left(kind: type, error: BaseException, trace) -> None:
    # a parent stopped while it takes over a batch; the loader's own errors travel with the batch and never come here
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def train_loader(
    dataset: NucleiDataset,
    batch_size: int,
    num_workers: int,
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """A rank's shares of the shuffled batches, the incomplete last one dropped.

    batch_size and num_workers count over all ranks. Raises InputError where no batch would be left.
    """
    if len(dataset) < batch_size:
        raise InputError(f"--batch_size {batch_size} is more than the {len(dataset)} training images; lower it")
    batches = EpochBatches(len(dataset), batch_size, dataset.seed, rank, world_size)
    return _loader(dataset, batches, num_workers, pin_memory, world_size)


def val_loader(
    dataset: NucleiDataset,
    batch_size: int,
    num_workers: int,
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """Batches of batch_size ÷ world_size in the order of the ids, every image once, dealt whole to the ranks."""
    share = share_of(batch_size, world_size)
    batches = [range(start, min(start + share, len(dataset))) for start in range(0, len(dataset), share)]
    return _loader(dataset, batches[rank::world_size], num_workers, pin_memory, world_size)


def _collate(samples: list[tuple]) -> tuple:
    readable = [sample for sample in samples if sample[0] is not None]
    images, masks = default_collate([sample[:2] for sample in readable]) if readable else (None, None)
    meta = {"img_id": [own["img_id"] for _, _, own in readable]}
    return images, masks, meta | {"unreadable": [own["unreadable"] for *_, own in samples if "unreadable" in own]}


def _loader(dataset, batches, num_workers: int, pin_memory: bool, world_size: int) -> DataLoader:
    own_workers = math.ceil(num_workers / world_size)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=own_workers,
        pin_memory=pin_memory,
        persistent_workers=own_workers > 0,
        worker_init_fn=_start_worker,
        collate_fn=_collate,
        generator=torch.Generator(),  # else it draws from torch's own, more often where workers start anew
    )
