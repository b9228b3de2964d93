"""Kill training processes at random moments, resume, and compare the end with an undisturbed run's, to the bit.

A run is 3 epochs of 4 steps of UNet on 20 synthetic images of 32×32, saved every 2 steps; it is killed again and again
until it gets to its end. Part of faults.py.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd
import torch

import checkpoints

EPOCHS, SAVE_STEPS, SECONDS = 3, 2, 240
DATA = "inputs/synthetic_32"
FLAGS = f"{DATA} --input_h 32 --input_w 32 --batch_size 4 --num_workers 1 --device cpu --epochs {EPOCHS}".split()
TORCHRUN = [
    "-m",
    "torch.distributed.run",
    "--rdzv_backend=c10d",
    "--rdzv_endpoint=127.0.0.1:0",
    "--local_addr=127.0.0.1",
]
TORCHRUN += ["--nproc_per_node=2"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
# what tells the time, or how the run was started
PASSING = re.compile(r"/history/\d+/images_per_s|/config/(name|resume|save_steps|epochs)")


def make_data(folder: Path) -> None:
    """Write the images to train on below `folder`."""
    command = [
        sys.executable,
        ROOT / "preprocess_dsb2018.py",
        "--synthetic",
        "20",
        "--img_size",
        "32",
        "--workers",
        "1",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def start(folder: Path, log: Path, *flags: str, processes: int = 1, **settings) -> subprocess.Popen:
    """Start train.py in `folder`, in a process group of its own, what it prints going to `log`."""
    launch = [*TORCHRUN, str(ROOT / "train.py")] if processes > 1 else [str(ROOT / "train.py")]
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, *launch, *FLAGS, *flags],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **settings,
        )


def differing(one, other, path: str = "") -> list[str]:
    """The paths in nested dicts and lists at which two checkpoints are not the same to the bit."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict):
        shared = [p for k in one.keys() & other.keys() for p in differing(one[k], other[k], f"{path}/{k}")]
        return shared + [f"{path}/{key}" for key in one.keys() ^ other.keys()]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same or PASSING.fullmatch(path) else [path]


def compare(whole: Path, cut: Path) -> list[str]:
    """What the files of two runs differ in, times apart; both are to have ended."""
    found = []
    for name in (checkpoints.LATEST, checkpoints.BEST):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (whole, cut))
        found += [f"{name}:{path}" for path in differing(one, other)]
    one, other = (pd.read_csv(folder / "log.csv").drop(columns="images_per_s") for folder in (whole, cut))
    return found + ([] if one.equals(other) else ["log.csv"])


def phase_of(log: str, run: Path) -> str:
    """What a run that printed this was doing when it was killed."""
    last = next((line for line in reversed(log.splitlines()) if re.match(r"Epoch:|Test:|\[npu id", line)), "")
    if list(run.glob(".*.partial*")):
        return "saving"
    if "FPS@all" in last or last.startswith("Test:"):
        return "validation"
    return "step" if last.startswith("Epoch:") else "saving" if "AVG-IOU" in last else "start"


