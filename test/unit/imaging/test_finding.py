# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Which image files `--input` names: what is used, what is counted as not used, what is passed over."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from imaging.finding import find_images, list_pages
from imaging.listing import HARNESS_WORDS, describe_unused
from imaging.reader import FOREIGN_EXTENSIONS, IMAGE_EXTENSIONS
from runtime.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*inputs: str) -> list[str]:
    return [str(path) for path in find_images(list(inputs))]


MACOS = ("mac/plate/._cell.png", "mac/__MACOSX/plate/._cell.png", "mac/__MACOSX/cell.png", "mac/.DS_Store")


def test_hidden_files_and_those_of_macos_are_passed_over_quietly(folder: Path, capsys: pytest.CaptureFixture) -> None:
    touch(*MACOS, "mac/plate/cell.png", "mac/.cache/cell.png", "mac/Thumbs.db", "mac/plate/notes.txt")
    assert found("mac") == ["mac/plate/cell.png"]
    # as a shell passes `mac/*` and `mac/plate/._*`
    assert found("mac/__MACOSX", "mac/plate", "mac/plate/._cell.png") == ["mac/plate/cell.png"]
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="--input mac/__MACOSX/plate: no image there"):
        find_images(["mac/__MACOSX/plate"])


def test_images_that_are_not_used_are_counted(folder: Path, capsys: pytest.CaptureFixture) -> None:
    touch("a/2.png", "a/1.TIF", "a/x/3.png", "a/x/y/4.bmp", "a/masks/m.png", "a/scan.czi", "a/x/b.CZI", "a/p.heic")
    touch(*(name.replace("mac/", "a/") for name in MACOS))
    assert found("a") == ["a/1.TIF", "a/2.png"]
    foreign = "files that end in .heic (1): a/p.heic; files that end in .czi (2), such as a/scan.czi"
    assert capsys.readouterr().out == f"not used: {foreign}; images in subfolders (2), such as a/x/3.png\n"
    assert found("a", "a/x/3.png", "a") == ["a/1.TIF", "a/2.png", "a/x/3.png"], "nothing twice"
    assert capsys.readouterr().out == f"not used: {foreign}; images in subfolders (1): a/x/y/4.bmp\n"
    assert found("a", "a/x", "a/x/y") == ["a/1.TIF", "a/2.png", "a/x/3.png", "a/x/y/4.bmp"]
    assert "subfolders" not in capsys.readouterr().out


def test_a_folder_without_own_images_is_searched_and_nothing_is_left_out(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    touch("raw/b/images/b.png", "raw/a/images/a.png", "raw/a/masks/1.png")
    assert found("raw") == ["raw/a/images/a.png", "raw/b/images/b.png"] and capsys.readouterr().out == ""


def test_a_folder_of_foreign_images_only(folder: Path) -> None:
    touch("scans/1.czi", "scans/2.czi", "scans/deep/3.nd2")
    with pytest.raises(InputError) as error:
        find_images(["scans"])
    assert str(error.value).startswith("--input scans: no image there (.png, ")
    assert str(error.value).endswith(
        "); not used: files that end in .czi (2), such as scans/1.czi; files that end in .nd2 (1): scans/deep/3.nd2; "
        "export them as TIFF"
    )


COMMON = """
    .ppm .pgm .pbm .pnm .jfif .jpe .dib .j2k .btf .tga .hdr .stk .zvi .ims .mrc .npy .fits .mha .nrrd .nii .h5 .raw .arw
    .ico .pcx .zarr .avi
"""


@pytest.mark.parametrize("extension", COMMON.split())
def test_no_image_is_left_out_silently(folder: Path, capsys: pytest.CaptureFixture, extension: str) -> None:
    touch("a/1.png", f"a/2{extension.upper()}")
    used = found("a")
    assert ("a/2" + extension.upper() in used) != (f"files that end in {extension} (1)" in capsys.readouterr().out)


def test_an_extension_is_either_read_or_foreign() -> None:
    extensions = [*IMAGE_EXTENSIONS, *FOREIGN_EXTENSIONS]
    assert len(set(extensions)) == len(extensions)
    assert all(extension.startswith(".") and extension == extension.lower() for extension in extensions)


def test_the_line_on_unused_files_has_no_word_that_harnesses_search() -> None:
    odd = [f"{word}_1.tif" for word in HARNESS_WORDS]
    line = describe_unused({"images in subfolders": [*odd, "b.tif"], "masks": odd, "others": odd[:1]})
    assert line == "not used: images in subfolders (5), such as b.tif; masks (4); others (1)"


# --- names of the pictures -------------------------------------------------------------------------------------------


def names_of(*paths: str) -> list[str]:
    sources = list_pages([Path(path) for path in paths])
    assert len({source.name.casefold() for source in sources}) == len(sources)
    return [source.name for source in sources]


def test_pages_and_files_get_different_names(folder: Path) -> None:
    touch("x/a_p0001.png", "x/b_p0002.png", "x/a.png")
    for name in ("x/a.tif", "x/b.tif", "y/a.tif"):
        Path(name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(name, np.zeros((2, 8, 8), np.uint8), photometric="minisblack")
    assert names_of("x/a.tif", "x/a_p0001.png") == ["a_p0001", "a_p0002", "x_a_p0001"]
    assert names_of("x/a_p0001.png", "x/a.tif") == ["a_p0001", "x_a_p0001", "x_a_p0002"]
    assert names_of("x/b_p0002.png", "x/b.tif") == ["b_p0002", "x_b_p0001", "x_b_p0002"], "all pages or none"
    assert names_of("x/a.png", "x/a.tif", "y/a.tif") == ["a", "a_p0001", "a_p0002", "y_a_p0001", "y_a_p0002"]
    assert names_of("x/a.tif", "x/a_p0001.png", "x/a.tif") == [
        "a_p0001",
        "a_p0002",
        "x_a_p0001",
        "a_2_p0001",
        "a_2_p0002",
    ]


def test_names_differ_also_if_the_case_of_letters_does_not_count(folder: Path) -> None:
    assert names_of("x/A.png", "x/a.png", "x/a.jpg") == ["A", "x_a", "a_2"]
    assert names_of("x/caf\u00e9.png", "x/cafe\u0301.png") == ["caf\u00e9", "x_cafe\u0301"]
