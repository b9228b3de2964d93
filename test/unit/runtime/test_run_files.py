# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The files of a run that people read: config.yml, log.csv and curves.png."""

import numpy as np
import pandas as pd
import pytest

from runtime import run_files
from runtime.run_files import SECONDS_BETWEEN_CURVES, Curves, check_history, read_history, save_config, write_log
from runtime.settings import load_config


def rows(count: int) -> list[dict]:
    """Return rows of log.csv whose best epoch is the last but one."""
    keys = ("lr", "loss", "iou", "val_loss", "val_iou", "val_dice", "images_per_s")
    ious = np.linspace(0.1, 0.9, count)
    ious[-2:] = ious[-2:][::-1]
    return [{"epoch": epoch} | dict.fromkeys(keys, 0.25) | {"val_iou": ious[epoch]} for epoch in range(count)]


def test_a_config_comes_back(tmp_path):
    config = {"name": "Zellkerne ü 核", "lr": 1e-3, "milestones": [1, 2], "resume": None, "nesterov": False, "a": "no"}
    save_config(config, tmp_path / "run")
    assert load_config(tmp_path / "run") == config
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yml"]
    assert "Zellkerne ü 核" in (tmp_path / "run" / "config.yml").read_text(encoding="utf-8")


def test_a_history_comes_back(tmp_path):
    history = rows(4)
    write_log(history, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
    assert list(pd.read_csv(tmp_path / "log.csv").columns) == list(history[0])
    assert read_history(tmp_path / "log.csv", 4) == history
    assert read_history(tmp_path / "log.csv", 2) == history[:2], "rows of epochs that the checkpoint lacks are dropped"


def test_the_curves_are_drawn_from_time_to_time_and_at_the_end(tmp_path, monkeypatch):
    clock, drawn = [0.0], []
    monkeypatch.setattr(run_files.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(run_files, "plot_curves", lambda table, path: drawn.append(len(table)) or path.touch())
    curves = Curves(tmp_path)
    curves.draw()
    assert drawn == [] and not (tmp_path / "curves.png").exists(), "there is no epoch yet"
    for epoch in range(1, 9):
        clock[0] += 0.3 * SECONDS_BETWEEN_CURVES
        curves.update(rows(9)[:epoch])
    assert drawn == [4, 8]
    curves.draw()
    assert drawn == [4, 8], "all epochs were drawn already"
    curves.update(rows(9))
    curves.draw()
    assert drawn == [4, 8, 9] and [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_the_curves_are_a_picture(tmp_path):
    curves = Curves(tmp_path)
    curves.update(rows(3))
    curves.draw()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_curves_name_the_best_epoch(tmp_path, monkeypatch):
    """Epochs are shown from 1."""
    from matplotlib import pyplot as plt

    titles, close, open_before = [], plt.close, plt.get_fignums()

    def record_and_close(figure) -> None:
        titles.append(figure.axes[1].get_title())
        close(figure)

    monkeypatch.setattr(plt, "close", record_and_close)
    run_files.plot_curves(pd.DataFrame(rows(5)), tmp_path / "curves.png")
    assert titles == ["best 0.9000 in epoch 4"] and plt.get_fignums() == open_before


@pytest.mark.parametrize("text", ["", "epoch,lr\n0,1\n", "no table\x00", '"'])
def test_a_log_that_cannot_be_read_has_no_rows(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    assert read_history(tmp_path / "log.csv", 9) == []
    assert read_history(tmp_path / "gone.csv", 9) == []


@pytest.mark.parametrize(
    "history", ["text", [1], [{"epoch": 0}], [dict.fromkeys(run_files.COLUMNS, "x")], [dict.fromkeys(range(6), 1)]]
)
def test_rows_of_another_kind_are_refused(history):
    check_history(rows(2))
    with pytest.raises((ValueError, TypeError, KeyError)):
        check_history(history)
