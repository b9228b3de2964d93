"""The script that all figures on speed come from: that it runs, and compares like with like. No time is looked at."""

import subprocess
import sys
from argparse import Namespace

import benchmark
import benchmark_inference
import benchmark_loss
import benchmark_measure as measure
import benchmark_preparation
import benchmark_step
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, random_net, run_python

import memory
import pictures


def test_all_parts_at_once(tmp_path):
    flags = ["--tiny", "--no-compile", "--csv", "figures.csv"]
    result = run_python(ROOT / "test" / "benchmark.py", *flags, cwd=tmp_path, seconds=600)
    assert result.returncode == 0, result.stdout
    assert "without compiled nets: --no-compile" in result.stdout
    table = pd.read_csv(tmp_path / "figures.csv", keep_default_na=False)
    assert list(table) == ["section", "what", "unit", "plain", "ours", "ratio", "goal", "reached"]
    assert tuple(table["section"].unique()) == benchmark.PARTS
    rows = dict(zip(table["section"] + ": " + table["what"], table.to_dict("records")))
    assert len(rows) == len(table), "two rows of one name"
    for name in (
        "loss: forward and backward, 4 × 1×32×32",
        "step: all but forward, backward, optimiser",
        "input: one process (16 synthetic images, batch 4)",
        "input: train_loader, 2 workers",
        "preparation: 16 synthetic images, 2 workers",
        "preparation: most memory, summed over the processes",
        "inference: demo, 4 images of 16 synthetic images, ours",
        "inference: demo, 4 images of 16 synthetic images, ours, --amp",
    ):
        assert rows[name]["goal"] and rows[name]["reached"] in ("yes", "no"), name
    for net in ("train UNet", "evaluate UNet", "train NestedUNet with deep supervision", "evaluate NestedUNet"):
        for variant in ("channels_last", "bfloat16, channels_last"):
            assert float(rows[f"net: {net}, {variant}"]["ratio"]) > 0
    assert float(rows["inference: UNet, onnxruntime, batch 4"]["ours"]) > 0
    assert list(tmp_path.iterdir()) == [tmp_path / "figures.csv"]


@pytest.mark.parametrize(
    "flags, told",
    [(["--parts", "loss,nets"], "there is no nets"), (["--repeats", "many"], "invalid int")],
)
def test_mistyped_flags(flags, told, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(flags)
    assert told in capsys.readouterr().err


def test_rows_and_goals():
    goal = measure.Goal("ratio", least=2)
    faster = measure.Row("a", "b", "images/s", 10.0, 25.0, goal)
    slower = measure.Row("a", "b", "ms", 10.0, 25.0, goal)
    assert (faster.ratio, slower.ratio) == (2.5, 0.4)
    assert (faster.columns()["reached"], slower.columns()["reached"]) == ("yes", "no")
    alone = measure.Row("a", "b", "MB", None, 400.0, measure.Goal("ours", most=500))
    assert alone.ratio is None and alone.columns()["reached"] == "yes" and alone.columns()["goal"] == "ours ≤ 500"


def test_sides_take_turns_each_with_its_own_way_of_handling_memory(monkeypatch):
    done = []
    monkeypatch.setattr(memory, "keep_freed", lambda keep=True: done.append(keep))
    sides = {
        "plain": measure.Side(lambda: done.append("plain"), keeps=False),
        "ours": measure.Side(lambda: done.append("ours"), calls=2, warm=False),
    }
    assert set(measure.medians(sides, 2)) == {"plain", "ours"}
    assert done == [False, "plain", "plain", True, "ours", "ours"] * 2 + [True]


def test_results_that_differ_end_the_script():
    measure.check_same("x", torch.ones(3), np.ones(3))
    for other, told in ((torch.tensor([1, 1, 1.1]), "differ by 0.1"), (torch.ones(2), "shape"), (torch.nan, "shape")):
        with pytest.raises(SystemExit, match=f"benchmark: x: .*{told}"):
            measure.check_same("x", torch.ones(3), other, 0.01)
    with pytest.raises(SystemExit, match="differ by nan"):
        measure.check_same("x", 1.0, torch.nan, 0.01)


def test_plain_lovasz_is_the_jaccard_loss_of_the_pixels_counted_as_wrong():
    """Berman et al., definition 1: the gradient's first k numbers add up to the loss of getting k pixels wrong."""
    target = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0], dtype=torch.float64)
    gradient = benchmark_loss.lovasz_grad(target)
    truth = {k for k, value in enumerate(target) if value}
    for k in range(1, len(target) + 1):
        wrong = set(range(k))
        assert gradient[:k].sum() == pytest.approx(len(wrong) / len(truth | wrong))


def test_stopwatch_counts_each_moment_once(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(benchmark_step.time, "perf_counter", lambda: next(now))
    watch = benchmark_step.Stopwatch()
    with watch.within("backward"), watch.within("optimiser"):
        watch.counted(torch.Tensor.item)(torch.ones(()))
    seconds, reads = watch.lap()
    assert seconds == {"rest": 1 + 5, "backward": 2 + 4, "optimiser": 3} and reads == {"optimiser": 1}


def test_folding_the_batch_norm_changes_nothing(narrow):
    model, images = random_net(), torch.randn(2, 3, 32, 32)
    folded = benchmark_inference.folded(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), model(images), rtol=0, atol=1e-5)


def test_plain_brightening_gives_the_same_pictures():
    for low, high in ((0, 40), (0, 256), (100, 103), (7, 8)):
        image = np.random.default_rng(high).integers(low, high, (31, 17, 3), np.uint8)
        assert np.array_equal(benchmark_inference.plain_brighten(image), pictures.brighten(image))


def test_memory_is_that_of_all_processes(tmp_path):
    script = tmp_path / "script.py"
    hold = "import time; held = bytearray(b'x' * 100_000_000); time.sleep(0.5)"
    script.write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {hold!r}])\n{hold}\n")
    assert 200 < benchmark_preparation.run_command([script]) < 700
    script.write_text("raise SystemExit('no luck')")
    with pytest.raises(SystemExit, match=r"script\.py failed:\nno luck"):
        benchmark_preparation.run_command([script])


def test_plain_preparation_needs_nothing_of_this_repository():
    """It is to be measured as if none of this had been written."""
    code = "import sys, benchmark_preparation; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "test", capture_output=True, text=True, check=True)
    assert not set(result.stdout.split()) & {"torch", "files", "memory", "rawset"}


def test_flags_name_the_data_or_leave_them_to_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("DSB2018_ZIP", str(tmp_path / "nowhere.zip"))
    default, asked = benchmark.parse([]), benchmark.parse(["--zip", str(tmp_path / "mine.zip"), "--data", "mine"])
    assert default.zip_is_default and not asked.zip_is_default
    assert measure.Bench(asked, tmp_path).zip == (tmp_path / "mine.zip", "mine.zip")
    assert measure.Bench(asked, tmp_path).data[1] == "mine"
    path, name = measure.Bench(Namespace(**vars(default) | {"tiny": True}), tmp_path).zip
    assert path.is_file() and name == "16 synthetic images"
