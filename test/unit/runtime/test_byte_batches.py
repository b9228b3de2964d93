# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Batches as bytes against NumPy: their layout, their memory, and the values that tables give."""

import numpy as np
import pytest
import torch

from runtime.byte_batches import collate, input_and_target, largest_batch_bytes, to_device

RNG = np.random.default_rng(3)


def arrays(count: int, channels: int, height: int = 5, width: int = 7) -> list[np.ndarray]:
    return [RNG.integers(0, 256, (height, width, channels), np.uint8) for _ in range(count)]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("count, classes", [(1, 1), (4, 1), (3, 11)])
@pytest.mark.parametrize("by_image", [False, True])
def test_values_by_tables(count: int, classes: int, rows: int, by_image: bool) -> None:
    images, masks = arrays(count, 3), arrays(count, classes)
    tables = RNG.normal(size=(count if by_image else 1, rows + 1, 256)).astype(np.float32)
    batch = collate(images, masks, tables)
    assert [part.dtype for part in batch] == [torch.uint8, torch.uint8, torch.float32]
    inputs, targets = input_and_target(*batch)
    assert inputs.shape == (count, 3, 5, 7) and targets.shape == (count, classes, 5, 7)
    assert inputs.is_contiguous() and targets.is_contiguous()
    for n, (image, mask) in enumerate(zip(images, masks, strict=True)):
        own = tables[n if by_image else 0]
        for c in range(3):
            np.testing.assert_array_equal(inputs[n, c], own[c if rows > 1 else 0][image[..., c]])
        np.testing.assert_array_equal(targets[n], own[-1][mask].transpose(2, 0, 1))


def test_arrays_of_any_layout() -> None:
    """Flipped and transposed images, which are views, and masks without an axis for classes."""
    (image,), (mask,) = arrays(1, 3), arrays(1, 1)
    views = [image[::-1], image[:, ::-1], np.asfortranarray(image)]
    batch = collate(views, [mask[::-1, :, 0]] * 3, np.zeros((1, 4, 256), np.float32))
    for view, found, own_mask in zip(views, batch[0], batch[1], strict=True):
        np.testing.assert_array_equal(found, view.transpose(2, 0, 1))
        np.testing.assert_array_equal(own_mask, mask[::-1].transpose(2, 0, 1))


def test_floats_stay_as_they_are() -> None:
    images, masks = RNG.random((2, 4, 3, 5, 7), np.float32)
    batch = collate(images, masks, None)
    assert batch[2] is None
    for found, expected in zip(to_device(*batch, torch.device("cpu")), (images, masks), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_batches_of_this_process_are_one_block() -> None:
    batch = collate(arrays(2, 3), arrays(2, 1), np.zeros((1, 4, 256), np.float32))
    assert len({part.untyped_storage().data_ptr() for part in batch}) == 1
    assert not any(part.is_shared() for part in batch)


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_the_bytes_of_the_largest_batch(count: int) -> None:
    sizes = []
    for shape in ((1, 4, 256), (count, 2, 256)):
        batch = collate(arrays(count, 3), arrays(count, 2), np.zeros(shape, np.float32))
        sizes.append(batch[0].untyped_storage().nbytes())
    assert largest_batch_bytes(count, 3 + 2, 5, 7) == max(sizes)
