# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""train.py: the recipe, its files, its log lines, resuming, starting from weights, stopping."""

import json
import math
import re
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import NARROW, TINY, random_net, run, write_dataset
from helpers.short_runs import skip_training, use_fixed_scores

import dataset
import engine
import options
import train
from runtime.errors import InputError

EPOCH_LINE = re.compile(
    r"Epoch: \[(\d+)\]\[ *(\d+)/(\d+)\]\tTime +(\d+\.\d{3}) \( *\d+\.\d{3}\)\tData +\d+\.\d{3} \( *\d+\.\d{3}\)"
    r"\tLoss (-?\d+\.\d{8}) \((-?\d+\.\d{8})\)\tIou (\d\.\d{4}) \((\d\.\d{4})\)"
)
VAL_LINE = re.compile(
    r"Test: \[(\d+)/(\d+)\]\tTime +\d+\.\d{3} \( *\d+\.\d{3}\)\tLoss \d\.\d{4}e[+-]\d\d \((\d\.\d{4}e[+-]\d\d)\)"
    r"\tIou \d\.\d{4} \((\d\.\d{4})\)"
)


pytestmark = pytest.mark.usefixtures("narrow")


def train_here(*flags: str) -> None:
    """Run the recipe within this process on inputs/discs."""
    train.main(options.parse_train(["inputs/discs", *TINY, *flags]))


def test_the_old_launchers_command_line_and_their_grep(home):
    """The command of an old launcher, and the pipelines with which it reads the log."""
    write_dataset(home / "inputs" / "discs", count=80, side=16)
    flags = "--device_id 0 --bin_mode 0 --start_step 20 --stop_step 30 --profiling False inputs/discs --optimizer Adam"
    flags += " --epochs 1 --batch_size 16 --lr 1e-3 --num_workers 4 --precision_mode allow_mix_precision"
    result = run("train.py", *flags.split(), "--input_h", "16", "--input_w", "16", cwd=home)
    assert result.returncode == 0, result.stdout
    (home / "log").write_text(result.stdout)

    def shell(pipeline: str) -> list[str]:
        return subprocess.run(pipeline, shell=True, cwd=home, capture_output=True, text=True).stdout.split()

    fps = shell("grep 'FPS@all' log | awk '{print $NF}'")
    iou = shell("grep 'AVG-IOU' log | awk '{print $8}'")
    losses = shell("grep 'Epoch:' log | awk -F 'Loss' '{print $2}' | awk '{print $1}'")
    assert len(fps) == len(iou) == 1 and float(fps[0]) > 0 and 0 <= float(iou[0]) <= 1
    assert len(losses) == 4, "64 training images make four steps of 16"

    lines = result.stdout.splitlines()
    steps = [m for m in map(EPOCH_LINE.fullmatch, lines) if m]
    assert [(m[1], m[2], m[3]) for m in steps] == [("1", str(k), "4") for k in range(1, 5)]
    assert [m[5] for m in steps] == losses
    tests = [m for m in map(VAL_LINE.fullmatch, lines) if m]
    assert [(m[1], m[2]) for m in tests] == [("1", "1")] and tests[-1][4] == iou[0]
    # fewer than ten steps: all but the first count
    times = [float(m[4]) for m in steps[1:]]
    assert float(fps[0]) == pytest.approx(16 * len(times) / sum(times), rel=0.03)
    words = [line for line in lines if re.search("FPS|AVG|Epoch:|Test", line)]
    assert len(words) == 4 + 1 + 1 + 1 and "\r" not in result.stdout
    log = pd.read_csv(home / "models" / "dsb2018_96_UNet_woDS" / "log.csv")
    assert log.val_iou[0] == pytest.approx(float(iou[0]), abs=5e-5)
    assert log.loss[0] == pytest.approx(np.mean(list(map(float, losses))), abs=1e-6)


