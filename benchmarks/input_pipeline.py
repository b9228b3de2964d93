# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Part input of benchmarks/run.py: from prepared files to batches, against imread, albumentations and collating."""

import functools
import re
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

import dataset
from benchmarks.measure import Bench, Goal, Side, check_same, medians
from imaging.augment import random_generators, train_transform
from runtime.byte_batches import to_device

MIN_RATE = 2332  # images/s; eight GPUs have trained with this speed
EPOCHS = 3

Keys = list[tuple[int, int]]  # of a batch: (epoch, index) of each sample


class PlainInput:
    """Handles one image at a time: reads both files, augments with albumentations, divides, transposes."""

    def __init__(self, data: dataset.NucleiDataset, side: int):
        self.data, self.transform = data, train_transform(side, side)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the image, uint8 (H, W, 3), and mask, uint8 (H, W, 1), of the files."""
        folder, img_id = self.data.folder, self.data.ids[index]
        mask = cv2.imread(str(folder.mask_path(img_id, 0)), cv2.IMREAD_GRAYSCALE)
        return cv2.imread(str(folder.image_path(img_id))), mask[..., None]

    def use_our_draws(self, epoch: int, index: int) -> None:
        """Let the next augmentation draw what ours draws for this sample, so that both can be compared."""
        self.transform.set_random_state(*random_generators(self.data.seed, epoch, index))

    def augment(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the input, float32 (3, H, W), and target, float32 (1, H, W)."""
        augmented = self.transform(image=image, mask=mask)
        image = augmented["image"].astype("float32") / 255
        mask = augmented["mask"].astype("float32") / 255
        return image.transpose(2, 0, 1), mask.transpose(2, 0, 1)

    def batch(self, keys: Keys) -> list[torch.Tensor]:
        """Return a training batch."""
        return default_collate([self.augment(*self.read(index)) for _, index in keys])


def load_batch(loader: DataLoader, keys: Keys) -> dataset.Batch:
    """Return input, target and facts of a batch, in the way of the loader's workers, but in this process."""
    return to_floats(loader.collate_fn(loader.dataset.__getitems__(keys)))


def to_floats(batch: dataset.Batch) -> dataset.Batch:
    """Return input and target of a batch instead of bytes, as in a training step."""
    images, masks, meta = batch
    return *to_device(images, masks, meta["tables"], torch.device("cpu")), meta


def run_epochs(loader: DataLoader, first: int, count: int) -> None:
    """Load whole epochs, and read each input and target once, as a network would."""
    for epoch in range(first, first + count):
        loader.batch_sampler.set_epoch(epoch)
        for images, masks, _ in map(to_floats, loader):
            images.sum(), masks.sum()


def resident_bytes() -> int:
    """Return the memory of this process."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def check_batches(plain: PlainInput, loader: DataLoader, batches: list[Keys]) -> None:
    """End the benchmark if both sides give different images or masks with the same random draws."""
    for keys in batches:
        images, masks, meta = load_batch(loader, keys)
        for row, (epoch, index) in enumerate(keys):
            plain.use_our_draws(epoch, index)
            image, mask = plain.augment(*plain.read(index))
            check_same(f"image {meta['img_id'][row]} of the input", image, images[row], 1e-7)
            check_same(f"mask {meta['img_id'][row]} of the input", mask, masks[row], 1e-7)


def measure_one_process(bench: Bench, data: dataset.NucleiDataset) -> float:
    """Add the rows of a single process; returns the images/s of the plain side."""
    plain, loader = PlainInput(data, bench.side), dataset.train_loader(data, bench.batch_size, 0)
    batches = list(loader.batch_sampler)[: 2 if bench.tiny else 16]
    check_batches(plain, loader, batches)
    decoded = [plain.read(index) for _, index in batches[0]]

    def for_each_batch(handle: Callable[[Keys], object]) -> Callable[[], None]:
        def run() -> None:
            for keys in batches:
                handle(keys)

        return run

    sides = {
        "plain": Side(for_each_batch(plain.batch), keep_memory=False),
        "ours": Side(for_each_batch(lambda keys: load_batch(loader, keys))),
        "decode": Side(for_each_batch(lambda keys: [plain.read(index) for _, index in keys]), keep_memory=False),
        "augment": Side(for_each_batch(lambda _: [plain.augment(*pair) for pair in decoded]), keep_memory=False),
    }
    images = len(batches) * bench.batch_size
    rate = {side: images / seconds for side, seconds in medians(sides, bench.args.repeats).items()}
    what = f"one process ({bench.data[1]}, batch {bench.batch_size})"
    bench.add("input", what, "images/s", rate["plain"], rate["ours"], Goal("ratio", least=2))
    bench.add("input", "only decoding", "images/s", plain=rate["decode"])
    bench.add("input", "only augmentation", "images/s", plain=rate["augment"])
    return rate["plain"]


def run(bench: Bench) -> None:
    """Add this part's rows."""

    def open_data() -> dataset.NucleiDataset:
        args = bench.settings()
        return dataset.open_dataset(bench.data[0], 1, vars(args), args.cache_mb)[0]

    plain_rate = measure_one_process(bench, open_data())
    loader = dataset.train_loader(open_data(), bench.batch_size, 0)
    images = len(loader) * bench.batch_size
    before, start = resident_bytes(), time.perf_counter()
    run_epochs(loader, 0, 1)
    rate = images / (time.perf_counter() - start)
    bench.add("input", "one process, first epoch of a run", "images/s", ours=rate)
    bench.add("input", "memory taken by that epoch", "MB", ours=max(0, resident_bytes() - before) / 1e6)
    count = 1 if bench.tiny else EPOCHS
    for workers in (1, 2):
        loader = dataset.train_loader(open_data(), bench.batch_size, workers)
        run_epochs(loader, 0, 1)  # the workers start in it
        # whole epochs, because no batch is ready when an epoch starts
        side = Side(functools.partial(run_epochs, loader, 1, count), warm=False)
        rate = count * images / medians({"ours": side}, bench.args.repeats)["ours"]
        goal = Goal("ours", least=MIN_RATE) if workers == 2 else None
        bench.add("input", f"train_loader, {workers} workers", "images/s", plain_rate, rate, goal)
