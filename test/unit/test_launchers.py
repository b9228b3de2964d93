# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The launchers, run as users run them: a copy of test/*.sh and of the real options, with a stub of train.py."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

TEST_DIR = Path(__file__).resolve().parents[1]

# Environment variables that the launchers, env_npu.sh and torchrun read.
DROPPED = ("VIRTUAL_ENV", "CONDA_PREFIX", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "LOCAL_RANK", "etp_running_flag")
DROPPED += ("ASCEND_DEVICE_ID", "ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "CPU_AFFINITY_CONF", "COMBINED_ENABLE")
DROPPED += ("PYTORCH_NPU_ALLOC_CONF", "HCCL_CONNECT_TIMEOUT")
DROPPED += ("TASK_QUEUE_ENABLE", "ASCEND_SLOG_PRINT_TO_STDOUT", "ASCEND_GLOBAL_LOG_LEVEL", "ASCEND_GLOBAL_EVENT_ENABLE")

# A name that creates a file "ran", or turns into another name, if a script expands it.
HOSTILE = "-a 'b\" $(touch ran) `touch ran`; touch ran & \n touch ran #*?[x]{c,d}~\\n\\ %s =e\n"

# Prints the log lines of train.py, records its arguments, and does what STUB_MODE says.
STUB = r"""
import json, os, signal, sys, time

mode = os.environ.get("STUB_MODE", "")
if mode == "finished":
    sys.exit(print("checkpoint.pth.tar has finished its 2 epochs; raise --epochs to train on"))
with open("argv.json", "w") as f:
    json.dump({"argv": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}, f)
if mode == "wait" or mode == "wait long":
    def leave(number, frame):
        signal.signal(number, signal.SIG_DFL)
        print("got", signal.Signals(number).name, flush=True)
        time.sleep(0.3 if mode == "wait" else 20)  # the launcher must wait for this
        print("left", flush=True)
        sys.exit(40 + number)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, leave)
    open("ready", "w").close()
    try:
        time.sleep(20)
        sys.exit()
    except KeyboardInterrupt:  # Python raises it only if the launcher does not ignore SIGINT
        leave(signal.SIGINT, None)
for epoch in range(1, 3):
    print(f"learning rate of epoch {epoch}: 0.001, Loss 9.9")
    for step in range(1, 4):
        loss = 1 / (epoch * 10 + step)
        print(f"Epoch: [{epoch}][{step:2d}/33]\tTime {step / 8:6.3f} ({1:6.3f})\tData {0.003:6.3f} ({0.004:6.3f})"
              f"\tLoss {loss:6.8f} ({0.5:6.8f})\tIou {0.4321:6.4f} ({0.4:6.4f})")
    if mode == "fail":
        sys.exit("Traceback: out of luck") if epoch == 2 else None
    if mode != "no fps":
        print(f"[npu id: 0 ] * FPS@all {100 * epoch + 0.123:.3f}")
    print("Test: [1/9]\tTime  0.123 ( 0.130)\tLoss 1.2121e+00 (1.2000e+00)\tIou 0.1491 (0.1491)")
    print(f"[npu id: 0 ] [AVG-IOU] * Iou {0.8 + epoch / 100:.4f}")
if mode == "fail with 7":
    sys.exit(7)
"""


class Repository:
    """A copy of the repository with launchers, the real options, a stub of train.py and an empty data set."""

    def __init__(self, root: Path):
        self.root = root
        (root / "test").mkdir(parents=True)
        for script in TEST_DIR.glob("*.sh"):
            shutil.copy(script, root / "test")
        (root / "train.py").write_text(STUB)
        for room in ("options", "runtime"):
            shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
        for folder in ("images", "masks"):
            (root / "inputs" / "dsb2018_96" / folder).mkdir(parents=True)

    def environment(self, **changes: str) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if k not in DROPPED} | changes

    def command(self, *flags: str, launcher: str = "train_full_1p") -> list[str]:
        return ["bash", str(self.root / "test" / f"{launcher}.sh"), *flags]

    def launch(self, *flags: str, launcher: str = "train_full_1p", cwd: Path | None = None, **env: str):
        return subprocess.run(
            self.command(*flags, launcher=launcher),
            cwd=cwd or self.root,
            env=self.environment(**env),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def output(self, device_id: int = 0) -> Path:
        return self.root / "test" / "output" / str(device_id)

    def argv(self) -> list[str]:
        return json.loads((self.root / "argv.json").read_text())["argv"]

    def run_environment(self) -> dict[str, str]:
        return json.loads((self.root / "argv.json").read_text())["environment"]

    def result(self, case_name: str, device_id: int = 0) -> dict[str, str]:
        text = (self.output(device_id) / f"{case_name}.log").read_text()
        return dict(line.split(" = ") for line in text.splitlines())

    def ascend_host(self) -> dict[str, str]:
        """Return variables that make this host look like an Ascend host; CANN's place is home/Ascend."""
        tools = self.root / "tools"
        tools.mkdir()
        (tools / "npu-smi").symlink_to(shutil.which("true"))
        return {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(self.root / "home")}


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "a repository")


