"""Small things every script needs: meters and log lines, seeds, run folders and the settings they hold."""

import random
import reprlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml

import names
from errors import InputError
from files import read_bytes, replacing


class AverageMeter:
    """Keeps the last value and the weighted mean; prints as `name val (avg)` in the given format."""

    def __init__(self, name: str, fmt: str):
        self.name, self.fmt = name, fmt
        self.val = self.sum = self.count = 0.0

    @property
    def avg(self) -> float:
        return self.sum / self.count if self.count else 0.0

    def update(self, val: float, n: int = 1) -> None:
        """Take in a value that stands for `n` items."""
        self.val = val
        self.sum += val * n
        self.count += n

    def __str__(self) -> str:
        return f"{self.name} {self.val:{self.fmt}} ({self.avg:{self.fmt}})"


def progress_line(prefix: str, step: int, total: int, meters: list[AverageMeter]) -> str:
    """`prefix[ step/total]⇥meter⇥meter…`, the step padded to the width of the total; harnesses grep it."""
    return "\t".join([f"{prefix}[{step:{len(str(total))}d}/{total}]", *map(str, meters)])


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def run_folder(name: str, parent: str = "models") -> Path:
    """`<parent>/<name>`; raises InputError where the name would lead out of the folder."""
    if not names.is_plain(name) or name.startswith("-"):
        raise InputError(
            f"--name {names.shown(repr(name))}: use a plain folder name, without slashes, control characters or a "
            "leading dash, and not too long"
        )
    return Path(parent) / name


def save_config(config: dict, folder: Path) -> None:
    """Write `<folder>/config.yml`: all flags, plain YAML."""
    with replacing(folder / "config.yml") as path:
        path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


MOST_CONFIG_BYTES = 64 * 2**10  # ours have one or two KB


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which let a short file stand for billions of values, and without deep nesting."""

    depth = 0

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it uses aliases, and flags need none")
        self.depth += 1
        if self.depth > 10:
            raise yaml.YAMLError("it is nested more than ten deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def load_config(folder: Path) -> dict:
    """Read `<folder>/config.yml`; {} where there is none. Raises InputError where it is not a small YAML mapping."""
    path = folder / "config.yml"
    if not path.exists():
        return {}
    content = read_bytes(path, MOST_CONFIG_BYTES)
    try:
        config = yaml.load(content.decode("utf-8"), _PlainLoader)
    except Exception as error:  # besides its own errors, PyYAML raises many types for dates and numbers that are none
        reason = names.shown(" ".join(str(error).split()), 200)
        raise InputError(f"{path}: not readable as YAML; mend or remove it ({reason})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds no `flag: value` lines; mend or remove it")
    return config


def _in_short(value: object) -> str:
    try:
        return names.shown(reprlib.repr(value))
    except ValueError:  # a number of thousands of digits has no text
        return "a number of thousands of digits"


def find_model(name: str) -> Path:
    """The trained model of a run: `models/<name>/model_best.pth.tar`, else the GPU edition's `model.pth`.

    Raises InputError where there is neither.
    """
    folder = run_folder(name)
    for path in (folder / "model_best.pth.tar", folder / "model.pth"):
        if path.is_file():
            return path
    raise InputError(f"{folder}: no model_best.pth.tar or model.pth there; train it first, or give another --name")


# what training leaves to its defaults, for models whose config.yml is lacking or silent
SETTINGS = {
    "dataset": "dsb2018_96",
    "img_ext": ".png",
    "mask_ext": ".png",
    "input_h": 96,
    "input_w": 96,
    "batch_size": 16,
    "loss": "LovaszHingeLoss",
    "seed": 5,
    "normalization": "standard",
    "divide_twice": True,
    "inner_split": False,
}
PREPARATION = ("normalization", "divide_twice")  # those of SETTINGS that tell what a net sees of an image
# which of their values are taken from a file that somebody else may have made
SANE: dict[str, Callable[[object], bool]] = {
    "dataset": names.is_plain,
    "img_ext": names.EXTENSION.fullmatch,
    "mask_ext": names.EXTENSION.fullmatch,
    "input_h": range(1, 4097).__contains__,
    "input_w": range(1, 4097).__contains__,
    "batch_size": range(1, 2**16 + 1).__contains__,
    "loss": str.isidentifier,
    "seed": range(2**64).__contains__,
    "normalization": ("standard", "image").__contains__,
    "divide_twice": (True, False).__contains__,
    "inner_split": (True, False).__contains__,
}
LONGEST_PATH = 4000


def settings_of(checkpoint: dict, path: Path) -> dict:
    """The flags a checkpoint was trained with: its own record, else the config.yml beside it, else the defaults.

    Raises InputError naming the file and the flag where one that counts later has a value it cannot have.
    """
    config = checkpoint.get("config")
    where = path
    if not isinstance(config, dict):
        config, where = load_config(Path(path).parent), Path(path).parent / "config.yml"
    settings = SETTINGS | {flag: value for flag, value in config.items() if value is not None}
    for flag, default in SETTINGS.items():
        value = settings[flag]
        if type(value) is not type(default) or not SANE[flag](value):
            raise InputError(f"{where}: {flag} cannot be {_in_short(value)}; the recipe has {default!r}")
    recorded = settings.get("data_path", "")
    if not isinstance(recorded, str) or recorded != names.shown(recorded, LONGEST_PATH):
        raise InputError(f"{where}: data_path cannot be {_in_short(recorded)}; it names a folder")
    return settings


def preparation_to_text(settings: dict) -> dict[str, str]:
    """What an export records of `settings_of`: how images are prepared for its net."""
    return {flag: str(settings[flag]) for flag in PREPARATION}


def preparation_from_text(recorded: dict[str, str], path: Path) -> dict:
    """The same settings, back from what an export records; as published where it is silent.

    Raises InputError naming the file where it records a preparation that there is not.
    """
    found = {flag: SETTINGS[flag] for flag in PREPARATION}
    for flag in recorded.keys() & PREPARATION:
        found[flag] = {"True": True, "False": False}.get(recorded[flag], recorded[flag])
        if type(found[flag]) is not type(SETTINGS[flag]) or not SANE[flag](found[flag]):
            raise InputError(f"{path}: records {flag} as {_in_short(recorded[flag])}, which is not known here")
    return found


def find_data(data_path: str | None, settings: dict, dataset: str | None = None) -> Path:
    """The prepared data: `--data_path`, else `--dataset`, else the path trained on, else `inputs/<dataset trained on>`.

    Raises InputError where the path trained on is gone, unless a folder of its name is under inputs/: scores on other
    data would pass for the model's.
    """
    if data_path or dataset:
        return Path(data_path) if data_path else Path("inputs") / dataset
    fallback, recorded = Path("inputs") / settings["dataset"], settings.get("data_path")
    if isinstance(recorded, str) and Path(recorded).is_dir():
        return Path(recorded)
    if isinstance(recorded, str) and Path(recorded).name != fallback.name:
        raise InputError(f"{recorded}: the data that the model was trained on are gone; give them with --data_path")
    return fallback
