"""test/benchmark.py, part input: prepared files → batches, against a loop of imread, albumentations and collating."""

import functools
import re
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import cv2
import numpy as np
import torch
from benchmark_measure import Bench, Goal, Side, check_same, medians
from torch.utils.data import DataLoader, default_collate

import dataset
from augment import train_transform

LEAST_RATE = 2332  # images/s, at which eight GPUs have trained
EPOCHS = 3


class PlainInput:
    """One image at a time: read both files, augment with albumentations, divide, transpose."""

    def __init__(self, own: dataset.NucleiDataset, side: int):
        self.images, self.masks = own.images, own.masks / "0"
        self.ids, self.seed, self.transform = own.ids, own.seed, train_transform(side, side)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask as they lie on the disk."""
        name = f"{self.ids[index]}.png"
        return cv2.imread(str(self.images / name)), cv2.imread(str(self.masks / name), cv2.IMREAD_GRAYSCALE)[..., None]

    def seed_as(self, epoch: int, index: int) -> None:
        """Let the next draws be those that ours makes for this item; the older editions had no such thing."""
        draws = np.random.default_rng((self.seed, epoch, index))
        self.transform.set_random_state(draws, Random(int(draws.integers(2**63))))

    def augment(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Float32 (3, H, W) and (1, H, W)."""
        augmented = self.transform(image=image, mask=mask)
        image = augmented["image"].astype("float32") / 255
        mask = augmented["mask"].astype("float32") / 255
        return image.transpose(2, 0, 1), mask.transpose(2, 0, 1)

    def batch(self, keys: list[tuple[int, int]]) -> list[torch.Tensor]:
        """A training batch."""
        return default_collate([self.augment(*self.read(index)) for _, index in keys])


def fetch(loader: DataLoader, keys: list[tuple[int, int]]) -> tuple:
    """A batch as one of the loader's workers makes it, in this process."""
    own = loader.dataset
    items = own.__getitems__(keys) if hasattr(own, "__getitems__") else [own[key] for key in keys]
    return loader.collate_fn(items)


def epochs(loader: DataLoader, first: int, count: int) -> None:
    """Go through epochs, touching each batch."""
    for epoch in range(first, first + count):
        loader.batch_sampler.set_epoch(epoch)
        for images, masks, _ in loader:
            images[:, 0, 0, 0].sum(), masks[:, 0, 0, 0].sum()


def resident_bytes() -> int:
    """Memory that this process holds."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def check_batches(plain: PlainInput, loader: DataLoader, batches: list[list[tuple[int, int]]]) -> None:
    """End the script where plain and ours, drawing alike, give other images or masks."""
    for keys in batches:
        images, masks, meta = fetch(loader, keys)
        for row, (epoch, index) in enumerate(keys):
            plain.seed_as(epoch, index)
            image, mask = plain.augment(*plain.read(index))
            check_same(f"image {meta['img_id'][row]} of the input", image, images[row], 1e-7)
            check_same(f"mask {meta['img_id'][row]} of the input", mask, masks[row], 1e-7)


def measure_one_process(bench: Bench, train: dataset.NucleiDataset) -> float:
    """Add the rows of what a single process does; returns the plain side's images a second."""
    plain, loader = PlainInput(train, bench.side), dataset.train_loader(train, bench.batch_size, 0)
    batches = list(loader.batch_sampler)[: 2 if bench.tiny else 16]
    check_batches(plain, loader, batches)
    decoded = [plain.read(index) for _, index in batches[0]]

    def of_each_batch(do) -> Callable[[], None]:
        def run() -> None:
            for keys in batches:
                do(keys)

        return run

    sides = {
        "plain": Side(of_each_batch(plain.batch), keeps=False),
        "ours": Side(of_each_batch(lambda keys: fetch(loader, keys))),
        "decode": Side(of_each_batch(lambda keys: [plain.read(index) for _, index in keys]), keeps=False),
        "augment": Side(of_each_batch(lambda _: [plain.augment(*pair) for pair in decoded]), keeps=False),
    }
    images = len(batches) * bench.batch_size
    rate = {side: images / seconds for side, seconds in medians(sides, bench.args.repeats).items()}
    what = f"one process ({bench.data[1]}, batch {bench.batch_size})"
    bench.add("input", what, "images/s", rate["plain"], rate["ours"], Goal("ratio", least=2))
    bench.add("input", "decoding alone", "images/s", plain=rate["decode"])
    bench.add("input", "augmenting alone", "images/s", plain=rate["augment"])
    return rate["plain"]


def run(bench: Bench) -> None:
    """Add the part's rows."""

    def open_afresh() -> dataset.NucleiDataset:
        args = bench.settings()
        return dataset.open_dataset(bench.data[0], 1, vars(args), args.cache_mb)[0]

    plain_rate = measure_one_process(bench, open_afresh())
    loader = dataset.train_loader(open_afresh(), bench.batch_size, 0)
    images = len(loader) * bench.batch_size
    before, begun = resident_bytes(), time.perf_counter()
    epochs(loader, 0, 1)
    rate = images / (time.perf_counter() - begun)
    bench.add("input", "one process, first epoch of a run", "images/s", ours=rate)
    bench.add("input", "memory taken by that epoch", "MB", ours=max(0, resident_bytes() - before) / 1e6)
    count = 1 if bench.tiny else EPOCHS
    for workers in (1, 2):
        loader = dataset.train_loader(open_afresh(), bench.batch_size, workers)
        epochs(loader, 0, 1)  # in which the workers start
        # whole epochs: each begins with no batch waiting
        side = Side(functools.partial(epochs, loader, 1, count), warm=False)
        rate = count * images / medians({"ours": side}, bench.args.repeats)["ours"]
        goal = Goal("ours", least=LEAST_RATE) if workers == 2 else None
        bench.add("input", f"train_loader, {workers} workers", "images/s", plain_rate, rate, goal)
