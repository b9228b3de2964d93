"""The scripts and launchers as they are, on a stand-in for the NPU and one for Ascend's apex."""

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
from conftest import ROOT, TINY, clone, needs_compiler, run, run_afresh, run_ranks, weights_of, write_dataset
from test_distributed import assert_same_training, found_by

import runtime as rt
from errors import InputError

HERE = Path(__file__).resolve().parent
NPU, APEX, OTHER_APEX = (HERE / name for name in ("standin_npu", "standin_apex", "standin_pypi_apex"))
ON_NPU = {"PYTHONPATH": str(NPU)}
FLAGS = ("inputs/discs", *TINY, "--device", "npu")

pytestmark = needs_compiler


@pytest.fixture
def discs(home) -> Path:
    write_dataset(home / "inputs" / "discs", count=20)
    return home


def succeed(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 0, result.stdout
    assert "Traceback" not in result.stdout, result.stdout
    return result.stdout


def sentence(result: subprocess.CompletedProcess) -> str:
    """The one line with which a script refuses."""
    assert result.returncode == 1 and "Traceback" not in result.stdout, result.stdout
    return result.stdout.splitlines()[-1]


def in_python(source: str, folder: Path, **environment: str) -> str:
    """What a line of Python prints, or its InputError's text, on the stand-in with runtime as rt."""
    script = folder / "script.py"
    script.write_text(f"import runtime as rt; {source}")
    paths = {"PYTHONPATH": os.pathsep.join([str(NPU), str(ROOT)])}
    return run(script, cwd=folder, **paths, **environment).stdout


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
    """Train → resume → evaluate → segment → export; a resumed run is the undisturbed one."""
    checkpoint = "models/run/checkpoint.pth.tar"
    recipe = (*FLAGS, *more, "--opt-level", level, "--loss-scale", "-1", "--scheduler", "ConstantLR")
    chain = [
        ("train.py", *recipe, "--name", "run", "--epochs", "1"),
        ("train.py", *recipe, "--name", "run", "--epochs", "2", "--resume", checkpoint),
        ("train.py", *recipe, "--name", "whole", "--epochs", "2"),
        ("train.py", *FLAGS, "--evaluate", "--resume", checkpoint),
        ("val.py", "--name", "run", "--device", "npu"),
        ("demo.py", "--name", "run", "--device", "npu"),
        ("pthtar2onnx.py", "--name", "run", "--input_h", "32", "--input_w", "32"),
    ]
    shown = "".join(succeed(run(script, *flags, cwd=discs, **ON_NPU)) for script, *flags in chain)
    assert f"UNet on npu:0, {'fp32' if level == 'O0' else level + ', float16'}: 16 images" in shown
    found, whole = weights_of(discs / checkpoint), weights_of(discs / "models" / "whole" / "checkpoint.pth.tar")
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(value, whole[name]) for name, value in found.items())
    assert (discs / "outputs" / "UNet_Demo" / "overview.png").exists()
    (output,) = onnxruntime.InferenceSession(discs / "UNet_npu8p.onnx").run(
        None, {"actual_input_1": torch.zeros(1, 3, 32, 32).numpy()}
    )
    assert output.shape == (1, 1, 32, 32)

    # on a host that has none: the same model, the same numbers
    scores = re.findall(r"^IoU: (\d\.\d{4})$", shown, re.MULTILINE)
    shown = succeed(run("val.py", "--name", "run", "--device", "cpu", cwd=discs))
    others = re.findall(r"^IoU: (\d\.\d{4})$", shown, re.MULTILINE)
    assert len(scores) == 1 and float(others[0]) == pytest.approx(float(scores[0]), abs=2e-4)


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_a_step_never_waits_for_the_npu(tmp_path, level):
    """The losses come later, and all of them; an overflow, which only the device knows of, is skipped there."""
    shown = {}
    for device in ("npu", "cpu"):
        paths = {"PYTHONPATH": os.pathsep.join([str(NPU), str(ROOT)])}
        shown[device] = succeed(run(HERE / "waits_of_steps.py", device, level, cwd=tmp_path, **paths))
        found = dict(re.findall(r"^(\w+): (.*)$", shown[device], re.MULTILINE))
        assert found["waits"] == "0 0 0 0 0"
        logged = re.findall(r"^Epoch: \[1\]\[(\d)/5\].*\tLoss (\S+) ", shown[device], re.MULTILINE)
        assert logged == list(zip("12345", found["losses"].split())), "each step's line, with its own loss"
        scaled = level != "O0"
        assert ("1 of 5 steps were skipped" in shown[device]) == scaled
        assert found.get("unchanged", "") == ("3" if scaled else "")
        assert json.loads(found["state"]) == ({"loss_scaler0": {"loss_scale": 128.0, "unskipped": 2}} if scaled else {})


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_an_npu_that_saturates_is_asked_for_overflows(tmp_path, level):
    """A real one's gradients show none, so that also under a static scale its own scaler looks, and waits."""
    paths = {"PYTHONPATH": os.pathsep.join([str(NPU), str(ROOT)]), "STANDIN_NPU_SATURATES": "1"}
    shown = succeed(run(HERE / "waits_of_steps.py", "npu", level, cwd=tmp_path, **paths))
    found = dict(re.findall(r"^(\w+): (.*)$", shown, re.MULTILINE))
    waits = list(map(int, found["waits"].split()))
    assert len(waits) == 5 and waits[0] > 0 and all(later > earlier for earlier, later in pairwise(waits))
    assert "1 of 5 steps were skipped" in shown and found["unchanged"] == "3"
    assert json.loads(found["state"]) == {"loss_scaler0": {"loss_scale": 128.0, "unskipped": 2}}


