# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The cache of decoded images: what it holds, and what happens if it is too small."""

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.sample_data import SETTINGS, noise, numbered_ids, write_set

import dataset
from imaging import cache, masks, reader
from imaging.cache import ImageCache
from imaging.checks import check_dataset
from imaging.prepared import PreparedFolder
from runtime.errors import InputError


@pytest.fixture
def mixed_set(tmp_path: Path) -> Path:
    """A data set with images of several sizes and two classes."""
    root = write_set(tmp_path, numbered_ids(6), classes=2)
    for n, (height, width) in enumerate([(24, 40), (1, 7), (100, 90)]):
        cv2.imwrite(str(root / "images" / f"000{n}.png"), noise(height, width, seed=9))
        for k in range(2):
            mask = 255 * (noise(height, width, seed=k)[..., k] > 160)
            cv2.imwrite(str(root / "masks" / str(k) / f"000{n}.png"), mask)
    return root


def test_each_file_is_decoded_once(mixed_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = PreparedFolder(mixed_set, num_classes=2)
    wanted = {img_id: plain.read(img_id) for img_id in numbered_ids(6)}
    reads = Counter()
    original = reader.read_stored
    for module in (reader, masks):
        monkeypatch.setattr(module, "read_stored", lambda path, *rest: reads.update([path]) or original(path, *rest))
    parts = dataset.open_dataset(mixed_set, 2, SETTINGS, cache_mb=9)
    assert set(reads.values()) == {1} and len(reads) == 18
    shutil.rmtree(mixed_set / "images")
    for data in parts:
        for img_id in data.ids:
            for _ in range(2):  # each look-up returns a copy, which may be changed
                found = data.read(img_id)
                for array, expected in zip(found, wanted[img_id], strict=True):
                    assert array.dtype == np.uint8
                    np.testing.assert_array_equal(array, expected)
                    array[:] = 0
    assert str(parts[0].cache) == "decoded images: 0 MB in memory, shared by the loading processes"


def test_the_cache_holds_all_samples_or_none(mixed_set: Path) -> None:
    folder = PreparedFolder(mixed_set, num_classes=2)
    ids = check_dataset(folder).ids
    size = sum(array.size for img_id in ids for array in folder.read(img_id))
    for megabytes, kept in ((size / 1e6, ids), ((size - 1) / 1e6, [])):
        samples = ImageCache(megabytes)
        assert check_dataset(folder, keep=samples.add).ids == ids
        samples.close()
        assert [img_id for img_id in ids if img_id in samples] == kept and samples.bytes_needed == size
    train = dataset.open_dataset(mixed_set, 2, SETTINGS)[0]
    assert not train.cache.entries and train[0][0].shape == (3, 24, 24)
    text = "decoded images need 0 MB, more than --cache_mb 0: each epoch reads the files again"
    assert str(train.cache) == text


def test_without_memory_the_files_are_read(mixed_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(cache.mmap, "mmap", refuse)
    train = dataset.open_dataset(mixed_set, 2, SETTINGS, cache_mb=9)[0]
    assert (
        not train.cache.entries
        and train[0][0].shape == (3, 24, 24)
        and "0 MB of memory are not available" in str(train.cache)
    )


def test_unreadable_images_are_not_kept(mixed_set: Path) -> None:
    bad = mixed_set / "images" / "0004.png"
    content = bad.read_bytes()
    bad.write_text("hello")
    parts = dataset.open_dataset(mixed_set, 2, SETTINGS | {"skip_bad": True}, cache_mb=9)
    assert sorted(parts[0].cache.entries) == [img_id for img_id in numbered_ids(6) if img_id != "0004"]
    (data,) = (part for part in parts if "0004" in part.ids)
    with pytest.raises(InputError, match=r"0004\.png: not a readable"):
        data.read("0004")
    bad.write_bytes(content)  # the file is read again if it is not in the cache
    assert data.read("0004")[0].shape == (24, 24, 3)
