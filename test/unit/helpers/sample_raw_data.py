# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Raw sets and zips for the tests, and what the preparation must make of them."""

import zipfile
from pathlib import Path

import cv2
import numpy as np

import options
import preprocess_dsb2018 as preprocess
from imaging.raw import synthetic
from imaging.raw.journal import ORIGIN_FILE


def write_raw(parent: Path) -> Path:
    """Write a raw folder of 12 images."""
    synthetic.write_raw_set(parent / "stage1_train", 12, seed=1)
    return parent / "stage1_train"


def as_zip(folder: Path, path: Path, prefix: str = "") -> Path:
    """Write the files of a raw folder to a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file under a folder, but for the file that tells what a set is prepared from."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ORIGIN_FILE)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def prepare(*flags: object) -> None:
    """Run preprocess_dsb2018.py in this process."""
    preprocess.main(options.parse_preprocess([*map(str, flags)]))


def old_preparation(read, image: str, masks: list[str], size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Prepare one image as the older editions did; `read` is called like cv2.imread."""
    pixels = read(image, cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 2:
        pixels = np.dstack([pixels] * 3)
    pixels = pixels[:, :, :3]
    mask = np.zeros(pixels.shape[:2])
    for name in masks:
        mask[read(name, cv2.IMREAD_GRAYSCALE) > 127] = 1
    return cv2.resize(pixels, (size, size)), (cv2.resize(mask, (size, size)) * 255).astype("uint8")
