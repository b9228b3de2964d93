# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""One zip to share a model: the ONNX file, its settings and scores, the license of the data, how to run it."""

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from exporting import texts
from imaging.raw.archive import open_zip, read_member
from runtime import names
from runtime.errors import InputError
from runtime.files import MAX_BYTES, atomic_write, check_file
from runtime.settings import MAX_CONFIG_BYTES, parse_json

MODEL, ABOUT, README, LICENSE = "model.onnx", "model.json", "README.txt", "DATA_LICENSE.txt"
FORMAT = 1  # of model.json
MAX_SCORES = 100
REMEDY = "give a bundle that pthtar2onnx.py wrote"


class Bundle(NamedTuple):
    """An opened bundle: the path of the net in it, for messages, the net's ONNX file, and its settings as text.

    settings: like the metadata of an ONNX file. model.json may have been edited, and then differs from these.
    """

    path: Path
    content: bytes
    settings: dict[str, str]


def scores_of(checkpoint: Mapping) -> dict[str, float]:
    """Return the number of epochs, and the validation scores that a checkpoint of load_checkpoint holds, by name."""
    history, own = checkpoint.get("history"), checkpoint.get("scores")
    last = history[-1] if isinstance(history, list) and history and isinstance(history[-1], dict) else {}
    scores = {"epochs": checkpoint["epoch"], "best_val_iou": checkpoint["best_iou"]}
    scores |= {name: value for name, value in last.items() if str(name).startswith("val_")}
    scores |= own if isinstance(own, dict) and len(own) <= MAX_SCORES else {}
    return {
        name: value
        for name, value in scores.items()
        if isinstance(name, str) and name.isidentifier() and type(value) in (int, float) and math.isfinite(value)
    }


def write_bundle(path: Path, content: bytes, about: Mapping, dataset: str) -> None:
    """Write a bundle of an ONNX file; equal models give equal bytes.

    about: facts on the `model` (see texts.plain_program), `settings` and `scores` by name, and tuned `instances` if
    there are any. dataset: the name of the images that the model was trained on.
    """
    members = {
        README: texts.readme(path.name, about),
        ABOUT: json.dumps({"format": FORMAT, **about}, indent=2) + "\n",
        LICENSE: texts.data_license(dataset),
        MODEL: content,
    }
    with atomic_write(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, member in members.items():
            entry = zipfile.ZipInfo(name)  # without the time, so that equal models give equal bytes
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, member, zipfile.ZIP_DEFLATED)


def read_bundle(path: Path) -> Bundle:
    """Open a bundle that somebody else may have made; raises InputError if it is damaged or holds no model."""
    check_file(path)
    with open_zip(path, remedy=REMEDY) as archive:
        about = parse_json(_read(archive, path, ABOUT, MAX_CONFIG_BYTES).decode("utf-8", "replace"), f"{path}/{ABOUT}")
        if not isinstance(about, dict) or about.get("format") != FORMAT or not isinstance(about.get("settings"), dict):
            raise InputError(f"{path}/{ABOUT}: not the settings of a bundle of format {FORMAT}; {REMEDY}")
        settings = {name: str(value) for name, value in about["settings"].items()}
        if "instances" in about:
            settings["instances"] = json.dumps(about["instances"])
        return Bundle(path / MODEL, _read(archive, path, MODEL), settings)


def _read(archive: zipfile.ZipFile, path: Path, name: str, max_bytes: int = MAX_BYTES) -> bytes:
    try:
        if (size := archive.getinfo(name).file_size) > max_bytes:
            raise InputError(f"{path}/{name}: {size} bytes, but at most {max_bytes} are read; {REMEDY}")
        return read_member(archive, name)
    except InputError:
        raise
    except KeyError:
        raise InputError(f"{path}: holds no {name}; {REMEDY}") from None
    except Exception as error:  # zipfile, zlib and the disk raise errors of many types
        raise InputError(f"{path}/{name}: cannot be read ({names.printable(error)}); {REMEDY}") from error
