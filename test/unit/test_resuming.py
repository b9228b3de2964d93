"""Going on where a run was cut off, as if nothing had happened: crashes, signals, damaged files, bad data."""

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from fault_kills import compare

import checkpoints
import engine
import errors
import options
import resuming
import train
from errors import InputError

LATEST = Path("models/run") / checkpoints.LATEST


pytestmark = pytest.mark.usefixtures("narrow", "unplotted")


def train_here(*flags: str) -> None:
    """Run the recipe within this process on inputs/discs: 3 epochs of 3 steps and 1 validation batch."""
    train.main(options.parse_train(["inputs/discs", *TINY, "--epochs", "3", "--name", "run", *flags]))


class Criterion(torch.nn.Module):
    """The loss, shaken by every generator of random numbers, that does something at some of its calls."""

    def __init__(self, loss: str, at: dict):
        super().__init__()
        self.loss, self.at, self.calls = REAL_CRITERION(loss), at, 0

    def forward(self, output, target):
        self.calls += 1
        self.at.get(self.calls, lambda: None)()
        shake = random.random() + np.random.rand() + torch.rand(()).item()
        return self.loss(output, target) * (1 + 0.01 * shake)


REAL_CRITERION, REAL_IOU = engine.build_criterion, engine.iou_score


@pytest.fixture
def at_call(monkeypatch):
    """A function that makes the next run do something at a call of its criterion: {number of the call: what}."""

    def arrange(at: dict) -> None:
        monkeypatch.setattr(engine, "build_criterion", lambda loss: Criterion(loss, at))

    arrange({})
    return arrange


def crash():
    raise KeyboardInterrupt


KINDS = {
    "Adam, cosine": (),
    "SGD, plateau": ("--optimizer", "SGD", "--nesterov", "True", "--scheduler", "ReduceLROnPlateau", "--patience", "0"),
    "AdamW, one cycle, averaged": ("--optimizer", "AdamW", "--scheduler", "OneCycleLR", "--ema", "0.9"),
    "the fast recipe": ("--recipe", "fast"),
}


@pytest.mark.parametrize("flags", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("save_steps", ["0", "2"])
def test_crashes_leave_no_trace(home, at_call, flags, save_steps):
    """A run that crashes in steps, in validation and while saving ends as one that does not."""
    train_here(*flags)
    (home / "models" / "run").rename(home / "whole")
    flags = (*flags, "--resume", "auto", "--save_steps", save_steps)
    # an undisturbed epoch calls four times: three steps, one validation batch
    for call in (2, 4, 7, 3, 1):
        at_call({call: crash})
        with pytest.raises(KeyboardInterrupt):
            train_here(*flags)
    at_call({})
    train_here(*flags)
    assert compare(home / "whole", home / "models" / "run") == []


@pytest.mark.parametrize(
    "number, call, step",
    [(signal.SIGTERM, 5, 1), (signal.SIGUSR1, 7, 3), (signal.SIGINT, 8, 3), (signal.SIGTERM, 1, 1)],
    ids=["in a step", "in an epoch's last step", "in validation", "in the first step"],
)
def test_a_signal_ends_the_run_after_its_step_and_nothing_is_lost(home, at_call, capsys, number, call, step):
    train_here()
    (home / "models" / "run").rename(home / "whole")
    before = {own: signal.getsignal(own) for own in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    at_call({call: lambda: signal.raise_signal(number)})
    with pytest.raises(SystemExit) as end:
        train_here()
    assert end.value.code == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 138}[number]
    assert {own: signal.getsignal(own) for own in before} == before
    assert torch.load(LATEST, weights_only=True)["step"] == step
    assert f"[Stopped] after {call // 5} epochs and {step} steps, which are saved" in capsys.readouterr().out
    at_call({})
    train_here("--resume", "auto")
    assert compare(home / "whole", home / "models" / "run") == []


def test_a_second_ctrl_c_ends_the_run_at_once(home):
    flags = ("--input_h", "256", "--input_w", "256", "--batch_size", "4", "--num_workers", "1", "--epochs", "9")
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", "inputs/discs", *flags],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # the suite's may be ignored
    )
    for line in process.stdout:
        if line.startswith("Epoch: "):  # the next step takes seconds
            break
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if "[Stopping] by SIGINT, after this step" in line:
            break
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == -signal.SIGINT and "Traceback" not in rest and time.monotonic() - start < 8
    assert not list((home / "models").rglob("*.tar"))


def test_auto_starts_afresh_where_there_is_nothing(home, at_call, capsys):
    train_here("--resume", "auto", "--epochs", "1")
    assert "resuming" not in capsys.readouterr().out and LATEST.exists()


