# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Image files of every kind: each is read as it was written, or refused with its name and the cause."""

import functools
from collections import Counter
from pathlib import Path

import pytest
from helpers.format_grid import all_formats
from helpers.grid_table import image_outcome
from helpers.image_grid import GridFile, verdict
from helpers.stack_grid import all_stacks
from helpers.tiff_grid import all_tiffs

from imaging.reader import count_pages, decode_picture, read_upright
from runtime.errors import InputError

FILES = [*all_formats(), *all_tiffs(), *all_stacks()]
# how many of these files are read at least; whoever changes the reader sees here if it reads fewer
LEAST_READ = {
    **{"PNG": 115, "JPEG": 70, "BMP": 55, "WebP": 14, "GIF": 13, "JPEG 2000": 12, "PNM": 100, "other formats": 0},
    **{"TIFF, kinds of number": 80, "TIFF, packed bits": 50, "TIFF, compressions": 380, "TIFF, 1 bit": 16},
    **{"TIFF, JPEG and other lossy compressions": 50, "TIFF, photometric interpretations": 14, "TIFF, palettes": 43},
    **{"TIFF, extra samples": 120, "TIFF, orientation tag": 35, "TIFF, written by OpenCV and Pillow": 100},
    **{"TIFF, several pages": 35, "TIFF, pages that differ": 8, "TIFF, thumbnails and pyramids": 32},
    **{"TIFF, ImageJ": 80, "TIFF, OME": 95, "TIFF, damaged": 5},
}


@functools.cache  # for the last test
def result_of(number: int) -> str:
    return image_outcome(FILES[number], f"x{FILES[number].extension}")


@pytest.mark.parametrize("number", range(len(FILES)), ids=[file.id for file in FILES])
def test_a_file_is_read_right_or_refused(number: int) -> None:
    assert verdict(FILES[number], result_of(number)) == ""


@pytest.mark.parametrize("file", [file for file in FILES if file.pages > 1], ids=lambda file: file.id)
def test_pages_are_counted_and_one_must_be_chosen(file: GridFile) -> None:
    name = "x.tif"
    try:
        assert count_pages(file.data, name) == file.pages
    except InputError:
        assert file.must != "read"
    with pytest.raises(InputError, match=r"^x\.tif: "):
        decode_picture(file.data, name)


def test_files_on_the_disk_are_read_by_their_content(tmp_path: Path) -> None:
    for family in dict.fromkeys(file.family for file in FILES):
        for file in [file for file in FILES if file.family == family and file.must == "read"][:3]:
            for extension in (file.extension, ".jpg", ".tif"):
                path = tmp_path / f"x{extension}"
                path.write_bytes(file.data)
                for (page, channel), expected in file.views.items():
                    found = read_upright(path, page, channel)[0].astype(int)
                    assert abs(found - expected).max() <= file.tolerance, (file.id, extension)


def test_how_many_files_are_read() -> None:
    counts = Counter((file.family, result_of(number)) for number, file in enumerate(FILES))
    assert {result for _, result in counts} == {"right", "refused"}
    assert len({file.id for file in FILES}) == len(FILES) > 1800
    assert {family for family, _ in counts} == LEAST_READ.keys()
    assert {family for family, least in LEAST_READ.items() if counts[family, "right"] < least} == set()
