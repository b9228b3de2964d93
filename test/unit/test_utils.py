# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What several commands share: meters and log lines byte for byte, the times of steps, seeds, run folders."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import utils
from runtime.distributed import init_runtime
from runtime.errors import DivergedError, InputError
from utils import AverageMeter, MetricLogger, progress_line


def meter(name: str, fmt: str, *updates: tuple[float, int]) -> AverageMeter:
    made = AverageMeter(name, fmt)
    for value, count in updates:
        made.update(value, count)
    return made


# --- log lines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, fmt, value, mean, text",
    [
        ("Time", "6.3f", 0.123, 0.13, "Time  0.123 ( 0.130)"),
        ("Time", "6.3f", 123.4567, 99.5, "Time 123.457 (99.500)"),
        ("Data", "6.3f", 0.003, 0.004, "Data  0.003 ( 0.004)"),
        ("Loss", "6.8f", 0.98765432, 1.02345678, "Loss 0.98765432 (1.02345678)"),
        ("Iou", "6.4f", 0.4321, 0.4, "Iou 0.4321 (0.4000)"),
        ("Loss", ".4e", 1.2121, 1.2, "Loss 1.2121e+00 (1.2000e+00)"),
    ],
)
def test_meters_print_as_harnesses_read_them(name, fmt, value, mean, text):
    assert str(meter(name, fmt, (2 * mean - value, 1), (value, 1))) == text


def test_a_meter_weights_by_count():
    made = meter("Iou", "6.4f", (0.5, 16), (0.25, 16), (1.0, 1))
    assert made.val == 1.0 and made.avg == pytest.approx((0.5 * 16 + 0.25 * 16 + 1) / 33)
    fresh = AverageMeter("Iou", "6.4f")
    assert fresh.avg == 0 and str(fresh) == "Iou 0.0000 (0.0000)"


def test_a_whole_training_line():
    meters = [
        meter("Time", "6.3f", (0.137, 1), (0.123, 1)),
        meter("Data", "6.3f", (0.005, 1), (0.003, 1)),
        meter("Loss", "6.8f", (1.05925924, 1), (0.98765432, 1)),
        meter("Iou", "6.4f", (0.3679, 1), (0.4321, 1)),
    ]
    expected = "Epoch: [1][ 5/33]\tTime  0.123 ( 0.130)\tData  0.003 ( 0.004)\tLoss 0.98765432 (1.02345678)"
    assert progress_line("Epoch: [1]", 5, 33, meters) == expected + "\tIou 0.4321 (0.4000)"


def test_a_whole_validation_line():
    meters = [
        meter("Time", "6.3f", (0.137, 1), (0.123, 1)),
        meter("Loss", ".4e", (1.1879, 1), (1.2121, 1)),
        meter("Iou", "6.4f", (0.1491, 16)),
    ]
    expected = "Test: [1/9]\tTime  0.123 ( 0.130)\tLoss 1.2121e+00 (1.2000e+00)\tIou 0.1491 (0.1491)"
    assert progress_line("Test: ", 1, 9, meters) == expected


@pytest.mark.parametrize(
    "step, total, text", [(1, 9, "[1/9]"), (1, 33, "[ 1/33]"), (33, 33, "[33/33]"), (7, 100, "[  7/100]")]
)
def test_steps_are_padded_to_the_width_of_the_total(step, total, text):
    assert progress_line("Epoch: [12]", step, total, []) == f"Epoch: [12]{text}"


@pytest.mark.parametrize("seed", [0, 5, 2**32 + 5, 2**64 - 1])
def test_seeds_reach_every_generator(seed):
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(1).item()

    utils.seed_everything(seed)
    one = draw()
    utils.seed_everything(seed - 1 if seed else 1)
    other = draw()
    utils.seed_everything(seed)
    assert draw() == one and all(a != b for a, b in zip(one, other))


# --- the numbers of an epoch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times, expected",
    [([2.0], 8.0), ([9.0, 2.0], 8.0), ([9.0] * 9, 16 / 9), ([9.0] * 9 + [2.0, 4.0], 16 / 3)],
)
def test_warm_up_steps_do_not_count_into_the_speed(times, expected):
    assert utils.images_per_second(16, times) == pytest.approx(expected)


def test_all_steps_count_into_the_speed_if_asked():
    assert utils.images_per_second(16, [9.0] * 9 + [2.0, 4.0], count_warmup=True) == pytest.approx(16 * 11 / 87)
    logger = log_steps(MetricLogger(init_runtime("cpu"), count_warmup=True), [1.0] * 11, 11)
    logger.seconds = [9.0] * 10 + [2.0]
    assert logger.finish_epoch()["fps"] == pytest.approx(4 * 11 / 92)


def test_how_many_steps_are_warm_up():
    """By the steps of an epoch and the number of processes."""
    expected = {(1, 1): 0, (2, 1): 1, (9, 1): 1, (10, 1): 9, (33, 1): 9, (3, 8): 1, (4, 8): 3}
    assert {key: utils.warmup_steps(*key) for key in expected} == expected


def log_steps(logger: MetricLogger, losses: list[float], total: int) -> MetricLogger:
    """Let a logger take in steps of 4 images with these losses, of an epoch of `total` steps."""

    class Loader(list):
        def __len__(self) -> int:
            return total

    for loss in logger.batches(Loader(losses), epoch=1):
        logger.record(4, torch.tensor([loss, 0.5, 0.0]), 0, False)
    return logger


