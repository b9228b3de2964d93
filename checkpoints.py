"""Checkpoints: one that can be read is always there, and reading one runs nothing that it holds."""

import errno
import os
import re
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from errors import InputError
from files import replacing

LATEST, PREVIOUS, BEST = "checkpoint.pth.tar", "checkpoint.prev.pth.tar", "model_best.pth.tar"
MOST_VALUES, MOST_DEPTH = 10**6, 12  # in one checkpoint; a run of 10,000 epochs has 100,000, six deep


def _on_cpu(value):
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(own) for key, own in value.items()}
    return [_on_cpu(own) for own in value] if isinstance(value, list) else value


def save(state: dict, path: Path, previous: Path | None = None) -> None:
    """Write a checkpoint so that a crash at any moment leaves the old file or the new one, never half of one.

    Its tensors go to the CPU first, so that a host without the device they were on can read them. It is read back
    before it takes the old one's place; the old one, where there is one, is kept as `previous`.
    Raises InputError naming `path` where it cannot be written.
    """
    path = Path(path)
    if previous and path.is_file():
        with replacing(previous) as old:  # which takes its name last, when the new one is in place
            _link(path, old)
            save(state, path)
        return
    state = _on_cpu(state)
    with replacing(path) as partial:
        try:
            with open(partial, "wb") as file:
                torch.save(state, file)
        except RuntimeError as error:  # torch's zip writer has no other word for a full disk
            raise InputError(f"{path}: cannot be written: the disk is full, or fails") from error
        if damage := _find_damage(partial):
            raise InputError(f"{path}: cannot be written: what arrived on the disk is {damage}")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some file systems have no links
        shutil.copyfile(source, target)


def _find_damage(path: Path) -> str | None:
    """What is wrong with the file's bytes; None where nothing is, or where the format carries no checksums.

    torch writes a checksum with each part of a file, and never looks at it again.
    """
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                return "compressed, as torch never does it"
            if any(member.file_size != member.compress_size for member in members):
                return "damaged: a part has two sizes"  # torch takes one of them for granted, zipfile the other
            if any(member.is_dir() or member.external_attr & 0x10 for member in members):
                return "damaged: a part is marked as a folder"  # for which torch leaves the memory as it was
            if sum(member.file_size for member in members) > path.stat().st_size:
                return "damaged: its parts overlap"
            part = archive.testzip()
        return part and f"damaged: the checksum of {part} is wrong"
    except OSError as error:
        if error.errno != errno.EINVAL:  # zipfile seeks where a damaged directory sends it
            raise
        return f"damaged: {error}"
    except Exception as error:  # zipfile, struct and zlib have a type each for a broken zip
        return f"damaged: {error}"


def _numpy_scalar_types() -> list:
    """What old checkpoints need besides tensors: `best_iou` was a NumPy scalar, pickled under old or new names."""
    scalar = np.float64(0).__reduce__()[0]
    # not np.ndarray, which could be made of anybody's pointers
    types = [np.dtype, *(type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "bool"))]
    return types + [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]


def _unpickle(path: Path, trust: bool):
    if trust:
        print(f"warning: --trust_checkpoint: whatever {path} holds is run")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_scalar_types()):
            warnings.simplefilter("ignore")  # of formats that it may not be able to read: it then raises
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except OSError:
        raise
    except Exception as error:  # torch raises many types, and advises to trust the file
        if foreign := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(
                f"{path}: refused, and nothing of it was run: it calls for {foreign[1]}, but weights and numbers need "
                "no such thing; get another file, or pass --trust_checkpoint if you know who made it and trust them"
            ) from error
        raise InputError(
            f"{path}: not a readable checkpoint, and nothing of it was run: damaged, or it holds more than weights and "
            "numbers; give another file"
        ) from error


def _is_plain(tensor: object) -> bool:
    """Is it an ordinary tensor that has as much memory as it says? One that repeats a few bytes could claim a TB."""
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_complex()
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def _is_modest(value: object) -> bool:
    """Are its tensors plain, and is it no more, and no deeper, than a run's state? Lists may hold each other."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        seen += 1
        if depth > MOST_DEPTH or seen > MOST_VALUES or (isinstance(item, torch.Tensor) and not _is_plain(item)):
            return False
        if isinstance(item, (dict, list, tuple)):
            waiting += [(own, depth + 1) for own in (item.values() if isinstance(item, dict) else item)]
    return True


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= value < 2**31


def load(path: Path, trust: bool = False) -> dict:
    """Read a checkpoint of this or an older edition onto the CPU.

    Returns a dict with at least `state_dict` (no `module.` prefixes), `epoch` (finished epochs, 0 if unknown), `step`
    (steps done in the next one), `processes` (0 if unknown) and `best_iou` (float, or None if unknown); whatever else
    the file holds is passed on. A bare state_dict is wrapped. With `trust` the file may hold any Python objects, and is
    run as they demand.
    Raises InputError where the file is missing, damaged, holds anything but weights, numbers and text, or is no
    checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train first, or give another path")
    if damage := _find_damage(path):
        raise InputError(f"{path}: not a readable checkpoint: {damage}; give another file")
    checkpoint = _unpickle(path, trust)
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint")
    if "state_dict" not in checkpoint:
        checkpoint = {"state_dict": checkpoint}
    weights, best_iou = checkpoint["state_dict"], checkpoint.get("best_iou")
    counts = {key: checkpoint.get(key, 0) for key in ("epoch", "step", "processes")}
    whole = isinstance(weights, dict) and weights and all(map(_is_count, counts.values()))
    if not whole or not all(isinstance(k, str) and _is_plain(v) for k, v in weights.items()):
        raise InputError(f"{path}: holds no weights; give a checkpoint that train.py wrote")
    if not trust and not _is_modest(checkpoint):
        raise InputError(
            f"{path}: holds more than a run's state, or odd tensors; give a checkpoint that train.py wrote"
        )
    if not (best_iou is None or (isinstance(best_iou, (int, float, np.number)) and 0 <= best_iou <= 1)):
        raise InputError(f"{path}: its best_iou is not a number; give a checkpoint that train.py wrote")
    return {
        **checkpoint,
        **{key: int(count) for key, count in counts.items()},
        "state_dict": {re.sub(r"^(module\.|_orig_mod\.)+", "", name): value for name, value in weights.items()},
        "best_iou": None if best_iou is None else float(best_iou),
    }


def load_latest(path: Path, trust: bool = False) -> tuple[dict, Path]:
    """`load`, and which file it was: where a run's latest checkpoint cannot be read, the previous one, with a warning.

    Raises InputError, of the latest one, where neither can be read.
    """
    path = Path(path)
    previous = path.with_name(PREVIOUS)
    try:
        return load(path, trust), path
    except InputError as error:
        if path.name != LATEST or not previous.is_file():
            raise
        try:
            checkpoint = load(previous, trust)
        except InputError as another:
            raise InputError(f"{error}; nor can the one before it be read: {another}") from error
        print(f"warning: {error}; going on from the one before it, {previous}")
        return checkpoint, previous