def rank_processes(launcher: subprocess.Popen) -> list[int]:
    """The processes of the ranks that torchrun has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = path.with_name("cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if parent == launcher.pid and b"train.py" in command:
            found.append(int(path.parent.name))
    return sorted(found)


class Lane:
    """Runs that are killed, one after the other, in a folder of their own."""

    def __init__(self, folder: Path, whole: Path, seconds: float, random: Random, processes: int):
        """whole: the undisturbed run's folder; seconds: how long it took from its first line on."""
        self.folder, self.whole, self.seconds, self.random, self.processes = folder, whole, seconds, random, processes
        self.killed, self.faults = Counter(), []

    def kill_once(self, name: str) -> bool:
        """Start or resume the run `name` and kill it at a random moment; returns whether it ended before that."""
        run, log = self.folder / "models" / name, self.folder / "log"
        before = self.saved(run)
        process = start(
            self.folder,
            log,
            "--name",
            name,
            "--resume",
            "auto",
            "--save_steps",
            str(SAVE_STEPS),
            processes=self.processes,
        )
        limit = time.monotonic() + SECONDS
        while process.poll() is None and "images to train" not in log.read_text() and time.monotonic() < limit:
            time.sleep(0.02)
        try:
            process.wait(self.random.uniform(0, self.seconds))
            return self.ended(process.returncode, log.read_text())
        except subprocess.TimeoutExpired:
            pass
        text = log.read_text()
        if self.processes == 1:
            os.kill(process.pid, signal.SIGKILL)
        elif ranks := rank_processes(process):
            os.kill(self.random.choice(ranks), signal.SIGKILL)
        phase = phase_of(text, run)
        try:
            process.wait(90)  # the ranks that are left notice it by themselves
        except subprocess.TimeoutExpired:
            self.faults.append("hang after a kill")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode == 0:  # it was done at that moment
            return True
        self.killed[phase] += 1
        # a step's line comes before it is saved, and the one before it is done with
        last = re.findall(r"^Epoch: \[(\d+)\]\[ *(\d+)/", text, re.M)[-1:] or [("1", "1")]
        done = int(last[0][0]) - 1, (int(last[0][1]) - 1) // SAVE_STEPS * SAVE_STEPS
        least, kept = max(done, before), self.saved(run)
        if kept < least:
            self.faults.append(f"lost: {least} epochs and steps were done or saved, {kept} are left")
        return False

    def ended(self, code: int, text: str) -> bool:
        if code != 0:
            self.faults.append(f"exit code {code}: {text[-500:]}")
        return True

    @staticmethod
    def saved(run: Path) -> tuple[int, int]:
        """The epochs, and the steps of the next one, that a later run would go on from; 0, 0 where it would begin."""
        if not any((run / name).exists() for name in (checkpoints.LATEST, checkpoints.PREVIOUS)):
            return 0, 0
        checkpoint = checkpoints.load_latest(run / checkpoints.LATEST)[0]
        return checkpoint["epoch"], checkpoint["step"]

    def go(self, kills: int) -> int:
        """Kill and resume until so many kills are done and the run in hand has ended; returns how many runs."""
        runs = 0
        while self.killed.total() < kills and not self.faults:
            runs += 1
            while not self.kill_once(f"run{runs}"):
                pass
            if not self.faults:
                run = self.folder / "models" / f"run{runs}"
                self.faults += compare(self.whole, run)
                shutil.rmtree(run)
        return runs


def undisturbed(folder: Path, processes: int) -> tuple[Path, float]:
    """A whole run; returns its folder and the seconds that it took from its first line on."""
    name, log = f"whole{processes}", folder / f"whole{processes}.log"
    process = start(folder, log, "--name", name, processes=processes)
    while process.poll() is None and "images to train" not in log.read_text():
        time.sleep(0.02)
    begun = time.monotonic()
    if process.wait(SECONDS):
        raise SystemExit(f"the undisturbed run failed:\n{log.read_text()}")
    return folder / "models" / name, time.monotonic() - begun


def try_kills(folder: Path, kills: int, processes: int, seed: int, say: Callable[[str], None]) -> list[str]:
    """Do at least so many kills, on two lanes at a time; returns rows for the table. Faults are said in full."""
    make_data(folder)
    whole, seconds = undisturbed(folder, processes)
    lanes = []
    for number in range(2 if processes == 1 else 1):
        own = folder / f"lane{number}"
        own.mkdir()
        (own / "inputs").symlink_to(folder / "inputs")
        # two at a time take longer than one; a little beyond the end lets some runs get there
        lanes.append(Lane(own, whole, seconds * 1.2, Random(f"{seed}/{processes}/{number}"), processes))
    with ThreadPoolExecutor(len(lanes)) as pool:
        runs = sum(pool.map(lambda lane: lane.go(-(-kills // len(lanes))), lanes))
    killed, faults = sum((lane.killed for lane in lanes), Counter()), [f for lane in lanes for f in lane.faults]
    for fault in faults:
        say(f"FAULT: {fault}")
    where = ", ".join(f"{count} {phase}" for phase, count in sorted(killed.items()))
    what = "SIGKILL of a random rank of 2" if processes > 1 else "SIGKILL of the training process"
    ending = "all ended bit-identical to the undisturbed run" if not faults else f"{len(faults)} FAULTS"
    return [what, f"{killed.total()} ({where}), {runs} runs", ending]
