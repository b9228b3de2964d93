# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The launchers of several processes and env_npu.sh: a copy of test/*.sh, a stub of train.py, the real torchrun."""

import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_launchers import HOSTILE, OTHER_FLAGS, STOPPING, STUB, TEST_DIR, Repository, signalled

LAUNCHERS = ("train_full_8p", "train_performance_8p", "train_eval_8p")

# The part of train.py that concerns several processes: ranks above 0 write to their own logs.
RANK_STUB = r"""
import json, os, signal, subprocess, sys, time

rank, mode = int(os.environ["RANK"]), os.environ.get("STUB_MODE", "")
folder = "models/" + next(a[len("--name="):] for a in sys.argv if a.startswith("--name="))
os.makedirs(folder, exist_ok=True)
if rank:
    with open(f"{folder}/rank{rank}.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
with open(f"rank{rank}.json", "w") as f:
    json.dump({"argv": sys.argv[1:], "environment": dict(os.environ)}, f)
print("rank", rank, "is here", flush=True)
if mode == "data mistake":
    sys.exit("[Error] inputs/x: no images")
if mode == "rank 1 fails":
    if rank == 1:
        sys.exit("[Error] rank 1 has no device")
    time.sleep(60)
if mode == "rank 2 is killed":
    if rank == 2:
        subprocess.Popen(["sleep", "60"], start_new_session=True)  # in its own process group
        print("the last words of rank 2", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL if rank < 3 else signal.SIG_IGN)  # like a rank in a collective
    time.sleep(60)
if mode == "wait":
    def leave(number, frame):
        time.sleep(3)  # a slow step, or a large checkpoint
        open(f"rank{rank} got {signal.Signals(number).name}", "w").close()
        sys.exit(0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, leave)
    open(f"rank{rank} is ready", "w").close()
    time.sleep(60)
if "--evaluate" in sys.argv:
    if rank == 0:
        for step in (1, 2):
            print(f"Test: [{step}/2]\tTime  0.123 ( 0.130)\tLoss {step}.2121e+00 (1.2000e+00)\tIou 0.1491 (0.1491)")
        print("[npu id: 0 ] [AVG-IOU] * Iou 0.8331")
    sys.exit()
if rank:
    sys.exit()
"""

# A fake Python: records its command line in a file and prints the log of a successful run. With FAKE_DEAF, it acts as a
# torchrun with one rank, and both ignore signals. Only the check of the flags runs in the real Python.
FAKE_PYTHON = r"""#!/usr/bin/env bash
[[ $1 != -c || $2 != *options* ]] || exec REAL_PYTHON "$@"
[[ $1 != -c ]] || exit "${FAKE_NO_TORCH:-0}"
printf '%s\0' "$@" >command
env >environment
if [[ -n ${FAKE_DEAF:-} ]]; then
    trap 'echo got SIGINT' INT
    trap '' TERM USR1
    for flag in "$@"; do [[ $flag != --rdzv_id=* ]] || id=${flag#*=}; done
    TORCHELASTIC_RUN_ID=$id setsid sleep 60 &
    touch ready
    while :; do wait; done
fi
printf 'Epoch: [1][1/1]\tLoss 0.5\n[npu id: 0 ] * FPS@all 100\nTest: [1/1]\tLoss 0.6\n'
printf '[npu id: 0 ] [AVG-IOU] * Iou 0.8\n'
""".replace("REAL_PYTHON", shlex.quote(sys.executable))

# The end of torchrun's report on ranks that failed in the same second, lowest rank first.
REPORT = """torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
=====
train.py FAILED
-----
Failures:
[1]:
  time      : 2025-01-01_10:00:01
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : -15 (pid: 11)  (SIGTERM)
  error_file: <N/A>
[2]:
  time      : 2025-01-01_10:00:0{second}
  host      : localhost
  rank      : 12 (local_rank: 12)
  exitcode  : -9 (pid: 12)  (SIGKILL)
  error_file: <N/A>
-----
Root Cause (first observed failure):
[0]:
  time      : 2025-01-01_10:00:01
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 10)
  error_file: <N/A>
=====
"""


