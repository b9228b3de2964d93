# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""In which order, and by which rank, the samples of an epoch are taken."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from runtime.errors import InputError


class EpochBatchSampler(Sampler):
    """Yields one rank's share of each full batch, as a list of (epoch, index), in an order by (seed, epoch) and shares.

    shares: the probability of each of the `size` samples at each draw. An epoch then draws `size` samples with
    replacement; if draw k is sample i, its index is i + k * size, so that each draw is augmented anew. None: an epoch
    takes each sample once.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shares: Sequence[float] | None = None,
    ):
        self.size, self.batch_size, self.seed, self.epoch, self.start = size, batch_size, seed, 0, 0
        self.shares = shares
        share = batch_size_per_rank(batch_size, world_size)
        self.own = slice(rank * share, (rank + 1) * share)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Set the epoch, from 0, and how many of its batches to leave out at its start; call it before each epoch."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        if self.shares is None:
            order = generator.permutation(self.size)
        else:
            order = generator.choice(self.size, self.size, p=self.shares) + self.size * np.arange(self.size)
        batches = order[: len(self) * self.batch_size].reshape(len(self), self.batch_size)
        for batch in batches[self.start :]:
            yield [(self.epoch, int(index)) for index in batch[self.own]]


def batch_size_per_rank(batch_size: int, world_size: int) -> int:
    """Divide the global batch size among the processes; raises InputError if it cannot be divided evenly."""
    share, rest = divmod(batch_size, world_size)
    if rest or not share:
        lower = f"{share * world_size} or " if share else ""
        raise InputError(
            f"--batch_size {batch_size} is for all {world_size} processes together and cannot be divided among them; "
            f"use {lower}{(share + 1) * world_size}"
        )
    return share
