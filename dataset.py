"""Prepared images and masks on disk → batches: splitting, reading, loading.

Layout: `<data_path>/images/<id><img_ext>` and `<data_path>/masks/<class>/<id><mask_ext>`.
"""

import math
import os
import signal
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

import augment
from cache import DecodedImages
from checks import check_dataset
from errors import InputError
from files import read_image, read_mask


def split_ids(ids: list[str], inner: bool = False) -> tuple[list[str], list[str]]:
    """Training and validation ids: one split in five, fixed by the recipe's seed; every script means this one.

    inner: the same again of the training ids, in place of the validation ids, by which nothing is to be chosen.
    """
    train, val = train_test_split(sorted(ids), test_size=0.2, random_state=41)
    return split_ids(train) if inner else (train, val)


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
        transform: augment.A.Compose,
        img_ext: str = ".png",
        mask_ext: str = ".png",
        num_classes: int = 1,
        seed: int = 0,
        skip_bad: bool = False,
        replace_bad: bool = False,
        decoded: DecodedImages | None = None,
        divide_twice: bool = True,
    ):
        self.skip_bad, self.replace_bad, self.decoded = skip_bad, replace_bad, decoded or {}
        self.images, self.masks = data_path / "images", data_path / "masks"
        self.ids, self.pipeline, self.seed = ids, augment.Pipeline(transform, divide_twice), seed
        self.img_ext, self.mask_ext, self.num_classes = img_ext, mask_ext, num_classes

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, img_id: str) -> tuple[np.ndarray, np.ndarray]:
        """An image, uint8 BGR (H, W, 3), and its masks, uint8 (H, W, num_classes), as they lie on the disk."""
        if img_id in self.decoded:
            return self.decoded[img_id]
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
        images, masks, meta = self.__getitems__([key])
        own = {"img_id": meta["img_id"][0] if meta["img_id"] else self.ids[_epoch_and_index(key)[1]]}
        if meta["unreadable"]:
            own["unreadable"] = meta["unreadable"][0]
        return (None, None, own) if images is None else (images[0], masks[0], own)

    def __getitems__(
        self, keys: Sequence[int | tuple[int, int]]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, dict]:
        """A batch of them, as the loader asks for it: images (N, 3, H, W), masks (N, num_classes, H, W), and of all
        {"img_id": [N ids], "unreadable": [reasons]}. What is unreadable and not replaced is left out; if all are, both
        are None.
        """
        images = masks = None
        ids, unreadable = [], []
        for epoch, index in map(_epoch_and_index, keys):
            img_id, found, reason = self._find(index)
            unreadable += [reason] if reason else []
            if found is None:
                continue
            image, mask = self.pipeline.augment(*found, *augment.generators(self.seed, epoch, index))
            if images is None:
                images = _new_batch(len(keys), 3, *image.shape[:2])
                masks = _new_batch(len(keys), self.num_classes, *image.shape[:2])
            self.pipeline.write(image, mask, images[len(ids)].numpy(), masks[len(ids)].numpy())
            ids.append(img_id)
        meta = {"img_id": ids, "unreadable": unreadable}
        return (None, None, meta) if images is None else (images[: len(ids)], masks[: len(ids)], meta)

    def _find(self, index: int) -> tuple[str, tuple[np.ndarray, np.ndarray] | None, str | None]:
        # whose image and masks these are, and why they are another's or none
        try:
            return self.ids[index], self.read(self.ids[index]), None
        except InputError as error:
            if not self.skip_bad:
                raise
            reason = str(error)
        for neighbour in [*self.ids[index + 1 :], *self.ids[:index]] if self.replace_bad else ():
            with suppress(InputError):
                return neighbour, self.read(neighbour), reason
        if self.replace_bad:
            raise InputError(f"{reason}; nor can any other training image be read")
        return self.ids[index], None, reason


def _epoch_and_index(key: int | tuple[int, int]) -> tuple[int, int]:
    return key if isinstance(key, tuple) else (0, key)


def _new_batch(*shape: int) -> torch.Tensor:
    if get_worker_info() is None:
        return torch.empty(shape)
    # in memory that the parent process sees too, as torch's own collating has it: it would be copied there otherwise
    memory = torch.UntypedStorage._new_shared(torch.float32.itemsize * math.prod(shape))
    return torch.empty(0).set_(memory, 0, shape)


def open_dataset(
    data_path: Path, num_classes: int, settings: Mapping, cache_mb: int = 0, augmentation: str = "published"
) -> tuple[NucleiDataset, NucleiDataset]:
    """Check a prepared data set and open its training and validation parts.

    The images and masks that the check decodes stay in memory, if they need no more than `cache_mb` megabytes.

    augmentation: of the training part, see augment.train_transform.
    settings: train.py's flags, or utils.settings_of; `img_ext mask_ext input_h input_w seed normalization divide_twice
    inner_split` count, and `skip_bad`, with which files that cannot be read are replaced in training and left out in
    validation.
    Raises InputError with everything that is wrong with the files.
    """
    skip_bad = settings.get("skip_bad", False) is True
    files = {"img_ext": settings["img_ext"], "mask_ext": settings["mask_ext"], "num_classes": num_classes}
    size, seed = (settings["input_h"], settings["input_w"]), settings["seed"]
    decoded = DecodedImages(cache_mb)
    ids = check_dataset(data_path, **files, skip_bad=skip_bad, keep=decoded.add)
    train_ids, val_ids = split_ids(ids, settings["inner_split"])
    decoded.close()
    shared = {**files, "seed": seed, "skip_bad": skip_bad, "decoded": decoded}
    shared["divide_twice"], normalization = settings["divide_twice"], settings["normalization"]
    train_transform = augment.train_transform(*size, augmentation, normalization)
    val_transform = augment.val_transform(*size, normalization)
    return (
        NucleiDataset(data_path, train_ids, train_transform, **shared, replace_bad=True),
        NucleiDataset(data_path, val_ids, val_transform, **shared),
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
    # the parent takes over a batch while the next is being made: it would wait for as long as a thread keeps its turn
    sys.setswitchinterval(0.0005)
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


def _as_it_is(batch: tuple) -> tuple:  # a dataset's __getitems__ has collated it
    return batch


def _loader(dataset, batches, num_workers: int, pin_memory: bool, world_size: int) -> DataLoader:
    own_workers = math.ceil(num_workers / world_size)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=own_workers,
        pin_memory=pin_memory,
        persistent_workers=own_workers > 0,
        # prefetch_factor stays torch's 2: workers are faster than a net, and what waits lies in scarce /dev/shm
        worker_init_fn=_start_worker,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # else it draws from torch's own, more often where workers start anew
    )