def test_files_of_a_run(home):
    train_here("--epochs", "2", "--name", "run")
    folder = home / "models" / "run"
    config = yaml.safe_load((folder / "config.yml").read_text())
    assert config["lr"] == 1e-3 and config["arch"] == "UNet" and config["data_path"] == "inputs/discs"
    assert config == vars(options.parse_train(["inputs/discs", *TINY, "--epochs", "2", "--name", "run"]))
    log = pd.read_csv(folder / "log.csv")
    assert list(log.columns[:6]) == ["epoch", "lr", "loss", "iou", "val_loss", "val_iou"] and list(log.epoch) == [0, 1]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    checkpoint = torch.load(folder / "checkpoint.pth.tar", weights_only=True)
    assert checkpoint["epoch"] == 2 and checkpoint["arch"] == "UNet" and "optimizer" in checkpoint
    assert checkpoint["best_iou"] == pytest.approx(log.val_iou.max(), abs=1e-12)
    best = torch.load(folder / "model_best.pth.tar", weights_only=True)
    assert best["epoch"] == log.val_iou.idxmax() + 1
    assert {p.name for p in folder.iterdir()} == {
        "config.yml",
        "log.csv",
        "curves.png",
        "checkpoint.pth.tar",
        "checkpoint.prev.pth.tar",
        "model_best.pth.tar",
    }


