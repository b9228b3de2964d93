# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The files between the steps of offline inference: inputs with their list and settings, and ais_bench's outputs."""

import csv
import io
import json
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

import options
from runtime import names
from runtime.errors import InputError
from runtime.files import atomic_write, read_bytes
from runtime.settings import parse_json, settings_from_metadata

BINS, TARGETS, LIST, SETTINGS = "bin", "targets", "list.csv", "settings.json"
CHECKSUM = "inputs_checksum.txt"
REMEDY = "run infer/preprocess.py again"


class Item(NamedTuple):
    """An image: its number in the split, the name of its .bin file, its id and path, and its original size."""

    index: int
    bin: str
    id: str
    path: str
    height: int
    width: int


class Inputs(NamedTuple):
    """What infer/preprocess.py wrote to a folder.

    settings: how images are read and prepared, by name. uint8: do the .bin files hold bytes (H, W, 3) for AIPP?
    Otherwise, they hold float32 (3, H, W). data_path: the prepared data set whose validation split this is. Its masks,
    float32 (num_classes, H, W), are in files of the same names in another folder. Empty: the images have no masks.
    """

    folder: Path
    items: list[Item]
    settings: dict
    uint8: bool
    num_classes: int
    data_path: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.settings["input_h"], self.settings["input_w"]

    @property
    def bins(self) -> Path:
        """The folder of the .bin files."""
        return self.folder / BINS

    @property
    def targets(self) -> Path:
        """The folder of the masks."""
        return self.folder / TARGETS


def bin_name(index: int) -> str:
    """Return the name of an input file; ais_bench reads files in this order, and cuts names at the first dot."""
    return f"{index:06d}.bin"


def output_path(folder: Path, bin_file: str, head: int) -> Path:
    """Return the file to which ais_bench writes output `head`, from 0, for an input file."""
    return folder / f"{bin_file.split('.')[0]}_{head}.bin"


@contextmanager
def new_folder(folder: Path, flag: str) -> Iterator[None]:
    """Make a folder, and remove it again if what follows fails, so that the command can be repeated.

    Raises InputError if the folder holds files: those of two runs would be mixed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{flag} {folder}: already exists and is not an empty folder; remove it or name another one")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_inputs(inputs: Inputs) -> None:
    """Write the list and the settings of input files that are already there."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([Item._fields, *inputs.items])
    about = {
        "uint8": inputs.uint8,
        "num_classes": inputs.num_classes,
        "data_path": inputs.data_path,
        "settings": {name: str(inputs.settings[name]) for name in options.ANY_SIZE_FLAGS},
    }
    for name, content in ((LIST, text.getvalue()), (SETTINGS, json.dumps(about, indent=2) + "\n")):
        with atomic_write(inputs.folder / name) as partial:
            partial.write_bytes(content.encode(errors="surrogateescape"))


def read_inputs(folder: Path) -> Inputs:
    """Read what write_inputs wrote; raises InputError if it is missing or something else."""
    if not (folder / SETTINGS).is_file():
        raise InputError(f"--input {folder}: holds no {SETTINGS}; name the folder that infer/preprocess.py wrote")
    path = folder / SETTINGS
    about = parse_json(read_bytes(path).decode(errors="replace"), path)
    types = {"uint8": bool, "num_classes": int, "data_path": str, "settings": dict}
    values = [about.get(name) for name in types] if isinstance(about, dict) else []
    if [*map(type, values)] != [*types.values()]:
        raise InputError(f"{path}: not the settings that infer/preprocess.py writes; {REMEDY}")
    *values, recorded = values
    recorded = {name: str(value) for name, value in recorded.items()}
    settings = settings_from_metadata(recorded, path, options.ANY_SIZE_FLAGS)
    return Inputs(folder, _read_items(folder / LIST), settings, *values)


def _read_items(path: Path) -> list[Item]:
    rows = csv.DictReader(io.StringIO(read_bytes(path).decode(errors="surrogateescape")))
    try:
        items = [Item(*(Item.__annotations__[name](row[name]) for name in Item._fields)) for row in rows]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not the list that infer/preprocess.py writes; {REMEDY}") from error
    if not items or any(item.bin != bin_name(item.index) or not names.is_safe(item.id) for item in items):
        raise InputError(f"{path}: lists no images, or unsafe names; {REMEDY}")
    return items


def record_inputs(folder: Path, inputs: Inputs) -> None:
    """Note in a folder of outputs which inputs they belong to."""
    with atomic_write(folder / CHECKSUM) as partial:
        partial.write_text(f"{_checksum(inputs)}\n", encoding="utf-8")


def check_inputs(folder: Path, inputs: Inputs) -> None:
    """Raise InputError if the outputs in a folder belong to other inputs, as far as the folder tells.

    It does not tell if ais_bench was run by hand.
    """
    path = folder / CHECKSUM
    if path.is_file() and read_bytes(path).decode(errors="replace").strip() != str(_checksum(inputs)):
        raise InputError(
            f"{folder}: holds the outputs of other inputs than {inputs.folder}; run infer/infer_om.py again"
        )


def _checksum(inputs: Inputs) -> int:
    return zlib.crc32(read_bytes(inputs.folder / LIST) + read_bytes(inputs.folder / SETTINGS))


def count_heads(folder: Path, inputs: Inputs) -> int:
    """Return the number of outputs of each image; raises InputError if an image has none."""
    heads = 0
    while output_path(folder, inputs.items[0].bin, heads).is_file():
        heads += 1
    for item in inputs.items:
        if not (path := output_path(folder, item.bin, max(heads, 1) - 1)).is_file():
            raise InputError(f"{path}: is missing, so the outputs are incomplete; run infer/infer_om.py again")
    return heads


def read_maps(path: Path, inputs: Inputs) -> np.ndarray:
    """Read an output or the masks of one image: float32 (num_classes, H, W)."""
    shape = (inputs.num_classes, *inputs.size)
    content, needed = read_bytes(path), 4 * int(np.prod(shape))
    if len(content) != needed:
        axes = "×".join(map(str, shape))
        raise InputError(
            f"{path}: {len(content)} bytes, but {axes} float32 numbers are {needed}; convert the model that "
            "infer/preprocess.py was given, with infer/atc.sh"
        )
    maps = np.frombuffer(content, "<f4").reshape(shape)
    if not np.isfinite(maps).all():
        raise InputError(f"{path}: holds values that are not finite; check the precision of the model")
    return maps.copy()
