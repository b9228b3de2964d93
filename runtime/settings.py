# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The flags that a run recorded: reading them, applying them in later commands, and comparing two runs."""

import json
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import yaml

from runtime import names
from runtime.errors import InputError, checkpoint_errors
from runtime.files import read_bytes
from runtime.flags import Flag, Flags

MAX_CONFIG_BYTES = 64 * 2**10  # train.py writes one or two KB
MAX_PATH_LENGTH = 4000


def recorded_settings(checkpoint: dict, path: Path, flags: Mapping[str, Flag]) -> dict:
    """Return the flags that a checkpoint, or else the config.yml beside it, records; raises InputError for bad ones."""
    config, source = checkpoint.get("config"), path
    if not isinstance(config, dict):
        config, source = load_config(Path(path).parent), Path(path).parent / "config.yml"
    settings = {name: flag.default for name, flag in flags.items()}
    settings |= {name: value for name, value in config.items() if value is not None}
    for name, flag in flags.items():
        if not flag.accepts(settings[name]):
            raise InputError(f"{source}: {name} cannot be {_shorten(settings[name])}; the recipe has {flag.default!r}")
    data_path = settings.get("data_path", "")
    if not isinstance(data_path, str) or data_path != names.printable(data_path, MAX_PATH_LENGTH):
        raise InputError(f"{source}: data_path cannot be {_shorten(data_path)}; it names a folder")
    if "batch_size" in flags:  # that of one process, on which the batch IoU depends
        settings["batch_size"] = max(1, settings["batch_size"] // max(1, checkpoint.get("processes", 1)))
    return settings


def apply_recorded_settings(args: Flags, settings: Mapping, flags: Mapping[str, Flag], world_size: int = 1) -> None:
    """Set each of `flags` that is not on the command line to its recorded value, and print what is not the default."""
    taken = {}
    for name, flag in flags.items():
        if name in args.given:
            continue
        # each process gets the recorded batch size
        value = settings[name] * world_size if name == "batch_size" else settings[name]
        own = vars(args).get(name)  # the command's default; None: it has none of its own
        if value != (flag.default if own is None else own) and (flag.input or flag.evaluation):
            taken[name] = value
        setattr(args, name, value)
    if taken:
        print(f"as in training: {', '.join(f'{name} {value}' for name, value in taken.items())}")


class _LoaderWithoutAliases(yaml.SafeLoader):
    """yaml.safe_load without aliases, which let a short file stand for billions of values."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it uses aliases, which flags do not need")
        return super().compose_node(parent, index)


def load_config(folder: Path) -> dict:
    """Read `<folder>/config.yml`; {} if there is none. Raises InputError if it is not a small YAML mapping."""
    path = folder / "config.yml"
    if not path.exists():
        return {}
    content = read_bytes(path, MAX_CONFIG_BYTES)
    try:
        config = yaml.load(content.decode("utf-8"), _LoaderWithoutAliases)
    except Exception as error:  # besides its own errors, PyYAML raises many types for invalid dates and numbers
        reason = names.printable(" ".join(str(error).split()), 200)
        raise InputError(f"{path}: not readable as YAML; mend or remove it ({reason})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds no `flag: value` lines; mend or remove it")
    return config


def check_same_run(checkpoint: dict, path: Path, args: Flags, data: Mapping, flags: Mapping[str, Flag]) -> None:
    """Raise InputError if flags or images differ from the checkpoint's, so that this would be another run.

    With `--resume_anyway`, print the differences and remove from the checkpoint what cannot continue.
    """
    differing = {}
    with checkpoint_errors(path):
        if isinstance(config := checkpoint.get("config"), dict) and config:
            differing |= run_differences(config, vars(args), flags)
        if isinstance(images := checkpoint.get("data"), dict):
            differing |= _data_differences(images, data)
    if not differing:
        return
    text = f"{path} is of another run: {', '.join(differing.values())}"
    if not args.resume_anyway:
        raise InputError(f"{text}; give the same, or pass --resume_anyway to continue anyway")
    print(f"warning: {text}; continuing anyway, as --resume_anyway asks")
    if "optimizer" in differing:
        print("the optimizer begins anew")
        checkpoint["optimizer"] = {}
    if "scheduler" in differing:
        begins_anew = args.scheduler == "ReduceLROnPlateau"
        print(f"{args.scheduler} {'begins anew' if begins_anew else 'continues where its own schedule is by now'}")
        checkpoint["scheduler"] = {}
    # these change the order of the images within an epoch
    orders = {"train_images", "images"} | {name for name, flag in flags.items() if flag.image_order}
    if checkpoint["step"] and differing.keys() & orders:
        print(f"epoch {checkpoint['epoch'] + 1} begins anew, since its images come in another order")
        checkpoint["step"] = 0


def run_differences(recorded: Mapping, current: Mapping, flags: Mapping[str, Flag]) -> dict[str, str]:
    """Compare the flags of two runs; returns those that make them different runs, each with its description."""
    differing = {}
    for name, flag in flags.items():
        condition = flag.same_run
        if isinstance(condition, tuple):
            condition = current[condition[0]] in condition[1]
        there = flag.default if recorded.get(name) is None else recorded[name]
        if condition and there != current[name]:
            differing[name] = f"--{name} {reprlib.repr(there)} there and {current[name]!r} here"
    return differing


def _data_differences(recorded: Mapping, current: Mapping) -> dict[str, str]:
    differing = {}
    for key in ("train_images", "val_images"):
        if recorded.get(key) not in (None, current[key]):
            there = reprlib.repr(recorded[key])
            differing[key] = f"{key.replace('_', ' ')} {there} there and {current[key]} here"
    if not differing and recorded.get("images") not in (None, current["images"]):
        differing["images"] = "other image names"
    return differing


def settings_from_metadata(metadata: Mapping[str, str], path: Path, flags: Mapping[str, Flag]) -> dict:
    """Return the settings that an ONNX file records as text, or their defaults; raises InputError if one is unknown."""
    settings = {name: flag.default for name, flag in flags.items()}
    for name in metadata.keys() & flags.keys():
        text = metadata[name]
        if not flags[name].accepts(value := _parse_value(text, flags[name].default)):
            raise InputError(f"{path}: records {name} as {_shorten(text)}, which is not known here")
        settings[name] = value
    return settings


def _parse_value(text: str, default: object) -> object:
    """Return the value that a text stands for, or the text if it is not of the default's type."""
    if isinstance(default, float):
        with suppress(ValueError):
            return float(text) if len(text) < 30 else text
    return {"True": True, "False": False}.get(text, int(text) if text.isdecimal() and len(text) < 6 else text)


def json_from_metadata(metadata: Mapping[str, str], key: str, path: Path) -> object:
    """Return what an ONNX file records as JSON under `key`, None if it records nothing there; see parse_json."""
    return parse_json(metadata[key], f"{path}: its {key}") if key in metadata else None


def parse_json(text: str, source: object) -> object:
    """Parse JSON that somebody else wrote; raises InputError if it is long or no JSON."""
    if len(text) > MAX_CONFIG_BYTES:
        raise InputError(f"{source}: {len(text)} characters of JSON, but at most {MAX_CONFIG_BYTES} are read")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise InputError(f"{source}: not readable as JSON ({names.one_line(error)})") from error


def _shorten(value: object) -> str:
    try:
        return names.printable(reprlib.repr(value))
    except ValueError:  # a number of thousands of digits cannot be printed
        return "a number of thousands of digits"