class Repository8p(Repository):
    """Has its own Python: the real one, or in the fixture `fake` one that only records its command line."""

    def __init__(self, root: Path):
        super().__init__(root)
        (root / "train.py").write_text(RANK_STUB + STUB)
        self.python = root / "venv" / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        self.set_python(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')

    def set_python(self, text: str) -> None:
        self.python.write_text(text)
        self.python.chmod(0o755)

    def environment(self, **changes: str) -> dict[str, str]:
        # STUB_ROOT identifies every process of the run
        return super().environment(VIRTUAL_ENV=str(self.root / "venv"), STUB_ROOT=str(self.root), **changes)

    def start(self, *flags: str, launcher: str, **env: str) -> subprocess.Popen:
        command = self.command(*flags, launcher=launcher)
        env = self.environment(**env)
        return subprocess.Popen(command, cwd=self.root, env=env, stdout=-1, stderr=-1, text=True)

    def launch_ranks(self, *flags: str, launcher: str = "train_full_8p", **env: str):
        """Like `launch`, with a longer timeout for torchrun."""
        with self.start(*flags, launcher=launcher, **env) as process:
            out, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def short_grace(self) -> None:
        script = self.root / "test" / "common_8p.sh"
        script.write_text(re.sub(r"^grace=\d+", "grace=1", script.read_text(), count=1, flags=re.M))

    def noted_command(self) -> list[str]:
        """Return the arguments of the fake Python."""
        return (self.root / "command").read_text().split("\0")[:-1]

    def rank(self, rank: int) -> dict:
        return json.loads((self.root / f"rank{rank}.json").read_text())

    def processes(self) -> list[str]:
        """Return the command lines of the run's remaining processes; they have 3 s to end."""
        deadline = time.monotonic() + 3
        while found := list(self._processes()):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return found

    def _processes(self):
        mark = f"STUB_ROOT={self.root}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    yield (folder / "cmdline").read_text()
            except OSError:
                continue

    def checkpoint(self, name: str = "dsb2018_96_UNet_woDS") -> Path:
        path = self.root / "models" / name / "model_best.pth.tar"
        path.parent.mkdir(parents=True)
        path.touch()
        return path


@pytest.fixture
def repo(tmp_path: Path) -> Repository8p:
    return Repository8p(tmp_path / "a repository")


@pytest.fixture
def fake(repo: Repository8p) -> Repository8p:
    repo.set_python(FAKE_PYTHON)
    return repo


def cores() -> int:
    return len(os.sched_getaffinity(0))


CLOSING = ["------------------ Final result ------------------", "Final Performance images/sec : 200.123"]


def test_full_8p_writes_results(repo: Repository8p):
    done = repo.launch_ranks("--num_gpus=2", ASCEND_DEVICE_ID="5")
    assert (done.returncode, done.stderr) == (0, "")
    flags = "--device_id=0 --epochs=100 --batch_size=128 --lr=1e-3 --num_workers=8 --optimizer=Adam "
    flags += "--name=dsb2018_96_UNet_woDS"
    for rank in range(2):
        assert repo.rank(rank)["argv"] == [str(repo.root / "inputs" / "dsb2018_96"), *flags.split()]
        environment = repo.rank(rank)["environment"]
        assert (environment["RANK"], environment["LOCAL_RANK"], environment["WORLD_SIZE"]) == (
            str(rank),
            str(rank),
            "2",
        )
        assert environment["OMP_NUM_THREADS"] == str(max(1, cores() // 2))
        assert "ASCEND_DEVICE_ID" not in environment
    case_name = "UNet_ID3752_for_PyTorch_bs128_2p_acc"
    result = repo.result(case_name)
    seconds = result.pop("E2ETrainingTime")
    assert result == {
        "Network": "UNet_ID3752_for_PyTorch",
        "RankSize": "2",
        "BatchSize": "128",
        "DeviceType": platform.machine(),
        "CaseName": case_name,
        "ActualFPS": "200.123",
        "TrainingTime": "0.64",  # s
        "TrainAccuracy": "0.8200",
        "ActualLoss": f"{1 / 23:.8f}",
    }
    assert len((repo.output() / f"train_{case_name}_loss.txt").read_text().split()) == 6
    assert (
        (repo.output() / "train_0.log").read_text().startswith("rank 0 is here\nlearning rate")
    )  # nothing of torchrun
    ending = [*CLOSING, "Final Train Accuracy : 0.8200", f"E2E Training Duration sec : {seconds}"]
    assert done.stdout.splitlines()[-4:] == ending
    assert repo.processes() == []


def test_performance_8p_writes_results(repo: Repository8p):
    done = repo.launch_ranks("--num_gpus=1", "--fp32", launcher="train_performance_8p", OMP_NUM_THREADS="3")
    assert (done.returncode, done.stderr) == (0, "")
    assert repo.rank(0)["environment"]["OMP_NUM_THREADS"] == "3"
    assert repo.rank(0)["environment"]["WORLD_SIZE"] == "1"
    assert {"--epochs=1", "--name=dsb2018_96_UNet_woDS_perf", "--fp32"} <= set(repo.rank(0)["argv"])
    assert not [flag for flag in repo.rank(0)["argv"] if "_step" in flag]
    result = repo.result("UNet_for_PyTorch_bs128_1p_fp32_perf")
    assert (result["Network"], result["RankSize"]) == ("UNet_for_PyTorch", "1")
    assert result["TrainingTime"] == "639.61"  # ms
    assert "CompileTime" not in result


def test_the_speed_run_of_the_current_edition(fake: Repository8p):
    assert fake.launch("--performance", launcher="train_performance_8p").returncode == 0
    assert {"--epochs=5", "--batch_size=512", "--performance"} <= set(fake.noted_command())
    assert "--performance  " in fake.launch("--help", launcher="train_performance_8p").stdout


def test_eval_8p_writes_results(repo: Repository8p):
    checkpoint = repo.checkpoint("mine")
    done = repo.launch_ranks("--num_gpus=2", "--name=mine", launcher="train_eval_8p")
    assert (done.returncode, done.stderr) == (0, "")
    argv = repo.rank(1)["argv"]
    assert {"--evaluate", f"--resume={checkpoint}", "--name=mine", "--num_workers=16", "--batch_size=128"} <= set(argv)
    case_name = "UNet_for_PyTorch_bs128_2p_eval"
    result = repo.result(case_name)
    seconds = result.pop("E2ETrainingTime")
    assert result == {
        "Network": "UNet_for_PyTorch",
        "RankSize": "2",
        "BatchSize": "128",
        "DeviceType": platform.machine(),
        "CaseName": case_name,
        "TrainAccuracy": "0.8331",
        "ActualLoss": "2.2121e+00",
    }
    assert sorted(p.name for p in repo.output().iterdir()) == [f"{case_name}.log", "eval_0.log"]
    data = repo.root / "inputs" / "dsb2018_96"
    assert done.stdout.splitlines() == [
        f"{case_name}: evaluating {checkpoint} on {data}",
        f"Log: {repo.output() / 'eval_0.log'}",
        CLOSING[0],
        "Final Train Accuracy : 0.8331",
        f"E2E Training Duration sec : {seconds}",
    ]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_torchrun_command(fake: Repository8p, launcher: str):
    fake.checkpoint()
    done = fake.launch("--batch_size=64", "--precision_mode=must_keep_origin_dtype", launcher=launcher)
    assert (done.returncode, done.stderr) == (0, "")
    command = fake.noted_command()
    script = command.index("train.py")
    assert command[:2] == ["-m", "torch.distributed.run"]
    assert {"--nproc_per_node=8", "--local_addr=127.0.0.1"} <= set(command[2:script])
    assert {"--batch_size=64", "--no-amp", "--optimizer=SGD"} <= set(command[script:])
    environment = (fake.root / "environment").read_text().splitlines()
    assert f"OMP_NUM_THREADS={max(1, cores() // 8)}" in environment
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600" in environment
    assert len(list(fake.output().glob("*_bs64_8p_*.log"))) == 1


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_any_name_is_taken_as_it_is(tmp_path: Path, launcher: str):
    """The names of the repository and of the user's folder, and names in flags, relative to the current folder."""
    fake, elsewhere = Repository8p(tmp_path / HOSTILE), tmp_path / "elsewhere" / HOSTILE
    fake.set_python(FAKE_PYTHON)
    data, checkpoint = elsewhere / HOSTILE, elsewhere / f"{HOSTILE}.pth.tar"
    data.mkdir(parents=True)
    checkpoint.touch()
    flags = [f"--{flag}={HOSTILE}" for flag in ("name", "addr", "dist_backend")]
    command = [f"--data_path={HOSTILE}", f"--resume={checkpoint.name}", *flags]
    done = fake.launch(*command, launcher=launcher, cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    command = fake.noted_command()
    assert command[command.index("train.py") + 1] == str(data)
    assert {f"--resume={checkpoint}", *flags} <= set(command)
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_other_flags_are_passed_on(fake: Repository8p, launcher: str):
    fake.checkpoint("dsb2018_96_NestedUNet_woDS")  # OTHER_FLAGS has --arch=NestedUNet
    done = fake.launch(*OTHER_FLAGS, launcher=launcher)
    assert (done.returncode, done.stderr) == (0, "")
    command = fake.noted_command()
    first = command.index(OTHER_FLAGS[0])
    assert command[first : first + len(OTHER_FLAGS)] == OTHER_FLAGS
    assert not list(fake.root.rglob("ran"))


def test_evaluation_finds_the_model_of_another_recipe(fake: Repository8p):
    checkpoint = fake.checkpoint("dsb2018_96_UNet_woDS_fast")
    assert fake.launch("--recipe=fast", launcher="train_eval_8p").returncode == 0
    assert {f"--resume={checkpoint}", "--name=dsb2018_96_UNet_woDS_fast", "--evaluate"} <= set(fake.noted_command())


def test_resume_auto_is_for_training_only(fake: Repository8p):
    assert fake.launch("--resume=auto", launcher="train_full_8p").returncode == 0
    assert "--resume=auto" in fake.noted_command()
    assert "--resume auto continues a run" in fake.launch("--resume=auto", launcher="train_eval_8p").stderr


def test_a_device_id_is_ignored_with_a_warning(fake: Repository8p):
    done = fake.launch("--device_id=3", launcher="train_full_8p")
    assert done.returncode == 0
    assert done.stderr.startswith("[Warning] --device_id ") and done.stderr.count("\n") == 1
    assert [p.name for p in (fake.root / "test" / "output").iterdir()] == ["0"]


@pytest.mark.parametrize(
    ("launcher", "flag", "words"),
    [
        ("train_full_8p", "--num_gpus=0", "--num_gpus"),
        ("train_full_8p", "--num_gpus=all", "--num_gpus"),
        ("train_full_8p", "--num_gpus=", "--num_gpus"),
        ("train_performance_8p", "--num_gpus=3", "a multiple of --num_gpus, 3"),
        ("train_eval_8p", "--batch_size=20", "a multiple of --num_gpus, 8"),
        ("train_full_8p", "--resume=nowhere", "/nowhere"),
        ("train_full_8p", "--save_steps=none", "--save_steps"),
        ("train_full_1p", "--num_gpus=2", "Unknown flag: --num_gpus"),
        ("train_full_8p", "--color=red", "Unknown flag: --color=red"),
        ("train_performance_8p", "--color=red", "Unknown flag: --color=red"),
        ("train_eval_8p", "--color=red", "Unknown flag: --color=red"),
        ("train_eval_8p", "--epoch=1", "Unknown flag: --epoch=1"),
        ("train_full_8p", "--evaluate", "--evaluate is not for training"),
        ("train_eval_8p", "--resume=nowhere", "/nowhere"),
        ("train_eval_8p", "--name=other", "/models/other/model_best.pth.tar"),
    ],
)
def test_wrong_flags_are_one_sentence(fake: Repository8p, launcher: str, flag: str, words: str):
    fake.checkpoint()
    done = fake.launch(flag, launcher=launcher)
    assert done.returncode == 1
    assert done.stderr.startswith("[Error] ") and done.stderr.count("\n") == 1
    assert words in done.stderr
    assert not (fake.root / "command").exists() and not (fake.root / "test" / "output").exists()


def test_a_missing_torch_is_one_sentence(fake: Repository8p):
    done = fake.launch(launcher="train_full_8p", FAKE_NO_TORCH="1")
    assert done.returncode == 1
    assert "PyTorch is not installed" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_help(fake: Repository8p, launcher: str):
    done = fake.launch("--help", launcher=launcher)
    assert done.returncode == 0
    for line in ("--num_gpus=N .*8", "--batch_size=N .*128", f"--num_workers=N .*{16 if 'eval' in launcher else 8}"):
        assert re.search(line, done.stdout)
    assert "Adam, AdamW or SGD" in done.stdout and "python train.py --help" in done.stdout
    assert ("--resume=FILE " in done.stdout, "--resume=auto|FILE " in done.stdout) == (
        "eval" in launcher,
        "eval" not in launcher,
    )
    assert not (fake.root / "test" / "output").exists()


def test_a_rank_that_fails_is_named(repo: Repository8p):
    done = repo.launch_ranks("--num_gpus=2", STUB_MODE="rank 1 fails")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "[Error] The run failed with exit code 1. The last lines of its log:",
        "rank 0 is here",
        "[Error] Rank 1 died first: it ended with exit code 1. The last lines of its log, "
        "models/dsb2018_96_UNet_woDS/rank1.log:",
        "rank 1 is here",
        "[Error] rank 1 has no device",
    ]
    assert "Final result" not in done.stdout
    assert [p.name for p in repo.output().iterdir()] == ["train_0.log"]
    assert repo.processes() == []


def test_an_error_in_all_ranks_is_shown(repo: Repository8p):
    """Whichever rank fails first; torchrun's report must not hide the message."""
    done = repo.launch_ranks("--num_gpus=2", STUB_MODE="data mistake")
    assert done.returncode == 1
    assert "[Error] inputs/x: no images\n" in done.stderr
    assert re.search(r"\[Error] Rank [01] died first: it ended with exit code 1\.", done.stderr)
    assert "torch" not in done.stderr and "Traceback" not in done.stderr


def test_a_killed_rank_ends_the_run(repo: Repository8p):
    """Even if another rank ignores torchrun's signal, and if the killed rank leaves a process behind."""
    repo.short_grace()
    start = time.monotonic()
    done = repo.launch_ranks("--num_gpus=4", STUB_MODE="rank 2 is killed")
    assert time.monotonic() - start < 25  # torchrun itself would wait 30 s for rank 3
    assert done.returncode == 1
    assert done.stderr.splitlines()[-3:] == [
        "[Error] Rank 2 died first: killed by signal 9 (SIGKILL). The last lines of its log, "
        "models/dsb2018_96_UNet_woDS/rank2.log:",
        "rank 2 is here",
        "the last words of rank 2",
    ]
    assert repo.processes() == []


@pytest.mark.parametrize(("second", "expected"), [(1, "12 -9"), (9, "0 1")])
def test_the_killed_rank_is_the_cause_of_what_died_with_it(repo: Repository8p, second: int, expected: str):
    """torchrun kills the ranks that survive too, but later."""
    log = repo.root / "log"
    log.write_text("a rank's words\n" + REPORT.format(second=second))
    command = 'source "$1/common_8p.sh"; log=$2; first_failed_rank; rank_messages'
    arguments = ["bash", "-c", command, "bash", TEST_DIR, log]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.startswith(f"{expected}\na rank's words\n")


def test_an_old_rank_log_is_not_shown(repo: Repository8p):
    log = repo.root / "log"
    log.write_text(REPORT.format(second=1))
    rank_log = repo.root / "rank12.log"
    rank_log.write_text("an earlier run's")
    os.utime(rank_log, (1, 1))
    (repo.root / "models" / "x").mkdir(parents=True)
    rank_log.rename(repo.root / "models" / "x" / "rank12.log")
    command = 'source "$1/common_8p.sh"; log=$2 run_name=x started=1000; show_failure'
    arguments = ["bash", "-c", command, "bash", TEST_DIR, log]
    done = subprocess.run(arguments, cwd=repo.root, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.splitlines()[-1] == "[Error] Rank 12 died first: killed by signal 9 (SIGKILL)."


def test_signals_reach_all_ranks(tmp_path: Path):
    """The ranks finish their step. Three runs at once, which also shows that they use different ports."""
    runs = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        repo = Repository8p(tmp_path / number.name)
        repo.short_grace()
        runs.append((number, repo, repo.start("--num_gpus=2", launcher="train_full_8p", STUB_MODE="wait")))
    try:
        for number, repo, process in runs:
            deadline = time.monotonic() + 40
            while len(list(repo.root.glob("rank? is ready"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.2)
            second = repo.launch_ranks("--num_gpus=2", launcher="train_performance_8p")
            assert second.returncode == 1 and second.stderr == (
                f'[Error] Another launcher is running in "{repo.output()}": wait for it, or on one device use another '
                "--device_id.\n"
            )
            process.send_signal(number)
        for number, _, process in runs:
            for _ in range(3 if number != signal.SIGINT else 0):  # torchrun would abandon its ranks
                time.sleep(0.3)
                process.send_signal(number)
        for number, repo, process in runs:
            _, errors = process.communicate(timeout=30)
            got = sorted(p.name for p in repo.root.glob("rank? got *"))
            assert got == [f"rank{rank} got {number.name}" for rank in range(2)]
            assert process.returncode == 128 + number
            assert errors.splitlines() == [
                STOPPING.format(number.name)[:-1],
                f"[Error] The run failed with exit code {128 + number} after {number.name}. The last lines of its log:",
                "rank 0 is here",
            ]
            assert [p.name for p in repo.output().iterdir()] == ["train_0.log"]
            assert repo.processes() == []
    finally:
        for _, _, process in runs:
            process.kill()


def test_a_second_ctrl_c_ends_ranks_that_ignore_signals(fake: Repository8p):
    launcher = fake.start(launcher="train_full_8p", FAKE_DEAF="1")
    signals = [signal.SIGINT, signal.SIGINT]
    errors = signalled(launcher, fake.root, fake.output() / "train_0.log", *signals)
    assert launcher.returncode == 130 and fake.processes() == []
    assert errors.startswith(STOPPING.format("SIGINT") + "[Error] The run failed with exit code 130 after SIGINT.")


CANN = 'export ASCEND_HOME_PATH=/cann$NO_SUCH_VARIABLE\nfalse\nexport SOURCED="${SOURCED:-}$1"\n'
SETTINGS = {
    "TASK_QUEUE_ENABLE": "2",
    "COMBINED_ENABLE": "1",
    "ASCEND_SLOG_PRINT_TO_STDOUT": "0",
    "ASCEND_GLOBAL_LOG_LEVEL": "3",
    "ASCEND_GLOBAL_EVENT_ENABLE": "0",
    "CPU_AFFINITY_CONF": "1",
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "HCCL_CONNECT_TIMEOUT": "600",
}


def install_cann(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "set_env.sh").write_text(CANN)


@pytest.mark.skipif(Path("/usr/local/Ascend").exists(), reason="this host has a CANN of its own")
class TestEnvNpu:
    @pytest.fixture(autouse=True)
    def one_process(self, tmp_path: Path):
        self.repo = Repository(tmp_path / HOSTILE)
        self.home = self.repo.root / "home"

    def launched(self, **env: str):
        """Return the launcher's stderr, and the environment of train.py."""
        done = self.repo.launch(**(self.repo.ascend_host() | env))
        assert done.returncode == 0, done.stderr
        return done.stderr, self.repo.run_environment()

    @pytest.mark.parametrize("place", ["ascend-toolkit", "cann", "nnae"])
    def test_on_an_ascend_host(self, place: str):
        install_cann(self.home / "Ascend" / place)
        complaints, environment = self.launched()
        assert complaints == ""
        assert environment["ASCEND_HOME_PATH"] == "/cann"
        assert {key: environment.get(key) for key in SETTINGS} == SETTINGS
        assert not {"PTCOPY_ENABLE", "DYNAMIC_OP", "HCCL_WHITELIST_DISABLE"} & set(environment)

    @pytest.mark.parametrize("place", ["chosen/latest", "chosen"])
    def test_the_cann_that_the_environment_names_comes_first(self, place: str):
        install_cann(self.home / place)
        (self.home / "chosen" / "latest").mkdir(exist_ok=True)
        install_cann(self.home / "Ascend" / "cann")
        (self.home / "Ascend" / "cann" / "set_env.sh").write_text("export ASCEND_HOME_PATH=/another\n")
        _, environment = self.launched(ASCEND_TOOLKIT_HOME=str(self.home / "chosen" / "latest"))
        assert environment["ASCEND_HOME_PATH"] == "/cann"

    @pytest.mark.parametrize("value", ["7", ""])
    def test_the_users_values_stay(self, value: str):
        install_cann(self.home / "Ascend" / "cann")
        mine = dict.fromkeys(SETTINGS, value)
        _, environment = self.launched(**mine)
        assert {key: environment.get(key) for key in SETTINGS} == mine

    def test_no_cann_is_a_warning(self):
        complaints, environment = self.launched()
        assert complaints.startswith("[Warning] CANN's set_env.sh ") and complaints.count("\n") == 1
        assert environment["TASK_QUEUE_ENABLE"] == "2"

    def test_a_platform_that_sets_all_itself(self):
        install_cann(self.home / "Ascend" / "cann")
        complaints, environment = self.launched(etp_running_flag="true")
        assert complaints == ""
        assert not {*SETTINGS, "ASCEND_HOME_PATH"} & set(environment)

    def test_elsewhere(self):
        assert self.repo.launch(HOME=str(self.home)).stderr == ""
        assert not set(SETTINGS) & set(self.repo.run_environment())

    @pytest.mark.parametrize("cann", [True, False])
    def test_sourced_by_hand(self, cann: bool):
        """Even in a shell with set -eu; its options do not change."""
        if cann:
            install_cann(self.home / "Ascend" / "cann")
        command = 'set -eu; source "$1"; echo "$- ${ASCEND_HOME_PATH:-none} $CPU_AFFINITY_CONF"'
        arguments = [shutil.which("bash"), "-c", command, "bash", TEST_DIR / "env_npu.sh"]
        env = self.repo.environment(HOME=str(self.home))
        done = subprocess.run(arguments, env=env, capture_output=True, text=True, check=True, timeout=20)
        options, home, affinity = done.stdout.split()
        assert {"e", "u"} <= set(options) and (home, affinity) == ("/cann" if cann else "none", "1")
        assert done.stderr == ""

    @pytest.mark.parametrize("preset", [{}, *({name: value} for name in SETTINGS for value in ("7", ""))], ids=str)
    def test_each_value_by_itself(self, preset: dict[str, str]):
        """A value from outside, also an empty one, stays; the other variables get their defaults."""
        arguments = [shutil.which("bash"), "-c", 'source "$1"; env -0', "bash", TEST_DIR / "env_npu.sh"]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), **preset}
        done = subprocess.run(arguments, env=env, capture_output=True, text=True, check=True, timeout=20)
        environment = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
        assert {key: environment.get(key) for key in SETTINGS} == SETTINGS | preset
        assert done.stderr == ""