def shell(command: str, cwd: Path) -> str:
    return subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()


def test_full_1p_writes_results(repo: Repository):
    done = repo.launch()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    data = str(repo.root / "inputs" / "dsb2018_96")
    flags = "--device_id=0 --epochs=100 --batch_size=16 --lr=1e-3 --num_workers=4 --optimizer=Adam "
    flags += "--name=dsb2018_96_UNet_woDS"
    assert repo.argv() == [data, *flags.split()]
    result = repo.result("UNet_for_PyTorch_bs16_1p_acc")
    seconds = result.pop("E2ETrainingTime")
    assert 0 <= int(seconds) <= 10
    assert result == {
        "Network": "UNet_for_PyTorch",
        "RankSize": "1",
        "BatchSize": "16",
        "DeviceType": platform.machine(),
        "CaseName": "UNet_for_PyTorch_bs16_1p_acc",
        "ActualFPS": "200.123",
        "TrainingTime": "79.95",  # ms
        "TrainAccuracy": "0.8200",
        "ActualLoss": f"{1 / 23:.8f}",
    }
    losses = (repo.output() / "train_UNet_for_PyTorch_bs16_1p_acc_loss.txt").read_text().split()
    assert losses == [f"{1 / n:.8f}" for n in (11, 12, 13, 21, 22, 23)]
    assert done.stdout.splitlines()[-4:] == [
        "------------------ Final result ------------------",
        "Final Performance images/sec : 200.123",
        "Final Train Accuracy : 0.8200",
        f"E2E Training Duration sec : {seconds}",
    ]


def test_performance_1p_writes_results(repo: Repository):
    done = repo.launch("--fp32", launcher="train_performance_1p")
    assert done.returncode == 0, done.stderr
    result = repo.result("UNet_ID3752_for_PyTorch_bs16_1p_fp32_perf")
    assert result["Network"] == "UNet_ID3752_for_PyTorch"
    assert result["TrainingTime"] == "0.08"  # s
    assert float(result["CompileTime"]) == 0.375
    expected = ["--epochs=1", "--name=dsb2018_96_UNet_woDS_perf", "--start_step=20", "--stop_step=30", "--fp32"]
    assert set(expected) <= set(repo.argv())


@pytest.mark.parametrize(
    ("flags", "expected", "batch_size"),
    [
        (["--performance"], ["--epochs=5", "--batch_size=512"], 512),
        (["--batch_size=64", "--performance", "--epochs=2"], ["--epochs=2", "--batch_size=64"], 64),
        (["--performance", "--recipe=fast"], ["--epochs=5", "--batch_size=512"], 512),
    ],
)
def test_the_speed_run_of_the_current_edition(repo: Repository, flags: list[str], expected: list[str], batch_size: int):
    done = repo.launch(*flags, launcher="train_performance_1p")
    assert done.returncode == 0, done.stderr
    assert {*expected, "--performance"} <= set(repo.argv())
    result = repo.result(f"UNet_ID3752_for_PyTorch_bs{batch_size}_1p_perf")
    assert result["BatchSize"] == str(batch_size) and "CompileTime" in result


def test_performance_on_an_accuracy_run_changes_no_other_flag(repo: Repository):
    assert repo.launch("--performance").returncode == 0
    assert {"--performance", "--epochs=100", "--batch_size=16"} <= set(repo.argv())
    assert "--performance" not in repo.launch("--help").stdout
    assert "--performance  " in repo.launch("--help", launcher="train_performance_1p").stdout


