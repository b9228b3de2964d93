# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The training state: a run that is cut off anywhere continues bit for bit, and its parts against their formulas."""

import copy
import math
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_net
from faults.kills import compare
from helpers.short_runs import RUN, crash, disturb, skip_training, train_run, use_fixed_scores
from torch import nn

import dataset
import engine
import options
import train
from runtime import errors, state
from runtime.checkpoint import LATEST
from runtime.distributed import init_runtime
from runtime.errors import DivergedError, InputError
from runtime.random_states import get_random_states, set_random_states
from runtime.state import (
    ModelEma,
    TrainingState,
    fast_forward,
    find_non_finite,
    load_optimizer,
)

REAL_IOU = engine.iou_score

pytestmark = pytest.mark.usefixtures("narrow", "unplotted")


# --- the EMA ---------------------------------------------------------------------------------------------------------


def multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray, fused: bool) -> np.ndarray:
    """Return a·b + c in fp32; fused: with a single rounding, which most processors offer."""
    if not fused:
        return a * b + c
    return (np.asarray(a, np.float64) * np.asarray(b, np.float64) + np.asarray(c, np.float64)).astype(np.float32)


def ema_written_out(start: dict, steps: list[dict], decay: float, fused: bool) -> dict:
    """Return the average of fp32 arrays as the formula has it, with torch's roundings.

    Its lerp(a, b, w) is a + w (b - a) for w < 0.5, else b - (b - a) (1 - w).
    """
    average = dict(start)
    for n, weights in enumerate(steps):
        weight = np.float32(1 - min(decay, (1 + n) / (10 + n)))
        for name, new in weights.items():
            old = average[name]
            if new.dtype != np.float32:
                average[name] = new
            elif weight < 0.5:
                average[name] = multiply_add(weight, new - old, old, fused)
            else:
                average[name] = multiply_add(-(new - old), np.float32(1) - weight, new, fused)
    return average


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_the_ema_is_the_formula_bit_for_bit(decay):
    """Over weights, BatchNorm's statistics, and its count of batches, which is copied."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ema, rng = ModelEma(model, decay), np.random.default_rng(0)
    start = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    steps = []
    for step in range(40):
        weights = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in start.items()}
        weights["1.num_batches_tracked"] = np.array(7 * step, np.int64)
        steps.append(weights)
        ema.update({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    assert int(ema.n_averaged) == 40
    # a processor that torch has plain kernels for rounds the product too
    fused = torch.backends.cpu.get_cpu_capability() != "DEFAULT"
    expected = ema_written_out(start, steps, decay, fused)
    for name, value in ema.module.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), expected[name], err_msg=name)
        assert value.numpy().dtype == expected[name].dtype


def test_the_ema_is_a_net_of_its_own():
    model = random_net().train()
    ema = ModelEma(model, 0.9)
    assert not ema.module.training and not any(value.requires_grad for value in ema.module.parameters())
    with torch.no_grad():
        model.final.weight.add_(1)
    assert not torch.equal(ema.module.final.weight, model.final.weight)


def test_the_ema_is_saved_and_the_weights_beside_it(home):
    """Training itself is the same with and without it."""
    train_run("--ema", "0.9")
    with_ema = torch.load(RUN / LATEST, weights_only=True)
    train_run()
    without = torch.load(RUN / LATEST, weights_only=True)
    assert with_ema["trained"]["steps"] == 9 and "trained" not in without
    for name, value in without["state_dict"].items():
        assert torch.equal(with_ema["trained"]["state_dict"][name], value)
    assert not torch.equal(with_ema["state_dict"]["final.weight"], without["state_dict"]["final.weight"])


# --- continuing ------------------------------------------------------------------------------------------------------

KINDS = {
    "Adam, cosine": (),
    "SGD, plateau": ("--optimizer", "SGD", "--nesterov", "True", "--scheduler", "ReduceLROnPlateau", "--patience", "0"),
    "AdamW, one cycle, EMA": ("--optimizer", "AdamW", "--scheduler", "OneCycleLR", "--ema", "0.9"),
    "the fast recipe": ("--recipe", "fast"),
}


@pytest.mark.parametrize("flags", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("save_steps", ["0", "2"])
def test_crashes_leave_no_trace(home, monkeypatch, flags, save_steps):
    """A run that crashes in steps, in validation and while saving ends as one that does not."""
    disturb(monkeypatch, {})
    train_run(*flags)
    (home / RUN).rename(home / "whole")
    flags = (*flags, "--resume", "auto", "--save_steps", save_steps)
    for call in (2, 4, 7, 3, 1):
        disturb(monkeypatch, {call: crash})
        with pytest.raises(KeyboardInterrupt):
            train_run(*flags)
    disturb(monkeypatch, {})
    train_run(*flags)
    assert compare(home / "whole", home / RUN) == []


def test_auto_starts_a_new_run_if_there_is_no_checkpoint(home, capsys):
    train_run("--resume", "auto", "--epochs", "1")
    assert "resuming" not in capsys.readouterr().out and (RUN / LATEST).exists()


def test_an_empty_resume_is_refused(capsys):
    """As from `--resume "$CHECKPOINT"` in a shell that lacks the variable."""
    with pytest.raises(SystemExit):
        options.parse_train(["--resume", ""])
    assert "--resume lacks its value" in capsys.readouterr().err


def test_random_states_come_back():
    def draw() -> tuple:
        return random.random(), np.random.rand(), np.random.normal(), torch.rand(3).tolist()

    runtime = init_runtime("cpu")
    np.random.normal()  # leaves a second number for the next call
    states = get_random_states(runtime)
    drawn = draw()
    assert all(one != other for one, other in zip(draw(), drawn))
    set_random_states(states, runtime)
    assert draw() == drawn


@pytest.mark.parametrize("flag", ["--no-channels_last", "--channels_last"])
def test_averages_are_laid_out_as_their_weights(home, monkeypatch, flag):
    """Fused optimizers refuse others; the layout may change from one run to the next."""
    other = "--channels_last" if flag.startswith("--no") else "--no-channels_last"
    train_run("--epochs", "1", "--scheduler", "ConstantLR", other)
    seen, restore = [], train.restore_training

    def record_state(training: TrainingState, *args) -> None:
        restore(training, *args)
        seen.extend(training.precision.optimizer.state.items())

    monkeypatch.setattr(train, "restore_training", record_state)
    train_run("--epochs", "2", "--scheduler", "ConstantLR", "--resume", "auto", flag)
    layouts = {parameter.stride() == own[key].stride() for parameter, own in seen for key in ("exp_avg", "exp_avg_sq")}
    assert layouts == {True}
    four = next(parameter for parameter, _ in seen if parameter.shape[1:] == (4, 3, 3))
    assert four.is_contiguous(memory_format=torch.channels_last) == (flag == "--channels_last")


def stepped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let an optimizer step once, with gradients of ones."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    "other, reason",
    [
        (lambda p: torch.optim.SGD(p, lr=1, momentum=0.5), "its --optimizer was another one"),
        (lambda p: torch.optim.Adam([{"params": [x]} for x in p], lr=1), "its --optimizer was another one"),
        (lambda p: torch.optim.Adam(nn.Linear(3, 2).parameters(), lr=1), "is not that of these weights"),
        (lambda p: torch.optim.Adam(nn.Linear(2, 2, bias=False).parameters(), lr=1), "parameter group"),
    ],
)
def test_an_optimizer_of_another_run_is_refused(other, reason):
    net = nn.Linear(2, 2)
    saved = stepped(other(list(net.parameters()))).state_dict()
    with pytest.raises(ValueError, match=reason):
        load_optimizer(torch.optim.Adam(net.parameters(), lr=0.1), saved)


@pytest.mark.parametrize("spoil", [lambda own: own.pop("exp_avg"), lambda own: own.update(step=torch.tensor(-1.0))])
def test_an_incomplete_optimizer_is_refused(spoil):
    net = nn.Linear(2, 2)
    saved = copy.deepcopy(stepped(torch.optim.Adam(net.parameters(), lr=1)).state_dict())
    spoil(saved["state"][0])
    with pytest.raises(ValueError, match="is not that of these weights"):
        load_optimizer(torch.optim.Adam(net.parameters(), lr=0.1), saved)


def test_this_runs_flags_govern_a_loaded_optimizer():
    """Only its averages and its learning rate come from the file."""
    net = nn.Linear(2, 2)
    saved = stepped(torch.optim.Adam(net.parameters(), lr=0.5, weight_decay=0.25, betas=(0.5, 0.5))).state_dict()
    own = torch.optim.Adam(net.parameters(), lr=0.1, weight_decay=0.125)
    load_optimizer(own, saved)
    group = own.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.5, 0.125, (0.9, 0.999))
    assert {int(value["step"]) for value in own.state.values()} == {1}


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(options.SCHEDULERS) - {"ReduceLROnPlateau"}))
def test_fast_forward_is_exact(name):
    """A scheduler that is brought to a step has the rates, from there on, of one that has gone all the way."""
    args = options.parse_train(["--scheduler", name, "--epochs", "5", "--lr", "0.1", "--milestones", "2,4"])

    def rates(skipped: int) -> list[float]:
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=args.lr)
        scheduler, found = train.SCHEDULERS[name](optimizer, args, 2), []
        optimizer.param_groups[0]["lr"] = 7.0  # as a checkpoint's
        fast_forward(scheduler, skipped)
        for _ in range(skipped, 9):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    for skipped in range(1, 9):
        assert rates(skipped) == rates(0)[skipped:]


def cosine(epoch: int, epochs: int, lr: float = 1e-3, min_lr: float = 1e-5) -> float:
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * epoch / epochs)) / 2


AFTER_TWO_OF_SIX = {
    # five learning rates of a schedule that has already gone on for two epochs
    "CosineAnnealingLR": [cosine(epoch, 6) for epoch in range(2, 6)],
    "MultiStepLR": [1e-3 * 0.5 * 0.5] + [1e-3 * 0.5 * 0.5 * 0.5] * 3,
    "ConstantLR": [1e-3] * 4,
    # it begins anew: its validation losses do not improve from here on
    "ReduceLROnPlateau": [1e-3, 1e-3, 1e-4, 1e-5],
}


@pytest.mark.parametrize("name", AFTER_TWO_OF_SIX)
def test_another_scheduler_continues_where_it_would_be_by_now(home, monkeypatch, capsys, name):
    """The message and the learning rates agree: only ReduceLROnPlateau begins anew."""
    flags = ("--epochs", "6", "--milestones", "1,2,3", "--gamma", "0.5", "--patience", "0", "--factor", "0.1")
    first = "ConstantLR" if name != "ConstantLR" else "MultiStepLR"
    use_fixed_scores(monkeypatch, 0.5, loss=5.0)
    skip_training(monkeypatch)
    train_run(*flags, "--scheduler", first, "--early_stopping", "1")
    assert torch.load(RUN / LATEST, weights_only=True)["epoch"] == 2
    capsys.readouterr()
    seen = skip_training(monkeypatch)
    train_run(*flags, "--scheduler", name, "--resume", "auto", "--resume_anyway")
    out = capsys.readouterr().out
    assert [row["epoch"] for row in seen] == [2, 3, 4, 5]
    assert [row["lr"] for row in seen] == pytest.approx(AFTER_TWO_OF_SIX[name], rel=1e-6)
    begins_anew = f"{name} begins anew" in out
    continues = f"{name} continues where its own schedule is by now" in out
    assert (begins_anew, continues) == (name == "ReduceLROnPlateau", name != "ReduceLROnPlateau")
    assert "the scheduler begins anew" not in out


def test_one_cycle_continues_by_steps(home, monkeypatch, capsys):
    """Three steps an epoch: after two epochs the schedule of 18 steps is at its seventh."""
    train_run("--epochs", "2", "--scheduler", "ConstantLR")
    flags = ("--epochs", "6", "--scheduler", "OneCycleLR", "--lr", "0.1", "--min_lr", "1e-3", "--warmup", "0.5")
    seen, train_one_epoch = [], engine.train_one_epoch

    def record_rates(training: TrainingState, loader, criterion, stop, callbacks) -> dict:
        seen.append(training.learning_rate)
        return train_one_epoch(training, loader, criterion, stop, callbacks)

    monkeypatch.setattr(engine, "train_one_epoch", record_rates)
    train_run(*flags, "--resume", "auto", "--resume_anyway")
    assert "OneCycleLR continues where its own schedule is by now" in capsys.readouterr().out
    up, down = 18 * 0.5 - 1, 18 - 1 - (18 * 0.5 - 1)

    def rate(step: int) -> float:
        if step <= up:
            return 0.1 + (0.1 / 25 - 0.1) * (1 + math.cos(math.pi * step / up)) / 2
        return 1e-3 + (0.1 - 1e-3) * (1 + math.cos(math.pi * (step - up) / down)) / 2

    assert seen == pytest.approx([rate(step) for step in (6, 9, 12, 15)], rel=1e-6)


def test_the_optimizer_begins_anew_if_it_is_another_one(home, monkeypatch, capsys):
    train_run("--epochs", "1", "--weight_decay", "0.25")
    seen = skip_training(monkeypatch)
    train_run("--epochs", "2", "--resume", "auto", "--resume_anyway", "--weight_decay", "0.5")
    parameters = len(list(random_net().parameters()))
    assert (seen[0]["weight_decay"], seen[0]["averages"]) == (0.5, parameters)
    seen = skip_training(monkeypatch)
    train_run("--epochs", "3", "--resume", "auto", "--resume_anyway", "--optimizer", "SGD")
    assert "the optimizer begins anew" in capsys.readouterr().out and seen[0]["averages"] == 0


# --- early stopping --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "patience, ious, epochs",
    [
        ("0", (0.5, 0.6, 0.6), 3),  # the first epoch that was not better
        ("0", (0.5, 0.4), 2),
        ("0", (0.0,), 1),  # 0 is not better than no epoch at all
        ("1", (0.5, 0.6, 0.6), 3),
        ("2", (0.5, 0.4, 0.6, 0.5, 0.5), 5),
        ("-1", (0.5,), 8),
    ],
)
def test_early_stopping(home, monkeypatch, capsys, patience, ious, epochs):
    use_fixed_scores(monkeypatch, *ious)
    skip_training(monkeypatch)
    train_run("--epochs", "8", "--early_stopping", patience)
    assert torch.load(RUN / LATEST, weights_only=True)["epoch"] == epochs
    stopped = "early stopping: no better IoU for" in capsys.readouterr().out
    assert stopped == (epochs < 8)


def test_a_run_that_stopped_early_has_finished(home, monkeypatch, capsys):
    use_fixed_scores(monkeypatch, 0.5)
    train_run("--early_stopping", "1")
    before = (RUN / LATEST).read_bytes()
    train_run("--early_stopping", "1", "--resume", "auto")
    assert "has finished its 2 epochs, stopped early; raise --early_stopping" in capsys.readouterr().out
    assert (RUN / LATEST).read_bytes() == before
    train_run("--epochs", "2", "--resume", "auto", "--resume_anyway")
    # its cosine depends on the number of epochs, so another number alone would be refused
    told = "has finished its 2 epochs; raise --epochs and pass --resume_anyway to train on"
    assert told in capsys.readouterr().out
    train_run("--epochs", "2", "--resume", "auto", "--resume_anyway", "--scheduler", "ConstantLR")
    assert "has finished its 2 epochs; raise --epochs to train on" in capsys.readouterr().out


# --- what goes wrong in a run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_weights_that_are_not_finite_are_not_saved(home, monkeypatch, value):
    """The step's loss is still finite, the weights that it leaves are not."""
    nets = []
    monkeypatch.setattr(engine, "wrap_ddp", lambda model, runtime: nets.append(model) or model)

    def spoil(output, target):
        with torch.no_grad():
            nets[0].conv1_0.bn2.weight[3] = value
        return REAL_IOU(output, target)

    monkeypatch.setattr(engine, "iou_score", spoil)
    with pytest.raises(
        DivergedError, match=r"conv1_0\.bn2\.weight is not finite after epoch 0, step 1; training stops"
    ):
        train_run("--save_steps", "1")
    assert not list((home / "models").rglob("*.tar"))


