"""train.py: the recipe, its files, its log lines, going on, starting from weights, stopping."""

import json
import math
import re
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import TINY, random_net, run, write_dataset

import dataset
import engine
import options
import train
from errors import InputError

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


def no_training(model, loader, criterion, precision, *args, **kwargs) -> dict[str, float]:
    """In place of engine.train_epoch, where only what is around it matters."""
    precision.optimizer.step()
    return {"loss": 1.0, "iou": 0.5, "fps": 1.0}


def test_the_old_launchers_command_line_and_their_grep(home):
    """The command of the older edition's launcher, and the pipeline by which it reads the log."""
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


@pytest.mark.parametrize(
    "times, expected",
    [([2.0], 8.0), ([9.0, 2.0], 8.0), ([9.0] * 9, 16 / 9), ([9.0] * 9 + [2.0, 4.0], 16 / 3)],
)
def test_speed_leaves_out_the_first_steps(times, expected):
    assert engine.images_per_second(16, times) == pytest.approx(expected)


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
@pytest.mark.parametrize("scheduler", sorted(set(options.SCHEDULERS) - {"OneCycleLR"}))  # which goes by steps
def test_schedulers_step_and_the_log_holds_the_rate_in_force(home, monkeypatch, scheduler):
    used = []

    def train_epoch(model, loader, criterion, precision, *args, **kwargs):
        used.append(precision.optimizer.param_groups[0]["lr"])
        return no_training(model, loader, criterion, precision)

    monkeypatch.setattr(engine, "train_epoch", train_epoch)
    monkeypatch.setattr(engine, "evaluate", lambda *args, **kwargs: {"loss": 5.0, "iou": 0.5, "dice": 0.5})
    train_here("--epochs", "8", "--name", "run", "--scheduler", scheduler, "--lr", "1e-2")
    expected = [CLOSED_FORMS[scheduler](epoch) for epoch in range(8)]
    assert used == pytest.approx(expected, rel=1e-9)
    assert list(pd.read_csv("models/run/log.csv").lr) == pytest.approx(expected, rel=1e-9)


@pytest.mark.usefixtures("unplotted")
def test_early_stopping_counts_epochs_without_a_better_iou(home, monkeypatch):
    ious = iter([0.1, 0.5, 0.4, 0.5, 0.3, 0.9])
    monkeypatch.setattr(engine, "train_epoch", no_training)
    monkeypatch.setattr(engine, "evaluate", lambda *a, **k: {"loss": 1.0, "iou": next(ious), "dice": 0.5})
    train_here("--epochs", "6", "--name", "run", "--early_stopping", "3")
    assert list(pd.read_csv("models/run/log.csv").val_iou) == [0.1, 0.5, 0.4, 0.5, 0.3]
    assert torch.load("models/run/model_best.pth.tar", weights_only=True)["epoch"] == 2


@pytest.mark.usefixtures("unplotted")
def test_a_finished_run_says_so(home, capsys):
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
def test_pretrained_starts_a_fresh_run_from_the_weights(home, monkeypatch, capsys):
    net = random_net()
    torch.save({"epoch": 70, "best_iou": 0.99, "state_dict": net.state_dict()}, "old.pth.tar")
    seen = []

    def train_epoch(model, *args, **kwargs):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return no_training(model, *args)

    monkeypatch.setattr(engine, "train_epoch", train_epoch)
    train_here("--name", "run", "--epochs", "1", "--pretrained", "--resume", "old.pth.tar")
    assert all(torch.equal(value, seen[0][name]) for name, value in net.state_dict().items())
    assert list(pd.read_csv("models/run/log.csv").epoch) == [0]
    # another number of classes: the body is taken, the head is fresh, and that is said
    write_dataset(home / "inputs" / "discs", classes=2)
    train_here("--name", "two", "--epochs", "1", "--num_classes", "2", "--pretrained", "--resume", "old.pth.tar")
    assert torch.equal(seen[1]["conv0_4.conv2.weight"], net.state_dict()["conv0_4.conv2.weight"])
    assert "fresh final.weight, final.bias" in capsys.readouterr().out


def test_evaluate_scores_the_checkpoint_it_is_given(home, capsys, monkeypatch):
    kept, open_dataset = [], dataset.open_dataset
    monkeypatch.setattr(dataset, "open_dataset", lambda *args: kept.append(args[3]) or open_dataset(*args))
    for seed in (1, 2):
        torch.save({"epoch": 3, "state_dict": random_net(seed=seed).state_dict()}, f"{seed}.pth.tar")
    found = []
    for seed in (1, 2, 1):
        train_here("--evaluate", "--resume", f"{seed}.pth.tar")
        found.append(VAL_LINE.search(capsys.readouterr().out)[3])
    assert found[0] == found[2] != found[1]
    assert kept == [0] * 3, "a single pass keeps no images"
    assert not (home / "models").exists(), "evaluation leaves no run behind"


def test_a_loss_that_is_not_a_number_stops_the_run(home):
    result = run("train.py", "inputs/discs", *TINY, "--optimizer", "SGD", "--lr", "1e30", "--name", "run", cwd=home)
    assert result.returncode == 1 and "Traceback" not in result.stdout
    assert re.search(r"\[Error\] the loss is (nan|inf) in epoch 1, step [2-3]; ", result.stdout)
    assert not list((home / "models" / "run").glob("*.tar"))


def test_weights_spoilt_by_an_epochs_last_step_are_not_saved(home):
    """One step an epoch: the training loss is still finite, the weights no longer are."""
    flags = ("--input_h", "32", "--input_w", "32", "-b", "12", "--num_workers", "0", "--lr", "1e35", "--name", "run")
    result = run("train.py", "inputs/discs", *flags, "--epochs", "2", cwd=home)
    assert result.returncode == 1 and "Traceback" not in result.stdout
    assert re.search(r"\[Error\] the validation loss is (nan|inf) after epoch 1; training stops", result.stdout)
    assert not list((home / "models" / "run").glob("*.tar"))


