# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Give damaged and hostile files to every script, and classify the outcomes.

    python test/faults/inputs.py --count 1000 --processes 100 --seed 0

Most runs are forks of this process, which has imported everything; the last `--processes` runs start a new Python. The
seed and a number determine a mutation: `--only NUMBER` repeats one. The exit status is 1 if there was a fault.
"""

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

from runtime import startup

startup.configure_opencv()

import cv2
import numpy as np
import onnx
import tifffile
import torch
import yaml

import demo
import options
import preprocess_dsb2018
import pthtar2onnx
import train
import val
from faults import mutations
from faults.forks import Fork
from imaging.raw import synthetic

FINE = ("clear error", "handled")
BAD = ("unclear error", "traceback", "hang", "file outside", "half-written")
OUTCOMES = FINE + BAD
MAX_SECONDS = {"fork": 60, "process": 150}
MAX_MEMORY = 12 * 2**30  # address space of a fork; torch alone reserves about 3 GB
TINY = "--input_h 32 --input_w 32 --batch_size 4 --num_workers 0 --device cpu"
MODULES = {
    "train": (train, options.parse_train),
    "val": (val, options.parse_val),
    "demo": (demo, options.parse_demo),
    "pthtar2onnx": (pthtar2onnx, options.parse_export),
    "preprocess_dsb2018": (preprocess_dsb2018, options.parse_preprocess),
}


class Case(NamedTuple):
    """A kind of file and a script that reads it."""

    kind: str
    script: str
    flags: str
    paths: list[str]  # one of them is mutated
    mutate: Callable[[Random, bytes, Path], tuple[bytes, str]]
    outputs: list[str]  # files and folders that the script may write

    @property
    def label(self) -> str:
        """The script, and for train.py the flag that makes it read the file."""
        mode = re.search("--(resume|pretrained|evaluate)", self.flags) if self.script == "train" else None
        return self.script + (f" {mode[0]}" if mode else "")


RUNS = ["models/run/model_best.pth.tar", "models/npu/model_best.pth.tar", "models/gpu/model.pth"]
LATEST, CONFIG = ["models/run/checkpoint.pth.tar"], ["models/gpu/config.yml"]
PREPARED = [f"inputs/discs/{kind}/disc{k:02d}.png" for kind in ("images", "masks/0") for k in range(6)]
PICTURES = [f"pictures/{name}" for name in ("a.png", "b.jpg", "c.tif", "d.bmp", "e.tif", "f.png")]
TIFFS = [f"tiffs/{name}.tif" for name in ("lzw", "tiles", "planes", "big", "imagej", "ome", "pages", "palette", "jpeg")]
RAW = [f"raw/synthetic_000{k}/{kind}" for k in range(3) for kind in (f"images/synthetic_000{k}.png", "masks/0.png")]
PREPARE = "--input {} --output out --img_size 32 --workers 1"
NEW = f"inputs/discs {TINY} --epochs 1 --name new"
RESUME = f"inputs/discs {TINY} --epochs 2 --resume_anyway --name run"  # another number of epochs is another run
EXPORT = "--checkpoint {path} --input_h 16 --input_w 16 --output UNet.onnx"


def cases() -> list[Case]:
    """Return every kind of file with every script that reads it."""
    image, checkpoint, config = mutations.image, mutations.checkpoint, mutations.config
    return [
        Case("zip", "preprocess_dsb2018", PREPARE.format("raw.zip"), ["raw.zip"], mutations.raw_zip, ["out"]),
        Case("raw image", "preprocess_dsb2018", PREPARE.format("raw"), RAW, image, ["out"]),
        Case("prepared PNG", "train", NEW, PREPARED, image, ["models/new"]),
        Case("prepared PNG", "val", "--name run --num_workers 0", PREPARED, image, ["outputs"]),
        Case("picture", "demo", "--name run --input pictures/*", PICTURES, image, ["outputs"]),
        Case("TIFF", "demo", "--name run --input tiffs/*", TIFFS, image, ["outputs"]),
        Case("config.yml", "val", "--name gpu --num_workers 0", CONFIG, config, ["outputs"]),
        Case("config.yml", "demo", "--name gpu --num_workers 0", CONFIG, config, ["outputs"]),
        Case("checkpoint", "train", f"{RESUME} --resume {{path}}", LATEST, checkpoint, ["models/run"]),
        Case("checkpoint", "train", f"{NEW} --pretrained --resume {{path}}", RUNS, checkpoint, ["models/new"]),
        Case("checkpoint", "train", f"{NEW} --evaluate --resume {{path}}", RUNS, checkpoint, ["models/new"]),
        Case("checkpoint", "val", "--name {run} --num_workers 0", RUNS, checkpoint, ["outputs"]),
        Case("checkpoint", "demo", "--resume {path} --input pictures/a.png", RUNS, checkpoint, ["outputs"]),
        Case("checkpoint", "pthtar2onnx", EXPORT, RUNS, checkpoint, ["UNet.onnx"]),
    ]


def build(folder: Path) -> None:
    """Write the files to mutate: data, raw images, pictures, a trained run, and the same run in the older formats."""
    os.chdir(folder)
    rng = np.random.default_rng(0)
    for path in PREPARED:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        disc = cv2.circle(np.zeros((32, 32), np.uint8), rng.integers(10, 22, 2).tolist(), 7, 255, -1)
        noise = rng.integers(0, 60, (32, 32, 3), np.uint8)
        cv2.imwrite(path, disc if "masks" in path else cv2.add(noise, cv2.merge([disc // 2] * 3)))
    synthetic.write_raw_set(Path("raw"), 3, seed=0)
    with zipfile.ZipFile("raw.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(Path("raw").rglob("*.png")):
            archive.writestr(zipfile.ZipInfo(path.relative_to("raw").as_posix()), path.read_bytes())
    Path("pictures").mkdir()
    picture = cv2.imread(PREPARED[0])
    for path in PICTURES:
        deep = {"c": np.uint16, "e": np.float32, "f": np.uint16}.get(Path(path).stem, np.uint8)
        pixels = picture[..., 1] if deep == np.float32 else picture  # OpenCV writes float colors as LogLuv
        cv2.imwrite(path, pixels.astype(deep) * (1 if deep == np.uint8 else 100))
    write_tiffs(np.ascontiguousarray(picture[..., ::-1]))
    train.main(options.parse_train(NEW.replace("--name new", "--name run").split()))
    state = torch.load(RUNS[0], weights_only=False)
    prefixed = {f"module.{name}": value for name, value in state["state_dict"].items()}
    for path in RUNS[1:]:
        Path(path).parent.mkdir()
    old = {"epoch": 3, "arch": "UNet", "state_dict": prefixed, "best_iou": np.float64(0.5)}
    torch.save(old, RUNS[1], _use_new_zipfile_serialization=False)
    torch.save(state["state_dict"], RUNS[2])
    flags = {"dataset": "discs", "arch": "UNet", "img_ext": ".png", "mask_ext": ".png", "input_h": 32, "input_w": 32}
    Path("models/gpu/config.yml").write_text(yaml.safe_dump(flags | {"batch_size": 4, "lr": 0.001, "milestones": [1]}))
    shutil.copy("models/gpu/config.yml", "models/npu/config.yml")


def write_tiffs(picture: np.ndarray) -> None:
    """Write an RGB picture as TIFF files of the layouts that programs for microscopes write."""
    Path("tiffs").mkdir()
    gray, planes = picture[..., 1], np.moveaxis(picture, 2, 0)
    colormap = np.stack([np.arange(256, dtype=np.uint16) * 257] * 3)
    for name, values, flags in (
        ("lzw", gray, {"compression": "lzw", "predictor": True, "rowsperstrip": 5}),
        ("tiles", picture, {"compression": "deflate", "tile": (16, 16), "photometric": "rgb"}),
        ("planes", planes, {"planarconfig": "separate", "photometric": "rgb"}),
        ("big", gray.astype(np.uint16) * 100, {"bigtiff": True, "byteorder": ">"}),
        ("imagej", planes.astype(np.uint16), {"imagej": True, "metadata": {"axes": "ZYX"}}),
        ("ome", planes.astype(np.float32), {"ome": True, "metadata": {"axes": "ZYX"}, "photometric": "minisblack"}),
        ("pages", planes, {"compression": "packbits", "photometric": "minisblack", "metadata": None}),
        ("palette", gray, {"photometric": "palette", "colormap": colormap}),
        ("jpeg", picture, {"compression": "jpeg", "photometric": "rgb"}),
    ):
        tifffile.imwrite(f"tiffs/{name}.tif", values, **flags)


def in_fork(work: Callable[[], None], folder: Path, log: Path, seconds: float) -> int | None:
    """Run `work` in a fork, in `folder`, with its output in `log`; returns its exit status, None if it did not end."""
    fork = Fork(work, folder, log)
    try:
        return fork.wait(seconds)
    except subprocess.TimeoutExpired:
        fork.kill()
        return None


def in_process(script: str, flags: list[str], folder: Path, log: Path, seconds: float) -> int | None:
    """Run a script in a new Python; otherwise the same as in_fork."""
    command = [sys.executable, ROOT / f"{script}.py", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(log, "w") as file:
        try:
            return subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=seconds,
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def snapshot(*folders: Path) -> dict[Path, tuple]:
    """Return what is in the folders; if the contents of a file change, its time or inode differs."""
    stats = {path: path.lstat() for folder in folders for path in folder.rglob("*")}
    return {
        path: (s.st_mode, s.st_ino) if path.is_dir() else (s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns)
        for path, s in stats.items()
    }


def is_complete(path: Path) -> bool:
    """Can another reader than ours read the file to its end?"""
    try:
        if path.suffix in (".png", ".jpg"):
            return cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None
        if path.name.endswith(".pth.tar"):
            return zipfile.ZipFile(path).testzip() is None
        if path.suffix == ".onnx":
            onnx.checker.check_model(str(path), full_check=True)
        if path.suffix == ".yml":
            return isinstance(yaml.safe_load(path.read_text()), dict)
        return path.suffix != ".csv" or path.read_bytes().endswith(b"\n")
    except Exception:
        return False


def classify(case: Case, path: str, status: int | None, text: str, changed: set[Path], folder: Path) -> str:
    """Return the outcome of a run, one of FINE or BAD. changed: the paths that were written or removed."""
    allowed = [folder / output for output in case.outputs]
    # a script may also create the folders above its outputs
    if any(not any(p.is_relative_to(own) or own.is_relative_to(p) for own in allowed) for p in changed):
        return "file outside"
    written = [p for p in changed if p.is_file()]
    if status is not None and any(".partial" in str(p) or not is_complete(p) for p in written):
        return "half-written"
    if status is None:
        return "hang"
    if "Traceback (most recent call last)" in text or status < 0 or status == 70:
        return "traceback"
    if re.search(f"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|^{mutations.SMUGGLED}", text, re.MULTILINE):
        return "unclear error"
    if status == 0:
        return "handled"
    sentences = re.findall(r"^\[Error\] .*(?:\n  .*)*", text, re.MULTILINE)
    if status == 2 and "error: " in text:
        return "clear error"
    # a clear error names the file, a flag to change, or the data that a config.yml leads to
    clear = [any(part in sentence for part in (Path(path).name, "--", "images")) for sentence in sentences]
    if case.script == "demo":  # it names each image that it cannot read, and then counts them
        return "clear error" if any(clear) else "unclear error"
    return "clear error" if clear == [True] else "unclear error"


def try_one(number: int, seed: int, base: Path, scratch: Path, keep: Path, new_python: bool) -> tuple[Case, str]:
    """Mutate a file, give it to a script, and classify the outcome; a fault is printed, and its file kept."""
    rng = Random(f"{seed} {number}")
    table = cases()
    case = table[number % len(table)]
    path = rng.choice(case.paths)
    folder = scratch / f"case{number}"
    shutil.copytree(base, folder, copy_function=os.link)
    canary = scratch / f"canary{number}"
    data, mutation = case.mutate(rng, (base / path).read_bytes(), canary)
    (folder / path).unlink()
    (folder / path).write_bytes(data)
    before = snapshot(folder, base)
    flags = case.flags.format(path=path, run=Path(path).parent.name).split()
    log = scratch / f"log{number}"
    if new_python:
        status = in_process(case.script, flags, folder, log, MAX_SECONDS["process"])
    else:

        def work() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
            module, parse = MODULES[case.script]
            module.main(parse(flags))

        status = in_fork(work, folder, log, MAX_SECONDS["fork"])
    text = log.read_text(errors="replace")
    after = snapshot(folder, base) | dict.fromkeys(scratch.glob(f"{canary.name}*"), ())
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    outcome = classify(case, path, status, text, changed, folder)
    if outcome in BAD:
        kept = keep / f"{seed}-{number}"
        kept.mkdir(parents=True, exist_ok=True)
        (kept / Path(path).name).write_bytes(data)
        (kept / "output.txt").write_text(text)
        command = f"python {case.script}.py {' '.join(flags)}"
        print(f"{outcome}: seed {seed}, number {number}, {path}: {mutation}\n  {command}\n  kept in {kept}", flush=True)
    shutil.rmtree(folder)
    log.unlink()
    return case, outcome


def run(count: int, processes: int, seed: int, keep: Path, only: int | None = None) -> Counter:
    """Try `count` mutations in forks, then `processes` in new processes; returns counts of (kind, script, outcome)."""
    import torch._dynamo  # an optimizer's first step would import it, in each fork anew

    torch.set_num_threads(1)
    numbers = range(count) if only is None else [only] if only < count else []
    started = range(count, count + processes) if only is None else [only] if only >= count else []
    found = Counter()
    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="faults") as name:
        scratch, base = Path(name), Path(name, "base")
        base.mkdir()
        # also in a fork, because a process that has trained cannot fork others that train
        if in_fork(lambda: build(base), base, scratch / "log", 300):
            raise RuntimeError((scratch / "log").read_text())
        for number in numbers:
            case, outcome = try_one(number, seed, base, scratch, keep, False)
            found[case.kind, case.label, outcome] += 1
            if sys.stderr.isatty():
                print(f"\r{number + 1}/{count}", end="", file=sys.stderr)
        with ThreadPoolExecutor(2) as pool:
            for case, outcome in pool.map(lambda n: try_one(n, seed, base, scratch, keep, True), started):
                found[case.kind, case.label, outcome] += 1
    os.chdir(here)
    return found


def as_table(found: Counter) -> str:
    """Return a table with a line for each kind of file and script, a column for each outcome, and the sums."""
    columns = OUTCOMES
    rows = list(dict.fromkeys((case.kind, case.label) for case in cases()))
    lines = [("file", "script", *columns)]
    lines += [(*row, *(str(found[(*row, column)]) for column in columns)) for row in rows]
    lines.append(("all", "", *(str(sum(found[(*row, column)] for row in rows)) for column in columns)))
    widths = [max(map(len, cells)) for cells in zip(*lines)]
    return "\n".join(
        "  ".join(cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(line, widths)))
        for line in lines
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="number of mutations tried in forks")
    parser.add_argument("--processes", type=int, default=100, help="number of further mutations, each in a new Python")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="repeat only this mutation")
    parser.add_argument(
        "--keep", type=Path, default=Path(tempfile.gettempdir(), "faults_kept"), help="folder for the files of faults"
    )
    args = parser.parse_args()
    start = time.monotonic()
    outcomes = run(args.count, args.processes, args.seed, args.keep, args.only)
    print(as_table(outcomes))
    print(f"seed {args.seed}: {args.count} in forks, {args.processes} in processes, {time.monotonic() - start:.0f} s")
    sys.exit(any(outcome in BAD for _, _, outcome in outcomes))