def make_checkpoint(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_eval_1p_writes_results(repo: Repository):
    checkpoint = make_checkpoint(repo.root / "models" / "mine" / "model_best.pth.tar")
    done = repo.launch("--name=mine", "--device_id=1", launcher="train_eval_1p")
    assert (done.returncode, done.stderr) == (0, "")
    expected = {"--evaluate", f"--resume={checkpoint}", "--name=mine", "--num_workers=16", "--batch_size=16"}
    assert expected <= set(repo.argv())
    case_name = "UNet_for_PyTorch_bs16_1p_eval"
    result = repo.result(case_name, 1)
    seconds = result.pop("E2ETrainingTime")
    assert result == {
        "Network": "UNet_for_PyTorch",
        "RankSize": "1",
        "BatchSize": "16",
        "DeviceType": platform.machine(),
        "CaseName": case_name,
        "TrainAccuracy": "0.8200",
        "ActualLoss": "1.2121e+00",
    }
    assert sorted(p.name for p in repo.output(1).iterdir()) == [f"{case_name}.log", "eval_1.log"]
    assert done.stdout.splitlines() == [
        f"{case_name}: evaluating {checkpoint} on {repo.root / 'inputs' / 'dsb2018_96'}",
        f"Log: {repo.output(1) / 'eval_1.log'}",
        "------------------ Final result ------------------",
        "Final Train Accuracy : 0.8200",
        f"E2E Training Duration sec : {seconds}",
    ]


@pytest.mark.parametrize(
    ("flags", "name"),
    [([], "dsb2018_96_UNet_woDS_finetune"), (["--num_classes=2", "--name=cells", "--resume=a b.pth.tar"], "cells")],
)
def test_finetune_1p_writes_results(repo: Repository, flags: list[str], name: str):
    usual = make_checkpoint(repo.root / "models" / "dsb2018_96_UNet_woDS" / "model_best.pth.tar")
    checkpoint = make_checkpoint(repo.root / "a b.pth.tar") if flags else usual
    done = repo.launch(*flags, launcher="train_finetune_1p")
    assert (done.returncode, done.stderr) == (0, "")
    expected = {"--pretrained", f"--resume={checkpoint}", f"--name={name}", "--batch_size=16", "--epochs=100"}
    assert expected | {flag for flag in flags if "classes" in flag} <= set(repo.argv())
    result = repo.result("UNet_for_PyTorch_bs16_1p_finetune")
    assert (result["ActualFPS"], result["TrainingTime"], result["TrainAccuracy"]) == ("200.123", "79.95", "0.8200")
    assert len((repo.output() / "train_UNet_for_PyTorch_bs16_1p_finetune_loss.txt").read_text().split()) == 6
    assert f"fine-tuning {checkpoint} on " in done.stdout
    repo.launch(*flags, launcher="train_finetune_1p")
    assert not list(repo.output().glob("*.before")), "it starts anew each time"


def test_finetune_1p_does_not_replace_its_checkpoint(repo: Repository):
    for name in ("dsb2018_96_UNet_woDS", "mine", "dsb2018_96_UNet_woDS_finetune"):
        checkpoint = make_checkpoint(repo.root / "models" / name / "model_best.pth.tar")
        flags = [f"--resume=models/{name}/model_best.pth.tar", *([] if "finetune" in name else [f"--name={name}"])]
        done = repo.launch(*flags, launcher="train_finetune_1p")
        assert done.returncode == 1 and done.stderr == (
            f'[Error] The run "{name}" would replace its own checkpoint "{checkpoint}": choose another --name.\n'
        )

    done = repo.launch("--name=new", launcher="train_finetune_1p")
    assert done.returncode == 0, done.stderr
    usual = repo.root / "models" / "dsb2018_96_UNet_woDS" / "model_best.pth.tar"
    assert {f"--resume={usual}", "--name=new"} <= set(repo.argv()), "--name is the new run, not the checkpoint's"


def test_eval_1p_scores_other_images(repo: Repository, tmp_path: Path):
    """Only training needs --train_ids as well."""
    make_checkpoint(repo.root / "models" / "mine" / "model_best.pth.tar")
    done = repo.launch("--name=mine", "--val_ids=val.txt", launcher="train_eval_1p", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"--val_ids={tmp_path}/val.txt" in repo.argv() and repo.argv().count("--evaluate") == 1
    done = repo.launch("--val_ids=val.txt", launcher="train_finetune_1p")
    assert done.returncode == 1 and "--train_ids and --val_ids belong together" in done.stderr


@pytest.mark.parametrize("launcher", ["train_finetune_1p", "train_eval_1p"])
def test_a_missing_checkpoint_is_one_sentence(repo: Repository, launcher: str):
    path = repo.root / "models" / "dsb2018_96_UNet_woDS" / "model_best.pth.tar"
    for flags, missing in (([], path), (["--resume=none"], repo.root / "none")):
        done = repo.launch(*flags, launcher=launcher)
        assert done.returncode == 1 and done.stderr == (
            f'[Error] There is no checkpoint "{missing}": name one with --resume=FILE, or run train_full_1p.sh first.\n'
        )
    done = repo.launch("--resume=auto", launcher=launcher)
    assert done.returncode == 1 and done.stderr == (
        "[Error] --resume auto continues a run; --evaluate and --pretrained need the path of a checkpoint "
        "(see --help)\n"
    )
    assert "--resume=FILE  " in repo.launch("--help", launcher=launcher).stdout
    assert max(map(len, repo.launch("--help", launcher=launcher).stdout.splitlines())) <= 120


def test_an_old_harness_reads_the_log(repo: Repository):
    repo.launch("--device_id=2")
    log = "test/output/2/train_2.log"
    assert shell(f"grep FPS {log} | tail -1 | awk '{{print $7}}'", repo.root) == "200.123"
    assert shell(f"grep AVG {log} | tail -1 | awk '{{print $8}}'", repo.root) == "0.8200"
    result = "test/output/2/UNet_for_PyTorch_bs16_1p_acc.log"
    assert shell(f"grep '^ActualFPS' {result} | awk '{{print $3}}'", repo.root) == "200.123"


# Flags that the launchers do not interpret.
OTHER_FLAGS = ["--device=cpu", "--profiling=CANN", "--start_step=2", "--stop_step=5", "--save_steps=40", "--cache_mb=0"]
OTHER_FLAGS += ["--resume_anyway", "--trust_checkpoint", "--skip-bad", "--ema=0.99", "--arch=NestedUNet", "--sync_bn"]
OTHER_FLAGS += ["--dist_timeout=5", "--opt-level=O1", "--no-amp", "--addr=-a b=c --seed=1 $(touch ran)"]


def test_all_flags_are_passed_on(repo: Repository):
    flags = ["--device_id=1", "--epochs=3", "--batch_size=8", "--lr=.5e-2", "--optimizer=SGD", "--num_workers=0"]
    flags += ["--name=mine", "--precision_mode=allow_mix_precision", "--hf32", "--resume=auto"]
    done = repo.launch(*flags, *OTHER_FLAGS, "--bin_mode")
    assert done.returncode == 0, done.stderr
    assert sorted(repo.argv()[1:]) == sorted([*flags, *OTHER_FLAGS, "--bin_mode=1"])
    assert repo.result("UNet_for_PyTorch_bs8_1p_hf32_acc", 1)["TrainingTime"] == "39.98"


def test_files_of_ids_start_at_the_current_folder(repo: Repository, tmp_path: Path):
    (tmp_path / "data").mkdir()
    done = repo.launch("--data_path=data", "--train-ids=a b.txt", "--val_ids=/c.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {f"--train-ids={tmp_path}/a b.txt", "--val_ids=/c.txt"} <= set(repo.argv())


def test_hyphens_and_aliases(repo: Repository):
    done = repo.launch("--batch-size=8", "--learning-rate=1e-2", "--num-workers=2", "--bin-mode")
    assert done.returncode == 0, done.stderr
    assert {"--batch_size=8", "--lr=1e-2", "--num_workers=2", "--bin_mode=1"} <= set(repo.argv())
    assert repo.result("UNet_for_PyTorch_bs8_1p_acc")["BatchSize"] == "8"


@pytest.mark.parametrize(("flag", "value"), [("--bin_mode=True", 1), ("--bin_mode=1", 1), ("--bin_mode=false", 0)])
def test_bin_mode_may_have_a_value(repo: Repository, flag: str, value: int):
    assert repo.launch(flag).returncode == 0
    assert [a for a in repo.argv() if a.startswith("--bin_mode")] == [f"--bin_mode={value}"]


def test_the_users_flags_override_the_defaults_of_speed_runs(repo: Repository):
    done = repo.launch("--start_step=1", "--stop_step=3", "--profiling=GE", launcher="train_performance_1p")
    assert done.returncode == 0, done.stderr
    steps = [a for a in repo.argv() if re.match("--st.*_step=", a)]
    assert steps == ["--start_step=20", "--stop_step=30", "--start_step=1", "--stop_step=3"]  # the last one counts


@pytest.mark.parametrize(
    ("launcher", "flags", "epochs", "name"),
    [
        ("train_full_1p", ["--recipe=fast"], [], "dsb2018_96_UNet_woDS_fast"),
        ("train_full_1p", ["--epochs=7", "--recipe=fast"], ["--epochs=7"], "dsb2018_96_UNet_woDS_fast"),
        ("train_performance_1p", ["--recipe=fast"], ["--epochs=1"], "dsb2018_96_UNet_woDS_fast_perf"),
        (
            "train_full_1p",
            ["--arch=NestedUNet", "--deep-supervision=True"],
            ["--epochs=100"],
            "dsb2018_96_NestedUNet_wDS",
        ),
    ],
)
def test_default_name_and_epochs_follow_the_flags(
    repo: Repository, launcher: str, flags: list[str], epochs: list[str], name: str
):
    assert repo.launch(*flags, launcher=launcher).returncode == 0
    assert [a for a in repo.argv() if a.startswith("--epochs")] == epochs
    assert f"--name={name}" in repo.argv()


@pytest.mark.parametrize("flags", [["--recipe=nuclei"], ["--lr=3e-3", "--recipe=nuclei", "--optimizer=SGD"]])
def test_a_recipe_keeps_its_own_optimizer_and_rate(repo: Repository, flags: list[str]):
    assert repo.launch("--data_path=inputs/dsb2018_96", *flags).returncode == 0
    given = [flag for flag in flags if not flag.startswith("--recipe")]
    assert sorted(a for a in repo.argv() if a.startswith(("--lr", "--optimizer"))) == given


def test_default_data_path_follows_the_dataset(repo: Repository):
    done = repo.launch("--dataset=mine")
    assert (done.returncode, done.stderr) == (1, '[Error] para "data_path" must be configured\n')
    for folder in ("images", "masks"):
        (repo.root / "inputs" / "mine" / folder).mkdir(parents=True)
    assert repo.launch("--dataset=mine").returncode == 0
    assert repo.argv()[0] == str(repo.root / "inputs" / "mine")
    assert "--name=mine_UNet_woDS" in repo.argv()


def test_flags_are_checked_without_torch(repo: Repository):
    (repo.root / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    assert repo.launch("--save_steps=5").returncode == 0
    assert repo.launch("--save_steps=x").stderr.startswith("[Error] argument --save_steps: ")


def test_an_import_error_is_one_sentence(repo: Repository):
    (repo.root / "options" / "table.py").write_text("import no_such_module\n")
    done = repo.launch()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("[Error] ModuleNotFoundError: No module named 'no_such_module'")


@pytest.mark.parametrize(
    ("flags", "optimizer"),
    [([], "SGD"), (["--optimizer=Adam"], "Adam")],
)
def test_original_dtype(repo: Repository, flags: list[str], optimizer: str):
    assert repo.launch("--precision_mode=must_keep_origin_dtype", *flags).returncode == 0
    expected = {"--precision_mode=must_keep_origin_dtype", "--no-amp", f"--optimizer={optimizer}"}
    assert expected <= set(repo.argv())


def test_help(repo: Repository):
    done = repo.launch("--help")
    assert done.returncode == 0
    for flag in ("data_path", "device_id", "epochs", "batch_size", "lr", "num_workers", "name", "precision_mode"):
        assert f"  --{flag}=" in done.stdout
    for text in ("Adam, AdamW or SGD", "--hf32, --fp32", "--bin_mode", "--resume=auto|FILE ", "143, 130, 138 or 129"):
        assert text in done.stdout
    assert "python train.py --help" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert not (repo.root / "test" / "output").exists()
    speed_help = repo.launch("-h", launcher="train_performance_1p").stdout
    assert re.search("--start_step=N .*20.*\n.*--stop_step=N .*30", speed_help)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--color=red", "Unknown flag: --color=red"),
        ("--hue\n=red", "Unknown flag: --hue?=red"),
        ("--hue=light red", "Unknown flag: --hue=light red"),
        ("--data_path", "Unknown flag: --data_path"),
        ("--epoch=3", "Unknown flag: --epoch=3"),  # argparse would take it for --epochs
        ("--recip=fast", "Unknown flag: --recip=fast"),
        ("stray", 'Unknown flag: "stray". Write flags as --flag=value'),
        ("-b", 'Unknown flag: "-b". Write flags as --flag=value'),
        ("--", 'Unknown flag: "--". Write flags as --flag=value'),
        ("", 'Unknown flag: "". Write flags as --flag=value'),
        ("--evaluate", "--evaluate is not for training"),
        ("--pretrained", "--pretrained needs --resume"),
        ("--name", "--name"),
        ("--fp32=1", "--fp32"),
        ("--skip_bad=1", "--skip_bad"),
        ("--optimizer=Adan", "'Adan'"),
        ("--epochs=", "--epochs"),
        ("--epochs=many", "--epochs"),
        ("--epochs=0", "--epochs"),
        ("--batch_size=1.5", "--batch_size"),
        ("--lr=fast", "--lr"),
        ("--num_workers=-1", "--num_workers"),
        ("--device_id=../..", "../.."),
        ("--data_path=nowhere", "nowhere"),
        ("--data_path=two\nlines", "two?lines"),
        ("--save_steps=-1", "--save_steps"),
        ("--cache_mb=-1", "--cache_mb"),
        ("--resume=nowhere", "/nowhere"),
        ("--resume=", "--resume="),
    ],
)
def test_wrong_flags_are_one_sentence(repo: Repository, flag: str, words: str):
    done = repo.launch(flag)
    assert done.returncode == 1
    assert done.stderr.startswith("[Error] ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (repo.root / "argv.json").exists() and not repo.output().exists()


@pytest.mark.parametrize("flags", [["--hf32", "--fp32"], ["--amp", "--precision_mode=must_keep_origin_dtype"]])
def test_flags_that_exclude_each_other(repo: Repository, flags: list[str]):
    done = repo.launch(*flags)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert all(flag.partition("=")[0] in done.stderr for flag in flags)


@pytest.mark.parametrize("flag", ["--color=red", "--epoch=3", "--lr=fast", "--num_gpus=2", "stray", "--resume=nowhere"])
def test_wrong_flags_leave_earlier_results_alone(repo: Repository, flag: str):
    assert repo.launch().returncode == 0
    before = {path: path.read_text() for path in repo.output().iterdir()}
    assert len(before) == 3
    assert repo.launch(flag).returncode == 1
    assert {path: path.read_text() for path in repo.output().iterdir()} == before


def test_old_flags_are_ignored_with_a_warning(repo: Repository):
    done = repo.launch("--more_path1=/x", "--rank_id=3")
    assert done.returncode == 0
    assert re.findall(r"\[Warning] (--\w+)", done.stderr) == ["--more_path1", "--rank_id"]
    assert not [a for a in repo.argv() if "rank_id" in a or "more_path1" in a]


def test_missing_data_path(repo: Repository):
    shutil.rmtree(repo.root / "inputs")
    done = repo.launch()
    assert done.returncode == 1
    assert done.stderr == '[Error] para "data_path" must be configured\n'


@pytest.mark.parametrize("name", ["plain", "-", "--", "*", HOSTILE])
def test_any_name_is_taken_as_it_is(tmp_path: Path, name: str):
    """The names of the repository and of the user's folder, and names in flags, relative to the current folder."""
    repo, elsewhere = Repository(tmp_path / name), tmp_path / "elsewhere" / name
    data, checkpoint = elsewhere / name, elsewhere / f"{name}.pth.tar"
    data.mkdir(parents=True)
    checkpoint.touch()
    flags = [f"--{flag}={name}" for flag in ("name", "addr", "dist_backend")]
    done = repo.launch(f"--data_path={name}", f"--resume={checkpoint.name}", *flags, cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert repo.argv()[0] == str(data)
    assert {f"--resume={checkpoint}", *flags} <= set(repo.argv())
    assert json.loads((repo.root / "argv.json").read_text())["cwd"] == str(repo.root)
    assert repo.result("UNet_for_PyTorch_bs16_1p_acc")["ActualFPS"] == "200.123"
    assert done.stdout.count("\n") == 6
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("launcher", ["train_performance_1p", "train_performance_8p"])
def test_no_number_is_code(repo: Repository, launcher: str):
    code = "a[$(touch ran)]"
    flags = ("device_id", "epochs", "batch_size", "lr", "num_workers", "save_steps", "start_step", "stop_step")
    flags += ("device", "optimizer", "precision_mode", "profiling", "no_such_flag", "recipe")
    for flag in (*flags, *(["num_gpus"] if "8p" in launcher else [])):
        done = repo.launch(f"--{flag}={code}", launcher=launcher)
        assert done.returncode == 1 and re.fullmatch(rf"\[Error] .*{re.escape(code)}.*\n", done.stderr)
    if "8p" not in launcher:
        assert repo.launch(launcher=launcher, ASCEND_DEVICE_ID=code).returncode == 1
    assert not list(repo.root.rglob("ran")) and not repo.output().exists()


def test_a_run_that_is_resumed_when_it_has_finished(repo: Repository):
    """It has no new results, and keeps the earlier ones."""
    finished = "checkpoint.pth.tar has finished its 2 epochs; raise --epochs to train on\n"
    finished += "No step was left to train, so there are no new results.\n"
    done = repo.launch("--resume=auto", STUB_MODE="finished")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith(finished)
    assert [p.name for p in repo.output().iterdir()] == ["train_0.log"]
    assert repo.launch("--resume=auto").returncode == 0
    result = repo.output() / "UNet_for_PyTorch_bs16_1p_acc.log"
    done = repo.launch("--resume=auto", STUB_MODE="finished")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"{finished}The earlier results: {result}\n")
    assert len(list(repo.output().iterdir())) == 3
    assert repo.launch("--resume=auto", STUB_MODE="fail").returncode == 1
    assert [p.name for p in repo.output().iterdir()] == ["train_0.log"]


def test_the_log_of_a_resumed_run_has_all_parts(repo: Repository):
    log = repo.output() / "train_0.log"
    assert repo.launch(STUB_MODE="fail").returncode == 1
    part = log.read_text()
    assert repo.launch("--resume=auto").returncode == 0
    assert log.read_text().startswith(part) and len(log.read_text()) > 2 * len(part)
    (repo.root / "weights").touch()
    assert repo.launch("--resume=weights", "--pretrained").returncode == 0  # a new run
    assert not log.read_text().startswith(part)
    assert not list(repo.output().glob("*.before"))


@pytest.mark.parametrize("launcher, ending", [("train_full_1p", ""), ("train_performance_1p", "_perf")])
def test_the_run_name_does_not_depend_on_the_data_path(repo: Repository, launcher: str, ending: str):
    """Evaluation looks for the model of the accuracy run under this name; speed runs must not replace it."""
    (repo.root / "test" / "own data").mkdir()
    done = repo.launch("--data_path=own data/", launcher=launcher, cwd=repo.root / "test")
    assert done.returncode == 0, done.stderr
    assert f"--name=dsb2018_96_UNet_woDS{ending}" in repo.argv()


def test_ascend_device_id_wins_and_other_results_stay(repo: Repository):
    mine, other = repo.output(5), repo.output(0)
    for folder in (mine, other):
        folder.mkdir(parents=True)
        (folder / "notes.txt").write_text("keep")
        (folder / "train_UNet_for_PyTorch_bs8_1p_acc_loss.txt").write_text("keep")
    done = repo.launch("--device_id=3", ASCEND_DEVICE_ID="5")
    assert done.returncode == 0
    assert "--device_id=5" in repo.argv()
    assert sorted(p.name for p in other.iterdir()) == ["notes.txt", "train_UNet_for_PyTorch_bs8_1p_acc_loss.txt"]
    assert sorted(p.name for p in mine.iterdir()) == [
        "UNet_for_PyTorch_bs16_1p_acc.log",
        "notes.txt",
        "train_5.log",
        "train_UNet_for_PyTorch_bs16_1p_acc_loss.txt",
        "train_UNet_for_PyTorch_bs8_1p_acc_loss.txt",
    ]


@pytest.mark.parametrize(("mode", "code"), [("fail", 1), ("fail with 7", 7)])
def test_a_failed_run_leaves_no_results(repo: Repository, mode: str, code: int):
    assert repo.launch().returncode == 0
    done = repo.launch(STUB_MODE=mode)
    assert done.returncode == code
    assert f"exit code {code}" in done.stderr
    assert "[AVG-IOU] * Iou 0.8100" in done.stderr  # the log's tail
    assert "Final result" not in done.stdout
    assert [p.name for p in repo.output().iterdir()] == ["train_0.log"]


def test_a_log_without_fps_is_an_error(repo: Repository):
    done = repo.launch(STUB_MODE="no fps")
    assert done.returncode == 1
    assert "lacks an FPS" in done.stderr
    assert [p.name for p in repo.output().iterdir()] == ["train_0.log"]


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def signalled(process: subprocess.Popen, root: Path, log: Path, *numbers: signal.Signals) -> str:
    """Send the signals and return stderr; the second signal waits until the training has received the first."""
    try:
        wait_for((root / "ready").exists)
        for k, number in enumerate(numbers):
            if k:
                wait_for(lambda: "got " in log.read_text())
            process.send_signal(number)
        return process.communicate(timeout=10)[1]
    finally:
        process.kill()


STOPPING = "[Stopping] {}: waiting for a clean end. SIGINT (Ctrl-C), twice in total, ends it at once.\n"


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ([signal.SIGTERM], 40 + signal.SIGTERM),
        ([signal.SIGINT], 40 + signal.SIGINT),
        ([signal.SIGUSR1], 40 + signal.SIGUSR1),
        ([signal.SIGINT, signal.SIGINT], 128 + signal.SIGINT),
    ],
)
def test_signals_reach_the_run(repo: Repository, numbers: list[signal.Signals], code: int):
    log, mode = repo.output() / "train_0.log", "wait" if len(numbers) == 1 else "wait long"
    env = repo.environment(STUB_MODE=mode)
    launcher = subprocess.Popen(repo.command(), cwd=repo.root, env=env, stdout=-1, stderr=-1, text=True)
    errors = signalled(launcher, repo.root, log, *numbers)
    assert launcher.returncode == code
    assert log.read_text().split("\n")[:2] == [f"got {numbers[0].name}", "left" if mode == "wait" else ""]
    assert errors.startswith(STOPPING.format(numbers[0].name)) and f"exit code {code} after {numbers[0].name}" in errors
    assert list(repo.output().iterdir()) == [log]


# A fake Python: its virtual environments are copies of itself, and pip only logs its command line.
FAKE_PYTHON = r"""#!/usr/bin/env bash
case $* in
    *version_info\[:2\]*) echo "${FAKE_VERSION:-3.11}" ;;
    *'version_info < '*) [[ ${FAKE_VERSION:-3.11} != 3.8 ]] ;;
    *'import ensurepip'*) [[ -z ${FAKE_NO_VENV:-} ]] ;;
    '-m venv --clear '*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    '-m pip install '*) echo "$*" >>"$FAKE_LOG"; [[ -z ${FAKE_PIP_FAILS:-} ]] || { echo no such wheel; exit 1; } ;;
    '-m pip --version') ;;
    *) exit 9 ;;
esac
"""


class TestSetupVenv:
    @pytest.fixture(autouse=True)
    def fake_python(self, repo: Repository, tmp_path: Path):
        self.repo, self.bin, self.log = repo, tmp_path / "bin", tmp_path / "pip.log"
        self.bin.mkdir()
        for name in ("python3", "python3.13", "python3.12", "python3.11", "python3.10", "python"):
            (self.bin / name).write_text(FAKE_PYTHON)
            (self.bin / name).chmod(0o755)
        for name in ("requirements.txt", "requirements-dev.txt"):
            (repo.root / name).write_text(f"some-{name}\n")

    def setup(self, *files: str, **env: str):
        script = 'set -u; source test/setup_venv.sh; setup_venv "$@" && echo "python=$python"'
        env = {"PATH": f"{self.bin}:{os.environ['PATH']}", "FAKE_LOG": str(self.log), **env}
        return subprocess.run(
            ["bash", "-c", script, "bash", *(files or ["requirements.txt"])],
            cwd=self.repo.root,
            env=self.repo.environment(**env),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def installs(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def test_installs_only_what_changed(self):
        done = self.setup()
        assert done.returncode == 0, done.stderr
        assert f"python={self.repo.root}/.venv/bin/python" in done.stdout
        assert self.installs() == 1
        self.setup()
        assert self.installs() == 1
        self.setup("requirements.txt", "requirements-dev.txt")
        assert self.installs() == 2
        self.setup()
        self.setup("requirements-dev.txt")
        assert self.installs() == 2
        (self.repo.root / "requirements.txt").write_text("another\n")
        self.setup()
        assert self.installs() == 3

    def test_a_failed_install_is_tried_again(self):
        done = self.setup(FAKE_PIP_FAILS="1")
        assert done.returncode != 0
        assert "no such wheel" in done.stderr
        assert self.setup().returncode == 0
        assert self.installs() == 2

    def test_takes_the_active_environment(self, tmp_path: Path):
        active = tmp_path / "active env"
        (active / "bin").mkdir(parents=True)
        shutil.copy(self.bin / "python3", active / "bin" / "python")
        done = self.setup(VIRTUAL_ENV=str(active))
        assert f"python={active}/bin/python" in done.stdout
        assert not (self.repo.root / ".venv").exists()

    @pytest.mark.parametrize(
        ("env", "words"),
        [({"FAKE_VERSION": "3.8"}, "Python 3.10 or newer is needed"), ({"FAKE_NO_VENV": "1"}, "python3-venv")],
    )
    def test_says_what_is_missing(self, env: dict[str, str], words: str):
        done = self.setup(**env)
        assert done.returncode != 0
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "code", "message"),
    [
        ("--epoch=3", 2, 'Unknown flag "--epoch=3"'),
        ("--epochs=none", 2, "--epochs needs a positive number"),
        ("--data=nowhere", 1, 'There is nothing at "'),
    ],
)
def test_quickstart_checks_flags_before_setup(repo: Repository, flag: str, code: int, message: str):
    shutil.copy(ROOT / "quickstart.sh", repo.root)
    command = ["bash", "quickstart.sh", flag]
    done = subprocess.run(command, cwd=repo.root, env=repo.environment(), capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (code, "") and message in done.stderr
    assert not (repo.root / ".venv").exists() and not (repo.root / "outputs").exists()


@pytest.fixture
def quickstart(tmp_path: Path):
    """Return a function that starts quickstart.sh in a folder with a hostile name, with stubs of all scripts."""
    repo = Repository(tmp_path / HOSTILE)
    shutil.copy(ROOT / "quickstart.sh", repo.root)
    (repo.root / "requirements.txt").write_text("")
    stub = "import json, sys\nopen('calls', 'a').write(json.dumps(sys.argv) + '\\n')\n"
    stub += "print('Mask Dice: 0.8\\nDice: 0.4\\nIoU: 0.7')\n"
    for name in ("preprocess_dsb2018", "train", "val", "demo", "pthtar2onnx"):
        (repo.root / f"{name}.py").write_text(stub + (STUB if name == "train" else ""))
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    fake = (
        '#!/bin/sh\ncase "$*" in *pip*) exit 0 ;; *half_is_fast*) exit ${NO_BFLOAT16:-1} ;; esac\nexec '
        + sys.executable
        + ' "$@"\n'
    )
    (tmp_path / "venv" / "bin" / "python").write_text(fake)
    (tmp_path / "venv" / "bin" / "python").chmod(0o755)
    (repo.root / "inputs" / "quickstart_96" / "images").mkdir(parents=True)

    def start(*flags: str, **env: str) -> subprocess.Popen:
        command = ["bash", str(repo.root / "quickstart.sh"), *flags]
        env = repo.environment(VIRTUAL_ENV=str(tmp_path / "venv"), **env)
        return subprocess.Popen(command, cwd=tmp_path, env=env, stdout=-1, stderr=-1, text=True)

    start.root = repo.root
    return start


@pytest.mark.parametrize(("name", "amp"), [("my raw data", ""), (HOSTILE, " --amp")])
def test_quickstart_keeps_the_users_data_apart(quickstart, tmp_path: Path, name: str, amp: str):
    """Checks the command lines of the scripts, and the description of the data in the table of results."""
    (tmp_path / "raw" / name).mkdir(parents=True)
    with quickstart(f"--data=raw/{name}", "--epochs=2", NO_BFLOAT16="0" if amp else "1") as process:
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, ""), out
    calls = [json.loads(line) for line in (quickstart.root / "calls").read_text().splitlines()]
    flags = [f"--input={tmp_path / 'raw' / name}", "--output", "inputs/quickstart_96", "--overwrite"]
    assert calls[0] == ["preprocess_dsb2018.py", *flags]
    assert " ".join(calls[1]) == f"train.py inputs/quickstart_96 --name quickstart --epochs 2 --batch_size 8{amp}"
    assert [call[0] for call in calls[2:]] == ["val.py", "demo.py", "pthtar2onnx.py"]
    table = dict(line.split(maxsplit=1) for line in out.partition("Results:\n")[2].splitlines())
    assert table["data"].startswith("your own, ") and "DSB2018" not in table["data"]
    assert (table["IoU"].split()[0], table["Dice"], table["images/s"].split()[0]) == (
        "0.7",
        "0.8 (masks), 0.4 (probabilities)",
        "200.123",
    )
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize(
    ("numbers", "code"), [([signal.SIGUSR1], 40 + signal.SIGUSR1), ([signal.SIGINT, signal.SIGINT], 130)]
)
def test_quickstart_passes_signals_on(quickstart, tmp_path: Path, numbers: list[signal.Signals], code: int):
    (tmp_path / "raw").mkdir()
    process = quickstart(f"--data={tmp_path / 'raw'}", STUB_MODE="wait" if len(numbers) == 1 else "wait long")
    log = quickstart.root / "outputs" / "quickstart_logs" / "train.log"
    name = numbers[0].name
    assert signalled(process, quickstart.root, log, *numbers) == STOPPING.format(name) + f"[Stopped] by {name}\n"
    assert process.returncode == code
    assert f"got {name}\n" in log.read_text() and ("left\n" in log.read_text()) == (len(numbers) == 1)
