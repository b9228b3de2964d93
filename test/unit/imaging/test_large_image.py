# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Images that are read by rows: the same pixels and errors as if they were read as a whole."""

import itertools
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from helpers.format_grid import all_formats
from helpers.image_grid import GridFile, outcome, verdict
from helpers.stack_grid import all_stacks
from helpers.tiff_grid import all_tiffs

from imaging import tiff_values
from imaging.large_image import from_pixels, open_image
from imaging.reader import read_upright
from runtime.errors import InputError

FILES = [*all_formats(), *all_tiffs(), *all_stacks()]
RNG = np.random.default_rng(0)


def by_rows(path: Path, page: int | None = None, channel: int = 0, height: int = 7) -> np.ndarray:
    """Read an image by strips that overlap by two rows, with a second look at the first one."""
    with open_image(path, page, channel) as image:
        total = image.shape[0]
        parts = [image.rows(top, min(top + height + 2, total)) for top in range(0, total, height)]
        assert all(part.flags.c_contiguous for part in parts)
        assert np.array_equal(image.rows(0, min(2, total)), parts[0][:2])
    return np.concatenate([part[:height] for part in parts])


@pytest.mark.parametrize("family", dict.fromkeys(file.family for file in FILES))
def test_each_kind_of_file_gives_the_same_pixels_and_errors(tmp_path: Path, family: str) -> None:
    files, wrong = [file for file in FILES if file.family == family], []
    for file in files:
        path = tmp_path / f"x{file.extension}"
        path.write_bytes(file.data)
        result = outcome(file, lambda page, channel, path=path: by_rows(path, page, channel), str(path))
        wrong += [f"{file.id}: {text}"] if (text := verdict(file, result)) else []
        for page, channel in file.views:
            assert attempt(read_upright, path, page, channel) == attempt(by_rows, path, page, channel), file.id
    assert files and wrong == []


def attempt(read, *arguments) -> bytes | str:
    """Return the pixels that a function reads, or the message of its error."""
    try:
        pixels = read(*arguments)
    except InputError as error:
        return str(error)
    return (pixels[0] if isinstance(pixels, tuple) else pixels).tobytes()


def test_which_files_are_read_by_rows(tmp_path: Path) -> None:
    """As many as possible, but none of 16 bits, turned ones or colors in planes of their own."""

    def is_by_rows(file: GridFile) -> bool:
        path = tmp_path / "x.tif"
        path.write_bytes(file.data)
        page, channel = next(iter(file.views))
        try:
            return tiff_values.open_rows(path, path, page or 0, channel) is not None
        except InputError:
            return False

    tiffs = [file for file in FILES if file.family.startswith("TIFF") and file.must == "read"]
    counts = Counter(file.family for file in tiffs if is_by_rows(file))
    least = {
        **{"TIFF, compressions": 36, "TIFF, JPEG and other lossy compressions": 46},
        **{"TIFF, palettes": 5, "TIFF, ImageJ": 10, "TIFF, extra samples": 20},
    }
    assert {family for family, number in least.items() if counts[family] < number} == set(), counts
    for file in tiffs:
        if "16 bits" in file.name or ("orientation" in file.name and "orientation 1" not in file.name):
            assert not is_by_rows(file), file.id


LAYOUTS = {
    "plain": {},
    "strips": {"rowsperstrip": 13},
    "compressed": {"compression": "zlib"},
    "compressed strips": {"compression": "lzw", "rowsperstrip": 10, "predictor": True},
    "tiles": {"tile": (32, 48)},
    "compressed tiles": {"compression": "zlib", "tile": (16, 64), "predictor": True},
    "JPEG tiles": {"compression": "jpeg", "tile": (32, 32)},
}


@pytest.mark.parametrize("layout, samples", itertools.product(LAYOUTS, (1, 3, 4)))
def test_layouts_of_a_tiff(tmp_path: Path, layout: str, samples: int) -> None:
    pixels = RNG.integers(0, 256, (101, 77) if samples == 1 else (101, 77, samples), np.uint8)
    if (layout, samples) == ("JPEG tiles", 4):
        pytest.skip("JPEG has no alpha")
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack" if samples == 1 else "rgb", **LAYOUTS[layout])
    expected = tifffile.imread(path)
    expected = np.dstack([expected] * 3) if samples == 1 else expected[..., 2::-1]
    reader = tiff_values.open_rows(path, path)
    assert reader is not None and reader.shape == (101, 77)
    for height in (1, 7, 50, 101):
        assert np.array_equal(by_rows(path, height=height), expected), height