CLOSED_FORMS = {
    "CosineAnnealingLR": lambda e: 1e-5 + (1e-2 - 1e-5) * (1 + math.cos(math.pi * e / 8)) / 2,
    "MultiStepLR": lambda e: 1e-2 * (2 / 3) ** sum(e >= m for m in (1, 2)),
    "ConstantLR": lambda e: 1e-2,
    # validation losses 5, 5, 5 …: the fourth without an improvement exceeds the patience of 2, and so every third
    "ReduceLROnPlateau": lambda e: max(1e-2 * 0.1 ** max(0, (e - 1) // 3), 1e-5),
}


@pytest.mark.usefixtures("unplotted")
@pytest.mark.parametrize("scheduler", sorted(set(options.SCHEDULERS) - {"OneCycleLR"}))  # it steps after each step
def test_schedulers_step_and_the_log_has_the_learning_rate_of_each_epoch(home, monkeypatch, scheduler):
    seen = skip_training(monkeypatch)
    use_fixed_scores(monkeypatch, 0.5, loss=5.0)
    train_here("--epochs", "8", "--name", "run", "--scheduler", scheduler, "--lr", "1e-2")
    expected = [CLOSED_FORMS[scheduler](epoch) for epoch in range(8)]
    assert [row["lr"] for row in seen] == pytest.approx(expected, rel=1e-9)
    assert list(pd.read_csv("models/run/log.csv").lr) == pytest.approx(expected, rel=1e-9)


@pytest.mark.usefixtures("unplotted")
def test_one_cycle_with_a_single_warm_up_step(home):
    """Ten steps, of which 0.1 warm up: torch would divide by the zero steps between the first and the last of them."""
    flags = ("--batch_size", "12", "--epochs", "10", "--lr", "0.1", "--min_lr", "1e-3", "--name", "run")
    train_here(*flags, "--scheduler", "OneCycleLR", "--warmup", "0.1")
    rates = [1e-3 + (0.1 - 1e-3) * (1 + math.cos(math.pi * step / 9)) / 2 for step in range(10)]
    # with one step per epoch, the log has the learning rate of the step after it, and the last one's stays
    assert list(pd.read_csv("models/run/log.csv").lr) == pytest.approx([*rates[1:], rates[-1]], rel=1e-6)


@pytest.mark.usefixtures("unplotted")
def test_the_largest_seed(home):
    """torch takes seeds of 64 bits, and NumPy's older generator of 32."""
    train_here("--epochs", "1", "--name", "run", "--seed", str(2**64 - 1))
    train_here("--epochs", "2", "--name", "run", "--seed", str(2**64 - 1), "--resume", "auto", "--resume_anyway")
    train_here("--evaluate", "--resume", "models/run/model_best.pth.tar")
    assert yaml.safe_load((home / "models/run/config.yml").read_text())["seed"] == 2**64 - 1


@pytest.mark.usefixtures("unplotted")
def test_early_stopping_counts_epochs_without_a_better_iou(home, monkeypatch):
    skip_training(monkeypatch)
    use_fixed_scores(monkeypatch, 0.1, 0.5, 0.4, 0.5, 0.3, 0.9)
    train_here("--epochs", "6", "--name", "run", "--early_stopping", "3")
    assert list(pd.read_csv("models/run/log.csv").val_iou) == [0.1, 0.5, 0.4, 0.5, 0.3]
    assert torch.load("models/run/model_best.pth.tar", weights_only=True)["epoch"] == 2


@pytest.mark.usefixtures("unplotted")
def test_a_finished_run_is_not_trained_on(home, capsys):
    train_here("--name", "run", "--epochs", "1")
    before = (home / "models/run/log.csv").read_bytes()
    train_here("--name", "run", "--epochs", "1", "--resume", "models/run/checkpoint.pth.tar")
    assert "has finished its 1 epochs" in capsys.readouterr().out
    assert (home / "models/run/log.csv").read_bytes() == before


def test_resume_refuses_another_net(home):
    torch.save({"epoch": 1, "state_dict": random_net("NestedUNet").state_dict()}, "nested.pth.tar")
    with pytest.raises(
        InputError, match=r"nested\.pth\.tar does not fit this run: --arch is NestedUNet there and UNet"
    ):
        train_here("--name", "run", "--resume", "nested.pth.tar")
    assert not (home / "models").exists()


@pytest.mark.usefixtures("unplotted")
@pytest.mark.parametrize("ema", ["0", "0.9"])
def test_pretrained_starts_a_new_run_from_the_weights(home, monkeypatch, capsys, ema):
    net = random_net()
    torch.save({"epoch": 70, "best_iou": 0.99, "state_dict": net.state_dict()}, "old.pth.tar")
    seen = []

    def train_one_epoch(state, *_) -> dict:
        for model in (state.model, *([state.ema.module] if state.ema else [])):
            seen.append({name: value.clone() for name, value in model.state_dict().items()})
        state.precision.optimizer.step()
        return {"loss": 1.0, "iou": 0.5, "fps": 1.0}

    monkeypatch.setattr(engine, "train_one_epoch", train_one_epoch)
    train_here("--name", "run", "--epochs", "1", "--pretrained", "--resume", "old.pth.tar", "--ema", ema)
    assert len(seen) == (1 if ema == "0" else 2)
    for found in seen:
        assert all(torch.equal(value, found[name]) for name, value in net.state_dict().items())
    assert list(pd.read_csv("models/run/log.csv").epoch) == [0]
    # with another number of classes, the head keeps its new weights, which is printed
    write_dataset(home / "inputs" / "discs", classes=2)
    flags = ("--name", "two", "--epochs", "1", "--num_classes", "2", "--pretrained", "--resume", "old.pth.tar")
    train_here(*flags, "--ema", ema)
    for found in seen[-2 if ema != "0" else -1 :]:
        assert torch.equal(found["conv0_4.conv2.weight"], net.state_dict()["conv0_4.conv2.weight"])
        assert found["final.weight"].shape[0] == 2
    assert "but with new final.weight, final.bias" in capsys.readouterr().out


def test_pretrained_refuses_another_net(home):
    torch.save({"state_dict": random_net("NestedUNet").state_dict()}, "nested.pth.tar")
    with pytest.raises(InputError, match=r"nested\.pth\.tar: weights of another net \(.*\); check --arch"):
        train_here("--name", "run", "--pretrained", "--resume", "nested.pth.tar")
    assert not (home / "models").exists()


def test_evaluate_scores_the_checkpoint_it_is_given(home, capsys, monkeypatch):
    cache_mb, open_dataset = [], dataset.open_dataset
    monkeypatch.setattr(dataset, "open_dataset", lambda *args: cache_mb.append(args[3]) or open_dataset(*args))
    for seed in (1, 2):
        torch.save({"epoch": 3, "state_dict": random_net(seed=seed).state_dict()}, f"{seed}.pth.tar")
    found = []
    for seed in (1, 2, 1):
        train_here("--evaluate", "--resume", f"{seed}.pth.tar")
        found.append(VAL_LINE.search(capsys.readouterr().out)[3])
    assert found[0] == found[2] != found[1]
    assert cache_mb == [0] * 3, "a single pass keeps no images"
    assert not (home / "models").exists(), "evaluation leaves no run behind"


def test_evaluate_takes_the_number_of_classes_from_the_checkpoint(home, capsys):
    """A number that is given must be the checkpoint's."""
    write_dataset(home / "inputs" / "discs", classes=2)
    torch.save({"epoch": 3, "state_dict": random_net(classes=2).state_dict()}, "two.pth.tar")
    evaluation = ("--evaluate", "--resume", "two.pth.tar")
    for flags in ((), ("--num_classes", "2")):
        train_here(*evaluation, *flags)
        assert "[AVG-IOU]" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"two\.pth\.tar .*--num_classes is 2 there and 1 here"):
        train_here(*evaluation, "--num_classes", "1")


def test_a_loss_that_is_not_finite_stops_the_run(home):
    result = run("train.py", "inputs/discs", *TINY, "--optimizer", "SGD", "--lr", "1e30", "--name", "run", cwd=home)
    assert result.returncode == 1 and "Traceback" not in result.stdout
    assert re.search(r"\[Error\] the loss is (nan|inf) in epoch 1, step [2-3]; ", result.stdout)
    assert not list((home / "models" / "run").glob("*.tar"))


def test_weights_that_an_epochs_last_step_spoiled_are_not_saved(home):
    """There is one step per epoch: its loss is still finite, the weights after it are not."""
    flags = ("--input_h", "32", "--input_w", "32", "-b", "12", "--num_workers", "0", "--lr", "1e35", "--name", "run")
    result = run("train.py", "inputs/discs", *flags, "--epochs", "2", cwd=home)
    assert result.returncode == 1 and "Traceback" not in result.stdout
    assert re.search(r"\[Error\] the validation loss is (nan|inf) after epoch 1; training stops", result.stdout)
    assert not list((home / "models" / "run").glob("*.tar"))


@pytest.mark.usefixtures("unplotted")
def test_a_run_of_an_older_edition_keeps_its_log(home, monkeypatch, capsys):
    """Its checkpoint holds no history; log.csv beside it does, and has a row of an epoch that was not finished."""
    folder = home / "models" / "old"
    folder.mkdir(parents=True)
    rows = [{"epoch": e, "lr": 1e-3, "loss": 1, "iou": 0.5, "val_loss": 1, "val_iou": 0.1 * e} for e in range(4)]
    pd.DataFrame(rows).to_csv(folder / "log.csv", index=False)
    torch.save({"epoch": 3, "best_iou": 0.2, "state_dict": random_net().state_dict()}, folder / "checkpoint.pth.tar")
    skip_training(monkeypatch)
    train_here("--name", "old", "--epochs", "4", "--resume", str(folder / "checkpoint.pth.tar"))
    assert "holds no optimizer, history; the run continues without; log.csv keeps its 3" in capsys.readouterr().out
    log = pd.read_csv(folder / "log.csv")
    assert list(log.epoch) == [0, 1, 2, 3] and list(log.val_iou[:3]) == pytest.approx([0, 0.1, 0.2])
    # there was no best model to copy, so that of this epoch is the best
    assert torch.load(folder / "model_best.pth.tar", weights_only=True)["epoch"] == 4


@pytest.mark.usefixtures("unplotted")
def test_profiling_traces_the_chosen_steps(home):
    train_here("--epochs", "1", "--name", "run", "--profiling", "CANN", "--start_step", "1", "--stop_step", "3")
    (trace,) = (home / "models" / "run" / "profile").glob("*.json")
    steps = {e["name"] for e in json.loads(trace.read_text())["traceEvents"] if "ProfilerStep" in e.get("name", "")}
    assert steps == {"ProfilerStep#1", "ProfilerStep#2"}


@pytest.mark.usefixtures("unplotted")
def test_profiling_prints_that_there_was_nothing_to_trace(home, capsys):
    train_here("--epochs", "1", "--name", "run", "--profiling", "GE", "--start_step", "20", "--stop_step", "30")
    assert "no trace, since the run ended before step 20" in capsys.readouterr().out


def test_two_classes_and_deep_supervision_end_to_end(home):
    """NestedUNet with four heads on two classes: train, evaluate, segment, export."""
    write_dataset(home / "inputs" / "two", count=20, classes=2)
    net = ("--arch", "NestedUNet", "--deep_supervision", "True", "--num_classes", "2", "--dataset", "two")
    result = run("train.py", *TINY, *net, "--epochs", "6", "--lr", "2e-2", cwd=home, **NARROW)
    assert result.returncode == 0, result.stdout
    name = "two_NestedUNet_wDS"
    log = pd.read_csv(home / "models" / name / "log.csv")
    assert log.iou.iloc[-1] > log.iou.iloc[0] and log.loss.iloc[-1] < log.loss.iloc[0]

    result = run("val.py", "--name", name, "--num_workers", "0", "--report", cwd=home, **NARROW)
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1] == f"IoU: {log.val_iou.max():.4f}"
    page = (home / "outputs" / name / "report.html").read_text()
    assert page.count("<img") == 2 * 8 and "class 1, AP" in page
    table = pd.read_csv(home / "outputs" / name / "metrics.csv")
    assert sorted(zip(table.id, table["class"])) == [(i, k) for i in sorted(set(table.id)) for k in (0, 1)]
    assert len(table) == 2 * 4
    for k in (0, 1):
        assert len(list((home / "outputs" / name / str(k)).glob("*.jpg"))) == 4

    result = run("demo.py", "--name", name, "--num_workers", "0", cwd=home, **NARROW)
    assert result.returncode == 0, result.stdout
    assert len(list((home / "outputs" / "UNet_Demo" / "1").glob("*_mask.png"))) == 4
    result = run("pthtar2onnx.py", "--name", name, "--input_h", "32", "--input_w", "32", cwd=home, **NARROW)
    assert result.returncode == 0 and "output1, output2, output3, output4" in result.stdout, result.stdout