def test_a_run_that_stopped_early_has_finished(home, monkeypatch, capsys):
    monkeypatch.setattr(engine, "evaluate", lambda *a, **k: {"loss": 1.0, "iou": 0.5, "dice": 0.5})
    train_here("--early_stopping", "1")
    before = LATEST.read_bytes()
    train_here("--early_stopping", "1", "--resume", "auto")
    assert "has finished its 2 epochs, stopped early; raise --early_stopping" in capsys.readouterr().out
    assert LATEST.read_bytes() == before


def recorded(**changed) -> dict:
    config = vars(options.parse_train(["--epochs", "3"])) | changed.pop("config", {})
    data = {"train_images": 531, "val_images": 133, "images": 7} | changed.pop("data", {})
    return {"config": config, "data": data, "epoch": 2, "step": 0} | changed


@pytest.mark.parametrize(
    "there, words",
    [
        ({}, []),
        ({"config": {"num_workers": 9, "device": "npu", "amp": True, "opt_level": "O3", "patience": 8}}, []),
        (
            {"config": {"batch_size": 8, "lr": 0.5}},
            ["--batch_size 8 there and 16 here", "--lr 0.5 there and 0.001 here"],
        ),
        ({"config": {"epochs": 100}}, ["--epochs 100 there and 3 here"]),
        (
            {"config": {"epochs": 100, "scheduler": "ConstantLR"}},
            ["--scheduler 'ConstantLR' there", "--epochs 100 there"],
        ),
        ({"config": {"seed": 6, "loss": "BCEDiceLoss"}}, ["--seed 6 there and 5 here", "--loss 'BCEDiceLoss' there"]),
        ({"data": {"train_images": 400}}, ["train images 400 there and 531 here"]),
        ({"data": {"images": 8}}, ["images of other names"]),
        ({"config": None, "data": None}, []),
        (
            {"config": {"divide_twice": False, "ema": 0.5}},
            ["--ema 0.5 there and 0.0 here", "--divide_twice False there"],
        ),
        (
            {"config": {"augmentation": "turns", "normalization": "image"}},
            ["--augmentation 'turns' there", "--normalization 'image' there"],
        ),
    ],
)
def test_what_makes_it_another_run(there, words, capsys):
    checkpoint = recorded() | {k: v and recorded()[k] | v for k, v in there.items()}
    own = recorded()
    found = resuming.differences(checkpoint, own["config"], own["data"])
    assert len(found) == len(words) and all(any(word in text for text in found.values()) for word in words)
    see = lambda anyway: resuming.see_that_it_is_the_same_run(checkpoint, "a.tar", own["config"], own["data"], anyway)  # noqa: E731
    if words:
        with pytest.raises(InputError, match=r"a\.tar is of another run: .*--resume_anyway") as error:
            see(False)
        assert all(word in str(error.value) for word in words)
    else:
        see(False)
    see(True)
    assert ("going on all the same" in capsys.readouterr().out) == bool(words)


def test_another_run_is_refused_before_anything_is_written(home, at_call, capsys):
    at_call({6: crash})
    with pytest.raises(KeyboardInterrupt):
        train_here("--save_steps", "1")
    before = {path: path.read_bytes() for path in (home / "models").rglob("*") if path.is_file()}
    at_call({})
    with pytest.raises(InputError, match="--batch_size 4 there and 6 here"):
        train_here("--resume", "auto", "--batch_size", "6")
    assert {path: path.read_bytes() for path in (home / "models").rglob("*") if path.is_file()} == before
    # with other batches an epoch cannot be gone on with; it is begun anew
    train_here("--resume", "auto", "--batch_size", "6", "--resume_anyway")
    out = capsys.readouterr().out
    assert "epoch 2 is begun anew" in out and "Epoch: [2][1/2]" in out and "Epoch: [3][2/2]" in out


