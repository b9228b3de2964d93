# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The check of a prepared data set: what is refused, and whether the message names the file, the cause and a remedy."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.sample_data import disc, noise, numbered_ids, write_set

from imaging.checks import check_dataset
from imaging.prepared import PreparedFolder
from runtime.errors import InputError


def refusal(root: Path, classes: int = 1) -> str:
    """Return the text of the error that the check raises."""
    with pytest.raises(InputError) as error:
        check_dataset(PreparedFolder(root, num_classes=classes))
    return str(error.value)


def test_a_valid_set_passes(tmp_path: Path) -> None:
    """Soft edges, an image without nuclei, and a mask with a single faint speck are allowed."""
    root = write_set(tmp_path, ["b", "a", "c", "d"])
    cv2.imwrite(str(root / "masks" / "0" / "a.png"), np.zeros((24, 24), np.uint8))
    speck = np.zeros((24, 24), np.uint8)
    speck[3, 3:6] = 9
    cv2.imwrite(str(root / "masks" / "0" / "c.png"), speck)
    (root / "images" / "notes.txt").write_text("not an image")
    assert check_dataset(PreparedFolder(root)).ids == ["a", "b", "c", "d"]


@pytest.mark.parametrize("kind", ["black ground", "white ground"])
def test_dim_images_do_not_look_like_masks(tmp_path: Path, kind: str) -> None:
    """In fluorescence images most pixels are exactly 0, in brightfield images 255."""
    image = (noise() // 4 if kind == "black ground" else 255 - noise() // 4) * (disc()[..., None] > 0)
    if kind == "white ground":
        image[disc() == 0] = 255
    assert np.isin(image, (0, 255)).mean() > 0.6
    root = write_set(tmp_path, numbered_ids(6), image=image.astype(np.uint8))
    assert check_dataset(PreparedFolder(root)).ids == numbered_ids(6)


def test_no_data_folder(tmp_path: Path) -> None:
    text = refusal(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in text and "preprocess_dsb2018.py" in text and "images/" in text


@pytest.mark.parametrize("misnamed", [None, "imgs", "image", "img"])
def test_no_images_folder(tmp_path: Path, misnamed: str | None) -> None:
    (tmp_path / (misnamed or "masks")).mkdir()
    text = refusal(tmp_path)
    assert str(tmp_path / "images") in text and "no such folder" in text
    assert (f"rename {tmp_path / misnamed}" if misnamed else "put the images there") in text


@pytest.mark.parametrize("others, remedy", [((".jpg", ".tif"), ".jpg, .tif: pass --img_ext"), ((), "put some there")])
def test_no_images_of_that_extension(tmp_path: Path, others: tuple[str, ...], remedy: str) -> None:
    write_set(tmp_path, [])
    for ext in others:
        cv2.imwrite(str(tmp_path / "images" / f"a{ext}"), noise())
    text = refusal(tmp_path)
    assert f"{tmp_path / 'images'}: no .png images" in text and remedy in text


@pytest.mark.parametrize("loose", [False, True])
def test_no_class_folder(tmp_path: Path, loose: bool) -> None:
    root = write_set(tmp_path, ["a", "b"])
    if loose:  # the layout of other repositories
        cv2.imwrite(str(root / "masks" / "a.png"), disc())
    text = refusal(root, classes=3)
    assert f"{root / 'masks' / '1'}: no such folder" in text and f"{root / 'masks' / '2'}: no such folder" in text
    assert f"{root / 'masks' / '0'}:" not in text and "(2 problems)" in text
    assert (f"move the masks in {root / 'masks'} into it" if loose else "each class needs its folder") in text


def test_no_masks_at_all(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), noise())
    assert str(tmp_path / "masks" / "0") in refusal(tmp_path)


# by name: what is done to the image and mask of sample "c", and the path, cause and remedy in the message
SPOILED = {
    "image cut short": (lambda i, m: i.write_bytes(i.read_bytes()[:1500]), "images/c.png", "not a readable", "replace"),
    "image empty": (lambda i, m: i.write_bytes(b""), "images/c.png", "an empty file, of 0 bytes", "replace"),
    "image is text": (lambda i, m: i.write_text("hello"), "images/c.png", "not a readable", "remove it"),
    "mask missing": (lambda i, m: m.unlink(), "masks/0/c.png", "no mask for", "add it"),
    "mask is text": (lambda i, m: m.write_text("hello"), "masks/0/c.png", "not a readable", "replace"),
    "mask of another size": (
        lambda i, m: cv2.imwrite(str(m), disc(24, 30)),
        "masks/0/c.png",
        "the mask is 30×24, but its image is 24×24",
        "resize",
    ),
    "mask of 0 and 1": (
        lambda i, m: cv2.imwrite(str(m), disc() // 255),
        "masks/0/c.png",
        "above 127",
        "multiply 0/1 masks by 255",
    ),
    "mask of labels": (
        lambda i, m: cv2.imwrite(str(m), disc() // 50),
        "masks/0/c.png",
        "above 127",
        "each class a folder",
    ),
    "mask of numbered nuclei": (
        lambda i, m: cv2.imwrite(
            str(m), np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8) // 32 * 9, np.ones((3, 3), np.uint8))
        ),
        "masks/0/c.png",
        "only 0 of 288 marked pixels are above 127",
        "make every numbered nucleus 255",
    ),
    "mask of numbered nuclei in 16 bits": (
        lambda i, m: cv2.imwrite(
            str(m), np.kron(np.arange(900, 916, dtype=np.uint16).reshape(4, 4), np.ones((6, 6), np.uint16))
        ),
        "masks/0/c.png",
        "16 numbered nuclei",
        "python preprocess_dsb2018.py --input",
    ),
}


def test_a_class_of_nearly_black_masks_is_refused(tmp_path: Path) -> None:
    """Either masks of soft edges alone, or masks without any marked pixel, which would score an IoU of 1."""
    for value in (100, 0):
        root = write_set(tmp_path / str(value), numbered_ids(6))
        for img_id in numbered_ids(6):
            mask = np.zeros((24, 24), np.uint8)
            mask[3:6, 3:6] = value
            mask[4, 4] = value // 2
            cv2.imwrite(str(root / "masks" / "0" / f"{img_id}.png"), mask)
        assert f"{root / 'masks' / '0'}: no mask has a pixel above 127" in refusal(root)


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_file_is_named(tmp_path: Path, case: str) -> None:
    root = write_set(tmp_path, ["a", "b", "c", "d"])
    spoil, path, cause, remedy = SPOILED[case]
    spoil(root / "images" / "c.png", root / "masks" / "0" / "c.png")
    text = refusal(root)
    (line,) = [line for line in text.splitlines() if line.startswith("  ")]
    assert line.strip().startswith(str(root / path)) and cause in line and remedy in line
    assert str(root) in text.splitlines()[0] and "(1 problem" in text


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    """Including those of the masks of another class."""
    ids = [f"{n:02d}" for n in range(len(SPOILED))]
    root = write_set(tmp_path, [*ids, "fine"], classes=2)
    for img_id, (spoil, _, _, _) in zip(ids, SPOILED.values()):
        spoil(root / "images" / f"{img_id}.png", root / "masks" / "0" / f"{img_id}.png")
    (root / "masks" / "1" / "fine.png").unlink()
    text = refusal(root, classes=2)
    assert f"({len(SPOILED) + 1} problems)" in text
    for img_id, (_, path, cause, remedy) in zip(ids, SPOILED.values()):
        path = str(root / path).replace("c.png", f"{img_id}.png")
        assert any(path in line and cause in line and remedy in line for line in text.splitlines()), path
    assert str(root / "masks" / "1" / "fine.png") in text


def test_a_missing_class_folder_does_not_hide_a_broken_image(tmp_path: Path) -> None:
    root = write_set(tmp_path, ["a", "b", "c"])
    (root / "images" / "b.png").write_text("hello")
    text = refusal(root, classes=2)
    assert str(root / "masks" / "1") in text and str(root / "images" / "b.png") in text


def test_a_long_list_is_counted(tmp_path: Path) -> None:
    root = write_set(tmp_path, numbered_ids(25))
    for img_id in numbered_ids(25):
        (root / "masks" / "0" / f"{img_id}.png").unlink()
    text = refusal(root)
    assert "(25 problems)" in text and "and 5 more problems" in text
    assert [line.split("/")[-1] for line in re.findall(r"masks/0/\d{4}", text)] == numbered_ids(20)


def test_swapped_images_and_masks(tmp_path: Path) -> None:
    root = write_set(tmp_path, numbered_ids(4))
    (root / "images").rename(root / "kept")
    (root / "masks" / "0").rename(root / "images")
    (root / "kept").rename(root / "masks" / "0")
    text = refusal(root)
    assert "swapped" in text and str(root / "images") in text and str(root / "masks") in text and "exchange" in text


def test_skip_bad_keeps_the_ids_and_hands_on_the_usable_samples(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root, kept = write_set(tmp_path, ["a", "b", "c"]), {}
    (root / "images" / "b.png").write_text("hello")
    survey = check_dataset(PreparedFolder(root), skip_bad=True, keep=lambda *one: kept.update({one[0]: one[1:]}))
    ids = survey.ids
    assert ids == ["a", "b", "c"] and sorted(kept) == ["a", "c"]
    np.testing.assert_array_equal(kept["c"][0], noise(seed=2))
    np.testing.assert_array_equal(kept["c"][1], disc()[..., None])
    out = capsys.readouterr().out
    assert "cannot be used as it is (1 problem)" in out and "skipped because of --skip_bad" in out
    for name in "ac":
        (root / "images" / f"{name}.png").write_text("hello")
    with pytest.raises(InputError, match="3 problems"):
        check_dataset(PreparedFolder(root), skip_bad=True)
