# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Which files of a raw set are used, in Kaggle's layout and with one mask file per image, and which are not."""

import re
import unicodedata
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import run
from helpers.sample_raw_data import contents, prepare

from imaging.listing import describe_unused
from imaging.raw.layouts import NOT_READ, sort_files
from imaging.raw.rawset import RawSet
from runtime.errors import InputError

KAGGLE = ["a/images/a.png", "a/masks/0.png", "b/images/b.png", "b/masks/0.png"]


def layout(*paths: str):
    return sort_files({path: path for path in paths}, "set")


def write_pairs(folder: Path, masks: str = "masks/{}.png", count: int = 4) -> Path:
    """Write images in color and one mask file for each, of a disc."""
    for index in range(count):
        disc = cv2.circle(np.zeros((40, 48), np.uint8), (12 + 5 * index, 20), 9, 255, -1)
        for path, pixels in ((f"images/img{index}.png", cv2.merge([disc // 2, disc, disc])), (masks, disc)):
            path = folder / path.format(f"img{index}")
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
    return folder


@pytest.mark.parametrize(
    "masks",
    [
        *("masks/{}.png", "masks/0/{}.png", "masks/{}.tif", "masks/{}.BMP", "masks/{}_mask.png", "masks/{}_masks.tif"),
        *("masks/0/{}_label.png", "masks/{}-mask.png", "masks/{}_Mask.PNG", "masks/{}-labels.TIFF"),
        *("masks/{}_cp_masks.png", "masks/{}.labels.tif", "masks/0/{} (segmented).png"),
    ],
)
def test_one_mask_file_per_image(tmp_path, masks, capsys):
    source = write_pairs(tmp_path / "mine", masks)
    prepare("--input", source, "--output", tmp_path / "out", "--img_size", 32)
    assert "4 images are prepared in" in (out := capsys.readouterr().out) and "not used" not in out
    assert re.search(r"^48×40 +4 +4$", out, re.MULTILINE)
    for index in range(4):
        disc = cv2.circle(np.zeros((40, 48), np.uint8), (12 + 5 * index, 20), 9, 255, -1)
        expected = (cv2.resize((disc > 127).astype(np.float64), (32, 32)) * 255).astype(np.uint8)
        image = cv2.resize(cv2.merge([disc // 2, disc, disc]), (32, 32))
        assert np.array_equal(cv2.imread(str(tmp_path / f"out/masks/0/img{index}.png"), 0), expected)
        assert np.array_equal(cv2.imread(str(tmp_path / f"out/images/img{index}.png")), image)
    prepare("--input", source, "--output", tmp_path / "out", "--img_size", 32)
    assert "is already prepared, with 4 of 4 images" in capsys.readouterr().out


@pytest.mark.parametrize("prefix", ["", "mine/", "x/mine/", "./"])
def test_one_mask_file_per_image_in_a_zip(tmp_path, prefix):
    source = write_pairs(tmp_path / "mine", "masks/0/{}_mask.png")
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for name, data in contents(source).items():
            archive.writestr(prefix + name, data)
    prepare("--input", source, "--output", tmp_path / "expected", "--workers", 1)
    prepare("--input", tmp_path / "mine.zip", "--output", tmp_path / "out", "--workers", 2)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected") and len(contents(tmp_path / "out")) == 8


def test_a_prepared_set_can_be_prepared_in_another_size(tmp_path):
    source = write_pairs(tmp_path / "mine")
    for origin, output, size in ((source, "out64", 64), (tmp_path / "out64", "out32", 32)):
        prepare("--input", origin, "--output", tmp_path / output, "--img_size", size)
    assert cv2.imread(str(tmp_path / "out32/masks/0/img3.png"), 0).shape == (32, 32)
    with pytest.raises(InputError, match=r"out64 lies inside .*out64, which --overwrite would replace"):
        prepare("--input", tmp_path / "out64", "--output", tmp_path / "out64", "--overwrite")


def test_two_mask_files_of_an_image(tmp_path):
    source = write_pairs(tmp_path / "mine")
    for copy in ("img1.tif", "img2_mask.png"):
        (source / "masks" / copy).write_bytes((source / "masks/img1.png").read_bytes())
    result = run("preprocess_dsb2018.py", "--input", source, "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert "not used: ids with several mask files (2), such as img1\n" in result.stdout
    assert "skipped, 2 mask files, but there must be one: 2\n" in result.stdout
    assert "  img1 (masks/img1.png, masks/img1.tif): 2 mask files, but there must be one\n" in result.stdout
    assert "  img2 (masks/img2.png, masks/img2_mask.png): 2 mask files, but there must be one\n" in result.stdout
    assert sorted(path.stem for path in (tmp_path / "out/images").iterdir()) == ["img0", "img3"]
    again = run("preprocess_dsb2018.py", "--input", source, "--output", "out", cwd=tmp_path)
    assert again.returncode == 0 and "is already prepared, with 2 of 4 images" in again.stdout


def test_several_classes_are_refused(tmp_path):
    source = write_pairs(tmp_path / "mine", "masks/0/{}.png")
    write_pairs(tmp_path / "mine", "masks/1/{}.png")
    with pytest.raises(InputError, match=r"mine: holds masks of several classes \(masks/0, masks/1\), but only one"):
        prepare("--input", source, "--output", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_names_are_matched_in_both_forms_of_unicode_and_any_case_of_the_extension():
    composed, decomposed = (unicodedata.normalize(form, "Zellkörper é") for form in ("NFC", "NFD"))
    assert composed != decomposed
    for image, mask in ((composed, decomposed), (decomposed, composed), (decomposed, decomposed)):
        found = layout(f"images/{image}.PNG", f"masks/{mask}_mask.Tif", "images/b.png", "masks/b.png")
        assert found.images[composed] == [f"images/{image}.PNG"] and found.unused == {}
        assert found.masks[composed] == [f"masks/{mask}_mask.Tif"]


def test_a_suffix_that_belongs_to_the_name_of_an_image():
    found = layout("images/a.png", "images/a_mask.png", "masks/a.png", "masks/a_mask.png")
    assert found.masks == {"a": ["masks/a.png"], "a_mask": ["masks/a_mask.png"]}


@pytest.mark.parametrize(
    "images, masks, ids",
    [
        (["a_img", "b_img"], ["a_mask", "b_mask"], "ab"),
        (["a_img", "b_img"], ["a_cp_masks", "b_cp_masks", "c_cp_masks"], "abc"),
        (["a_img", "b_img"], ["a", "b"], "ab"),
        (["a_img"], ["a_mask"], "a"),
        (["a.ome", "b.ome"], ["a_mask", "b_mask"], "ab"),
        (["a_1", "b_1"], ["a_1", "b_1_mask"], ["a_1", "b_1"]),
        (["a", "b", "c"], ["a_x", "b_x", "c_mask"], "abc"),
        (["a", "b", "c"], ["a_x", "b_y", "c_mask"], ["a", "a_x", "b", "b_y", "c"]),
        (["a1", "a2"], ["a10", "a20"], ["a1", "a10", "a2", "a20"]),
        (["a", "ab"], ["a_m", "ab_m"], ["a", "ab"]),
    ],
)
def test_any_common_suffix(images, masks, ids):
    found = layout(*(f"images/{name}.png" for name in images), *(f"masks/{name}.png" for name in masks))
    assert found.is_paired and sorted(found.images.keys() | found.masks.keys()) == list(ids)


@pytest.mark.parametrize(
    "paths, is_paired, ids",
    [
        (["images/a.png", "masks/a.png"], True, "a"),
        (["images/a.png", "masks/0/a.png"], True, "a"),
        (["images/a.png", "masks/1/a.png"], True, "a"),
        (["x/images/a.png", "x/masks/a.png"], False, "x"),
        (["x/images/a.png", "x/masks/0.png", "x/masks/1.png"], False, "x"),
        (["x/images/a.png", "x/masks/0/a.png"], True, "a"),
        (["x/images/a.png", "x/images/b.png", "x/masks/a.png", "x/masks/b.png"], True, "ab"),
        (["x/images/a.png", "x/images/b.png", "x/masks/a.png", "y/images/y.png"], False, "xy"),
        ([*KAGGLE, "images/c.png", "masks/c.png"], False, "ab"),
        ([*KAGGLE, *(f"{part}/{name}.png" for part in ("images", "masks") for name in "cde")], True, "cde"),
        ([*KAGGLE, "c/images/1.png", "c/images/2.png", "c/masks/0.png"], False, "abc"),
        ([*KAGGLE, "c/images/c.png", "c/masks/0/c.png"], False, "abc"),
        (
            [*KAGGLE, "out/images/a.png", "out/images/b.png", "out/masks/0/a.png", "out/masks/0/b.png"],
            False,
            ["a", "b", "out"],
        ),
        (["images/a.png", "images/b.png"], False, ""),
    ],
)
def test_the_layout_is_found(paths, is_paired, ids):
    found = layout(*paths)
    assert found.is_paired == is_paired and sorted(found.images.keys() | found.masks.keys()) == list(ids)
    used = {name for by_id in (found.images, found.masks) for names in by_id.values() for name in names}
    unused = [name for reason, names in found.unused.items() if reason.startswith("images") for name in names]
    assert used.isdisjoint(unused) and used | set(unused) == set(paths)


def test_what_is_not_used_is_named():
    found = layout(
        *KAGGLE,
        *("x.czi", "a/images/y.CZI", "b/z.Nd2", "notes.txt", "a/masks/list.csv", "loose.JPG", "a/other/b.tif"),
        *("c/images/c.png", "d/masks/0.png", "e/images/1.png", "e/images/2.png", "e/masks/0.png"),
        *("images/root.png", ".hidden.png", "a/images/._a.png", "__MACOSX/a/images/b.czi", "a/.thumbs/images/x.png"),
    )
    assert found.unused == {
        "files that end in .czi": ["x.czi", "a/images/y.CZI"],
        "files that end in .nd2": ["b/z.Nd2"],
        "images outside of <id>/images and <id>/masks": ["loose.JPG", "a/other/b.tif", "images/root.png"],
        "ids without an image": ["d"],
        "ids without masks": ["c"],
        "ids with several images": ["e"],
    }
    assert describe_unused(found.unused) == (
        "not used: files that end in .czi (2), such as x.czi; files that end in .nd2 (1): b/z.Nd2; "
        "images outside of <id>/images and <id>/masks (3), such as loose.JPG; ids without an image (1): d; "
        "ids without masks (1): c; ids with several images (1): e"
    )


def test_what_is_not_used_beside_pairs():
    pairs = [f"{part}/{name}.png" for part in ("images", "masks") for name in "ab"]
    found = layout(*pairs, "images/c.png", "masks/d_mask.png", "images/sub/e.png", "test/images/f.png", "masks/a.vsi")
    assert found.unused == {
        "images outside of images and masks": ["images/sub/e.png", "test/images/f.png"],
        "files that end in .vsi": ["masks/a.vsi"],
        "ids without an image": ["d"],
        "ids without masks": ["c"],
    }


def test_the_required_foreign_formats_are_known():
    required = ".czi .nd2 .lif .oib .oif .vsi .svs .ndpi .heic .heif .avif .dcm .dng .cr2 .nef .psd .exr .jxl"
    assert set(required.split()) <= set(NOT_READ)


def test_the_command_prints_one_line_about_what_is_not_used(tmp_path):
    source = tmp_path / "raw"
    pixels = np.full((8, 8), 200, np.uint8)
    for path in [*KAGGLE, "c/images/c.png", "loose.png", "a/\x1b[2J\n.png"]:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    (source / "x.czi").touch()
    (source / ".y.czi").touch()
    for _ in range(2):  # also if the set is prepared already
        result = run("preprocess_dsb2018.py", "--input", "raw", "--output", "out", "--dense_masks", cwd=tmp_path)
        assert result.returncode == 0, result.stdout
        (line,) = re.findall("^not used: .*", result.stdout, re.MULTILINE)
        assert line == (
            "not used: images outside of <id>/images and <id>/masks (2), such as loose.png; files that end in .czi "
            "(1): x.czi; ids without masks (1): c"
        )
        assert "\x1b" not in result.stdout


def test_a_folder_of_foreign_files_is_refused_with_their_number(tmp_path):
    for name in ("a.czi", "b.czi"):
        (tmp_path / name).touch()
    with pytest.raises(
        InputError, match=r"in there, nor images/<id>\.png .* \(not used: files that end in \.czi \(2\), such"
    ):
        RawSet(tmp_path)
