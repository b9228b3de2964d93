"""test/benchmark.py, part preparation: preprocess_dsb2018.py against one process that does one image after the other.

As a script, `benchmark_preparation.py ZIP OUTPUT SIZE`, it is the plain side: a process of its own, in which nothing of
this repository has set how OpenCV or the memory works.
"""

import math
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MOST_MB = 500
PAUSE = 0.05  # between looks at the processes' memory


def prepare_plainly(path: Path, output: Path, size: int) -> None:
    """What the older editions did, reading from the zip: image and union of the masks, one after the other."""
    for folder in ("images", "masks/0"):
        (output / folder).mkdir(parents=True)
    with zipfile.ZipFile(path) as archive:
        images, masks = {}, {}
        for name in archive.namelist():
            found = re.search(r"([^/]+)/(images|masks)/[^/]+\.png$", name)
            if found:
                (images if found[2] == "images" else masks).setdefault(found[1], []).append(name)

        def read(name: str, flags: int) -> np.ndarray:
            return cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), flags)

        for img_id, (name,) in sorted(images.items()):
            image = read(name, cv2.IMREAD_UNCHANGED)
            image = (np.dstack([image] * 3) if image.ndim == 2 else image)[:, :, :3]
            union = np.zeros(image.shape[:2])
            for mask in masks[img_id]:
                union[read(mask, cv2.IMREAD_GRAYSCALE) > 127] = 1
            cv2.imwrite(str(output / "images" / f"{img_id}.png"), cv2.resize(image, (size, size)))
            soft = (cv2.resize(union, (size, size)) * 255).astype(np.uint8)
            cv2.imwrite(str(output / "masks" / "0" / f"{img_id}.png"), soft)


def _family(pid: int) -> list[int]:
    children = [pid]
    for parent in children:
        try:
            tasks = Path(f"/proc/{parent}/task").glob("*/children")
            children += [int(child) for task in tasks for child in task.read_text().split()]
        except OSError:  # it has ended in the meantime
            pass
    return children


def run_command(command: list[object]) -> float:
    """Run it; returns its megabytes: the sum over its processes of the most that each has held.

    They need not have held it at the same time, and pages that several share count for each: the sum is an upper bound.
    The kernel keeps each process's peak (VmHWM), so that looking now and then misses none but what a process takes in
    its last moments. NaN where the kernel does not tell a process's children.
    """
    peaks = {}
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while process.poll() is None:
        for pid in _family(process.pid):
            try:
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            except OSError:
                continue
            if found:
                peaks[pid] = max(peaks.get(pid, 0), int(found[1]) * 1024)
        time.sleep(PAUSE)
    if process.returncode:
        sys.exit(f"benchmark: {' '.join(map(str, command))} failed:\n{process.stdout.read()}")
    whole = Path(f"/proc/self/task/{os.getpid()}/children").exists()
    return sum(peaks.values()) / 1e6 if whole else math.nan


def check_same_pictures(plain: Path, ours: Path) -> None:
    """End the script where the two folders do not hold the same pixels under the same names."""
    names = [sorted(p.relative_to(folder) for p in folder.rglob("*.png")) for folder in (plain, ours)]
    if names[0] != names[1]:
        sys.exit(f"benchmark: preparation: plain wrote {len(names[0])} pictures, ours {len(names[1])}, or others")
    for name in names[0]:
        pictures = [cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED) for folder in (plain, ours)]
        if not np.array_equal(*pictures):
            sys.exit(f"benchmark: preparation: {name} has other pixels than plain preparation gives it")


def run(bench) -> None:
    """Add the part's rows."""
    from benchmark_measure import Goal, Side, medians

    path, name = bench.zip
    commands = {
        "plain": [__file__, path, "{output}", bench.side],
        "ours": [ROOT / "preprocess_dsb2018.py", "--input", path, "--output", "{output}"],
    }
    commands["ours"] += ["--img_size", bench.side, "--workers", "2"]
    outputs, memory = {}, {side: [] for side in commands}

    def prepare(side: str) -> None:
        outputs[side] = bench.folder / f"{side}{len(memory[side])}"
        command = [outputs[side] if part == "{output}" else part for part in commands[side]]
        memory[side].append(run_command(command))

    # the first time does not count: comparing them puts the zip into the page cache
    for side in commands:
        prepare(side)
    check_same_pictures(outputs["plain"], outputs["ours"])
    sides = {side: Side(lambda side=side: prepare(side), side != "plain", warm=False) for side in commands}
    found = medians(sides, min(bench.args.repeats, 3))
    bench.add("preparation", f"{name}, 2 workers", "s", found["plain"], found["ours"], Goal("ratio", least=2))
    peaks = {side: max(megabytes) for side, megabytes in memory.items()}
    what = "most memory, summed over the processes"
    bench.add("preparation", what, "MB", peaks["plain"], peaks["ours"], Goal("ours", most=MOST_MB))


if __name__ == "__main__":
    prepare_plainly(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
