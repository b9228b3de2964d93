# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The scripts and launchers on a stand-in for the NPU, and on one for Ascend's apex."""

import io
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import onnxruntime
import pandas as pd
import pytest
import torch
from conftest import (
    NARROW,
    ROOT,
    STANDIN_APEX,
    STANDIN_NPU,
    STANDIN_PYPI_APEX,
    TINY,
    UNIT,
    clone,
    needs_compiler,
    run,
    run_afresh,
    run_ranks,
    weights_of,
    write_dataset,
)
from helpers.rank_results import assert_same_training, run_task

from runtime.distributed import init_runtime
from runtime.errors import InputError

ON_NPU = {"PYTHONPATH": str(STANDIN_NPU), **NARROW}
ON_NPU_WITH_APEX = {"PYTHONPATH": f"{STANDIN_NPU}{os.pathsep}{STANDIN_APEX}", **NARROW}
ON_NPU_WITH_ROOT = {"PYTHONPATH": f"{STANDIN_NPU}{os.pathsep}{ROOT}"}  # for programs outside the root
FLAGS = ("inputs/discs", *TINY, "--device", "npu")

pytestmark = needs_compiler


@pytest.fixture
def discs(home) -> Path:
    write_dataset(home / "inputs" / "discs", count=20)
    return home


def succeed(result: subprocess.CompletedProcess) -> str:
    """Return what a script printed, and assert that it succeeded."""
    assert result.returncode == 0, result.stdout
    assert "Traceback" not in result.stdout, result.stdout
    return result.stdout


def error_line(result: subprocess.CompletedProcess) -> str:
    """Return the one line with which a script refuses."""
    assert result.returncode == 1 and "Traceback" not in result.stdout, result.stdout
    return result.stdout.splitlines()[-1]


def run_source(source: str, folder: Path, **environment: str) -> str:
    """Run a line of Python, which knows torch and init_runtime, on the stand-in NPU; returns what it prints."""
    script = folder / "script.py"
    script.write_text(f"import torch; from runtime.distributed import init_runtime; {source}")
    return run(script, cwd=folder, **ON_NPU_WITH_ROOT, **environment).stdout


@pytest.mark.parametrize(
    "level, more",
    [
        ("O0", ()),
        ("O1", ()),
        ("O2", ()),
        ("O2", ("--optimizer", "AdamW", "--weight_decay", "0.1", "--ema", "0.9", "--divide_twice", "False")),
    ],
)
def test_all_scripts_on_one_npu(discs, level, more):
    """Train, resume, evaluate, segment, export; the resumed run has the weights of an uninterrupted one."""
    checkpoint = "models/run/checkpoint.pth.tar"
    recipe = (*FLAGS, *more, "--opt-level", level, "--loss-scale", "-1", "--scheduler", "ConstantLR")
    commands = [
        ("train.py", *recipe, "--name", "run", "--epochs", "1"),
        ("train.py", *recipe, "--name", "run", "--epochs", "2", "--resume", checkpoint),
        ("train.py", *recipe, "--name", "whole", "--epochs", "2"),
        ("train.py", *FLAGS, "--evaluate", "--resume", checkpoint),
        ("val.py", "--name", "run", "--device", "npu"),
        ("demo.py", "--name", "run", "--device", "npu"),
        ("pthtar2onnx.py", "--name", "run", "--input_h", "32", "--input_w", "32"),
    ]
    printed = "".join(succeed(run(script, *flags, cwd=discs, **ON_NPU)) for script, *flags in commands)
    assert f"UNet on npu:0, {'fp32' if level == 'O0' else level + ', float16'}: 16 images" in printed
    found, whole = weights_of(discs / checkpoint), weights_of(discs / "models" / "whole" / "checkpoint.pth.tar")
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(value, whole[name]) for name, value in found.items())
    assert (discs / "outputs" / "UNet_Demo" / "overview.png").exists()
    (output,) = onnxruntime.InferenceSession(discs / "UNet_npu8p.onnx").run(
        None, {"actual_input_1": torch.zeros(1, 3, 32, 32).numpy()}
    )
    assert output.shape == (1, 1, 32, 32)

    # the same model gives the same scores on a host without an NPU
    scores = re.findall(r"^IoU: (\d\.\d{4})$", printed, re.MULTILINE)
    printed = succeed(run("val.py", "--name", "run", "--device", "cpu", cwd=discs, **NARROW))
    others = re.findall(r"^IoU: (\d\.\d{4})$", printed, re.MULTILINE)
    assert len(scores) == 1 and float(others[0]) == pytest.approx(float(scores[0]), abs=2e-4)


