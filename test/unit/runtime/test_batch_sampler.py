# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The order of the samples of an epoch."""

import numpy as np
import pytest

from runtime.batch_sampler import EpochBatchSampler, batch_size_per_rank
from runtime.errors import InputError


def indices(sampler: EpochBatchSampler, epoch: int, start: int = 0) -> list[int]:
    sampler.set_epoch(epoch, start)
    return [index for batch in sampler for key_epoch, index in batch if key_epoch == epoch]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_batches_of_one_process(world_size):
    def batches(rank: int, world_size: int, epoch: int) -> list[list]:
        sampler = EpochBatchSampler(23, 8, 5, rank, world_size)
        sampler.set_epoch(epoch)
        return list(sampler)

    for epoch in (0, 1):
        shares = [batches(rank, world_size, epoch) for rank in range(world_size)]
        assert [[key for share in step for key in share] for step in zip(*shares)] == batches(0, 1, epoch)
        assert {len(share) for rank in shares for share in rank} == {8 // world_size}
    assert batches(0, 1, 0) != batches(0, 1, 1), "each epoch has its own order"


@pytest.mark.parametrize(
    "batch_size, world_size, advice", [(100, 8, "use 96 or 104"), (3, 4, "use 4"), (7, 2, "use 6 or 8")]
)
def test_a_batch_that_cannot_be_divided_is_refused(batch_size, world_size, advice):
    with pytest.raises(InputError, match=rf"--batch_size {batch_size} .* all {world_size} processes .*{advice}$"):
        batch_size_per_rank(batch_size, world_size)


def test_an_epoch_takes_every_sample_once_in_an_order_of_its_own() -> None:
    sampler = EpochBatchSampler(24, 8, 5)
    assert sorted(indices(sampler, 0)) == sorted(indices(sampler, 1)) == list(range(24))
    assert indices(sampler, 0) != indices(sampler, 1)


def test_shares_say_how_often_each_sample_is_drawn() -> None:
    """The number of draws of a sample is binomial; six standard deviations."""
    shares = np.array([0.5, 0.25, 0.125, 0.125, 0, 0, 0, 0])
    sampler = EpochBatchSampler(8, 4, 5, shares=shares)
    drawn = np.array([indices(sampler, epoch) for epoch in range(1000)])
    counts = np.bincount(drawn.ravel() % 8, minlength=8)
    assert drawn.shape == (1000, 8)
    assert (np.abs(counts - 8000 * shares) <= 6 * np.sqrt(8000 * shares * (1 - shares))).all()


def test_each_draw_of_an_epoch_has_its_own_index() -> None:
    sampler = EpochBatchSampler(16, 4, 5, shares=np.array([1.0] + [0] * 15))
    drawn = indices(sampler, 3)
    assert len(set(drawn)) == 16 and {index % 16 for index in drawn} == {0}


def test_draws_can_be_continued_and_shared() -> None:
    shares = np.full(12, 1 / 12)
    whole = indices(EpochBatchSampler(12, 4, 5, shares=shares), 2)
    assert indices(EpochBatchSampler(12, 4, 5, shares=shares), 2, start=1) == whole[4:]
    halves = [indices(EpochBatchSampler(12, 4, 5, rank, 2, shares), 2) for rank in (0, 1)]
    assert [index for step in range(3) for half in halves for index in half[2 * step : 2 * step + 2]] == whole
