# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The dataset: split, samples, batches that do not depend on the number of processes, and errors."""

import hashlib
import multiprocessing
import shutil
import signal
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.sample_data import SETTINGS, disc, noise, numbered_ids, open_set, write_set

import dataset
from dataset import split_ids
from imaging.augment import train_transform, val_transform
from runtime import interrupts
from runtime.byte_batches import input_and_target
from runtime.errors import InputError

# about the number of cores, which does not matter here
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

# --- split -----------------------------------------------------------------------------------------------------------


def test_the_split_of_the_published_set() -> None:
    """scikit-learn's shuffle: a permutation, of which the first ⌈n/5⌉ are for validation, the others for training."""
    ids = numbered_ids(664)
    order = np.random.RandomState(41).permutation(664)
    train, val = split_ids(ids)
    assert (len(train), len(val)) == (531, 133)
    assert val == [ids[i] for i in order[:133]] and train == [ids[i] for i in order[133:]]
    digest = hashlib.sha256("\n".join(val).encode()).hexdigest()
    assert digest == "24755a74827b56dede9cc274e6cb1748292165ae681439c3302fddf24c5938e2"


def test_the_split_does_not_depend_on_the_order_of_the_listing() -> None:
    ids = numbered_ids(101)
    assert split_ids(ids[::-1]) == split_ids(ids) == split_ids(ids[50:] + ids[:50])