def spoil_images() -> None:
    for path in sorted(Path("inputs/discs/images").iterdir())[:8]:
        path.write_bytes(b"no image")


def test_a_file_that_becomes_unreadable_stops_the_run_cleanly(home, monkeypatch):
    disturb(monkeypatch, {4: spoil_images})
    with pytest.raises(InputError, match=r"inputs/discs/images/disc0\d\.png: not a readable image"):
        train_run("--cache_mb", "0")
    assert torch.load(RUN / LATEST, weights_only=True)["epoch"] == 1


def test_unreadable_files_are_skipped_and_counted_with_skip_bad(home, monkeypatch, capsys):
    disturb(monkeypatch, {4: spoil_images})
    train_run("--skip_bad", "--cache_mb", "0")
    out = capsys.readouterr().out
    train_ids, val_ids = dataset.split_ids([f"disc{k:02d}" for k in range(15)])
    bad = [sum(int(name[4:]) < 8 for name in ids) for ids in (train_ids, val_ids)]
    assert 0 < bad[0] < 12 and 0 < bad[1] < 3, "the test is about some of each"
    second = out[out.index("Epoch: [2]") :]
    assert second.count(f"{bad[0]} unreadable images were replaced by others in this epoch") == 2
    assert second.count(f"{bad[1]} unreadable images were left out of the validation") == 2
    # a later run finds them before it starts, names them and continues
    disturb(monkeypatch, {})
    train_run("--skip_bad", "--resume", "auto", "--epochs", "4", "--resume_anyway")
    out = capsys.readouterr().out
    assert "cannot be used as it is (8 problems)" in out and "these are skipped" in out and "Epoch: [4][3/3]" in out
    with pytest.raises(InputError, match="8 problems"):
        train_run("--resume", "auto", "--epochs", "5", "--resume_anyway")


