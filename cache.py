"""Decoded images and masks in memory, so that files are decoded once and not in every epoch."""

import math
import mmap
import os

import numpy as np
import torch

MEGABYTE = 10**6


class DecodedImages:
    """By id, an image, uint8 (H, W, 3), and its masks, uint8 (H, W, num_classes), each time copies of one's own.

    `add` them all, then `close`. It is all or none: where they need more than `megabytes`, none is kept. The processes
    that load data share the memory, whether they are forked or started afresh.
    """

    def __init__(self, megabytes: int):
        self.megabytes, self.needed = megabytes, 0
        self.places, self.memory, self.pixels = {}, None, torch.empty(0, dtype=torch.uint8)

    def add(self, img_id: str, image: np.ndarray, masks: np.ndarray) -> None:
        """Take in a decoded sample, or count it where there is no room."""
        start, self.needed = self.needed, self.needed + image.size + masks.size
        if not start:
            self.memory = _room(round(self.megabytes * MEGABYTE))
        if self.memory is None or self.needed > len(self.memory):
            self.places, self.memory = {}, None
            return
        self.memory[start : self.needed] = image.tobytes() + masks.tobytes()
        self.places[img_id] = start, image.shape, masks.shape

    def close(self) -> None:
        """No more will be added."""
        if self.memory is not None:
            # torch hands what is used of it to a process started afresh; a forked one has it already
            self.pixels = torch.frombuffer(self.memory, dtype=torch.uint8, count=self.needed)
            self.memory = None

    def __contains__(self, img_id: str) -> bool:
        return img_id in self.places

    def __getitem__(self, img_id: str) -> tuple[np.ndarray, np.ndarray]:
        start, image, masks = self.places[img_id]
        middle, end = start + math.prod(image), start + math.prod(image) + math.prod(masks)
        pixels = self.pixels.numpy()
        return pixels[start:middle].reshape(image).copy(), pixels[middle:end].reshape(masks).copy()

    def __str__(self) -> str:
        taken = f"{self.needed / MEGABYTE:.0f} MB"
        if self.places:
            return f"decoded images: {taken} in memory, shared by the loading processes"
        instead = "they are read from the disk in each epoch"
        if self.needed > self.megabytes * MEGABYTE:
            return f"decoded images would take {taken}, above --cache_mb {self.megabytes}: {instead}"
        return f"decoded images: no {taken} of memory to be had; {instead}"


def _room(size: int) -> mmap.mmap | None:
    # How much will be needed is not known yet, but pages never written to take no memory. Files under /dev/shm, as
    # torch makes them, would be claimed as a whole, and containers often have little room there
    size = min(size, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        return mmap.mmap(-1, size) if size else None
    except OSError:  # a system that counts what is asked for and not what is used
        return None