@pytest.mark.parametrize("damage", ["cut short", "a bit flipped", "gone"])
def test_the_previous_checkpoint_stands_in_for_a_damaged_one(home, at_call, capsys, damage):
    train_here("--epochs", "2", "--scheduler", "ConstantLR")
    (home / "models" / "run").rename(home / "whole")
    train_here("--epochs", "2", "--scheduler", "ConstantLR")
    assert torch.load(LATEST.with_name(checkpoints.PREVIOUS), weights_only=True)["epoch"] == 1
    data = bytearray(LATEST.read_bytes())
    if damage == "gone":
        LATEST.unlink()
    elif damage == "cut short":
        LATEST.write_bytes(data[: len(data) // 2])
    else:
        with zipfile.ZipFile(LATEST) as archive:
            weights = max((archive.read(name) for name in archive.namelist()), key=len)
        data[data.find(weights) + len(weights) // 2] ^= 16  # torch itself would not notice
        LATEST.write_bytes(data)
    train_here("--epochs", "2", "--scheduler", "ConstantLR", "--resume", "auto")
    out = capsys.readouterr().out
    assert "warning: models/run/checkpoint.pth.tar: " in out and "going on from the one before it" in out
    assert "resuming models/run/checkpoint.prev.pth.tar after 1 epochs" in out
    previous = checkpoints.load(LATEST.with_name(checkpoints.PREVIOUS))
    assert previous["epoch"] == 1, "the damaged one has not taken its place"
    assert compare(home / "whole", home / "models" / "run") == []


def test_both_unreadable(home):
    folder = home / "models" / "run"
    folder.mkdir(parents=True)
    for name in (checkpoints.LATEST, checkpoints.PREVIOUS):
        (folder / name).write_bytes(b"PK")
    with pytest.raises(
        InputError, match=r"checkpoint\.pth\.tar: not a .*nor can the one before it be read: .*prev\.pth"
    ):
        train_here("--resume", "auto")


def test_an_earlier_runs_checkpoint_is_not_kept_as_this_ones_previous(home, at_call):
    train_here("--epochs", "2")
    train_here("--epochs", "1")
    assert not LATEST.with_name(checkpoints.PREVIOUS).exists()


def test_one_run_at_a_time(home):
    """Another process holds the folder; dead, it holds nothing, whatever is left of it."""
    code = (
        "import locks, pathlib, sys, time\nwith locks.locked(pathlib.Path('models/run')):\n print('ok', flush=True)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code + " time.sleep(60)"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "ok\n"
    before = sorted(home.rglob("*"))
    with pytest.raises(
        InputError, match=rf"models/run: another run is at work there \(process {holder.pid} on .*--name"
    ):
        train_here()
    assert sorted(home.rglob("*")) == before
    holder.kill()
    holder.wait()
    (home / "models" / "run" / ".7-7.partial.tar").write_bytes(b"of a killed run")
    train_here("--epochs", "1")
    assert not [path for path in (home / "models" / "run").iterdir() if path.name.startswith(".")]


def test_an_evaluation_does_not_wait_for_a_run(home, at_call):
    train_here("--epochs", "1")
    with train.locks.locked(home / "models" / "run"):
        train_here("--evaluate", "--resume", str(LATEST))
    assert LATEST.exists()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_weights_that_are_no_numbers_are_not_saved(home, monkeypatch, value):
    """The step's loss is still finite, the weights that it leaves are not."""
    nets = []
    monkeypatch.setattr(engine, "distribute", lambda model, runtime: nets.append(model) or model)

    def after_the_step(output, target):
        with torch.no_grad():
            nets[0].conv1_0.bn2.weight[3] = value
        return REAL_IOU(output, target)

    monkeypatch.setattr(engine, "iou_score", after_the_step)
    with pytest.raises(InputError, match=r"conv1_0\.bn2\.weight is not finite after epoch 0, step 1; training stops"):
        train_here("--save_steps", "1")
    assert not list((home / "models").rglob("*.tar"))


def spoil() -> None:
    for path in sorted(Path("inputs/discs/images").iterdir())[:8]:
        path.write_bytes(b"no image")


def test_a_file_that_turns_unreadable_stops_the_run_cleanly(home, at_call):
    at_call({4: spoil})
    with pytest.raises(InputError, match=r"inputs/discs/images/disc0\d\.png: not a readable image"):
        train_here("--cache_mb", "0")
    assert torch.load(LATEST, weights_only=True)["epoch"] == 1


def test_or_is_skipped_and_counted(home, at_call, capsys):
    at_call({4: spoil})
    train_here("--skip_bad", "--cache_mb", "0")
    out = capsys.readouterr().out
    train_ids, val_ids = train.dataset.split_ids([f"disc{k:02d}" for k in range(15)])
    bad = [sum(int(name[4:]) < 8 for name in ids) for ids in (train_ids, val_ids)]
    assert 0 < bad[0] < 12 and 0 < bad[1] < 3, "the test is about some of each"
    second = out[out.index("Epoch: [2]") :]
    assert second.count(f"{bad[0]} unreadable images were replaced by others in this epoch") == 2
    assert second.count(f"{bad[1]} unreadable images were left out of the validation") == 2
    # a later run finds them before it starts, tells of them and goes on
    train_here("--skip_bad", "--resume", "auto", "--epochs", "4", "--resume_anyway")
    out = capsys.readouterr().out
    assert "cannot be used as it is (8 problems)" in out and "these are skipped" in out and "Epoch: [4][3/3]" in out
    with pytest.raises(InputError, match="8 problems"):
        train_here("--resume", "auto", "--epochs", "5", "--resume_anyway")


def test_a_killed_worker_is_told_of(home, at_call, capsys):
    def kill() -> None:
        (worker, *_) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(0.2)

    at_call({4: kill})
    with pytest.raises(SystemExit) as end, errors.one_sentence():
        train_here("--num_workers", "1")
    assert "was killed" in str(end.value) and "for want of memory; lower --num_workers" in str(end.value)
    assert "Killed" in str(end.value)


def test_a_full_disk_ends_the_run_and_keeps_the_old_files(home):
    """The disk is made full by a limit on the size of files, which a checkpoint exceeds and a log does not."""
    train_here("--epochs", "1", "--scheduler", "ConstantLR")
    before = {path: path.read_bytes() for path in LATEST.parent.glob("*.tar")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LATEST.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(InputError, match=r"models/run/\w+\.pth\.tar: cannot be written"):
            train_here("--epochs", "2", "--scheduler", "ConstantLR", "--resume", "auto")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in LATEST.parent.glob("*.tar")} == before
    assert not [path for path in LATEST.parent.iterdir() if path.name.startswith(".")]


def test_another_folders_run_brings_its_best_model_along(home, at_call, capsys):
    """models/run holds another run, whose best model is not this one's."""
    train_here("--epochs", "1", "--seed", "9")
    (home / "models" / "run").rename(home / "models" / "other")
    train_here("--epochs", "1")
    foreign = LATEST.with_name(checkpoints.BEST).read_bytes()
    source = home / "models" / "other" / checkpoints.BEST
    state = torch.load(source, weights_only=True)
    for name in (checkpoints.BEST, checkpoints.LATEST):
        torch.save(state | {"best_iou": 0.99}, source.with_name(name))
    flags = ("--epochs", "2", "--seed", "9", "--resume_anyway", "--resume", f"models/other/{checkpoints.LATEST}")
    train_here(*flags)
    assert "holds an earlier run, whose files this one replaces" in capsys.readouterr().out
    assert LATEST.with_name(checkpoints.BEST).read_bytes() == source.read_bytes() != foreign
    # where it has none to bring, the next epoch's is the best there is
    source.unlink()
    train_here(*flags)
    assert torch.load(LATEST.with_name(checkpoints.BEST), weights_only=True)["epoch"] == 2


def test_processes_that_would_go_on_from_different_files_are_refused():
    class Two:
        world_size = 2

        def __init__(self, other):
            self.other = other

        def gather(self, own):
            return [own, self.other(own)]

    path, checkpoint = Path("a.tar"), {"epoch": 2, "step": 1, "state_dict": {"w": torch.ones(3)}}
    resuming.see_that_all_have_the_same(path, checkpoint, Two(lambda own: own))
    resuming.see_that_all_have_the_same(None, None, Two(lambda own: own))
    others = [lambda own: None, lambda own: (2, 1, "[4.0]"), lambda own: (own[0], 0, own[2])]
    for other in others:
        with pytest.raises(InputError, match=r"rank 1 and rank 0 would not go on .*rank 0's, a\.tar, to the same"):
            resuming.see_that_all_have_the_same(path, checkpoint, Two(other))


def test_no_training_image_left(home, at_call):
    """As when a disk is unmounted."""
    at_call({4: lambda: [path.unlink() for path in Path("inputs/discs/images").iterdir()]})
    with pytest.raises(InputError, match="nor can any other training image be read"):
        train_here("--skip_bad", "--cache_mb", "0")


def test_a_name_that_came_out_empty(capsys):
    with pytest.raises(SystemExit):
        options.parse_train(["--resume", ""])
    assert "--resume lacks its value" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--channels_last",), ()])
def test_averages_are_laid_out_as_their_weights(home, monkeypatch, flags):
    """Fused optimisers refuse others; the layout may change from one run to the next."""
    others = () if flags else ("--channels_last",)
    train_here("--epochs", "1", "--scheduler", "ConstantLR", *others)
    seen, restore = [], resuming.restore

    def look(*args):
        progress = restore(*args)
        seen.extend(args[3].optimizer.state.items())
        return progress

    monkeypatch.setattr(resuming, "restore", look)
    train_here("--epochs", "2", "--scheduler", "ConstantLR", "--resume", "auto", *flags)
    layouts = {parameter.stride() == own[key].stride() for parameter, own in seen for key in ("exp_avg", "exp_avg_sq")}
    assert layouts == {True}
    four = next(parameter for parameter, _ in seen if parameter.shape[1:] == (4, 3, 3))
    assert four.is_contiguous(memory_format=torch.channels_last) == bool(flags)
