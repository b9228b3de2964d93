# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Kill training at random moments, resume it, and compare the final files with those of an undisturbed run bit by bit.

A run is 3 epochs of 4 steps of UNet on 20 synthetic images of 32×32, saved every 2 steps. It is killed and resumed
until it has finished. After the last kill, the rest of the run is not disturbed.
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

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

import pandas as pd
import torch

from faults.forks import Fork, start_script
from runtime.checkpoint import BEST, LATEST, PREVIOUS, load_latest_checkpoint

EPOCHS, STEPS, SAVE_STEPS, MAX_SECONDS = 3, 4, 2, 240  # STEPS: of an epoch
DATA = "inputs/synthetic_32"
FLAGS = f"{DATA} --input_h 32 --input_w 32 --batch_size 4 --num_workers 1 --device cpu --epochs {EPOCHS}".split()
TORCHRUN = ["-m", "torch.distributed.run", "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0"]
TORCHRUN += ["--local_addr=127.0.0.1", "--nproc_per_node=2"]
TRAIN, NARROW_TRAIN = ROOT / "train.py", ROOT / "test" / "faults" / "narrow_train.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
# entries of a checkpoint that depend on the time, or on how the run was started
MAY_DIFFER = re.compile(r"/history/\d+/images_per_s|/config/(name|resume|save_steps|epochs)")

Step = tuple[int, int]  # finished epochs, and steps done in the next one


def make_data(folder: Path) -> None:
    """Write the training images below `folder`."""
    flags = ["--synthetic", "20", "--img_size", "32", "--workers", "1"]
    log = folder / "log"
    if start_script(ROOT / "preprocess_dsb2018.py", flags, folder, log).wait():
        raise SystemExit(f"the training images could not be made:\n{log.read_text()}")


def start_training(
    folder: Path, log: Path, script: Path, *flags: str, processes: int = 1, kill: bool = False
) -> subprocess.Popen | Fork:
    """Start TRAIN or NARROW_TRAIN in `folder`, in a process group of its own, with its output in `log`.

    kill: whether a rank will be killed, after which torchrun must end the others. To save time, NARROW_TRAIN runs in
    forks unless torchrun is needed.
    """
    if script == NARROW_TRAIN and not (kill and processes > 1):
        return start_script(script, [*FLAGS, *flags], folder, log, processes)
    launch = [*TORCHRUN, str(script)] if processes > 1 else [str(script)]
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, *launch, *FLAGS, *flags],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def wait_for_first_line(process: subprocess.Popen | Fork, log: Path) -> None:
    """Wait until a run has printed its first line, or has ended."""
    limit = time.monotonic() + MAX_SECONDS
    while process.poll() is None and "images to train" not in log.read_text() and time.monotonic() < limit:
        time.sleep(0.02)


def find_differences(one, other, path: str = "") -> list[str]:
    """Return the paths in nested dicts and lists at which two checkpoints differ in any bit."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict):
        in_both = [p for k in one.keys() & other.keys() for p in find_differences(one[k], other[k], f"{path}/{k}")]
        return in_both + [f"{path}/{key}" for key in one.keys() ^ other.keys()]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same or MAY_DIFFER.fullmatch(path) else [path]


def compare(whole: Path, cut: Path) -> list[str]:
    """Return the differences between the files of two finished runs, except for times."""
    found = []
    for name in (LATEST, BEST):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (whole, cut))
        found += [f"{name}:{path}" for path in find_differences(one, other)]
    one, other = (pd.read_csv(folder / "log.csv").drop(columns="images_per_s") for folder in (whole, cut))
    return found + ([] if one.equals(other) else ["log.csv"])


def phase_of(log: str, run: Path) -> str:
    """Return what a run with this output was doing when it was killed."""
    last = next((line for line in reversed(log.splitlines()) if re.match(r"Epoch:|Test:|\[npu id", line)), "")
    if list(run.glob(".*.partial*")):
        return "saving"  # in the background, while the main thread does one of the others
    if "FPS@all" in last or last.startswith("Test:"):
        return "validation"
    return "step" if last.startswith("Epoch:") else "saving" if "AVG-IOU" in last else "start"


def rank_processes(torchrun: subprocess.Popen) -> list[int]:
    """Return the ids of the training processes that torchrun has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = path.with_name("cmdline").read_bytes()
        except OSError:  # the process has just ended
            continue
        if parent == torchrun.pid and b"train.py" in command:
            found.append(int(path.parent.name))
    return sorted(found)


def saved_step(run: Path) -> Step:
    """Return the step after which a resumed run would continue; (0, 0) if there is no checkpoint."""
    if not any((run / name).exists() for name in (LATEST, PREVIOUS)):
        return 0, 0
    checkpoint = load_latest_checkpoint(run / LATEST)[0]
    return checkpoint["epoch"], checkpoint["step"]