def test_only_the_strips_that_hold_the_rows_are_decoded_and_each_once(tmp_path: Path, monkeypatch) -> None:
    pixels = RNG.integers(0, 256, (100, 40), np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", pixels, rowsperstrip=10, compression="zlib")
    decoded, real = [], tiff_values.RowReader._decode_band
    monkeypatch.setattr(
        tiff_values.RowReader, "_decode_band", lambda self, file, k: decoded.append(k) or real(self, file, k)
    )
    with open_image(tmp_path / "x.tif") as image:
        decoded.clear()
        for start, stop in ((35, 52), (45, 61), (59, 60), (0, 10)):
            assert np.array_equal(image.rows(start, stop)[..., 1], pixels[start:stop])
    assert decoded == [3, 4, 5, 6, 0]


def test_pages_and_channels_of_a_stack(tmp_path: Path) -> None:
    stack = RNG.integers(0, 256, (4, 3, 30, 20), np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    for page, channel in itertools.product(range(4), (1, 2, 3)):
        assert tiff_values.open_rows(tmp_path / "x.tif", "x", page, channel) is not None
        assert np.array_equal(by_rows(tmp_path / "x.tif", page, channel)[..., 0], stack[page, channel - 1])
    with open_image(tmp_path / "x.tif", 1, 2) as image:
        assert image.notes == read_upright(tmp_path / "x.tif", 1, 2)[1] == ("channel 2 of 3 taken", "gray to color")
    with (
        pytest.raises(InputError, match=r"x\.tif: holds 4 pages, but one is read here"),
        open_image(tmp_path / "x.tif"),
    ):
        pass


def test_errors_of_the_body_are_passed_on_and_files_closed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((9, 9), np.uint8))
    with pytest.raises(MemoryError, match=r"^mine$"), open_image(tmp_path / "x.tif") as image:
        raise MemoryError("mine")
    with pytest.raises(ValueError, match="closed file"):
        image.rows(0, 1)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_that_is_cut_off_while_it_is_open(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "x.tif"
    pixels = RNG.integers(0, 256, (3000, 100), np.uint8)
    tifffile.imwrite(path, pixels, compression=compression, rowsperstrip=100)
    with open_image(path) as image:
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size // 2)
        with pytest.raises(InputError, match=r"x\.tif: is cut off"):
            image.rows(2800, 2900)


def test_the_largest_size_that_is_accepted(tmp_path: Path) -> None:
    """10,000 × 10,000 pixels: a sparse file takes no space, and a few rows take no memory."""
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, shape=(10_000, 10_000), dtype=np.uint8)
    with open_image(path) as image:
        assert image.shape == (10_000, 10_000) and not image.rows(9_990, 10_000).any()
    tifffile.imwrite(path, shape=(10_000, 10_001), dtype=np.uint8)
    with pytest.raises(InputError, match="more than 100000000 pixels"), open_image(path):
        pass


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.tif", "No such file"), (tmp_path, "not a regular file")):
        with pytest.raises(InputError, match=reason), open_image(path):
            pass


def test_strips_are_the_image(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (50, 31, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), pixels)
    with open_image(tmp_path / "x.png") as image:
        for height in (0, 1, 8, 50, 99):
            tops, strips = zip(*image.strips(height))
            assert np.array_equal(np.concatenate(strips), pixels)
            assert list(tops) == np.cumsum([0, *map(len, strips)])[:-1].tolist()
    for start, stop in ((-1, 3), (3, 3), (0, 51)):
        with pytest.raises(ValueError, match="of an image of 50 rows"):
            from_pixels(pixels).rows(start, stop)


def test_parts_and_gray() -> None:
    pixels = RNG.integers(0, 256, (50, 31, 3), np.uint8)
    assert np.array_equal(from_pixels(pixels).part(7, 3, 20, 11), pixels[7:27, 3:14])
    assert not from_pixels(pixels).is_gray() and from_pixels(pixels[..., :1].repeat(3, 2)).is_gray()
    pixels = pixels[..., :1].repeat(3, 2)
    pixels[49, 30, 2] ^= 1
    assert not from_pixels(pixels).is_gray()
