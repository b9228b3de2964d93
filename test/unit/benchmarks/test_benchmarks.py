# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The benchmarks work, and compare like with like. No test looks at a time."""

import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import conftest
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NARROW, ROOT, random_net, run_python, run_ranks
from torch.distributed.run import get_args_parser as torchrun_parser

from benchmarks import inference, loss, measure, preparation, run, scaling, step
from imaging import drawing


@pytest.fixture(scope="module")
def all_parts(tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """The result of all parts, with a profile, and the folder in which they ran; several tests look at it."""
    folder = tmp_path_factory.mktemp("all_parts")
    flags = ["--tiny", "--csv", "figures.csv", "--profile"]
    return run_python(ROOT / "benchmarks" / "run.py", *flags, cwd=folder, seconds=600), folder


def test_all_parts(all_parts):
    result, folder = all_parts
    assert result.returncode == 0, result.stdout
    table = pd.read_csv(folder / "figures.csv", keep_default_na=False)
    assert list(table) == ["section", "what", "unit", "plain", "ours", "ratio", "goal", "reached"]
    assert list(table["section"].unique()) == list(run.PARTS)
    rows = dict(zip(table["section"] + ": " + table["what"], table.to_dict("records")))
    assert len(rows) == len(table), "two rows have the same name"
    for name in (
        "loss: forward and backward, 4 × 1×32×32",
        "step: all but forward, backward, optimizer",
        "epoch_pause: UNet, from the last Test line to the next step; plain: torch.save and fsync",
        "input: one process (16 synthetic images, batch 4)",
        "input: train_loader, 2 workers",
        "preparation: 16 synthetic images, 2 workers",
        "preparation: peak memory, sum of the processes",
        "inference: demo, 4 images of 16 synthetic images, ours",
        "inference: demo, 4 images of 16 synthetic images, ours, --amp",
    ):
        assert rows[name]["goal"] and rows[name]["reached"] in ("yes", "no"), name
    for net in ("train UNet", "evaluate UNet", "train NestedUNet with deep supervision", "evaluate NestedUNet"):
        for variant in ("channels_last", "bfloat16, channels_last"):
            assert float(rows[f"net: {net}, {variant}"]["ratio"]) > 0
    for part in step.PARTS:
        assert float(rows[f"step: {part} (UNet, batch 4, 16 synthetic images)"]["ours"]) > 0, part
    assert float(rows["inference: UNet, onnxruntime, batch 4"]["ours"]) > 0
    assert list(folder.iterdir()) == [folder / "figures.csv"]


def test_profile_of_a_training_step(all_parts):
    result, _ = all_parts
    assert result.returncode == 0, result.stdout
    assert re.search(r"operators of a training step, [\d.]+ ms in total", result.stdout)
    assert re.search(r"^    convolution +4×3×32×32 by 4×3×3×3 +\d+ +[\d.]+ +[\d.]+$", result.stdout, re.MULTILINE)
    assert "oneDNN, channels_last: " in result.stdout


def test_scaling_compares_one_process_with_several(tmp_path, monkeypatch, capsys):
    """Its commands run in forks, and the ranks without torchrun, which saves seconds each."""
    counts = []

    def run_in_forks(command: list, cwd: str, **_rest: object) -> subprocess.CompletedProcess:
        words = list(map(str, command[1:]))
        if words[:2] == ["-m", "torch.distributed.run"]:
            launch = torchrun_parser().parse_args(words[2:])
            counts.append(int(launch.nproc_per_node))
            return run_ranks(counts[-1], launch.training_script, *launch.training_script_args, cwd=Path(cwd), **NARROW)
        return conftest.run(*words, cwd=Path(cwd))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scaling, "subprocess", SimpleNamespace(run=run_in_forks, DEVNULL=subprocess.DEVNULL))
    scaling.main(scaling.parse(["--rounds", "1", "--steps", "4", "--batch_size", "2"]))
    pattern = r"round 1: 1 process [\d.]+, 2 processes [\d.]+ images/s\nmedians of 1: [\d.]+, [\d.]+ images/s, ratio \d"
    printed = capsys.readouterr().out
    assert re.match(pattern, printed) and counts == [1, 2], printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "parse, flags, text",
    [
        (run.parse, ["--parts", "loss,nets"], "there is no nets"),
        (run.parse, ["--repeats", "many"], "invalid int"),
        (scaling.parse, ["--steps", "3"], "--steps must be above 3"),
    ],
)
def test_mistyped_flags_are_refused(parse, flags, text, capsys):
    with pytest.raises(SystemExit):
        parse(flags)
    assert text in capsys.readouterr().err


def test_parts_run_in_their_own_order():
    assert run.parse(["--parts", "net,loss"]).parts == ["loss", "net"]


