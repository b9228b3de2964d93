# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Damage checkpoints on the disk, and fill the disk during a save.

python test/faults/disks.py FOLDER SCRIPT COUNT SEED     `try_full_disk` runs this in a small file system
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

from faults.kills import compare, find_differences, start_training
from runtime.checkpoint import LATEST, PREVIOUS, load_checkpoint, load_latest_checkpoint
from runtime.errors import InputError

FLAGS = ("--scheduler", "ConstantLR", "--name", "run")  # with this scheduler a run can be resumed with more epochs
DISK_MB = 330  # MiB: a run's three checkpoints of 90, but no fourth


def train(folder: Path, script: Path, epochs: int, *flags: str) -> tuple[int, str]:
    """Train to that many epochs; returns the exit status and the output."""
    log = folder.parent / "log"  # not on the disk that is full
    status = start_training(folder, log, script, *FLAGS, "--epochs", str(epochs), *flags).wait(240)
    return status, log.read_text()


def damage(data: bytes, rng: Random) -> tuple[bytes, str]:
    """Cut a file short, flip a bit, or zero a block; returns the new contents and what was done."""
    data, place = bytearray(data), rng.randrange(len(data))
    kind = rng.choice(("cut", "flip", "zero", "head", "tail"))
    if kind == "cut":
        del data[place:]
    elif kind == "zero":
        data[place : place + 4096] = bytes(len(data[place : place + 4096]))
    else:  # head and tail: a bit near an end, because the ends hold the names and the structure
        place = {"flip": place, "head": place % 4096, "tail": len(data) - 1 - place % 16384}[kind]
        data[place] ^= 1 << rng.randrange(8)
    return bytes(data), f"{kind} at {place}"


def try_damage(folder: Path, script: Path, count: int, seed: int, report: Callable[[str], None]) -> list[str]:
    """Damage the latest checkpoint in `count` ways and report each fault; returns a row for the table.

    Either the damage must not change the values, or the previous checkpoint must replace it, with a warning.
    """
    status, text = train(folder, script, 2)
    if status:
        raise SystemExit(f"the run failed:\n{text}")
    latest = folder / "models" / "run" / LATEST
    whole = latest.read_bytes()
    intact = {path: load_checkpoint(path) for path in (latest, latest.with_name(PREVIOUS))}
    replaced = faults = 0
    for number in range(count):
        data, what = damage(whole, Random(f"{seed}/damage/{number}"))
        latest.write_bytes(data)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            try:
                loaded, path = load_latest_checkpoint(latest)
            except InputError as error:
                loaded, path = {}, error
        expected = intact.get(path, {"nothing": 0})
        if find_differences(loaded, expected) or (path != latest) != ("warning" in output.getvalue()):
            faults += 1
            report(f"FAULT: damage {number} ({what}): {path}")
        replaced += path != latest
    latest.write_bytes(whole)
    outcome = f"{replaced} replaced by the previous one, {count - replaced} unharmed"
    outcome = f"{faults} FAULTS" if faults else outcome
    return ["damaged checkpoint (cut, flipped bit, zeroed block)", str(count), outcome]


def try_full_disk(folder: Path, script: Path, count: int, seed: int, report: Callable[[str], None]) -> list[str]:
    """Fill a small file system during a save, `count` times, and report each fault; returns a row for the table."""
    small = folder / "small"
    small.mkdir()
    inside = [sys.executable, __file__, str(small), str(script), str(count), str(seed)]
    mount = 'mount -t tmpfs -o "size=$1" faults "$2" && cp -rH inputs "$2" && shift 2 && exec "$@"'
    shell = ["sh", "-c", mount, "sh", f"{DISK_MB}m", str(small), *inside]
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", *shell], cwd=folder, capture_output=True, text=True
    )
    if result.returncode:
        report(f"FAULT: no small file system could be mounted: {result.stderr.strip()[-300:]}")
        return ["disk full while saving", "0", "NOT RUN"]
    found = json.loads(result.stdout.splitlines()[-1])
    for fault in found["faults"]:
        report(f"FAULT: {fault}")
    outcome = f"one sentence, old files intact, then resumed to the same end ({found['files']})"
    return ["disk full while saving", str(count), f"{len(found['faults'])} FAULTS" if found["faults"] else outcome]


def fill(folder: Path, free: int) -> None:
    """Fill the disk of a folder except for so many bytes."""
    space = os.statvfs(folder)
    with open(folder / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - free)


def fill_and_save(folder: Path, script: Path, count: int, seed: int) -> dict:
    """Resume a run of one epoch on a full disk, free the disk, resume it again, and compare; `folder` is on that disk.

    Returns the faults, and at which files the disk was full.
    """
    run, kept, faults, files = folder / "models" / "run", folder.parent / "kept", [], Counter()
    for epochs, target in ((2, folder.parent / "whole"), (1, kept)):
        status, text = train(folder, script, epochs)
        if status:
            raise SystemExit(f"the run failed:\n{text}")
        shutil.copytree(run, target)
        shutil.rmtree(folder / "models")
    size = (kept / LATEST).stat().st_size
    for number in range(count):
        shutil.copytree(kept, run)
        free = int(Random(f"{seed}/disk/{number}").choice((0.0, 0.001, 0.5, 0.99)) * size)
        fill(folder, free)
        status, text = train(folder, script, 2, "--resume", "auto")
        (folder / "ballast").unlink()
        named = re.findall(r"^\[Error\] (\S+?): cannot be written", text, re.MULTILINE)
        if status != 1 or len(named) != 1 or "Traceback" in text:
            faults.append(f"disk {number}, {free} bytes free: exit status {status}: {text[-500:]}")
        elif find_differences(load_latest_checkpoint(run / LATEST)[0], load_checkpoint(kept / LATEST)):
            faults.append(f"disk {number}, {free} bytes free: the old checkpoint has changed")
        else:
            files[Path(named[0]).name] += 1
            status, text = train(folder, script, 2, "--resume", "auto")
            found = [text[-500:]] if status else compare(folder.parent / "whole", run)
            faults += [f"disk {number}, resumed: {what}" for what in found]
        shutil.rmtree(folder / "models")
    return {"faults": faults, "files": ", ".join(f"{n} at {name}" for name, n in sorted(files.items()))}


if __name__ == "__main__":
    print(json.dumps(fill_and_save(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
