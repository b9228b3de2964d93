# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""val.py and demo.py find nuclei: scores, label images, tables and run lengths, with a net that needs no training."""

import sys

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from helpers.bright_net import segment

import options
import val
from imaging import rle
from runtime.errors import InputError

# y, x and radius; the second and the third touch
DISKS = ((20, 20, 9), (60, 30, 12), (60, 53, 12), (25, 70, 6))


def draw(shift: int = 0, disks=DISKS, size=(96, 112)) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return a gray image of bright disks, uint8 (H, W, 3), and each disk's mask."""
    image, masks, (y, x) = np.full((*size, 3), 40, np.uint8), [], np.indices(size)
    for center_y, center_x, radius in disks:
        masks.append((y - center_y) ** 2 + (x - center_x - shift) ** 2 <= radius**2)
        image[masks[-1]] = 200
    return cv2.GaussianBlur(image, (0, 0), 0.8), masks


def write_raw(folder, count: int = 10):
    for index in range(count):
        image, masks = draw(index)
        for part in ("images", "masks"):
            (folder / f"n{index}" / part).mkdir(parents=True)
        cv2.imwrite(str(folder / f"n{index}" / "images" / f"n{index}.png"), image)
        for k, mask in enumerate(masks):
            cv2.imwrite(str(folder / f"n{index}" / "masks" / f"{k}.png"), mask.astype(np.uint8) * 255)
    return folder


def score_nuclei(*flags: str) -> pd.DataFrame:
    val.main(
        options.parse_val(["--name", "bright", "--num_workers", "0", "--input_h", "96", "--input_w", "112", *flags])
    )
    return pd.read_csv("outputs/bright/nuclei.csv")


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def labels_of(img_id: str) -> np.ndarray:
    return tifffile.imread(f"outputs/bright/labels/{img_id}_labels.tif")


def average_precision(labels: np.ndarray, masks: list[np.ndarray]) -> float:
    """The challenge's score of an image, pair by pair."""
    pairs = [iou(labels == label, mask) for label in range(1, labels.max() + 1) for mask in masks]
    scores = []
    for threshold in np.arange(0.5, 0.96, 0.05).round(2):
        hits = sum(value > threshold for value in pairs)
        scores.append(hits / (labels.max() + len(masks) - hits))
    return float(np.mean(scores))


def test_nuclei_are_scored_against_the_masks_of_a_raw_set(bright, capsys) -> None:
    write_raw(bright / "raw")
    table = score_nuclei("--raw", "raw", "--all").set_index("id")
    assert list(table.index) == [f"n{k}" for k in range(10)]
    for k in range(10):
        labels = labels_of(f"n{k}")
        assert labels.max() == 4 and labels.shape == (96, 112)
        assert table.loc[f"n{k}", "ap"] == pytest.approx(average_precision(labels, draw(k)[1]))
        assert table.loc[f"n{k}", ["true", "found", "count_error"]].tolist() == [4, 4, 0]
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"mean AP: {table['ap'].mean():.4f}"
    assert table["ap"].mean() > 0.8 and "IoU:" not in out


def test_without_the_split_touching_nuclei_count_as_one(bright) -> None:
    write_raw(bright / "raw")
    assert set(score_nuclei("--raw", "raw", "--all", "--neck", "0.01")["found"]) == {3}
    assert set(score_nuclei("--raw", "raw", "--all", "--min_area", "200")["found"]) == {3}


def test_the_split_is_that_of_the_training(bright) -> None:
    write_raw(bright / "raw")
    assert len(score_nuclei("--raw", "raw")) == 2  # a fifth
    path = "models/bright/model_best.pth.tar"
    checkpoint = torch.load(path, weights_only=False)
    torch.save(checkpoint | {"data": {"train_images": 12, "val_images": 3, "images": 1}}, path)
    with pytest.raises(InputError, match=r"^raw: its images are not those of the training.*pass --all"):
        score_nuclei("--raw", "raw")
    assert len(score_nuclei("--raw", "raw", "--all")) == 10


