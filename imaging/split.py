# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A split into training and validation images that the user chose: reading its files, and what a checkpoint records."""

import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from imaging.reader import IMAGE_EXTENSIONS
from runtime import names
from runtime.errors import InputError
from runtime.files import read_bytes

MAX_BYTES = 2**26  # of a file of ids; a million names of the longest kind are more
# (ids, divide the training part again?) → training and validation ids
UsualSplit = Callable[[list[str], bool], tuple[list[str], list[str]]]


class Split(NamedTuple):
    """The ids of the images for training and for validation, in the order in which they are used."""

    train: list[str]
    val: list[str]


def fixed_split(
    settings: Mapping, recorded: object, ids: list[str], source: object, usual_split: UsualSplit
) -> Split | None:
    """Return the split of the files `train_ids` and `val_ids`, else the recorded one; None if there is neither.

    settings: flags. recorded: what the checkpoint records of its data. ids: of the images that `source`, a folder or
    zip, holds. Prints a warning if the file of the validation ids names images that the checkpoint was trained on.
    Raises InputError if an image is not there, or is in both parts.
    """
    if not has_fixed_split(settings, recorded):
        return None
    files = settings.get("train_ids"), settings.get("val_ids")
    if files != (None, None):
        split = _read_split(files, frozenset(ids), settings["img_ext"], source)
        warn_of_trained_images(recorded, ids, split.val, usual_split)
        return split
    split = _check_recorded(recorded["split"])
    missing = min({*split.train, *split.val} - {*ids}, default=None)
    if missing is not None:
        raise InputError(
            f"{source}: the model records its split, but its image {names.printable(missing)} is not there; give the "
            "data of the training, or other images with val.py --val_ids FILE or --all"
        )
    return split


def has_fixed_split(settings: Mapping, recorded: object) -> bool:
    """Does fixed_split return a split, if it finds no error?"""
    return settings.get("val_ids") is not None or (isinstance(recorded, Mapping) and "split" in recorded)


def record_split(train_ids: list[str], val_ids: list[str]) -> dict[str, list[str]]:
    """Return a fixed split as a checkpoint records it: by the ids, because the files may be gone later."""
    return Split(list(train_ids), list(val_ids))._asdict()


def checksum(train_ids: list[str], val_ids: list[str]) -> int:
    """Return a number that another split, or other images, would most likely not have."""
    return zlib.crc32("\n".join([*train_ids, "", *val_ids]).encode(errors="surrogateescape"))


def warn_of_trained_images(recorded: object, ids: list[str], val_ids: list[str], usual_split: UsualSplit) -> None:
    """Print a warning if a model was trained on images that are to be validated; arguments as for fixed_split."""
    if common := len({*val_ids}.intersection(_trained_ids(recorded, ids, usual_split))):
        print(
            f"warning: the model was trained on {common} of the {len(val_ids)} images to validate, so the scores "
            "include training images",
            flush=True,
        )


def _trained_ids(recorded: object, ids: list[str], usual_split: UsualSplit) -> list[str]:
    """Return the ids of the images that a checkpoint was trained on, as far as it and the ids of the data tell."""
    if not isinstance(recorded, Mapping):
        return []
    if "split" in recorded:
        split = _check_recorded(recorded["split"])
        # other data may have some of the names too
        return split.train if {*split.train, *split.val} <= {*ids} else []
    for inner in (False, True):
        with suppress(InputError):  # too few images
            train_ids, val_ids = usual_split(ids, inner)
            if recorded.get("images") == checksum(train_ids, val_ids):
                return train_ids
    return []


def _check_recorded(recorded: object) -> Split:
    parts = [recorded.get(part) for part in Split._fields] if isinstance(recorded, Mapping) else [None]
    if not all(isinstance(part, list) and all(isinstance(img_id, str) for img_id in part) for part in parts):
        raise InputError("the split that the checkpoint records is not two lists of ids; use another checkpoint")
    return Split(*parts)


def _read_split(files: tuple[str | None, str | None], known: frozenset[str], ext: str, source: object) -> Split:
    """Read the files of the training and the validation ids; a file that is not given is an empty part."""
    split = Split(*([] if file is None else _read_ids(Path(file), known, ext, source) for file in files))
    train = frozenset(split.train)
    for img_id in split.val:
        if img_id in train:
            raise InputError(f"{files[1]}: {img_id} is also in {files[0]}; remove it from one of the two files")
    return split


def _read_ids(path: Path, known: frozenset[str], ext: str, source: object) -> list[str]:
    try:
        text = read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8; write one id per line") from error
    found = {}  # a dict keeps the order
    for line in filter(None, map(str.strip, text.splitlines())):
        # an id may have a dot itself, so the whole line comes first
        spellings = [line, line.removesuffix(ext)]
        if line.lower().endswith(IMAGE_EXTENSIONS):
            spellings.append(Path(line).stem)
        img_id = next((spelling for spelling in spellings if spelling in known), None)
        if img_id is None:
            raise InputError(f"{path}: {source} has no image {names.printable(line)}; correct or remove this id")
        if img_id in found:
            raise InputError(f"{path}: names {img_id} twice; remove one of the lines")
        found[img_id] = None
    if not found:
        raise InputError(f"{path}: names no image; write one id per line")
    return [*found]
