# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Image files: what is decoded to which pixels, and harmful files, which are refused before they take much memory."""

import os
import resource
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from imaging.masks import decode_mask, read_mask
from imaging.reader import count_pages, decode_picture, read_image, read_upright, write_image
from runtime.errors import InputError


def png_claiming(width: int, height: int, depth: int = 8) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    data = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def tiff_claiming(width: int, height: int) -> bytes:
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 2), (273, 8), (277, 3), (278, height), (279, 99)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 108) + bytes(100) + struct.pack("<H", len(entries)) + directory + bytes(4)


def bmp_claiming(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + header + bytes(100)


@pytest.mark.parametrize(
    "data",
    [
        png_claiming(60000, 60000),
        png_claiming(60000, 60000, 16),
        png_claiming(10001, 10000),
        jpeg_claiming(60000, 60000),
        tiff_claiming(60000, 60000),
        bmp_claiming(60000, 60000),
        bmp_claiming(60000, -60000),
    ],
    ids=["png", "png of 16 bits", "png just above", "jpeg", "tiff", "bmp", "bmp top down"],
)
@pytest.mark.parametrize("decode", [decode_picture, decode_mask])
def test_an_image_above_the_limit_is_refused_before_memory_is_allocated(data, decode):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"^x\.png: more than 100000000 pixels.*set .* OPENCV_IO_MAX_IMAGE_PIXELS"):
        decode(data, "x.png")
    assert len(data) < 1000 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 20_000  # KB


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once():
    usual = cv2.imencode(".jpg", np.zeros((64, 64), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert 1 < usual.count(b"\xff\xda") < 20 and decode_mask(usual, "x").pixels.shape == (64, 64)
    last = usual[usual.rindex(b"\xff\xda") : -2]
    with pytest.raises(InputError, match=r"^x: a JPEG of \d+ scans, but at most 100"):
        decode_mask(usual[:-2] + last * 5000 + usual[-2:], "x")


def test_pipes_and_huge_files_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png: not a regular file"):
        read_image(tmp_path / "pipe.png")
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"large\.png: 1099511627776 bytes, but at most 1073741824"):
        read_mask(tmp_path / "large.png")


def test_what_is_not_an_image_is_named(tmp_path: Path) -> None:
    for content in (b"hello", cv2.imencode(".png", np.zeros((64, 64), np.uint8))[1].tobytes()[:40]):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.png: not a readable image; replace the file or remove it$"):
            read_image(tmp_path / "a.png")


def test_an_image_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_image(tmp_path / "deep" / "a.png", image)
    assert np.array_equal(read_image(tmp_path / "deep" / "a.png"), image)
    (tmp_path / "b.png").mkdir()
    with pytest.raises(InputError, match=r"b\.png: is a folder"):
        write_image(tmp_path / "b.png", image)
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["b.png", "deep", "a.png"]


# --- TIFFs as Python programs write them -----------------------------------------------------------------------------


def picture(seed: int = 0, shape: tuple[int, ...] = (24, 31)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(24, 31, 1), (1, 24, 31), (1, 24, 31, 1)])
def test_axes_of_size_one_do_not_matter(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tifffile.imwrite(tmp_path / "x.tif", picture().reshape(shape), photometric="minisblack")
    assert np.array_equal(read_image(tmp_path / "x.tif")[..., 0], picture())


def test_pages_written_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    for seed in range(3):
        tifffile.imwrite(path, picture(seed), photometric="minisblack", append=True)
    assert count_pages(path, path) == 3
    for seed in range(3):
        assert np.array_equal(read_upright(path, seed)[0][..., 0], picture(seed))
    tifffile.imwrite(path, picture(3, (31, 24)), photometric="minisblack", append=True)
    with pytest.raises(InputError, match=r"x\.tif: holds pages of several kinds, .* \(24×31, 31×24\)"):
        count_pages(path, path)


@pytest.mark.parametrize("channels", [4, 5, 30])
def test_channels_on_the_last_axis_are_not_taken_for_pages(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, picture(0, (96, 128, channels)), photometric="minisblack")
    with pytest.raises(InputError, match=r"x\.tif: 96 pages .* look like one image whose last axis holds channels"):
        count_pages(path, path)