def test_tuned_settings_are_recorded_and_used(bright, capsys) -> None:
    write_raw(bright / "raw")
    path = "models/bright/model_best.pth.tar"
    before = torch.load(path, weights_only=False)
    score_nuclei("--raw", "raw", "--tune", "--neck", "0.01", "--tune_images", "3")
    assert torch.load(path, weights_only=False)["instances"]["neck"] == 0.01  # what is given is not changed
    torch.save(before | {"instances": "of an unknown edition"}, path)
    score_nuclei("--raw", "raw", "--tune", "--tune_images", "3")
    after = torch.load(path, weights_only=False)
    assert after["instances"]["neck"] > 0.5  # one that splits
    assert "tuned on 3 training images" in capsys.readouterr().out
    assert all(torch.equal(after["state_dict"][key], value) for key, value in before["state_dict"].items())
    assert after["config"] == before["config"] and after["epoch"] == before["epoch"]
    score_nuclei("--raw", "raw")
    assert f"neck {after['instances']['neck']:g}" in capsys.readouterr().out
    (bright / "mine").mkdir()
    cv2.imwrite("mine/a.png", draw()[0])
    segment("--input", "mine", "--instances", "--output", "out", "--input_h", "96", "--input_w", "112")
    assert f"neck {after['instances']['neck']:g}" in capsys.readouterr().out
    assert pd.read_csv("out/images.csv")["nuclei"].tolist() == [4]


def test_nuclei_of_prepared_data_are_scored_beside_the_pixels(bright, capsys) -> None:
    val.main(options.parse_val(["--name", "bright", "--num_workers", "0", "--instances"]))
    table = pd.read_csv("outputs/bright/nuclei.csv")
    assert len(table) == 3 and set(table["true"]) == {1}  # a fifth of 15 images of one disk
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("IoU: ") and any(line.startswith("mean AP: ") for line in lines)
    assert pd.read_csv("outputs/bright/metrics.csv")["id"].tolist() == table["id"].tolist()


@pytest.mark.parametrize("pixel_size", [None, 0.25])
def test_each_nucleus_has_a_row_and_a_label(bright, pixel_size: float | None) -> None:
    (bright / "mine").mkdir()
    for name, shift in (("a", 0), ("b", 3)):
        cv2.imwrite(f"mine/{name}.png", draw(shift)[0])
    cv2.imwrite("mine/empty.png", np.full((40, 50, 3), 40, np.uint8))
    flags = ["--input_h", "96", "--input_w", "112", "--rois", "--rle", "out/submission.csv"]
    flags += ["--pixel_size", str(pixel_size)] if pixel_size else []
    segment("--input", "mine", "--instances", "--output", "out", *flags)
    nuclei, images = pd.read_csv("out/nuclei.csv"), pd.read_csv("out/images.csv").set_index("id")
    submission, unit = pd.read_csv("out/submission.csv").fillna(""), pixel_size or 1
    assert images["nuclei"].to_dict() == {"a": 4, "b": 4, "empty": 0}
    for name in images.index:
        labels = tifffile.imread(f"out/labels/{name}_labels.tif")
        rows = nuclei[nuclei["id"] == name]
        assert labels.dtype == np.uint16 and sorted(rows["label"]) == list(range(1, labels.max() + 1))
        areas = [(labels == label).sum() * unit**2 for label in rows["label"]]
        assert rows["area"].tolist() == pytest.approx(areas)
        assert images.loc[name, "coverage"] == pytest.approx((labels > 0).mean(), rel=1e-5)
        texts = submission.loc[submission["ImageId"] == name, "EncodedPixels"]
        assert np.array_equal(rle.decode(texts, *labels.shape), labels)
        mask = cv2.imread(f"out/0/{name}_mask.png", cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask > 0, labels > 0)
        assert cv2.imread(f"out/overlay/{name}.png").shape == (*labels.shape, 3)
        assert (bright / "out" / "rois" / f"{name}_rois.zip").exists()
    assert set(rows) == set(nuclei)
    found = tifffile.imread("out/labels/a_labels.tif")
    assert min(max(iou(mask, found == k) for k in range(1, 5)) for mask in draw()[1]) > 0.8


def test_demo_shows_the_true_nuclei_of_the_validation_split(bright) -> None:
    segment("--instances", "--output", "out")
    assert len(pd.read_csv("out/images.csv")) == 3
    assert cv2.imread("out/overview.png") is not None