def test_no_training_image_left(home, monkeypatch):
    """As when a disk is unmounted."""
    disturb(monkeypatch, {4: lambda: [path.unlink() for path in Path("inputs/discs/images").iterdir()]})
    with pytest.raises(InputError, match="no other training image can be read either"):
        train_run("--skip_bad", "--cache_mb", "0")


def test_a_killed_data_loading_process_is_reported(home, monkeypatch):
    def kill() -> None:
        (worker, *_) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(0.2)

    disturb(monkeypatch, {4: kill})
    with pytest.raises(SystemExit) as end, errors.report_errors():
        train_run("--num_workers", "1")
    assert "was killed" in str(end.value) and "because memory ran out; lower --num_workers" in str(end.value)
    assert "Killed" in str(end.value)


@pytest.mark.parametrize(
    "values, name",
    [
        ([1.0, -2.0], None),
        ([3e38, 3e38], None),  # their sum overflows
        ([1.0, math.nan], "b"),
        ([math.inf, -math.inf], "b"),
    ],
)
def test_a_number_that_is_not_finite_is_found(values, name):
    tensors = {"a": torch.ones(2), "b": torch.tensor(values), "count": torch.tensor(1)}
    assert find_non_finite(tensors) == name


def test_an_epochs_row_that_is_not_finite_stops_the_run(home, monkeypatch):
    """An epoch's last step can spoil the weights after its own loss was computed."""
    use_fixed_scores(monkeypatch, 0.5, loss=float("nan"))
    with pytest.raises(DivergedError, match=r"^the validation loss is nan after epoch 1; training stops, the last"):
        train_run()
    assert not list((home / "models").rglob("*.tar"))


def test_statistics_are_those_of_batch_norm():
    assert {name.rpartition(".")[2] for name in state.statistics(random_net())} == {"running_mean", "running_var"}