@pytest.mark.parametrize(
    "count, inner, message",
    [
        (1, False, "^the split needs at least 2 images, but the data set has 1; add some, or .* val.py --all$"),
        (0, False, "^the split needs at least 2 images, but the data set has 0;"),
        (
            2,
            True,
            r"^the inner split \(train.py --inner_split\) needs at least 3 images, but .* has 2; .* val.py --all$",
        ),
        (1, True, r"^the inner split .* needs at least 3 images, but the data set has 1;"),
    ],
)
def test_too_few_images_to_split(count: int, inner: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_ids(numbered_ids(count), inner)


def test_the_smallest_splits() -> None:
    assert [len(part) for part in split_ids(numbered_ids(2))] == [1, 1]
    assert [len(part) for part in split_ids(numbered_ids(3), inner=True)] == [1, 1]


# --- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [(24, 40), (48, 80), (16, 32), (31, 17)], ids=str)
def test_validation_samples_by_their_formula(tmp_path: Path, side: tuple[int, int]) -> None:
    """(x/255 − mean)/std with RGB statistics on BGR channels, ÷255 again, CHW; exact if nothing is resized."""
    image, mask = noise(24, 40, seed=3), noise(24, 40, seed=4)[..., 0]
    root = write_set(tmp_path, ["a"], image=image, mask=mask)
    x, y, meta = open_set(root, ["a"], val_transform(*side))[0]
    assert x.dtype == y.dtype == torch.float32 and x.is_contiguous() and y.is_contiguous()
    assert x.shape == (3, *side) and y.shape == (1, *side) and meta == {"img_id": "a"}
    blue_green_red = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float64))
    resized = F.interpolate(blue_green_red, size=side, mode="bilinear", align_corners=False)[0].numpy()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (resized / 255 - mean[:, None, None]) / std[:, None, None] / 255
    levels = 0 if side == (24, 40) else 1  # OpenCV rounds to whole gray levels
    np.testing.assert_allclose(x.numpy(), expected, rtol=0, atol=levels / 255 / 0.224 / 255 + 1e-7)
    # masks are resized with nearest-neighbor interpolation
    rows, columns = (np.arange(n) * m // n for n, m in zip(side, mask.shape))
    np.testing.assert_array_equal(y.numpy()[0], mask[rows][:, columns].astype(np.float32) / 255)


@pytest.mark.parametrize("transform", [train_transform, val_transform])
def test_soft_edges_survive(tmp_path: Path, transform) -> None:
    data = open_set(write_set(tmp_path, ["a"]), ["a"], transform(24, 24))
    values = set(np.unique(data[0][1].numpy()).tolist())
    assert values == {np.float32(v) / np.float32(255) for v in np.unique(disc())}
    assert len([v for v in values if 0 < v < 1]) > 2 and {0.0, 1.0} < values


@pytest.mark.parametrize("transform", [train_transform, val_transform])
@pytest.mark.parametrize("classes", [1, 2, 3, 4, 11])
def test_classes_are_stacked_in_their_order(tmp_path: Path, transform, classes: int) -> None:
    """In numeric order: 10 comes after 9."""
    root = write_set(tmp_path, ["a"], classes)
    for k in range(classes):
        mask = np.zeros((24, 24), np.uint8)
        mask[: 2 * k + 2] = 255
        cv2.imwrite(str(root / "masks" / str(k) / "a.png"), mask)
    data = open_set(root, ["a"], transform(16, 32), classes)
    for epoch in range(4):
        mask = data[epoch, 0][1]
        assert mask.shape == (classes, 16, 32)
        shares = mask.mean(dim=(1, 2)).tolist()
        assert shares == pytest.approx([(k + 1) / 12 for k in range(classes)], abs=0.05)


# --- loaders ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("small"), numbered_ids(23))


def test_a_loop_over_the_samples_ends(small_set: Path) -> None:
    data = open_set(small_set, numbered_ids(23), val_transform(24, 24))
    assert [meta["img_id"] for _, _, meta in data] == numbered_ids(23)


def run_epochs(root: Path, workers: int, seed: int = 5, epochs: tuple[int, ...] = (0, 1)) -> list[list]:
    data = open_set(root, numbered_ids(23), train_transform(32, 32), seed=seed)
    loader = dataset.train_loader(data, 4, workers)
    found = []
    for epoch in epochs:
        loader.batch_sampler.set_epoch(epoch)
        found.append([(x, y, meta["img_id"]) for x, y, meta in loader])
    return found


def same(one: list[list], other: list[list]) -> bool:
    return all(
        len(a) == len(b)
        and all(torch.equal(x, u) and torch.equal(y, v) and i == j for (x, y, i), (u, v, j) in zip(a, b))
        for a, b in zip(one, other)
    )


def test_training_batches_do_not_depend_on_workers(small_set: Path) -> None:
    alone = run_epochs(small_set, 0)
    assert same(alone, run_epochs(small_set, 0))
    assert same(alone, run_epochs(small_set, 1)) and same(alone, run_epochs(small_set, 3))
    assert same(alone[1:], run_epochs(small_set, 0, epochs=(1,)))  # as after a resume
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(alone, run_epochs(small_set, 0))  # global random generators do not matter


@pytest.mark.parametrize("other", [{"seed": 6}, {"epochs": (1, 0)}], ids=["seed", "epoch"])
def test_training_batches_differ_between(small_set: Path, other: dict) -> None:
    """Both the order and each image differ."""
    one, two = run_epochs(small_set, 0)[0], run_epochs(small_set, 0, **other)[0]
    order = [[i for _, _, ids in epoch for i in ids] for epoch in (one, two)]
    assert order[0] != order[1]
    images = [dict(zip(ids, torch.cat([x for x, _, _ in epoch]))) for ids, epoch in zip(order, (one, two))]
    shared = images[0].keys() & images[1].keys()
    assert len(shared) > 10 and not any(torch.equal(images[0][i], images[1][i]) for i in shared)


def test_training_drops_the_incomplete_batch(small_set: Path) -> None:
    batches = run_epochs(small_set, 0, epochs=(0,))[0]
    assert [x.shape for x, _, _ in batches] == [(4, 3, 32, 32)] * 5  # 23 images
    seen = [i for _, _, ids in batches for i in ids]
    assert len(set(seen)) == 20 and seen != sorted(seen)


def test_rare_kinds_are_drawn_more_often_and_augmented_anew(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    ids = numbered_ids(23)
    root = write_set(tmp_path, ids)
    train, _ = dataset.open_dataset(root, 1, SETTINGS)
    rare = train.ids[4]
    cv2.imwrite(str(train.folder.image_path(rare)), noise() // 10)  # dark, unlike the others, which are colored
    train, _ = dataset.open_dataset(root, 1, SETTINGS | {"balance": True})
    shares = "draws: 20% fluorescence (1 of 18 images), 80% stained tissue (17 of 18 images)"  # 1 : √17
    assert shares in capsys.readouterr().out
    batches = [(x, meta["img_id"]) for x, _, meta in dataset.train_loader(train, 9, 0)]
    images = [image for x, batch_ids in batches for image, img_id in zip(x, batch_ids) if img_id == rare]
    assert len(images) > 1  # in an epoch
    assert not any(torch.equal(a, b) for index, a in enumerate(images) for b in images[:index])


def test_each_epoch_drops_other_images(small_set: Path) -> None:
    dropped = [set(numbered_ids(23)) - {i for _, _, ids in epoch for i in ids} for epoch in run_epochs(small_set, 0)]
    assert len(dropped[0]) == len(dropped[1]) == 3 and dropped[0] != dropped[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_has_every_image_in_order(small_set: Path, workers: int) -> None:
    ids = split_ids(numbered_ids(23))[1] + ["0000"]  # 6 of them, not in the order of their names
    loader = dataset.val_loader(open_set(small_set, ids, val_transform(32, 32)), 4, workers)
    assert len(ids) == 6 and [meta["img_id"] for _, _, meta in loader] == [ids[:4], ids[4:]]


def test_a_batch_larger_than_the_set_is_refused(small_set: Path) -> None:
    data = open_set(small_set, numbered_ids(23), train_transform(32, 32))
    assert len(dataset.train_loader(data, 23, 0)) == 1
    with pytest.raises(InputError, match=r"--batch_size 24.* 23 "):
        dataset.train_loader(data, 24, 0)


def test_open_dataset(small_set: Path) -> None:
    settings = SETTINGS | {"input_h": 16, "input_w": 48, "seed": 9, "epochs": 3}
    train, val = dataset.open_dataset(small_set, 1, settings)
    assert (train.ids, val.ids) == split_ids(numbered_ids(23)) and train.seed == 9
    assert train[0][0].shape == val[0][0].shape == (3, 16, 48)
    assert torch.equal(val[0][0], val[7, 0][0]) and not torch.equal(train[0][0], train[7, 0][0])


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_batches_from_the_cache_however_processes_are_started(small_set: Path, start: str) -> None:
    """They equal those that a single process reads from files; the files of the cached set are removed."""
    settings = SETTINGS | {"input_h": 32, "input_w": 32, "seed": 5}
    folder = small_set.with_name(f"small {start}")
    shutil.copytree(small_set, folder)
    data = dataset.open_dataset(folder, 1, settings, cache_mb=9)[0]
    shutil.rmtree(folder)
    plain = open_set(small_set, data.ids, train_transform(32, 32), seed=5)
    loaders = [dataset.train_loader(one, 4, workers) for one, workers in ((data, 2), (plain, 0))]
    loaders[0].multiprocessing_context = start
    for (x, y, meta), (u, v, other) in zip(*loaders, strict=True):
        assert torch.equal(x, u) and torch.equal(y, v) and x.is_shared() and y.is_shared()
        tables = meta.pop("tables"), other.pop("tables")
        assert torch.equal(*tables) and tables[0].is_shared() and meta == other
        assert x.is_contiguous() and y.is_contiguous() and x.dtype == y.dtype == torch.uint8


def test_single_samples_equal_those_of_a_batch(small_set: Path) -> None:
    data = open_set(small_set, numbered_ids(23), train_transform(32, 48), seed=5)
    keys = [(3, 7), (3, 0), (4, 7), 5]
    images, masks, meta = data.__getitems__(keys)
    assert images.shape == (4, 3, 32, 48) and masks.shape == (4, 1, 32, 48) and meta["unreadable"] == []
    assert images.dtype == masks.dtype == torch.uint8
    for x, y, img_id, key in zip(*input_and_target(images, masks, meta["tables"]), meta["img_id"], keys, strict=True):
        image, mask, own = data[key]
        assert torch.equal(x, image) and torch.equal(y, mask) and own == {"img_id": img_id}


@pytest.mark.parametrize("on_unreadable", ["skip", "replace"])
def test_batches_with_unreadable_images(tmp_path: Path, on_unreadable: str) -> None:
    root = write_set(tmp_path, ["a", "b", "c"])
    data = open_set(root, ["a", "b", "c"], val_transform(24, 24), on_unreadable=on_unreadable)
    whole = [data[k][0] for k in range(3)]
    (root / "images" / "b.png").write_text("hello")
    images, masks, meta = data.__getitems__([1, 0, 1, 2])
    ids = ["c", "a", "c", "c"] if on_unreadable == "replace" else ["a", "c"]
    assert meta["img_id"] == ids and len(images) == len(masks) == len(ids)
    inputs = input_and_target(images, masks, meta["tables"])[0]
    assert all(torch.equal(x, whole["abc".index(img_id)]) for x, img_id in zip(inputs, ids))
    assert len(meta["unreadable"]) == 2 and "images/b.png: not a readable" in meta["unreadable"][0]
    if on_unreadable == "skip":
        assert data.__getitems__([1, 1])[:2] == (None, None) and data[1][0] is None
        assert data[1][2].keys() == {"img_id", "unreadable"} and data[1][2]["img_id"] == "b"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM])
def test_workers_survive_the_signals_that_stop_a_run(
    small_set: Path, number: int, capfd: pytest.CaptureFixture
) -> None:
    """Until the main process stops, it needs the batches of its workers; it alone reports the signal."""
    data = open_set(small_set, numbered_ids(23), train_transform(32, 32))
    with interrupts.handle_signals():
        batches = iter(dataset.train_loader(data, 2, 2))
        next(batches), next(batches)  # one from each worker, so that both have started
        for worker in multiprocessing.active_children():
            # not from the main process: the loader ends its workers with SIGTERM
            subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
        assert len(list(batches)) == 9
    assert "Stopping" not in capfd.readouterr().err