def test_a_model_that_was_trained_with_crops_scales_images(bright, capsys) -> None:
    path = "models/bright/model_best.pth.tar"
    checkpoint = torch.load(path, weights_only=False)
    torch.save(checkpoint | {"config": checkpoint["config"] | {"crop_diameter": 20.0}}, path)
    (bright / "mine").mkdir()
    large, _ = draw(0, [(y * 4, x * 4, 40) for y in (20, 50) for x in (20, 50, 80)], (300, 400))
    cv2.imwrite("mine/large.png", large)
    segment("--input", "mine", "--output", "out")
    images = pd.read_csv("out/images.csv")
    assert images["nuclei"].tolist() == [6] and images["assumed_diameter"][0] == pytest.approx(80, rel=0.1)
    assert "crop_diameter 20" in capsys.readouterr().out
    segment("--input", "mine", "--output", "out", "--diameter", "70")
    assert pd.read_csv("out/images.csv")["assumed_diameter"].tolist() == [70]


@pytest.mark.parametrize("crop_diameter", [0.0, 20.0])
def test_by_windows_the_same_nuclei_are_found(bright, capsys, crop_diameter: float) -> None:
    """Also by a network that was trained with whole images, which gets each window at the size of its input."""
    path = "models/bright/model_best.pth.tar"
    checkpoint = torch.load(path, weights_only=False)
    torch.save(checkpoint | {"config": checkpoint["config"] | {"crop_diameter": crop_diameter}}, path)
    (bright / "mine").mkdir()
    rng = np.random.default_rng(0)
    places = [(y, x, rng.integers(7, 11)) for y in range(20, 500, 34) for x in range(20, 600, 34)]
    cv2.imwrite("mine/large.png", draw(0, places, (520, 620))[0])
    flags = ["--input", "mine", "--instances", "--diameter", "20", "--input_h", "96", "--input_w", "96"]
    if not crop_diameter:
        flags += ["--input_h", "520", "--input_w", "620"]
    segment(*flags, "--output", "whole")
    segment(*flags, "--output", "parts", "--tile", "96", "--overlap", "32", "--rle", "parts/runs.csv", "--rois")
    assert "620×520 pixels, by windows of" in capsys.readouterr().out
    whole, parts = (tifffile.imread(f"{folder}/labels/large_labels.tif") for folder in ("whole", "parts"))
    assert whole.max() == parts.max() == len(places)
    same = [iou(parts == parts[y, x], whole == whole[y, x]) for y, x, _ in places]
    assert min(same) > 0.9
    table = pd.read_csv("parts/nuclei.csv")
    assert len(table) == len(places)
    areas = [(parts == label).sum() for label in table["label"]]
    assert table["area"].tolist() == areas
    assert np.array_equal(rle.decode(pd.read_csv("parts/runs.csv")["EncodedPixels"], *parts.shape), parts)
    assert cv2.imread("parts/overlay/large.png").shape == (520, 620, 3)
    assert cv2.imread("parts/overview.png") is not None


def test_a_large_image_that_is_damaged_in_the_middle_does_not_end_the_others(bright, capsys) -> None:
    (bright / "mine").mkdir()
    image = draw(0, [(y, 30, 9) for y in range(30, 300, 40)], (320, 120))[0][..., 0]
    tifffile.imwrite("mine/a.tif", image, compression="zlib", rowsperstrip=40)
    tifffile.imwrite("mine/b.tif", image, compression="zlib", rowsperstrip=40)
    with tifffile.TiffFile("mine/a.tif") as file:
        place, count = file.pages[0].dataoffsets[5], file.pages[0].databytecounts[5]
    with open("mine/a.tif", "r+b") as file:
        file.seek(place)
        file.write(bytes(count))
    with pytest.raises(InputError, match="1 of 2 images could not be read"):
        segment("--input", "mine", "--tile", "96", "--overlap", "32", "--input_h", "96", "--input_w", "96")
    assert "a.tif: its values, of compression ADOBE_DEFLATE, cannot be decoded" in capsys.readouterr().err
    assert set(pd.read_csv("outputs/UNet_Demo/nuclei.csv")["id"]) == {"b"}
    assert [path.name for path in (bright / "outputs" / "UNet_Demo" / "labels").iterdir()] == ["b_labels.tif"]


def test_without_roifile_nothing_is_written(bright, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "roifile", None)
    (bright / "mine").mkdir()
    cv2.imwrite("mine/a.png", draw()[0])
    with pytest.raises(InputError, match="--rois needs the package roifile"):
        segment("--input", "mine", "--rois", "--output", "out")
    assert not (bright / "out").exists()