def test_an_interrupted_epoch_has_the_numbers_of_a_whole_one(capsys):
    """But for the times, which no run repeats."""
    losses = [3.0, 1.0, 4.0, 1.5, 9.0]
    whole = log_steps(MetricLogger(init_runtime("cpu")), losses, 5)
    lines = capsys.readouterr().out.splitlines()
    cut = log_steps(MetricLogger(init_runtime("cpu")), losses[:2], 5)
    resumed = MetricLogger(init_runtime("cpu"))
    resumed.load_state_dict(cut.state_dict())
    log_steps(resumed, losses[2:], 5)

    def without_times(lines: list[str]) -> list[str]:
        return [re.sub(r"\t(Time|Data)[^\t]*", "", line) for line in lines]

    assert without_times(capsys.readouterr().out.splitlines()) == without_times(lines)
    assert len(resumed.seconds) == 5 and resumed.finish_epoch()["loss"] == whole.finish_epoch()["loss"] == 3.7


def test_a_loss_that_is_not_finite_stops_the_run(capsys):
    with pytest.raises(DivergedError, match=r"^the loss is nan in epoch 2, step 2; training stops, the last checkp"):
        log_steps(MetricLogger(init_runtime("cpu")), [1.0, float("nan"), 1.0], 3)
    assert capsys.readouterr().out.startswith("Epoch: [2][1/3]\t")


def test_skipped_steps_and_unreadable_images_are_counted(capsys):
    logger = MetricLogger(init_runtime("cpu"))
    for step, _ in enumerate(logger.batches([None] * 4, epoch=0)):
        logger.record(4, torch.tensor([1.0, 0.5, step % 2]), unreadable=step, stop=False)
    logger.finish_epoch()
    out = capsys.readouterr().out
    assert "2 of 4 steps were skipped: their gradients overflowed\n" in out
    assert "6 unreadable images were replaced by others in this epoch\n" in out


@pytest.mark.parametrize(
    "change",
    [{"seconds": [1.0]}, {"seconds": [1.0, -1.0]}, {"seconds": None}, {"step": "x"}, {"meters": {}}],
    ids=str,
)
def test_numbers_of_another_kind_are_refused(change):
    state = log_steps(MetricLogger(init_runtime("cpu")), [1.0, 1.0], 5).state_dict()
    with pytest.raises((KeyError, TypeError, ValueError)):
        MetricLogger(init_runtime("cpu")).load_state_dict(state | change)


# --- run folders, models and data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dsb2018_96_UNet_woDS", "my run", "..x", "a.b", "核", "x-1"])
def test_run_folder(name):
    assert utils.run_folder(name) == Path("models") / name
    assert utils.run_folder(name, "outputs") == Path("outputs") / name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "/etc", "a/", "a\\b", "a\nb", "a\n", "a\rb", "a\0b", "-rf", "--name"),
        *("a\x1b[2Jb", "a\u202eb", "a\u2028b", "a\udc80b", "x" * 201),
    ],
)
def test_run_folder_refuses(name):
    with pytest.raises(InputError) as error:
        utils.run_folder(name)
    assert "--name" in str(error.value) and repr(name)[:99] in str(error.value) and str(error.value).isprintable()


def test_find_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("models/run")
    folder.mkdir(parents=True)
    (folder / "checkpoint.pth.tar").touch()  # the latest is not the best
    with pytest.raises(InputError, match=r"models/run.*model_best\.pth\.tar.*--name"):
        utils.find_model("run")
    (folder / "model.pth").touch()
    assert utils.find_model("run") == folder / "model.pth"
    (folder / "model_best.pth.tar").touch()
    assert utils.find_model("run") == folder / "model_best.pth.tar"
    with pytest.raises(InputError, match="--name"):
        utils.find_model("../run")


@pytest.mark.parametrize(
    "data_path, settings, dataset, expected",
    [
        ("given", {"data_path": "recorded", "dataset": "old"}, "named", "given"),
        ("not/there", {"data_path": "recorded"}, None, "not/there"),  # an error about it must name it
        (None, {"data_path": "recorded", "dataset": "old"}, "named", "inputs/named"),
        (None, {"data_path": "recorded", "dataset": "old"}, None, "recorded"),
        (None, {"data_path": "/elsewhere/old", "dataset": "old"}, None, "inputs/old"),
        (None, {"data_path": "moved away", "dataset": "old"}, None, None),
        (None, {"dataset": "old"}, None, "inputs/old"),
        ("", {"data_path": None, "dataset": "old"}, "", "inputs/old"),
    ],
)
def test_find_data(tmp_path, monkeypatch, data_path, settings, dataset, expected):
    """`--data_path`, else `--dataset`, else the recorded path, else inputs/<dataset>, but never silently other data."""
    monkeypatch.chdir(tmp_path)
    Path("recorded").mkdir()
    if expected is None:
        with pytest.raises(InputError, match="moved away: the data that the model was trained on are gone"):
            utils.find_data(data_path, settings, dataset)
    else:
        assert utils.find_data(data_path, settings, dataset) == Path(expected)
