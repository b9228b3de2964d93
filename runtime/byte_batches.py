# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Batches of images and masks as bytes: their memory, their way to the device, and the floats that a network gets."""

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

LEVELS = 256  # values of a byte
MAX_TABLE_ROWS = 4  # for each of three channels, and for masks


def collate(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], tables: np.ndarray | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return uint8 images (H, W, 3) as (N, 3, H, W), uint8 masks (H, W, num_classes) likewise, and tables, as tensors.

    tables: see `input_and_target`. If they are None, the images are input (3, H, W), and the masks target.
    """
    if tables is None:
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks)), None
    height, width = images[0].shape[:2]
    classes = masks[0].size // (height * width)
    shapes = tables.shape, (len(images), 3, height, width), (len(images), classes, height, width)
    batch_tables, *pixels = _new_batch(*shapes)
    batch_tables.copy_(torch.from_numpy(tables))
    for arrays, outs in zip((images, masks), pixels):
        for array, out in zip(arrays, outs):  # torch transposes faster than NumPy
            out.copy_(torch.from_numpy(np.ascontiguousarray(array)).view(height, width, -1).permute(2, 0, 1))
    return *pixels, batch_tables


def _new_batch(tables: tuple[int, ...], *pixels: tuple[int, ...]) -> list[Tensor]:
    """Return tensors of these shapes in one block of memory, without values: a float32 one, and uint8 ones.

    In a data loading process, the block is shared with the main process, as by torch's default_collate. Otherwise each
    tensor would be copied there. One block is handed over faster than several.
    """
    sizes = [torch.float32.itemsize * math.prod(tables), *map(math.prod, pixels)]
    if get_worker_info() is None:
        storage = torch.UntypedStorage(sum(sizes))
    else:
        storage = torch.UntypedStorage._new_shared(sum(sizes))
    starts = accumulate(sizes)
    found = [torch.empty(0, dtype=torch.uint8).set_(storage, start, shape) for start, shape in zip(starts, pixels)]
    return [torch.empty(0).set_(storage, 0, tables), *found]


def largest_batch_bytes(batch_size: int, channels: int, height: int, width: int) -> int:
    """Return the memory of the largest batch of `collate`; channels: of images and masks together."""
    row = torch.float32.itemsize * LEVELS
    # one table for all images has a row for each channel and one for masks; a table for each image has two rows
    return batch_size * channels * height * width + max(MAX_TABLE_ROWS, 2 * batch_size) * row


def tensors_of(batch: tuple[Tensor, Tensor, dict]) -> list[Tensor]:
    """Return the images, masks and, if it has them, tables of a loader's batch: the arguments of `input_and_target`."""
    images, masks, meta = batch
    return [images, masks] if meta.get("tables") is None else [images, masks, meta["tables"]]


def to_device(images: Tensor, masks: Tensor, tables: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Copy a batch to the device, without waiting for it, and return input and target, see `input_and_target`."""
    images, masks = (pixels.to(device, non_blocking=True) for pixels in (images, masks))
    return input_and_target(images, masks, None if tables is None else tables.to(device, non_blocking=True))


def input_and_target(images: Tensor, masks: Tensor, tables: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return a network's input (N, 3, H, W) and target (N, num_classes, H, W), float32, of a batch on one device.

    tables: float32 (1 or N, 2 or 4, 256), for all images together or for each. The last row has the target for each
    byte of a mask. The rows before it have the input for each byte, for all channels together or for each. None: images
    and masks are input and target already.

    A table gives on each device the very values that the CPU has computed. Arithmetic would not: a GPU multiplies by
    the reciprocal of a number if it is to divide by it.
    """
    if tables is None:
        return images, masks
    return _look_up(images, tables[:, :-1]), _look_up(masks, tables[:, -1:])


def _look_up(pixels: Tensor, tables: Tensor) -> Tensor:
    count = tables.shape[:2].numel()
    starts = torch.arange(0, count * LEVELS, LEVELS, dtype=torch.int32, device=pixels.device)
    index = pixels + starts.view(*tables.shape[:2], 1, 1)
    # on CPUs in one thread, unlike gather, whose threads would wait for cores on which images are being loaded
    return tables.flatten().index_select(0, index.flatten()).view(pixels.shape)
