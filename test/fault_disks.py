"""Damage checkpoints on the disk, and let the disk be full while one is saved. Part of faults.py.

python test/fault_disks.py FOLDER COUNT SEED     what `try_full_disk` runs in a small file system of its own
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fault_kills import compare, differing, make_data, start

import checkpoints
from errors import InputError

FLAGS = ("--scheduler", "ConstantLR", "--name", "run")  # with which a run may be made longer
DISK = 330  # MiB: a run's three checkpoints of 90, and not a fourth


def train(folder: Path, epochs: int, *flags: str) -> tuple[int, str]:
    """Train to that many epochs; returns the exit code and what was printed."""
    log = folder.parent / "log"  # not on the disk that is full
    code = start(folder, log, *FLAGS, "--epochs", str(epochs), *flags).wait(240)
    return code, log.read_text()


def try_damage(folder: Path, count: int, seed: int, say: Callable[[str], None]) -> list[str]:
    """Cut checkpoints short, flip their bits, zero their blocks; a row for the table."""
    make_data(folder)
    code, text = train(folder, 2)
    if code:
        raise SystemExit(f"the run failed:\n{text}")
    latest = folder / "models" / "run" / checkpoints.LATEST
    whole = latest.read_bytes()
    there = {path: checkpoints.load(path) for path in (latest, latest.with_name(checkpoints.PREVIOUS))}
    fates = {"replaced by the previous one": 0, "unharmed": 0}
    faults = 0
    for number in range(count):
        random = Random(f"{seed}/damage/{number}")
        data, place = bytearray(whole), random.randrange(len(whole))
        kind = random.choice(("cut", "flip", "zero", "head", "tail"))
        if kind == "cut":
            del data[place:]
        elif kind == "zero":
            data[place : place + 4096] = bytes(len(data[place : place + 4096]))
        else:  # the ends hold the names and the structure
            place = {"flip": place, "head": place % 4096, "tail": len(data) - 1 - place % 16384}[kind]
            data[place] ^= 1 << random.randrange(8)
        latest.write_bytes(data)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            try:
                loaded, path = checkpoints.load_latest(latest)
            except InputError as error:
                loaded, path = {}, error
        if differing(loaded, there.get(path, {"nothing": 0})) or (path != latest) != ("warning" in said.getvalue()):
            faults += 1
            say(f"FAULT: damage {number} ({kind} at {place}): {path}")
        fates["unharmed" if path == latest else "replaced by the previous one"] += 1
    latest.write_bytes(whole)
    outcome = ", ".join(f"{n} {fate}" for fate, n in fates.items())
    return [
        "damaged checkpoint (cut, flipped bit, zeroed block)",
        str(count),
        f"{faults} FAULTS" if faults else outcome,
    ]


def try_full_disk(folder: Path, count: int, seed: int, say: Callable[[str], None]) -> list[str]:
    """Fill a small file system while a checkpoint is saved; a row for the table."""
    make_data(folder)
    small = folder / "small"
    small.mkdir()
    inside = [sys.executable, __file__, str(small), str(count), str(seed)]
    mount = 'mount -t tmpfs -o "size=$1" faults "$2" && cp -r inputs "$2" && shift 2 && exec "$@"'
    shell = ["sh", "-c", mount, "sh", f"{DISK}m", str(small), *inside]
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", *shell], cwd=folder, capture_output=True, text=True
    )
    if result.returncode:
        say(f"FAULT: no small file system could be mounted: {result.stderr.strip()[-300:]}")
        return ["disk full while saving", "0", "NOT RUN"]
    told = json.loads(result.stdout.splitlines()[-1])
    for fault in told["faults"]:
        say(f"FAULT: {fault}")
    fine = f"one sentence, old files intact, then resumed to the same end ({told['files']})"
    return ["disk full while saving", str(count), f"{len(told['faults'])} FAULTS" if told["faults"] else fine]


def fill(folder: Path, free: int) -> None:
    """Leave so many bytes free."""
    space = os.statvfs(folder)
    with open(folder / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - free)


def fill_and_save(folder: Path, count: int, seed: int) -> dict:
    """In a small file system: resume a run of one epoch into a full disk, make room, resume again, compare."""
    run, kept, faults, files = folder / "models" / "run", folder.parent / "kept", [], {}
    for epochs, target in ((2, folder.parent / "whole"), (1, kept)):
        code, text = train(folder, epochs)
        if code:
            raise SystemExit(f"the run failed:\n{text}")
        shutil.copytree(run, target)
        shutil.rmtree(folder / "models")
    size = (kept / checkpoints.LATEST).stat().st_size
    for number in range(count):
        shutil.copytree(kept, run)
        free = int(Random(f"{seed}/disk/{number}").choice((0.0, 0.001, 0.5, 0.99)) * size)
        fill(folder, free)
        code, text = train(folder, 2, "--resume", "auto")
        (folder / "ballast").unlink()
        told = re.findall(r"^\[Error\] (\S+?): cannot be written", text, re.M)
        if code != 1 or len(told) != 1 or "Traceback" in text:
            faults.append(f"disk {number}, {free} bytes free: exit code {code}: {text[-500:]}")
        elif differing(
            checkpoints.load_latest(run / checkpoints.LATEST)[0], checkpoints.load(kept / checkpoints.LATEST)
        ):
            faults.append(f"disk {number}, {free} bytes free: the old checkpoint has changed")
        else:
            name = Path(told[0]).name
            files[name] = files.get(name, 0) + 1
            code, text = train(folder, 2, "--resume", "auto")
            found = [text[-500:]] if code else compare(folder.parent / "whole", run)
            faults += [f"disk {number}, resumed: {what}" for what in found]
        shutil.rmtree(folder / "models")
    return {"faults": faults, "files": ", ".join(f"{n} at {name}" for name, n in sorted(files.items()))}


if __name__ == "__main__":
    print(json.dumps(fill_and_save(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