@pytest.mark.usefixtures("unplotted")
def test_resume_anyway_takes_this_runs_flags(home, monkeypatch, capsys):
    train_here("--name", "run", "--epochs", "1", "--weight_decay", "0.25")
    seen = []

    def train_epoch(model, loader, criterion, precision, *args, **kwargs):
        seen.append(dict(precision.optimizer.param_groups[0]))
        seen[-1]["averages"] = len(precision.optimizer.state)
        return no_training(model, loader, criterion, precision)

    monkeypatch.setattr(engine, "train_epoch", train_epoch)
    resume = ("--name", "run", "--epochs", "2", "--resume", "models/run/checkpoint.pth.tar", "--resume_anyway")
    train_here(*resume, "--weight_decay", "0.5")
    assert seen[0]["weight_decay"] == 0.5 and seen[0]["averages"] == len(list(random_net().parameters()))
    train_here(*resume, "--optimizer", "SGD", "--scheduler", "ReduceLROnPlateau", "--epochs", "3")
    out = capsys.readouterr().out
    assert "the optimizer begins anew" in out and "the scheduler begins anew" in out and seen[1]["averages"] == 0


@pytest.mark.usefixtures("unplotted")
def test_a_run_of_an_older_edition_keeps_its_log(home, monkeypatch, capsys):
    """Its checkpoint holds no history; log.csv beside it does, also of an epoch that was not finished."""
    folder = home / "models" / "old"
    folder.mkdir(parents=True)
    rows = [{"epoch": e, "lr": 1e-3, "loss": 1, "iou": 0.5, "val_loss": 1, "val_iou": 0.1 * e} for e in range(4)]
    pd.DataFrame(rows).to_csv(folder / "log.csv", index=False)
    torch.save({"epoch": 3, "best_iou": 0.2, "state_dict": random_net().state_dict()}, folder / "checkpoint.pth.tar")
    monkeypatch.setattr(engine, "train_epoch", no_training)
    train_here("--name", "old", "--epochs", "4", "--resume", str(folder / "checkpoint.pth.tar"))
    assert "holds no optimizer, history; the run goes on without; log.csv keeps its 3" in capsys.readouterr().out
    log = pd.read_csv(folder / "log.csv")
    assert list(log.epoch) == [0, 1, 2, 3] and list(log.val_iou[:3]) == pytest.approx([0, 0.1, 0.2])
    # there was no best model to be had, so this epoch's is it
    assert torch.load(folder / "model_best.pth.tar", weights_only=True)["epoch"] == 4


@pytest.mark.usefixtures("unplotted")
def test_profiling_traces_the_steps_it_is_asked_for(home):
    train_here("--epochs", "1", "--name", "run", "--profiling", "CANN", "--start_step", "1", "--stop_step", "3")
    (trace,) = (home / "models" / "run" / "profile").glob("*.json")
    steps = {e["name"] for e in json.loads(trace.read_text())["traceEvents"] if "ProfilerStep" in e.get("name", "")}
    assert steps == {"ProfilerStep#1", "ProfilerStep#2"}


@pytest.mark.usefixtures("unplotted")
def test_profiling_says_when_there_was_nothing_to_trace(home, capsys):
    train_here("--epochs", "1", "--name", "run", "--profiling", "GE", "--start_step", "20", "--stop_step", "30")
    assert "no trace, since the run ended before step 20" in capsys.readouterr().out


def test_two_classes_and_deep_supervision_end_to_end(home):
    """NestedUNet with four heads on two classes: train, evaluate, segment, export."""
    write_dataset(home / "inputs" / "two", count=20, classes=2)
    net = ("--arch", "NestedUNet", "--deep_supervision", "True", "--num_classes", "2", "--dataset", "two")
    result = run("train.py", *TINY, *net, "--epochs", "6", "--lr", "5e-3", cwd=home)
    assert result.returncode == 0, result.stdout
    name = "two_NestedUNet_wDS"
    log = pd.read_csv(home / "models" / name / "log.csv")
    assert log.iou.iloc[-1] > log.iou.iloc[0] and log.loss.iloc[-1] < log.loss.iloc[0]

    result = run("val.py", "--name", name, "--num_workers", "0", cwd=home)
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1] == f"IoU: {log.val_iou.max():.4f}"
    table = pd.read_csv(home / "outputs" / name / "metrics.csv")
    assert sorted(zip(table.id, table["class"])) == [(i, k) for i in sorted(set(table.id)) for k in (0, 1)]
    assert len(table) == 2 * 4
    for k in (0, 1):
        assert len(list((home / "outputs" / name / str(k)).glob("*.jpg"))) == 4

    result = run("demo.py", "--name", name, "--num_workers", "0", cwd=home)
    assert result.returncode == 0, result.stdout
    assert len(list((home / "outputs" / "UNet_Demo" / "1").glob("*_mask.png"))) == 4
    result = run("pthtar2onnx.py", "--name", name, "--input_h", "32", "--input_w", "32", cwd=home)
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
        (("inputs/discs", "--input_h", "16", "--input_w", "16", "-b", "1"), "leaves BatchNorm a single value"),
        (("inputs/discs", "--evaluate"), "--evaluate needs --resume PATH"),
    ],
)
def test_bad_input_gets_one_sentence(home, flags, message):
    result = run("train.py", *flags, "--num_workers", "0", cwd=home)
    assert result.returncode != 0 and "Traceback" not in result.stdout
    assert re.search(message, result.stdout), result.stdout
    assert not (home / "models").exists()