@pytest.mark.parametrize(
    "flags, message",
    [
        (("nowhere",), r"\[Error\] nowhere: no such data folder; prepare it with preprocess_dsb2018\.py"),
        (("inputs/discs", "--input_h", "100"), "--input_h: 100 is not a multiple of 16.*use 96 or 112"),
        (("inputs/discs", "--batch_size", "100"), r"\[Error\] --batch_size 100 is more than the 12 training images"),
        (("inputs/discs", "--deep_supervision", "True"), "UNet has a single head; add --arch NestedUNet"),
        (("inputs/discs", "-b", "4", "--resume", "gone.pth.tar"), r"\[Error\] gone\.pth\.tar: no such checkpoint"),
        (("inputs/discs", "--name", "../out"), r"\[Error\] --name '\.\./out': use a plain folder name"),
        (
            ("inputs/discs", "--input_h", "16", "--input_w", "16", "-b", "1"),
            "BatchNorm gets a single value per channel",
        ),
        (("inputs/discs", "--evaluate"), "--evaluate needs --resume PATH"),
    ],
)
def test_bad_input_gets_one_sentence(home, flags, message):
    result = run("train.py", *flags, "--num_workers", "0", cwd=home)
    assert result.returncode != 0 and "Traceback" not in result.stdout
    assert re.search(message, result.stdout), result.stdout
    assert not (home / "models").exists()
