"""Small things every script needs: meters and log lines, seeds, run folders, checkpoints, safe writing."""

import random
import re
from pathlib import Path

import numpy as np
import torch
import yaml

from errors import InputError
from files import replacing


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
    if not re.fullmatch(r"[^/\\\0\n\r]+", name) or name in (".", "..") or name.startswith("-"):
        raise InputError(f"--name {name!r}: use a plain folder name, without slashes or line breaks or a leading dash")
    return Path(parent) / name


def save_config(config: dict, folder: Path) -> None:
    """Write `<folder>/config.yml`: all flags, plain YAML."""
    with replacing(folder / "config.yml") as path:
        path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_config(folder: Path) -> dict:
    """Read `<folder>/config.yml`; {} where there is none. Raises InputError where it is not a YAML mapping."""
    path = folder / "config.yml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML; mend or remove it ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds no `flag: value` lines; mend or remove it")
    return config


def _on_cpu(value):
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(own) for key, own in value.items()}
    return [_on_cpu(own) for own in value] if isinstance(value, list) else value


def save_checkpoint(state: dict, path: Path) -> None:
    """Write a checkpoint so that a crash at any moment leaves the old file or the new one, never half of one.

    Its tensors go to the CPU first, so that a host without the device they were on can read them.
    """
    state = _on_cpu(state)
    with replacing(path) as partial:
        try:
            torch.save(state, partial)
        except RuntimeError as error:  # torch's zip writer has no other word for a full disk
            raise InputError(f"{path}: cannot be written ({' '.join(str(error).split())[:120]})") from error


def _numpy_scalar_types() -> list:
    """What old checkpoints need besides tensors: `best_iou` was a NumPy scalar, pickled under old or new names."""
    scalar = np.float64(0).__reduce__()[0]
    types = [np.dtype, np.ndarray, *(type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "bool"))]
    return types + [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint of this or an older edition onto the CPU.

    Returns a dict with at least `state_dict` (no `module.` prefixes), `epoch` (finished epochs, 0 if unknown) and
    `best_iou` (float, or None if unknown); whatever else the file holds is passed on. A bare state_dict is wrapped.
    Raises InputError where the file is missing or is not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train first, or give another path")
    try:
        with torch.serialization.safe_globals(_numpy_scalar_types()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises many types, and advises to trust the file
        raise InputError(
            f"{path}: not a readable checkpoint: damaged, or it holds more than weights and numbers"
        ) from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint")
    if "state_dict" not in checkpoint:
        checkpoint = {"state_dict": checkpoint}
    weights, epoch, best_iou = checkpoint["state_dict"], checkpoint.get("epoch", 0), checkpoint.get("best_iou")
    whole = isinstance(weights, dict) and weights and isinstance(epoch, (int, np.integer))
    if not whole or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in weights.items()):
        raise InputError(f"{path}: holds no weights; give a checkpoint that train.py wrote")
    if not isinstance(best_iou, (int, float, np.number, type(None))):
        raise InputError(f"{path}: its best_iou is {best_iou!r}, not a number; give a checkpoint that train.py wrote")
    return {
        **checkpoint,
        "state_dict": {re.sub(r"^(module\.|_orig_mod\.)+", "", name): value for name, value in weights.items()},
        "epoch": int(epoch),
        "best_iou": None if best_iou is None else float(best_iou),
    }


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
}


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
        least = 0 if flag == "seed" else 1
        if type(value) is not type(default) or (value < least if isinstance(value, int) else not value):
            raise InputError(f"{where}: {flag} cannot be {value!r}; the recipe has {default!r}")
    return settings


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
