"""Image files: what is decoded to which pixels, and harmful files, which are refused before they take much memory."""

import os
import resource
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from imaging.masks import decode_mask, read_mask
from imaging.reader import decode_image, read_image, write_image
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
@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_an_image_above_the_limit_is_refused_before_memory_is_allocated(data, decode):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"^x\.png: more than 100000000 pixels.*set .* OPENCV_IO_MAX_IMAGE_PIXELS"):
        decode(data, "x.png")
    assert len(data) < 1000 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 20_000  # KB


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once():
    usual = cv2.imencode(".jpg", np.zeros((64, 64), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert 1 < usual.count(b"\xff\xda") < 20 and decode_mask(usual, "x").shape == (64, 64)
    last = usual[usual.rindex(b"\xff\xda") : -2]
    with pytest.raises(InputError, match=r"^x: a JPEG of \d+ scans, but at most 100"):
        decode_mask(usual[:-2] + last * 5000 + usual[-2:], "x")


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_stretching_in_strips_equals_stretching_at_once(dtype):
    draws = np.random.default_rng(0)
    image = (draws.normal(0, 1000, (1500, 997)) ** 2).astype(dtype)
    if dtype in (np.float32, np.float64):
        image[3, :3] = np.nan, np.inf, -np.inf
    whole = np.nan_to_num(image.astype(np.float64), posinf=0, neginf=0)
    whole = ((whole - whole.min()) * (255 / (whole.max() - whole.min()))).round().astype(np.uint8)
    found = decode_image(cv2.imencode(".tiff", image)[1].tobytes(), "x")
    assert np.array_equal(found, np.dstack([whole] * 3))


def test_stretching_takes_little_memory():
    data = cv2.imencode(".png", np.arange(3000 * 2000, dtype=np.uint32).astype(np.uint16).reshape(3000, 2000))[1]
    tracemalloc.start()
    image = decode_image(data.tobytes(), "x")
    assert (
        tracemalloc.get_traced_memory()[1] < 5 * image.nbytes
    )  # the decoded 16 bits, the resulting 8 bits, and strips
    tracemalloc.stop()


@pytest.mark.parametrize("high", [1e308, 1e-320])
def test_values_that_cannot_be_stretched(high):
    data = cv2.imencode(".tiff", np.array([[-high, high]] * 2))[1].tobytes()
    with pytest.raises(InputError, match=r"^x: its values, from .* cannot be stretched"):
        decode_image(data, "x")


def test_alpha_of_float_tiffs_is_dropped():
    image = np.arange(8 * 8 * 4, dtype=np.float32).reshape(8, 8, 4)
    assert decode_image(cv2.imencode(".tiff", image)[1].tobytes(), "x").shape == (8, 8, 3)


def test_pipes_and_huge_files_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png: not a regular file"):
        read_image(tmp_path / "pipe.png")
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"large\.png: 1099511627776 bytes, but at most 1073741824"):
        read_mask(tmp_path / "large.png")


def test_what_is_not_an_image_is_named(tmp_path: Path) -> None:
    for content in (b"", b"hello", cv2.imencode(".png", np.zeros((64, 64), np.uint8))[1].tobytes()[:40]):
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