def surely_saved_step(log: str) -> Step:
    """Return the last step that a run with this output must have saved.

    A step's line is printed before the step is saved, and after the save of the step before it has begun. A save
    begins when the save before it has ended.
    """
    epoch, step = next(reversed(re.findall(r"^Epoch: \[(\d+)\]\[ *(\d+)/", log, re.MULTILINE)), ("1", "1"))
    steps_before = (int(epoch) - 1) * STEPS + int(step) - 1
    begun = steps_before // SAVE_STEPS
    return divmod(max(0, begun - 1) * SAVE_STEPS, STEPS)


class Lane:
    """Kills runs one after the other, in a folder of its own."""

    def __init__(self, folder: Path, script: Path, whole: Path, seconds: float, random: Random, processes: int):
        """whole: folder of the undisturbed run. seconds: from a run's first line to the latest moment of a kill."""
        self.folder, self.script, self.whole = folder, script, whole
        self.seconds, self.random, self.processes = seconds, random, processes
        self.killed, self.faults = Counter(), []

    def run(self, kills: int) -> int:
        """Kill and resume runs until `kills` kills are done and the last run has finished; returns how many runs."""
        runs = 0
        while self.killed.total() < kills and not self.faults:
            runs += 1
            while not self.resume(f"run{runs}", kill=self.killed.total() < kills):
                pass
            if not self.faults:
                run = self.folder / "models" / f"run{runs}"
                self.faults += compare(self.whole, run)
                shutil.rmtree(run)
        return runs

    def resume(self, name: str, kill: bool) -> bool:
        """Start or resume a run, and with `kill` kill it at a random moment; returns whether it ended before that."""
        run, log = self.folder / "models" / name, self.folder / "log"
        saved_before = saved_step(run)
        flags = ("--name", name, "--resume", "auto", "--save_steps", str(SAVE_STEPS))
        process = start_training(self.folder, log, self.script, *flags, processes=self.processes, kill=kill)
        wait_for_first_line(process, log)
        try:
            if kill:
                process.wait(self.random.uniform(0, self.seconds))
            else:
                self._wait_for_end(process, MAX_SECONDS)
        except subprocess.TimeoutExpired:
            text = log.read_text()
            self._kill(process)
            phase = phase_of(text, run)
            self._wait_for_end(process, 90)
            if process.returncode == 0:  # it had finished at that moment
                return True
            self.killed[phase] += 1
            expected, saved = max(surely_saved_step(text), saved_before), saved_step(run)
            if saved < expected:
                self.faults.append(f"lost steps: {expected} (epochs, steps) were saved, {saved} are left")
            return False
        if process.returncode:
            self.faults.append(f"exit status {process.returncode}: {log.read_text()[-500:]}")
        return True

    def _kill(self, process: subprocess.Popen | Fork) -> None:
        """Kill the training process, or a random one of several."""
        if self.processes == 1:
            os.kill(process.pid, signal.SIGKILL)
        elif ranks := rank_processes(process):
            os.kill(self.random.choice(ranks), signal.SIGKILL)

    def _wait_for_end(self, process: subprocess.Popen | Fork, seconds: float) -> None:
        """Wait for the processes; after a kill, those that remain must notice by themselves that one has gone."""
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.faults.append(f"the run did not end within {seconds} s")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_undisturbed(folder: Path, script: Path, processes: int) -> tuple[Path, float]:
    """Do a whole run; returns its folder, and the seconds from its first line to its end."""
    name, log = f"whole{processes}", folder / f"whole{processes}.log"
    process = start_training(folder, log, script, "--name", name, processes=processes)
    wait_for_first_line(process, log)
    start = time.monotonic()
    if process.wait(MAX_SECONDS):
        raise SystemExit(f"the undisturbed run failed:\n{log.read_text()}")
    return folder / "models" / name, time.monotonic() - start


def try_kills(
    folder: Path, script: Path, kills: int, processes: int, seed: int, report: Callable[[str], None]
) -> list[str]:
    """Kill training at least `kills` times and report each fault; returns a row for the table.

    processes: number of training processes in a run. Many runs of a single process are killed in two lanes at once.
    """
    whole, seconds = run_undisturbed(folder, script, processes)
    lanes = []
    for number in range(2 if processes == 1 and kills > 2 else 1):
        own = folder / f"lane{number}"
        own.mkdir()
        (own / "inputs").symlink_to(folder / "inputs")
        # some runs may finish: two at once take longer than one, and 1.2 is a little beyond the end
        lanes.append(Lane(own, script, whole, seconds * 1.2, Random(f"{seed}/{processes}/{number}"), processes))
    with ThreadPoolExecutor(len(lanes)) as pool:
        runs = sum(pool.map(lambda lane: lane.run(-(-kills // len(lanes))), lanes))
    killed, faults = sum((lane.killed for lane in lanes), Counter()), [f for lane in lanes for f in lane.faults]
    for fault in faults:
        report(f"FAULT: {fault}")
    phases = ", ".join(f"{count} {phase}" for phase, count in sorted(killed.items()))
    what = "SIGKILL of a random rank of 2" if processes > 1 else "SIGKILL of the training process"
    outcome = f"{len(faults)} FAULTS" if faults else "all ended bit-identical to the undisturbed run"
    return [what, f"{killed.total()} ({phases}), {runs} runs", outcome]
