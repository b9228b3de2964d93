# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A split that the user chose: its files, and what a checkpoint records of it."""

import re

import pytest

from imaging.split import Split, checksum, fixed_split, has_fixed_split, record_split
from runtime.errors import InputError

IDS = ["a", "b", "c", "d.png", "e.f"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def halves(ids: list[str], inner: bool) -> tuple[list[str], list[str]]:
    """A split that is easy to see: the first two train, or one of them; raises InputError if there are too few."""
    if len(ids) < 3:
        raise InputError("too few")
    return (ids[:1], ids[1:2]) if inner else (ids[:2], ids[2:])


def split_of(train: str | bytes, val: str | bytes) -> Split | None:
    for name, text in (("train.txt", train), ("val.txt", val)):
        with open(name, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
    flags = {"train_ids": "train.txt", "val_ids": "val.txt", "img_ext": ".tif"}
    return fixed_split(flags, None, IDS, "data/images", halves)


def test_files_keep_their_order():
    assert split_of("c\na\n", "e.f\nb") == (["c", "a"], ["e.f", "b"])


def test_blank_lines_extensions_and_files_of_windows_are_accepted():
    found = split_of("\ufeff a.png \r\n\r\nb.tif\r\n", "\n\nd.png.png\n \ne.f\n")
    assert found == (["a", "b"], ["d.png", "e.f"])
    assert split_of("a", "d.png").val == ["d.png"], "the name itself comes before the name without an extension"


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        ("a\nzebra.png", "b", "train.txt: data/images has no image zebra.png; "),
        ("a", "b\nx\x1b[1my", r"val.txt: data/images has no image x\x1b[1my; "),
        ("a\nb", "c\nb.png", "val.txt: b is also in train.txt; "),
        ("a\na.png", "b", "train.txt: names a twice; "),
        ("a", "\n \n", "val.txt: names no image; "),
        (b"\xff\xfe", "b", "train.txt: not a text file in UTF-8; "),
    ],
)
def test_wrong_files_are_one_sentence(train, val, words):
    with pytest.raises(InputError, match=f"^{re.escape(words)}[^\n]*$"):
        split_of(train, val)


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"^none\.txt: No such file"):
        fixed_split({"train_ids": None, "val_ids": "none.txt", "img_ext": ".png"}, None, IDS, "data", halves)


def test_the_recorded_split_is_used_without_files():
    recorded = {"images": 7, "split": record_split(["b"], ["a", "c"])}
    assert fixed_split({}, recorded, IDS, "data", halves) == (["b"], ["a", "c"])
    assert has_fixed_split({}, recorded) and has_fixed_split({"val_ids": "x"}, None)
    for nothing in (None, {}, {"images": 7}, "x"):
        assert fixed_split({"train_ids": None, "val_ids": None}, nothing, IDS, "data", halves) is None
        assert not has_fixed_split({}, nothing)


@pytest.mark.parametrize(
    "split", [None, [], {}, {"train": ["a"]}, {"train": ["a"], "val": "b"}, {"train": [1], "val": []}]
)
def test_a_damaged_record_is_one_sentence(split):
    with pytest.raises(InputError, match=r"^the split that the checkpoint records is not two lists of ids"):
        fixed_split({}, {"split": split}, IDS, "data", halves)


def test_a_recorded_image_that_is_gone_is_named():
    with pytest.raises(InputError, match=r"^data: the model records its split, but its image z is not there; "):
        fixed_split({}, {"split": {"train": ["a"], "val": ["z"]}}, IDS, "data", halves)


@pytest.mark.parametrize(
    ("recorded", "inner", "common"),
    [
        (None, False, 0),
        ({"images": 7}, False, 0),
        ({"images": checksum(*halves(IDS, False))}, False, 2),
        ({"images": checksum(*halves(IDS, True))}, True, 1),
        ({"images": checksum(*halves(IDS, True))}, False, 1),
        ({"images": 7, "split": record_split(["b", "d.png"], ["a"])}, False, 1),
        ({"images": 7, "split": record_split(["b", "other"], ["a"])}, False, 0),
    ],
)
def test_validation_images_that_were_trained_on_are_counted(capsys, recorded, inner, common):
    with open("val.txt", "w") as file:
        file.write("a\nb\nc\n")
    settings = {"val_ids": "val.txt", "img_ext": ".png", "inner_split": inner}
    assert fixed_split(settings, recorded, IDS, "data", halves) == ([], ["a", "b", "c"])
    line = f"warning: the model was trained on {common} of the 3 images to validate, so the scores include"
    assert capsys.readouterr().out == (f"{line} training images\n" if common else "")


def test_too_few_images_for_the_usual_split_are_no_reason_to_fail(capsys):
    with open("val.txt", "w") as file:
        file.write("a\n")
    assert fixed_split({"val_ids": "val.txt", "img_ext": ".png"}, {"images": 7}, ["a"], "data", halves).val == ["a"]
    assert capsys.readouterr().out == ""