def found_waits(printed: str) -> dict[str, str]:
    """Return the results that helpers/device_waits.py printed, by their names."""
    return dict(re.findall(r"^(\w+): ?(.*)$", printed, re.MULTILINE))


@pytest.mark.parametrize(
    "more", [(), ("--ema", "0.9", "--scheduler", "OneCycleLR", "--deterministic")], ids=["plain", "ema"]
)
@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_a_step_never_waits_for_the_npu(tmp_path, level, more):
    """Each step's line has its own loss, although it is read later; an overflow is skipped on the device.

    The same holds if an EMA is updated, and the learning rate changed, after each step, and with --deterministic.
    """
    printed, averages = {}, {}
    for device in ("npu", "cpu"):
        program = UNIT / "helpers" / "device_waits.py"
        printed[device] = succeed(run(program, device, level, *more, cwd=tmp_path, **ON_NPU_WITH_ROOT))
        found = found_waits(printed[device])
        assert found["waits"] == "0 0 0 0 0"
        logged = re.findall(r"^Epoch: \[1\]\[(\d)/5\].*\tLoss (\S+) ", printed[device], re.MULTILINE)
        assert logged == list(zip("12345", found["losses"].split()))
        scaled = level != "O0"
        assert ("1 of 5 steps were skipped" in printed[device]) == scaled
        assert found["unchanged"] == ("3" if scaled else "")
        assert json.loads(found["state"]) == ({"loss_scaler0": {"loss_scale": 128.0, "unskipped": 2}} if scaled else {})
        averages[device] = list(map(float, found["averages"].split()))
    if more:
        assert len(set(averages["npu"])) >= 4 and averages["npu"] == pytest.approx(averages["cpu"], abs=1e-3)


@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_never_waits_for_the_npu(tmp_path, count):
    """Its scores and logits are those of the CPU, also if some ranks lack a last batch.

    What is copied from the stand-in is NaN until the host has waited for the end of the copy.
    """
    write_dataset(tmp_path / "data", count=21)
    (expected,) = run_task(1, "evaluate", "cpu", "data", cwd=tmp_path, **NARROW)
    found = run_task(count, "evaluate", "npu", "data", cwd=tmp_path, **ON_NPU)
    batches = list(zip(expected["seen"], expected["means"]))
    for rank, own in enumerate(found):
        # collectives of the stand-in wait: one for each of two batches, and one for the number of batches
        assert own["waits"] == (0 if count == 1 else 3)
        assert own["seen"] == [ids for ids, _ in batches[rank::count]]
        assert own["means"] == pytest.approx([mean for _, mean in batches[rank::count]], abs=1e-4)
        for key in ("loss", "iou", "dice"):
            assert own[key] == pytest.approx(expected[key], abs=1e-4)
    assert len({len(own["seen"]) for own in found}) == count, "one rank lacks the last batch"


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_a_saturating_npu_is_read_for_overflows_in_each_step(tmp_path, level):
    """Its gradients show no infinity, so its own scaler must read the device's flag, also with a static scale."""
    program = UNIT / "helpers" / "device_waits.py"
    printed = succeed(run(program, "npu", level, cwd=tmp_path, **ON_NPU_WITH_ROOT, STANDIN_NPU_SATURATES="1"))
    found = found_waits(printed)
    waits = list(map(int, found["waits"].split()))
    assert len(waits) == 5 and waits[0] > 0 and all(later > earlier for earlier, later in pairwise(waits))
    assert "1 of 5 steps were skipped" in printed and found["unchanged"] == "3"
    assert json.loads(found["state"]) == {"loss_scaler0": {"loss_scale": 128.0, "unskipped": 2}}


SMALL = ("--batch_size=4", "--num_workers=0", "--input_h=16", "--input_w=16")