def test_rows_and_goals():
    goal = measure.Goal("ratio", least=2)
    faster = measure.Row("a", "b", "images/s", 10.0, 25.0, goal)
    slower = measure.Row("a", "b", "ms", 10.0, 25.0, goal)
    assert (faster.ratio, slower.ratio) == (2.5, 0.4)
    assert (faster.columns()["reached"], slower.columns()["reached"]) == ("yes", "no")
    alone = measure.Row("a", "b", "MB", None, 400.0, measure.Goal("ours", most=500))
    assert alone.ratio is None and alone.columns()["reached"] == "yes" and alone.columns()["goal"] == "ours ≤ 500"


def test_sides_run_in_turn_with_their_own_memory_handling(monkeypatch):
    done = []
    monkeypatch.setattr(measure, "keep_freed_memory", lambda keep=True: done.append(keep))
    sides = {
        "plain": measure.Side(lambda: done.append("plain"), keep_memory=False),
        "ours": measure.Side(lambda: done.append("ours"), calls=2, warm=False),
    }
    assert set(measure.medians(sides, 2)) == {"plain", "ours"}
    assert done == [False, "plain", "plain", True, "ours", "ours"] * 2 + [True]


def test_different_results_end_the_benchmark():
    measure.check_same("x", torch.ones(3), np.ones(3))
    for other, text in ((torch.tensor([1, 1, 1.1]), "differ by 0.1"), (torch.ones(2), "shape"), (torch.nan, "shape")):
        with pytest.raises(SystemExit, match=f"benchmark: x: .*{text}"):
            measure.check_same("x", torch.ones(3), other, 0.01)
    with pytest.raises(SystemExit, match="differ by nan"):
        measure.check_same("x", 1.0, torch.nan, 0.01)


def test_plain_lovasz_gradient_sums_up_to_the_jaccard_loss():
    """Berman et al., definition 1: the first k entries of the gradient sum up to the loss of k wrong pixels."""
    target = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0], dtype=torch.float64)
    gradient = loss.lovasz_grad(target)
    truth = {k for k, value in enumerate(target) if value}
    for k in range(1, len(target) + 1):
        wrong = set(range(k))
        assert gradient[:k].sum() == pytest.approx(len(wrong) / len(truth | wrong))


def test_stopwatch_counts_each_moment_once(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(step.time, "perf_counter", lambda: next(now))
    watch = step.Stopwatch()
    with watch.within("backward"), watch.within("optimizer"):
        watch.counted(torch.Tensor.item)(torch.ones(()))
    seconds, reads = watch.lap()
    assert seconds == {"rest": 1 + 5, "backward": 2 + 4, "optimizer": 3} and reads == {"optimizer": 1}


def test_folding_batch_norm_does_not_change_the_output(narrow):
    model, images = random_net(), torch.randn(2, 3, 32, 32)
    folded = inference.fold_batch_norm(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), model(images), rtol=0, atol=1e-5)


def test_plain_brightening_gives_the_same_pictures():
    for low, high in ((0, 40), (0, 256), (100, 103), (7, 8)):
        image = np.random.default_rng(high).integers(low, high, (31, 17, 3), np.uint8)
        assert np.array_equal(inference.plain_brighten(image), drawing.brighten(image))


def test_memory_is_that_of_all_processes(tmp_path):
    script = tmp_path / "script.py"
    hold = "import time; held = bytearray(b'x' * 100_000_000); time.sleep(0.5)"
    script.write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {hold!r}])\n{hold}\n")
    assert 200 < preparation.run_command([script]) < 700
    script.write_text("raise SystemExit('no luck')")
    with pytest.raises(SystemExit, match=r"script\.py failed:\nno luck"):
        preparation.run_command([script])


def test_plain_preparation_imports_nothing_of_this_repository():
    code = "import sys, plain_preparation; print(*sys.modules)"
    folder = ROOT / "benchmarks"
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    packages = {name.split(".")[0] for name in result.stdout.split()}
    ours = {path.stem for path in ROOT.glob("*.py")} | {path.stem for path in folder.glob("*.py")}
    assert packages & (ours | {"torch", "runtime", "imaging", "benchmarks"}) == {"plain_preparation"}


def test_a_missing_default_path_is_replaced_by_synthetic_data(tmp_path, monkeypatch):
    monkeypatch.setenv("DSB2018_ZIP", str(tmp_path / "nowhere.zip"))
    default, given = run.parse([]), run.parse(["--zip", str(tmp_path / "mine.zip"), "--data", "mine"])
    assert default.zip_is_default and not given.zip_is_default
    assert measure.Bench(given, tmp_path).zip == (tmp_path / "mine.zip", "mine.zip")
    assert measure.Bench(given, tmp_path).data[1] == "mine"
    path, name = measure.Bench(Namespace(**vars(default) | {"tiny": True}), tmp_path).zip
    assert path.is_file() and name == "16 synthetic images"
