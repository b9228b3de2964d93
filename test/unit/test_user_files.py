# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Files and folders that people have, through the commands: the right pixels, scores and counts, or a sentence."""

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers.bright_net import score, segment

import options
import preprocess_dsb2018
import train
from runtime.errors import InputError

SHAPE = (96, 128)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture of 12-bit counts, nuclei bright on dark, uint16, and its numbered nuclei, uint8."""
    draws = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    for number in range(1, 13):
        y, x = 16 + 32 * ((number - 1) // 4), 16 + 32 * ((number - 1) % 4)
        cv2.circle(labels, (x + int(draws.integers(-4, 5)), y + int(draws.integers(-4, 5))), 8, number, -1)
    counts = 200 + 2800 * cv2.GaussianBlur((labels > 0).astype(np.float64), (0, 0), 0.8)
    return (counts + draws.normal(0, 5, SHAPE)).round().astype(np.uint16), labels


def eight_bits(counts: np.ndarray) -> np.ndarray:
    low, high = float(counts.min()), float(counts.max())
    return ((counts - low) * (255 / (high - low))).round().astype(np.uint8)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


# --- demo.py ----------------------------------------------------------------------------------------------------------


def write_pictures(folder: Path) -> None:
    counts, _ = scene(3)
    gray, color = counts.astype(np.int64), np.dstack([counts] * 3)
    planes = {"photometric": "rgb", "planarconfig": "separate"}
    hot, stack = counts.copy(), np.stack([np.full_like(counts, 200), counts])
    hot[3, 3] = 65535
    folder.mkdir()
    write(folder / "twin.png", eight_bits(counts))
    for name, pixels, options_ in (
        ("plain", counts, {}),
        ("planes of 16 bits", color.transpose(2, 0, 1), planes),
        ("tiled planes", color.transpose(2, 0, 1), planes | {"tile": (64, 64), "compression": "zlib"}),
        ("planes of floats", color.transpose(2, 0, 1).astype(np.float32), planes),
        ("white is zero, 8 bits", 255 - eight_bits(counts), {"photometric": "miniswhite"}),
        ("white is zero, 16 bits", 65535 - counts, {"photometric": "miniswhite"}),
        ("white is zero, floats", (65535 - gray).astype(np.float32), {"photometric": "miniswhite"}),
        ("signed", (gray - 20000).astype(np.int16), {"photometric": "minisblack"}),
        ("64 bits", gray.astype(np.float64) * 1e9, {"photometric": "minisblack"}),
        ("hot", hot, {"photometric": "minisblack"}),
        ("stack", stack, {"photometric": "minisblack", "metadata": {"axes": "ZYX"}}),
    ):
        tifffile.imwrite(folder / f"{name}.tif", pixels, **options_)


def test_each_layout_of_a_picture_gives_the_same_mask(bright, capsys):
    write_pictures(bright / "mine")
    segment("--input", "mine", "--output", "out", "--input_h", "96", "--input_w", "128")
    found = {path.name[: -len("_mask.png")]: cv2.imread(str(path), 0) > 0 for path in Path("out/0").glob("*_mask.png")}
    truth = scene(3)[1] > 0
    assert likeness(found["twin"], truth) > 0.85
    empty = found.pop("stack_p0001")
    assert not empty.any() and "stack_p0002" in found and len(found) == 12
    assert {name: likeness(mask, found["twin"]) for name, mask in found.items() if name != "twin"} == pytest.approx(
        dict.fromkeys(found.keys() - {"twin"}, 1), abs=0.03
    )
    out = capsys.readouterr().out
    assert "images: 13, of 128×96 (13); resized to 128×96: 0" in out
    assert "white is zero, inverted (3)" in out and "int16 stretched to 8 bits (1)" in out


def test_a_channel_is_chosen_by_its_number(bright, capsys):
    counts, _ = scene(3)
    dark = np.full_like(counts, 200)
    (bright / "mine").mkdir()
    tifffile.imwrite(
        "mine/cell.ome.tif", np.stack([dark, counts]), metadata={"axes": "CYX", "Channel": {"Name": ["GFP", "DAPI"]}}
    )
    write(Path("gray/cell.png"), eight_bits(counts))
    channels = "[Error] mine/cell.ome.tif: has 2 channels (1: GFP, 2: DAPI)"
    for flags, sentence in (
        (["--input", "mine"], f"{channels}, none is chosen; pass --channel 1 or 2\n"),
        (["--input", "mine", "--channel", "3"], f"{channels}, not 3; pass --channel 1 or 2\n"),
        (
            ["--input", "gray", "--channel", "2"],
            "[Error] gray/cell.png: has one channel, not 2; leave out --channel, or pass --channel 0\n",
        ),
    ):
        with pytest.raises(InputError, match=r"^no image could be read; the reasons are above$"):
            segment(*flags, "--output", "out")
        assert sentence in capsys.readouterr().err
    segment("--input", "gray", "--output", "out", "--channel", "0")
    segment("--input", "mine", "--output", "out", "--channel", "2")
    assert pd.read_csv("out/nuclei.csv").nuclei.tolist() == [12]


def test_a_turned_photograph_is_segmented_upright(bright):
    from PIL import Image

    counts, _ = scene(3)
    upright = eight_bits(counts)
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise
    (bright / "mine").mkdir()
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save("mine/turned.jpg", exif=exif, quality=97)
    write(Path("mine/upright.png"), upright)
    segment("--input", "mine", "--output", "out")
    turned, expected = (cv2.imread(f"out/0/{name}_mask.png", 0) > 0 for name in ("turned", "upright"))
    assert turned.shape == expected.shape == SHAPE and likeness(turned, expected) > 0.9


# --- preprocess_dsb2018.py --------------------------------------------------------------------------------------------


def as_red(labels: np.ndarray) -> np.ndarray:
    return np.dstack([np.zeros_like(labels)] * 2 + [(labels > 0).astype(np.uint8) * 255])


RAW_MASKS = {
    "sound": lambda labels, seed: (labels > 0).astype(np.uint8) * 255,
    "numbered": lambda labels, seed: labels,
    "numbered from 100": lambda labels, seed: np.where(labels > 0, labels + 99, 0).astype(np.uint8),
    "numbered in 16 bits": lambda labels, seed: np.where(labels > 0, labels + np.uint16(900), np.uint16(0)),
    "zero and one": lambda labels, seed: (labels > 0).astype(np.uint8),
    "red": lambda labels, seed: as_red(labels),
    "mixed": lambda labels, seed: (labels > 0).astype(np.uint8) * (255 if seed % 2 else 1),
}


@pytest.mark.parametrize("kind", RAW_MASKS)
@pytest.mark.parametrize("paired", [False, True], ids=["raw", "pairs"])
def test_the_marked_share_is_that_of_the_nuclei(tmp_path, capsys, kind, paired):
    shares = {}
    for seed in range(4):
        counts, labels = scene(seed)
        image, mask = ("images/{}.png", "masks/{}_mask.png") if paired else ("{0}/images/{0}.png", "{0}/masks/x.png")
        write(tmp_path / "raw" / image.format(f"cell{seed}"), eight_bits(counts))
        write(tmp_path / "raw" / mask.format(f"cell{seed}"), RAW_MASKS[kind](labels, seed))
        shares[f"cell{seed}"] = (labels > 0).mean()
    prepare(tmp_path / "raw", tmp_path / "out")
    found = {path.stem: (cv2.imread(str(path), 0) > 127).mean() for path in (tmp_path / "out/masks/0").iterdir()}
    assert found == pytest.approx(shares, abs=0.01)
    if kind.startswith("numbered"):
        assert re.search(r"^128×96 +4 +48$", capsys.readouterr().out, re.MULTILINE), "12 nuclei in each of 4 images"


def test_a_page_for_each_nucleus(tmp_path):
    counts, labels = scene(0)
    write(tmp_path / "raw/a/images/a.png", eight_bits(counts))
    (tmp_path / "raw/a/masks").mkdir()
    pages = np.stack([(labels == number).astype(np.uint8) * 255 for number in range(1, 13)])
    tifffile.imwrite(tmp_path / "raw/a/masks/nuclei.tif", pages, photometric="minisblack")
    prepare(tmp_path / "raw", tmp_path / "out")
    assert (cv2.imread(str(tmp_path / "out/masks/0/a.png"), 0) > 127).mean() == pytest.approx(
        (labels > 0).mean(), abs=0.01
    )


def test_masks_that_add_nothing_are_named(tmp_path, capsys):
    counts, labels = scene(0)
    write(tmp_path / "raw/a/images/a.png", eight_bits(counts))
    for name, mask in (("1", labels == 1), ("1 copy", labels == 1), ("2", labels == 2), ("empty", labels > 99)):
        write(tmp_path / f"raw/a/masks/{name}.png", mask.astype(np.uint8) * 255)
    prepare(tmp_path / "raw", tmp_path / "out")
    out = capsys.readouterr().out
    assert "a/masks/1.png marks the same pixels as a/masks/1 copy.png" in out or (
        "a/masks/1 copy.png marks the same pixels as a/masks/1.png" in out
    )
    assert "warning: a/masks/empty.png marks nothing" in out


@pytest.mark.parametrize("share", ["inverted", "white"])
def test_inverted_masks_are_not_prepared(tmp_path, share):
    for seed in range(3):
        counts, labels = scene(seed)
        write(tmp_path / f"raw/c{seed}/images/a.png", eight_bits(counts))
        mask = np.where((labels > 0) & (share == "inverted"), 0, 255).astype(np.uint8)
        write(tmp_path / f"raw/c{seed}/masks/a.png", mask)
    with pytest.raises(
        InputError, match=r"raw: the masks look inverted, \d+% of the typical one is marked.*--dense_masks"
    ):
        prepare(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepare(tmp_path / "raw", tmp_path / "out", "--dense_masks")
    assert len(list((tmp_path / "out/masks/0").iterdir())) == 3


def write_raw_set(folder: Path, count: int, mask_of=lambda labels: (labels > 0).astype(np.uint8) * 255) -> None:
    for seed in range(count):
        counts, labels = scene(seed)
        write(folder / f"c{seed}/images/a.png", eight_bits(counts))
        write(folder / f"c{seed}/masks/m.png", mask_of(labels))


def test_a_single_white_mask_is_skipped(tmp_path, capsys):
    write_raw_set(tmp_path / "raw", 5)
    write(tmp_path / "raw/c3/masks/m.png", np.full(SHAPE, 255, np.uint8))
    for _ in range(2):
        prepare(tmp_path / "raw", tmp_path / "out")
    out = capsys.readouterr().out
    assert "  c3/masks/m.png: marked nearly everywhere (100%); correct it, or pass --dense_masks if it is right" in out
    assert "4 images are prepared in" in out and "1 was skipped" in out and "is already prepared, with 4 of 5" in out
    with pytest.raises(InputError, match=r"out lacks 1 image, such as c3; --overwrite"):
        prepare(tmp_path / "raw", tmp_path / "out", "--dense_masks")
    prepare(tmp_path / "raw", tmp_path / "out", "--dense_masks", "--overwrite")
    assert "5 images are prepared in" in capsys.readouterr().out


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("color", [False, True])
def test_swapped_images_and_masks(tmp_path, paired, color):
    for seed in range(5):
        counts, labels = scene(seed)
        noise = np.random.default_rng(seed).integers(0, 40, (*SHAPE, 3))
        image = (eight_bits(counts)[..., None] * 0.8 + noise).astype(np.uint8) if color else eight_bits(counts)
        name = "images/c{}.png,masks/c{}.png" if paired else "c{}/images/a.png,c{}/masks/m.png"
        for path, pixels in zip(name.split(","), ((labels > 0).astype(np.uint8) * 255, image)):
            write(tmp_path / "raw" / path.format(seed), pixels)
    with pytest.raises(InputError, match=r"raw: images and masks look swapped; exchange the files of images/ and mas"):
        prepare(tmp_path / "raw", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_black_masks_are_not_prepared(tmp_path):
    write_raw_set(tmp_path / "raw", 3, np.zeros_like)
    with pytest.raises(InputError, match="raw: all masks are black; masks hold"):
        prepare(tmp_path / "raw", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    counts, labels = scene(9)
    write(tmp_path / "raw/c9/images/a.png", eight_bits(counts))
    write(tmp_path / "raw/c9/masks/m.png", (labels > 0).astype(np.uint8) * 255)
    prepare(tmp_path / "raw", tmp_path / "out")


def test_a_set_of_which_most_images_cannot_be_prepared(tmp_path, capsys):
    write_raw_set(tmp_path / "raw", 6)
    for seed in range(4):
        write(tmp_path / f"raw/c{seed}/masks/m.png", np.zeros((10 + seed, 20), np.uint8))
    with pytest.raises(InputError) as error:
        prepare(tmp_path / "raw", tmp_path / "out")
    assert re.search(
        r"raw: 4 of 6 images cannot be .*same reason.* c0/masks/m\.png: the mask is 20×10", str(error.value)
    )
    assert not list(tmp_path.glob("out*"))
    write(tmp_path / "raw/c0/masks/m.png", np.zeros(SHAPE, np.uint8))
    prepare(tmp_path / "raw", tmp_path / "out")
    assert "3 images are prepared in" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["sound", "numbered", "zero and one"])
def test_what_the_masks_hold_is_printed(tmp_path, capsys, kind):
    write_raw_set(tmp_path / "raw", 3, lambda labels: RAW_MASKS[kind](labels, 0))
    prepare(tmp_path / "raw", tmp_path / "out")
    assert (
        re.findall("^masks: .*$", capsys.readouterr().out, re.MULTILINE)
        == {
            "sound": [],
            "numbered": ["masks: numbered nuclei (3 images)"],
            "zero and one": ["masks: 0 and 1, each 1 is read as 255 (3 images)"],
        }[kind]
    )


def test_a_folder_prepared_from_something_else_is_not_taken_for_this_one(tmp_path, capsys):
    counts, labels = scene(0)
    for source in ("raw", "other"):
        path = tmp_path / source / "a/images/a.tif"
        path.parent.mkdir(parents=True)
        tifffile.imwrite(path, np.stack([counts, counts[::-1]]), metadata={"axes": "CYX"}, photometric="minisblack")
        write(tmp_path / source / "a/masks/m.png", (labels > 0).astype(np.uint8) * 255)
    out = tmp_path / "out"
    prepare(tmp_path / "raw", out, "--channel", "2")
    prepare(tmp_path / "raw", out, "--channel", "2")
    assert "is already prepared" in capsys.readouterr().out
    with pytest.raises(
        InputError, match=r"in another way \(--channel: 2, now 1\); choose another --output, or .*--over"
    ):
        prepare(tmp_path / "raw", out, "--channel", "1")
    with pytest.raises(InputError, match=r"in another way \(source: /.*/raw, now /.*/other\)"):
        prepare(tmp_path / "other", out, "--channel", "2")
    (out / ".preparation.json").unlink()  # as older editions leave it
    prepare(tmp_path / "raw", out, "--channel", "1")
    assert "is already prepared" in capsys.readouterr().out
    for damaged in ("{", "[]", '{"size": 96}'):
        (out / ".preparation.json").write_text(damaged)
        prepare(tmp_path / "raw", out, "--channel", "1")
    prepare(tmp_path / "raw", out, "--channel", "1", "--overwrite")


def test_raw_masks_that_follow_orientation_tags_only_in_part_are_refused(tmp_path):
    from PIL import Image

    for seed, orientation in ((0, 6), (1, 3), (2, 1)):
        counts, labels = scene(seed)
        exif = Image.Exif()
        exif[274] = orientation
        (tmp_path / f"raw/c{seed}/images").mkdir(parents=True)
        Image.fromarray(eight_bits(counts)).save(tmp_path / f"raw/c{seed}/images/a.png", exif=exif)
        write(tmp_path / f"raw/c{seed}/masks/a.png", (labels > 0).astype(np.uint8) * 255)
    with pytest.raises(InputError, match=r"raw: 1 masks? .* without regard to the orientation tags"):
        prepare(tmp_path / "raw", tmp_path / "out")


def prepare(source: Path, output: Path, *flags: str) -> None:
    arguments = ["--input", str(source), "--output", str(output), "--workers", "1", *flags]
    preprocess_dsb2018.main(options.parse_preprocess(arguments))


# --- training and scoring ---------------------------------------------------------------------------------------------


def write_own(folder: Path, mask_of, image_ext: str = ".png", mask_ext: str = ".png", count: int = 6) -> None:
    for seed in range(count):
        counts, labels = scene(seed)
        write(folder / "images" / f"p{seed}{image_ext}", eight_bits(counts))
        write(folder / "masks" / "0" / f"p{seed}{mask_ext}", mask_of((labels > 0).astype(np.uint8)))


OWN_MASKS = {
    "0 and 1": lambda marked: marked,
    "alpha of white": lambda marked: np.dstack([np.full_like(marked, 255)] * 3 + [marked * 255]),
    "alpha of black": lambda marked: np.dstack([np.zeros_like(marked)] * 3 + [marked * 255]),
    "16 bits": lambda marked: marked.astype(np.uint16) * 65535,
    "red": as_red,
}


@pytest.mark.parametrize("kind", OWN_MASKS)
def test_each_kind_of_mask_gives_the_same_scores(bright, capsys, kind):
    write_own(bright / "sound", lambda marked: marked * 255)
    write_own(bright / "odd", OWN_MASKS[kind])
    expected, found = (score("--data_path", name, "--all") for name in ("sound", "odd"))
    pd.testing.assert_frame_equal(found.drop(columns="path"), expected.drop(columns="path"))
    assert found.iou.min() > 0.5
    assert ("all masks hold 0 and 1; each 1 is read as 255" in capsys.readouterr().out) == (kind == "0 and 1")


@pytest.mark.parametrize(
    "kind, sentence",
    [
        ("numbered", r"holds 2 numbered nuclei or classes.*python preprocess_dsb2018\.py --input DIR"),
        ("inverted", r"the masks look inverted, .* --dense_masks"),
        ("white", r"the masks look inverted, 100% of the typical one"),
        ("several colors", r"a mask of several colors"),
        ("mixed", r"p2\.png: only 0 of \d+ marked pixels are above 127"),
    ],
)
def test_masks_that_say_something_else_are_refused(bright, kind, sentence):
    def mask_of(marked: np.ndarray) -> np.ndarray:
        left = marked.copy()
        left[:, :64] = 0
        return {
            "numbered": marked * 3 + left,
            "inverted": (1 - marked) * 255,
            "white": np.full_like(marked, 255),
            "several colors": np.dstack([marked * 255, left * 255, left * 0]),
            "mixed": marked * 255,
        }[kind]

    write_own(bright / "odd", mask_of)
    if kind == "mixed":
        write(bright / "odd/masks/0/p2.png", (scene(2)[1] > 0).astype(np.uint8))
    with pytest.raises(InputError, match=sentence):
        score("--data_path", "odd", "--all")
    with pytest.raises(InputError, match=sentence):
        train.main(options.parse_train(["odd", "--device", "cpu", "--num_workers", "0", "--name", "x"]))
    assert not Path("models/x").exists()


@pytest.mark.parametrize("quality", [75, 95])
def test_jpeg_masks_give_nearly_the_same_scores(bright, quality):
    write_own(bright / "sound", lambda marked: marked * 255)
    write_own(bright / "odd", lambda marked: marked * 255)
    for path in (bright / "odd/masks/0").iterdir():
        assert cv2.imwrite(str(path.with_suffix(".jpg")), cv2.imread(str(path), 0), [cv2.IMWRITE_JPEG_QUALITY, quality])
        path.unlink()
    expected, found = score("--data_path", "sound", "--all"), score("--data_path", "odd", "--all", "--mask_ext", ".jpg")
    assert found.iou.tolist() == pytest.approx(expected.iou.tolist(), abs=0.02)


def test_masks_that_follow_orientation_tags_only_in_part_are_refused(bright):
    """One mask fits its image as stored, so that nothing tells about the image that is turned by 180°."""
    from PIL import Image

    write_own(bright / "own", lambda marked: marked * 255)
    for seed, orientation in ((0, 6), (1, 3)):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(eight_bits(scene(seed)[0])).save(f"own/images/p{seed}.png", exif=exif)
    with pytest.raises(InputError, match=r"own: 1 masks? .* without regard to the orientation tags"):
        score("--data_path", "own", "--all")


def test_pages_are_refused_by_training(bright):
    write_own(bright / "own", lambda marked: marked * 255, image_ext=".tif", mask_ext=".tif")
    labels = scene(0)[1]
    tifffile.imwrite(
        "own/masks/0/p0.tif", np.stack([labels == 1, labels > 1]).astype(np.uint8) * 255, photometric="minisblack"
    )
    with pytest.raises(InputError, match=r"own/masks/0/p0\.tif: holds 2 pages, but a mask has one"):
        score("--data_path", "own", "--all", "--img_ext", ".tif", "--mask_ext", ".tif")


def test_files_that_are_not_used_are_counted(bright, capsys):
    write_own(bright / "own", lambda marked: marked * 255)
    (bright / "own/images/p5.png").rename(bright / "own/images/p5.PNG")
    for name in ("images/._p0.png", "images/scan.czi", "images/deep/x.png", "masks/0/old.png"):
        (bright / "own" / name).parent.mkdir(exist_ok=True)
        (bright / "own" / name).touch()
    score("--data_path", "own", "--all")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "not used" in line]
    assert line == (
        "warning: not used: images in subfolders of images/ (1): deep/x.png; files in images/ that end in .PNG (1): "
        "p5.PNG; files in images/ that end in .czi (1): scan.czi; masks in masks/0/ without an image (2), such as "
        "old.png"
    )


def test_masks_with_a_common_suffix_are_explained(bright):
    write_own(bright / "own", lambda marked: marked * 255)
    expected = score("--data_path", "own", "--all")
    for path in (bright / "own/masks/0").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    with pytest.raises(InputError, match=r"p0_mask\.png: 6 masks are named like this; pass --mask_ext _mask\.png"):
        score("--data_path", "own", "--all")
    pd.testing.assert_frame_equal(score("--data_path", "own", "--all", "--mask_ext", "_mask.png"), expected)


def test_other_spellings_of_a_name_are_explained(bright):
    write_own(bright / "own", lambda marked: marked * 255)
    os.rename("own/images/p0.png", "own/images/caf\u00e9.png")
    os.rename("own/masks/0/p0.png", "own/masks/0/cafe\u0301.png")
    os.rename("own/masks/0/p1.png", "own/masks/0/p1.PNG")
    with pytest.raises(InputError) as error:
        score("--data_path", "own", "--all")
    assert "cafe\u0301.png has the same name, but in decomposed (NFD) letters; write all names" in str(error.value)
    assert "`convmv -f utf8 -t utf8 --nfc --notest -r DIR`" in str(error.value)
    assert "p1.PNG has another extension" in str(error.value) and "only the letter case differs" in str(error.value)
    os.rename("own/images/caf\u00e9.png", "own/images/cafe\u0301.png")
    os.rename("own/masks/0/cafe\u0301.png", "own/masks/0/caf\u00e9.png")
    with pytest.raises(InputError, match="but in composed \\(NFC\\) letters"):
        score("--data_path", "own", "--all")