def test_the_launchers_on_two_npus(tmp_path):
    """Accuracy run, then its evaluation."""
    repository = clone(tmp_path / "clone")
    write_dataset(repository / "inputs" / "dsb2018_96", count=20)

    def launch(launcher: str, *flags: str) -> tuple[str, dict[str, str]]:
        command = ["bash", f"test/{launcher}.sh", "--num_gpus=2", "--device=npu", "--batch_size=4", *flags]
        result = subprocess.run(
            command,
            cwd=repository,
            env=os.environ | ON_NPU | {"VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stdout
        output = repository / "test" / "output" / "0"
        kind, part = ("eval", "eval") if "eval" in launcher else ("train", "acc")
        (path,) = output.glob(f"*_bs4_2p_{part}.log")
        return (output / f"{kind}_0.log").read_text(), dict(line.split(" = ") for line in path.read_text().splitlines())

    log, found = launch("train_full_8p", "--epochs=1", "--num_workers=2")
    assert "UNet on npu:0, 2 processes, O2, float16: 16 images to train" in log
    assert found["RankSize"] == "2" and float(found["ActualFPS"]) > 0 and log.count("Epoch: [1]") == 4
    assert log.count("AVG-IOU") == 1
    log, evaluated = launch("train_eval_8p", "--num_workers=0")
    assert "evaluating" in log and 0 <= float(evaluated["TrainAccuracy"]) <= 1
    log = (repository / "models" / "dsb2018_96_UNet_woDS" / "log.csv").read_text()
    best = max(float(line.split(",")[5]) for line in log.splitlines()[1:])
    assert float(evaluated["TrainAccuracy"]) == pytest.approx(best, abs=5e-4)


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_mixed_precision_on_two_npus(discs, level):
    """With BatchNorm over both; what one process then goes on from."""
    flags = (*FLAGS, "--scheduler", "ConstantLR", "--name", "run", "--opt-level", level)
    shown = succeed(run_ranks(2, "train.py", *flags, "--epochs", "1", "--sync_bn", cwd=discs, **ON_NPU))
    assert f"UNet on npu:0, 2 processes, {level}, float16" in shown and shown.count("Epoch: [1]") == 4
    assert f"UNet on npu:1, 2 processes, {level}" in (discs / "models" / "run" / "rank1.log").read_text()
    checkpoint = discs / "models" / "run" / "checkpoint.pth.tar"
    steps = 4
    if level == "O2":
        more = ("--epochs", "2", "--resume", checkpoint, "--resume_anyway")  # without --sync_bn
        succeed(run("train.py", *flags, *more, cwd=discs, **ON_NPU))
        steps = 8
    state = torch.load(checkpoint, weights_only=True)["amp"]
    assert state == {"loss_scaler0": {"loss_scale": 128.0, "unskipped": steps}}


def test_two_npus_with_shared_batch_norm_train_like_one(tmp_path):
    (one,) = found_by(1, "train", "npu", "sync", cwd=tmp_path, **ON_NPU)
    # ahead of a BatchNorm, which takes any constant out again, a bias's gradient is rounding noise
    biases = [name for name in one["weights"] if name.endswith((".conv1.bias", ".conv2.bias"))]
    assert len(biases) == 18
    assert_same_training(one, found_by(2, "train", "npu", "sync", cwd=tmp_path, **ON_NPU), tuple(biases))


def recorded(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_ascends_apex_is_used_as_the_old_edition_did(discs):
    record = discs / "record"
    environment = {"PYTHONPATH": f"{NPU}{os.pathsep}{APEX}", "STANDIN_APEX_RECORD": str(record)}
    flags = (*FLAGS, "--scheduler", "ConstantLR")
    shown = succeed(run("train.py", *flags, "--name", "apex", "--epochs", "1", cwd=discs, **environment))
    assert "UNet on npu:0, O2 by apex: 16 images" in shown
    calls = recorded(record)
    (initialize,) = [own["arguments"] for own in calls if own["call"] == "initialize"]
    assert (initialize["opt_level"], initialize["loss_scale"], initialize["combine_grad"]) == ("O2", 128.0, True)
    assert initialize["optimizers"] == "NpuFusedAdam" and sum(own["call"] == "scale_loss" for own in calls) == 4
    # the native twin does the same; then each goes on from the other's checkpoint
    succeed(run("train.py", *flags, "--name", "twin", "--epochs", "1", cwd=discs, **ON_NPU))
    apex, twin = (pd.read_csv(discs / "models" / name / "log.csv").loc[0] for name in ("apex", "twin"))
    for key in ("loss", "val_loss"):
        assert apex[key] == pytest.approx(twin[key], rel=5e-3)
    state = torch.load(discs / "models" / "apex" / "checkpoint.pth.tar", weights_only=True)
    assert state["amp"] == {"loss_scaler0": {"loss_scale": 128.0, "unskipped": 4}}
    assert {value.dtype for value in state["state_dict"].values()} == {torch.float32, torch.int64}
    for name, other, env in [("apex", "twin", environment), ("twin", "apex", ON_NPU)]:
        resume = ("--resume", f"models/{other}/checkpoint.pth.tar", "--epochs", "2", "--name", f"{name}2")
        shown = succeed(run("train.py", *flags, *resume, cwd=discs, **env))
        assert f"resuming models/{other}/checkpoint.pth.tar after 1 epochs" in shown and "warning" not in shown


def test_apex_goes_on_as_if_nothing_had_happened(discs):
    """Its masters are made late, and its optimiser's averages are too small for half precision."""
    environment = {"PYTHONPATH": f"{NPU}{os.pathsep}{APEX}"}
    flags = (*FLAGS, "--scheduler", "ConstantLR", "--epochs", "2")
    first = (*flags[:-1], "1", "--name", "cut", "--loss-scale", "-1")
    succeed(run("train.py", *first, cwd=discs, **environment))
    cut = discs / "models" / "cut" / "checkpoint.pth.tar"
    scale = torch.load(cut, weights_only=True)["amp"]["loss_scaler0"]
    more = (*flags, "--resume", cut)
    succeed(run("train.py", *more, "--name", "cut", "--loss-scale", "-1", cwd=discs, **environment))
    succeed(run("train.py", *flags, "--name", "whole", "--loss-scale", "-1", cwd=discs, **environment))
    whole, cut = (weights_of(discs / "models" / name / "checkpoint.pth.tar") for name in ("whole", "cut"))
    assert scale["unskipped"] < 4 and all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_other_apexes(discs):
    """NVIDIA's old one has no combine_grad; dynamic scale; two processes; and PyPI's is something else altogether."""
    record = discs / "record"
    environment = {"PYTHONPATH": f"{NPU}{os.pathsep}{APEX}", "STANDIN_APEX_RECORD": str(record)}
    constant = (*FLAGS, "--scheduler", "ConstantLR")
    flags = (*constant, "--name", "run", "--epochs", "1", "--loss-scale", "-1")
    level = ("--opt-level", "O1")
    succeed(run_ranks(2, "train.py", *flags, *level, cwd=discs, **environment, STANDIN_APEX_COMBINE_GRAD="0"))
    (initialize, _) = [own["arguments"] for own in recorded(record) if own["call"] == "initialize"]
    assert initialize["loss_scale"] == "dynamic" and "combine_grad" not in initialize

    # a static scale is this run's flag, whatever the file has
    checkpoint = "models/run/checkpoint.pth.tar"
    more = ("--name", "run", "--epochs", "2", "--resume", checkpoint)
    succeed(run("train.py", *constant, *more, cwd=discs, **environment))
    assert torch.load(checkpoint, weights_only=True)["amp"]["loss_scaler0"]["loss_scale"] == 128.0

    other = {"PYTHONPATH": f"{NPU}{os.pathsep}{OTHER_APEX}"}
    shown = succeed(run("train.py", *flags, cwd=discs, **other))
    assert shown.count("warning: the installed `apex` is ignored") == 1 and "O2, float16" in shown


def test_choice_of_the_device(discs):
    flags = ("inputs/discs", *TINY, "--epochs", "1", "--no-amp", "--name", "run")
    shown = succeed(run("train.py", *flags, cwd=discs, **ON_NPU, ASCEND_DEVICE_ID="1"))
    assert "UNet on npu:1" in shown and "[npu id: 1 ] * FPS@all" in shown
    one_of_three = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3"}
    found = sentence(run("train.py", *flags, "-b", "6", cwd=discs, **ON_NPU, **one_of_three))
    assert found == "[Error] 3 processes on this host, but 2 npu devices; start fewer"
    for arguments, count, text in [
        ("'npu', 2", "2", "--device_id 2: there are 2 npu devices, numbered from 0"),
        ("'npu'", "0", "--device npu: torch_npu finds no NPU; check `npu-smi info`"),
        ("'auto'", "2", "device=device(type='npu', index=0)"),
        ("'auto'", "0", "device=device(type='cpu')"),
    ]:
        assert text in in_python(f"print(rt.init({arguments}))", discs, STANDIN_NPU_COUNT=count)


@pytest.mark.parametrize(
    "device, text",
    [("npu", "--device npu: torch_npu is not installed"), ("gpu", "--device cuda: this torch finds no CUDA GPU")],
)
def test_a_device_that_is_not_there(device, text):
    with pytest.raises(InputError, match=text):
        rt.init(device)


def test_a_torch_npu_that_cannot_be_loaded(discs):
    """CANN is missing: loading it fails, or already torch's own loading of it."""
    for package, text in [
        ("torch_npu", "raise ImportError('libhccl.so: cannot open shared object file')"),
        ("torch", "raise RuntimeError('Failed to load the backend extension: torch_npu.')"),
    ]:
        folder = discs / f"broken_{package}"
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(text)
        found = sentence(run_afresh("train.py", *FLAGS, cwd=discs, PYTHONPATH=str(folder)))
        assert found.startswith("[Error]") and "CANN's set_env.sh" in found and "uninstall torch_npu" in found


def test_switches_reach_the_npu(tmp_path):
    """What configure sets, one after another, read back from the stand-in."""
    show = (
        "npu = torch.npu; print({'jit_compile': npu.compile_mode.jit_compile, 'conv': npu.conv.allow_hf32, "
        "'matmul': npu.matmul.allow_hf32} | npu.options)"
    )
    calls = ("", "bin_mode=1", "fp32=True", "hf32=True", "precision_mode='must_keep_origin_dtype'")
    source = [f"rt.configure(runtime, {arguments}); {show}" for arguments in calls]
    shown = in_python("; ".join(["import torch", "runtime = rt.init('npu')", *source]), tmp_path)
    untouched, *found = [eval(line) for line in shown.splitlines()]
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


def test_a_trace_of_the_npu(discs):
    flags = (*FLAGS, "--epochs", "1", "--name", "run", "--profiling", "CANN", "--start_step", "1", "--stop_step", "3")
    assert "trace: models/run/profile" in succeed(run("train.py", *flags, cwd=discs, **ON_NPU))
    (trace,) = (discs / "models" / "run" / "profile").rglob("*.json")
    assert "convolution" in trace.read_text()