class Launches:
    """A copy of the repository with 20 images, in which launchers run on the stand-in NPU."""

    def __init__(self, folder: Path):
        self.root = clone(folder, narrow=True)
        write_dataset(self.root / "inputs" / "dsb2018_96", count=20)

    def __call__(self, launcher: str, *flags: str) -> tuple[str, dict[str, str], list[str]]:
        """Run a launcher with batches of 4; returns its log, the keys of its result file, and its loss file's lines."""
        result = subprocess.run(
            ["bash", f"test/{launcher}.sh", "--device=npu", *SMALL, *flags],
            cwd=self.root,
            env=os.environ | ON_NPU | {"VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stdout
        output = self.root / "test" / "output" / "0"
        _, kind, processes = launcher.split("_")
        case = "2p" if processes == "8p" else "1p"
        case += {"full": "_acc", "performance": "_perf"}.get(kind, f"_{kind}")
        (path,) = output.glob(f"*_bs4_{case}.log")
        results = dict(line.split(" = ") for line in path.read_text().splitlines())
        assert results["CaseName"] == path.stem and results["RankSize"] == case[0] and results["BatchSize"] == "4"
        losses = list(output.glob(f"train_*_bs4_{case}_loss.txt"))
        log = (output / ("eval_0.log" if kind == "eval" else "train_0.log")).read_text()
        return log, results, losses[0].read_text().splitlines() if losses else []

    def files(self, ending: str = "") -> dict[str, bytes]:
        """Return the files of the run whose name has this ending, but not the logs of ranks."""
        paths = (self.root / "models" / f"dsb2018_96_UNet_woDS{ending}").iterdir()
        return {path.name: path.read_bytes() for path in paths if "rank" not in path.name}


@pytest.fixture(scope="module")
def launch(tmp_path_factory) -> Launches:
    """In it, train_full_8p.sh has trained a model on two NPUs."""
    launches = Launches(tmp_path_factory.mktemp("launches") / "clone")
    log, results, losses = launches("train_full_8p", "--num_gpus=2", "--epochs=1", "--num_workers=2")
    assert "UNet on npu:0, 2 processes, O2, float16: 16 images to train" in log
    assert float(results["ActualFPS"]) > 0 and log.count("Epoch: [1]") == len(losses) == 4
    assert log.count("AVG-IOU") == 1
    return launches


@pytest.mark.parametrize("launcher, flags", [("train_eval_1p", ()), ("train_eval_8p", ("--num_gpus=2",))])
def test_evaluation_by_launchers(launch: Launches, launcher: str, flags: tuple):
    """The score is that of the training's best epoch; the run's files stay as they are."""
    before = launch.files()
    log, results, losses = launch(launcher, *flags)
    assert "evaluating" in log and losses == [] and not {"ActualFPS", "TrainingTime"} & set(results)
    best = pd.read_csv(io.BytesIO(before["log.csv"])).val_iou.max()
    assert float(results["TrainAccuracy"]) == pytest.approx(best, abs=5e-4)
    assert launch.files() == before


@pytest.mark.parametrize("launcher, flags", [("train_performance_1p", ()), ("train_performance_8p", ("--num_gpus=2",))])
def test_the_speed_runs_of_the_current_edition(launch: Launches, launcher: str, flags: tuple):
    """All steps count into the speed, the result files are filled, and the model that evaluation scores stays."""
    before = launch.files()
    log, results, losses = launch(launcher, "--performance", "--epochs=2", *flags)
    steps = re.findall(r"^Epoch: \[(\d)\].*\tTime +(\S+) .*\tLoss (\S+) ", log, re.MULTILINE)
    assert [loss for *_, loss in steps] == losses and losses[-1] == results["ActualLoss"] and len(losses) == 8
    seconds = [float(time) for epoch, time, _ in steps if epoch == "2"]
    expected = pytest.approx(4 * len(seconds) / sum(seconds), rel=0.0005 * len(seconds) / sum(seconds) + 0.001)
    assert float(results["ActualFPS"]) == expected
    factor = 1 if launcher == "train_performance_1p" else 1000
    assert float(results["TrainingTime"]) == pytest.approx(factor * 4 / float(results["ActualFPS"]), abs=0.006)
    if launcher == "train_performance_1p":
        assert float(results["CompileTime"]) == pytest.approx(sum(float(time) for _, time, _ in steps[:2]), abs=0.0005)
    assert 0 <= float(results["TrainAccuracy"]) <= 1
    assert launch.files() == before and "model_best.pth.tar" in launch.files("_perf")


def test_fine_tuning_by_a_launcher(launch: Launches):
    """It starts from the best model, also with another number of classes, and leaves that model as it is."""
    write_dataset(launch.root / "inputs" / "two", count=20, classes=2)
    before = launch.files()
    # a rate of almost 0 leaves the weights where they start
    log, results, losses = launch(
        "train_finetune_1p", "--data_path=inputs/two", "--num_classes=2", "--epochs=1", "--lr=1e-12", "--min_lr=0"
    )
    assert "but with new final.weight, final.bias" in log and "UNet on npu:0, O2, float16: 16 images to train" in log
    assert len(losses) == 4 and float(results["ActualFPS"]) > 0 and float(results["ActualLoss"]) == float(losses[-1])
    folders = (launch.root / "models" / f"dsb2018_96_UNet_woDS{ending}" for ending in ("", "_finetune"))
    start, tuned = (weights_of(folder / "model_best.pth.tar") for folder in folders)
    assert tuned["final.weight"].shape[0] == 2 and start["final.weight"].shape[0] == 1
    trained = [name for name in start if name.endswith(("conv1.weight", "conv2.weight"))]
    assert len(trained) == 18 and all(torch.allclose(start[name], tuned[name], atol=1e-6) for name in trained)
    assert launch.files() == before


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_mixed_precision_on_two_npus(discs, level):
    """With SyncBatchNorm; one process can continue from the checkpoint."""
    flags = (*FLAGS, "--scheduler", "ConstantLR", "--name", "run", "--opt-level", level)
    printed = succeed(run_ranks(2, "train.py", *flags, "--epochs", "1", "--sync_bn", cwd=discs, **ON_NPU))
    assert f"UNet on npu:0, 2 processes, {level}, float16" in printed and printed.count("Epoch: [1]") == 4
    assert f"UNet on npu:1, 2 processes, {level}" in (discs / "models" / "run" / "rank1.log").read_text()
    checkpoint = discs / "models" / "run" / "checkpoint.pth.tar"
    steps = 4
    if level == "O2":
        more = ("--epochs", "2", "--resume", checkpoint, "--resume_anyway")  # without --sync_bn
        succeed(run("train.py", *flags, *more, cwd=discs, **ON_NPU))
        steps = 8
    state = torch.load(checkpoint, weights_only=True)["amp"]
    assert state == {"loss_scaler0": {"loss_scale": 128.0, "unskipped": steps}}


def test_two_npus_with_sync_batch_norm_train_like_one(tmp_path):
    (one,) = run_task(1, "train", "npu", "sync", cwd=tmp_path, **ON_NPU)
    # BatchNorm subtracts any constant, so the gradient of a bias before it is only rounding noise
    biases = [name for name in one["weights"] if name.endswith((".conv1.bias", ".conv2.bias"))]
    assert len(biases) == 18
    assert_same_training(one, run_task(2, "train", "npu", "sync", cwd=tmp_path, **ON_NPU), tuple(biases))


def recorded_calls(path: Path) -> list[dict]:
    """Return the calls that the stand-in for apex recorded."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_ascends_apex_is_called_as_the_old_edition_did(discs):
    record = discs / "record"
    environment = ON_NPU_WITH_APEX | {"STANDIN_APEX_RECORD": str(record)}
    flags = (*FLAGS, "--scheduler", "ConstantLR")
    printed = succeed(run("train.py", *flags, "--name", "apex", "--epochs", "1", cwd=discs, **environment))
    assert "UNet on npu:0, O2 by apex: 16 images" in printed
    calls = recorded_calls(record)
    (initialize,) = [own["arguments"] for own in calls if own["call"] == "initialize"]
    assert (initialize["opt_level"], initialize["loss_scale"], initialize["combine_grad"]) == ("O2", 128.0, True)
    assert initialize["optimizers"] == "NpuFusedAdam" and sum(own["call"] == "scale_loss" for own in calls) == 4
    # native torch does the same, and each can continue from the other's checkpoint
    succeed(run("train.py", *flags, "--name", "native", "--epochs", "1", cwd=discs, **ON_NPU))
    apex, native = (pd.read_csv(discs / "models" / name / "log.csv").loc[0] for name in ("apex", "native"))
    for key in ("loss", "val_loss"):
        assert apex[key] == pytest.approx(native[key], rel=5e-3)
    state = torch.load(discs / "models" / "apex" / "checkpoint.pth.tar", weights_only=True)
    assert state["amp"] == {"loss_scaler0": {"loss_scale": 128.0, "unskipped": 4}}
    assert {value.dtype for value in state["state_dict"].values()} == {torch.float32, torch.int64}
    for name, other, env in [("apex", "native", environment), ("native", "apex", ON_NPU)]:
        resume = ("--resume", f"models/{other}/checkpoint.pth.tar", "--epochs", "2", "--name", f"{name}2")
        printed = succeed(run("train.py", *flags, *resume, cwd=discs, **env))
        assert f"resuming models/{other}/checkpoint.pth.tar after 1 epochs" in printed and "warning" not in printed


def test_a_resumed_apex_run_equals_an_uninterrupted_one(discs):
    """apex creates its masters late, and the optimizer's averages are too small for half precision."""
    flags = (*FLAGS, "--scheduler", "ConstantLR", "--loss-scale", "-1")
    succeed(run("train.py", *flags, "--epochs", "1", "--name", "cut", cwd=discs, **ON_NPU_WITH_APEX))
    path = discs / "models" / "cut" / "checkpoint.pth.tar"
    scale = torch.load(path, weights_only=True)["amp"]["loss_scaler0"]
    flags = (*flags, "--epochs", "2")
    succeed(run("train.py", *flags, "--resume", path, "--name", "cut", cwd=discs, **ON_NPU_WITH_APEX))
    succeed(run("train.py", *flags, "--name", "whole", cwd=discs, **ON_NPU_WITH_APEX))
    whole, cut = (weights_of(discs / "models" / name / "checkpoint.pth.tar") for name in ("whole", "cut"))
    assert scale["unskipped"] < 4 and all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_other_apexes(discs):
    """NVIDIA's old apex has no combine_grad: with a dynamic scale, in two processes. PyPI's apex is unrelated."""
    record = discs / "record"
    environment = ON_NPU_WITH_APEX | {"STANDIN_APEX_RECORD": str(record)}
    constant = (*FLAGS, "--scheduler", "ConstantLR")
    flags = (*constant, "--name", "run", "--epochs", "1", "--loss-scale", "-1")
    level = ("--opt-level", "O1")
    succeed(run_ranks(2, "train.py", *flags, *level, cwd=discs, **environment, STANDIN_APEX_COMBINE_GRAD="0"))
    (initialize, _) = [own["arguments"] for own in recorded_calls(record) if own["call"] == "initialize"]
    assert initialize["loss_scale"] == "dynamic" and "combine_grad" not in initialize

    # a static scale is that of this run's flag, whatever the checkpoint holds
    checkpoint = "models/run/checkpoint.pth.tar"
    more = ("--name", "run", "--epochs", "2", "--resume", checkpoint)
    succeed(run("train.py", *constant, *more, cwd=discs, **environment))
    assert torch.load(checkpoint, weights_only=True)["amp"]["loss_scaler0"]["loss_scale"] == 128.0

    other = {"PYTHONPATH": f"{STANDIN_NPU}{os.pathsep}{STANDIN_PYPI_APEX}"}
    printed = succeed(run("train.py", *flags, cwd=discs, **other))
    assert printed.count("warning: the installed `apex` is ignored") == 1 and "O2, float16" in printed


def test_choice_of_the_device(discs):
    flags = ("inputs/discs", *TINY, "--epochs", "1", "--no-amp", "--name", "run")
    printed = succeed(run("train.py", *flags, cwd=discs, **ON_NPU, ASCEND_DEVICE_ID="1"))
    assert "UNet on npu:1" in printed and "[npu id: 1 ] * FPS@all" in printed
    one_of_three = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3"}
    found = error_line(run("train.py", *flags, "-b", "6", cwd=discs, **ON_NPU, **one_of_three))
    assert found == "[Error] 3 processes on this host, but 2 npu devices; start fewer"
    for arguments, count, text in [
        ("'npu', 2", "2", "--device_id 2: there are 2 npu devices, numbered from 0"),
        ("'npu'", "0", "--device npu: torch_npu finds no NPU; check `npu-smi info`"),
        ("'auto'", "2", "device=device(type='npu', index=0)"),
        ("'auto'", "0", "device=device(type='cpu')"),
    ]:
        assert text in run_source(f"print(init_runtime({arguments}))", discs, STANDIN_NPU_COUNT=count)


@pytest.mark.parametrize(
    "device, text",
    [("npu", "--device npu: torch_npu is not installed"), ("gpu", "--device cuda: this torch finds no CUDA GPU")],
)
def test_a_missing_device_is_reported(device, text):
    with pytest.raises(InputError, match=text):
        init_runtime(device)


def test_a_torch_npu_that_cannot_be_loaded_is_reported(discs):
    """CANN is missing. Either our import of torch_npu fails, or torch's automatic one."""
    for package, text in [
        ("torch_npu", "raise ImportError('libhccl.so: cannot open shared object file')"),
        ("torch", "raise RuntimeError('Failed to load the backend extension: torch_npu.')"),
    ]:
        folder = discs / f"broken_{package}"
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(text)
        found = error_line(run_afresh("train.py", *FLAGS, cwd=discs, PYTHONPATH=str(folder)))
        assert found.startswith("[Error]") and "CANN's set_env.sh" in found and "uninstall torch_npu" in found


def test_switches_reach_the_npu(tmp_path):
    """Set one switch after another, and read all of them back from the stand-in each time."""
    show = (
        "npu = torch.npu; print({'jit_compile': npu.compile_mode.jit_compile, 'conv': npu.conv.allow_hf32, "
        "'matmul': npu.matmul.allow_hf32} | npu.options)"
    )
    calls = ("", "bin_mode=1", "fp32=True", "hf32=True", "precision_mode='must_keep_origin_dtype'")
    source = [f"runtime.configure({arguments}); {show}" for arguments in calls]
    printed = run_source("; ".join(["runtime = init_runtime('npu')", *source]), tmp_path)
    untouched, *found = [eval(line) for line in printed.splitlines()]
    expected = dict(untouched)
    for after, change in zip(
        found,
        [
            {"jit_compile": False},
            {"conv": False, "matmul": False},
            {"conv": True, "matmul": True},
            {"ACL_PRECISION_MODE": "must_keep_origin_dtype"},
        ],
    ):
        expected |= change
        assert after == expected
    assert untouched["jit_compile"] and len(found) == 4


def test_a_checkpoint_within_an_epoch_continues_bit_for_bit(discs):
    """It is written in the background while the next step changes the weights. The flags are those of newer parts."""
    newer = ("--deterministic", "--cuda_graph", "auto", "--ema", "0.9", "--save_steps", "3")
    flags = (*FLAGS, *newer, "--epochs", "1", "--num_workers", "1")
    printed = succeed(run("train.py", *flags, "--name", "whole", cwd=discs, **ON_NPU))
    assert "UNet on npu:0, O2, float16: 16 images" in printed and "graph" not in printed
    assert printed.count("Epoch: [1]") == 4
    previous = discs / "models" / "whole" / "checkpoint.prev.pth.tar"
    assert torch.load(previous, weights_only=True)["step"] == 3
    printed = succeed(run("train.py", *flags, "--name", "resumed", "--resume", previous, cwd=discs, **ON_NPU))
    assert printed.count("Epoch: [1]") == 1
    whole, resumed = (
        torch.load(discs / "models" / name / "checkpoint.pth.tar", weights_only=True) for name in ("whole", "resumed")
    )
    for key in ("state_dict", "trained"):  # of the EMA and of the model
        weights, found = (file["trained"]["state_dict"] if key == "trained" else file[key] for file in (whole, resumed))
        assert all(torch.equal(value, found[name]) for name, value in weights.items())
    assert whole["optimizer"]["param_groups"] == resumed["optimizer"]["param_groups"]
    assert "capturable" not in whole["optimizer"]["param_groups"][0]


def test_a_graph_of_steps_is_refused_on_an_npu(discs):
    found = error_line(run("train.py", *FLAGS, "--cuda_graph", "on", cwd=discs, **ON_NPU))
    assert found == "[Error] --cuda_graph on: the device has no graphs, or they are untried; use --cuda_graph auto"


def test_what_deterministic_sets(discs):
    show = "print(torch.are_deterministic_algorithms_enabled())"
    source = f"runtime = init_runtime('npu'); {show}; runtime.configure(deterministic=True); {show}"
    assert run_source(source, discs).split() == ["False", "True"]


def test_a_trace_of_the_npu(discs):
    flags = (*FLAGS, "--epochs", "1", "--name", "run", "--profiling", "CANN", "--start_step", "1", "--stop_step", "3")
    assert "trace: models/run/profile" in succeed(run("train.py", *flags, cwd=discs, **ON_NPU))
    (trace,) = (discs / "models" / "run" / "profile").rglob("*.json")
    assert "convolution" in trace.read_text()
