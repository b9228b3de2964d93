# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""train.py --tensorboard: its events, read by TensorBoard's own reader, and a run that does not notice them."""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NARROW, TINY, run, run_ranks
from helpers.short_runs import RUN, train_run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import archs
import dataset
import options
from runtime.checkpoint import CheckpointSaver
from runtime.errors import InputError
from runtime.tensorboard import EVENTS, MAX_IMAGES, MAX_SIDE, Board

pytestmark = pytest.mark.usefixtures("narrow", "unplotted")
EVENT_FOLDER = RUN / "tensorboard"


def read_events(folder: Path = EVENT_FOLDER) -> EventAccumulator:
    """Return the events of a folder, all of them."""
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()


def assert_events_equal_the_log(folder: Path = RUN) -> None:
    """Each number of log.csv is there once, at the step of its epoch, as the 32-bit float that TensorBoard keeps."""
    log, events = pd.read_csv(folder / "log.csv"), read_events(folder / "tensorboard")
    assert set(events.Tags()["scalars"]) == set(log) - {"epoch"}
    for name in events.Tags()["scalars"]:
        found = events.Scalars(name)
        assert [event.step for event in found] == log["epoch"].tolist()
        assert np.array_equal([event.value for event in found], log[name].astype(np.float32)), name


def picture(events: EventAccumulator, tag: str, index: int = -1) -> np.ndarray:
    """Return a picture: RGB, in 0 … 255."""
    return np.array(Image.open(io.BytesIO(events.Images(tag)[index].encoded_image_string))).astype(float)


def state_of(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pth.tar", weights_only=False)


def test_events_equal_the_log_and_training_stays_the_same(home: Path) -> None:
    train_run("--ema", "0.9")
    RUN.rename("models/plain")
    train_run("--ema", "0.9", "--tensorboard")
    assert not Path("models/plain/tensorboard").exists()
    assert_events_equal_the_log()
    logs = [pd.read_csv(folder / "log.csv").drop(columns="images_per_s") for folder in (RUN, Path("models/plain"))]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    own, plain = state_of(RUN), state_of(Path("models/plain"))
    for key in ("state_dict", "trained"):
        weights, others = ((s[key] if key == "state_dict" else s[key]["state_dict"]) for s in (own, plain))
        assert all(torch.equal(weights[name], others[name]) for name in others)
    assert torch.equal(own["ranks"][0]["random"]["torch"], plain["ranks"][0]["random"]["torch"])


def test_images_with_probability_and_truth(home: Path) -> None:
    train_run("--tensorboard")
    events = read_events()
    args = options.parse_train(["inputs/discs", *TINY])
    val = dataset.open_dataset(Path("inputs/discs"), 1, vars(args))[1]
    net = archs.from_state_dict(state_of(RUN)["state_dict"]).eval()
    assert len(val) == 3 < MAX_IMAGES
    names = {f"{img_id}/{kind}" for img_id in val.ids for kind in ("image", "probability", "truth")}
    assert set(events.Tags()["images"]) == names
    for index, img_id in enumerate(val.ids):
        image, mask, _ = val[index]
        with torch.inference_mode():
            probability = torch.sigmoid(net(image[None]))[0, 0].numpy()
        assert np.abs(picture(events, f"{img_id}/probability") - 255 * probability[..., None]).max() <= 1
        assert np.abs(picture(events, f"{img_id}/truth") - 255 * mask[0].numpy()[..., None]).max() <= 1
        original = np.array(Image.open(f"inputs/discs/images/{img_id}.png").resize((16, 16), Image.Resampling.BILINEAR))
        assert np.abs(picture(events, f"{img_id}/image") - original).max() <= 2, "in RGB, at the input's size"
        assert [event.step for event in events.Images(f"{img_id}/probability")] == [0, 1, 2]
        assert [event.step for event in events.Images(f"{img_id}/truth")] == [0]


def test_the_curves_continue_when_the_run_resumes(home: Path) -> None:
    train_run("--tensorboard")
    train_run("--tensorboard", "--epochs", "5", "--resume", "auto", "--resume_anyway")
    assert len(list(EVENT_FOLDER.glob(EVENTS))) == 2
    assert_events_equal_the_log()
    assert len(pd.read_csv(RUN / "log.csv")) == 5


def test_an_epoch_that_is_trained_again_is_there_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends after the events of its third epoch, before the checkpoint."""
    save, flags = CheckpointSaver.save, ("--tensorboard", "--lr", "1e-2")

    def save_or_fail(self, state, is_best=False) -> None:
        if state.epoch == 3:
            raise KeyboardInterrupt
        save(self, state, is_best)

    monkeypatch.setattr(CheckpointSaver, "save", save_or_fail)
    with pytest.raises(KeyboardInterrupt):
        train_run(*flags)
    assert [event.step for event in read_events().Scalars("loss")] == [0, 1, 2]
    monkeypatch.setattr(CheckpointSaver, "save", save)
    train_run(*flags, "--resume", "auto")
    assert_events_equal_the_log()


def test_earlier_epochs_are_added_if_the_flag_comes_later(home: Path) -> None:
    train_run()
    assert not EVENT_FOLDER.exists()
    train_run("--tensorboard", "--epochs", "4", "--resume", "auto", "--resume_anyway")
    assert_events_equal_the_log()
    assert [event.step for event in read_events().Images(read_events().Tags()["images"][0])] == [3]


@pytest.mark.parametrize("more", [(), ("--tensorboard",)])
def test_a_new_run_replaces_the_events_of_an_earlier_one(home: Path, more: tuple[str, ...]) -> None:
    train_run("--tensorboard")
    train_run("--epochs", "2", *more)
    if more:
        assert_events_equal_the_log()
    else:
        assert not list(EVENT_FOLDER.glob(EVENTS))


def test_only_the_main_process_writes(home: Path) -> None:
    flags = ("inputs/discs", *TINY, "--device", "cpu", "--epochs", "2", "--name", RUN.name, "--tensorboard")
    result = run_ranks(2, "train.py", *flags, cwd=home, **NARROW)
    assert result.returncode == 0, result.stdout
    assert len(list(EVENT_FOLDER.glob(EVENTS))) == 1
    assert_events_equal_the_log()


def test_without_the_package_nothing_is_started(home: Path) -> None:
    (home / "none" / "tensorboard").mkdir(parents=True)
    (home / "none" / "tensorboard" / "__init__.py").write_text("raise ImportError('gone')")
    flags = ("inputs/discs", *TINY, "--epochs", "1", "--name", RUN.name)
    result = run("train.py", *flags, "--tensorboard", cwd=home, PYTHONPATH=str(home / "none"))
    assert result.returncode == 1 and result.stdout.splitlines()[-1] == (
        "[Error] --tensorboard needs the package tensorboard; install it with `pip install tensorboard`, or leave the "
        "flag out"
    )
    assert "Traceback" not in result.stdout and not Path("models").exists()
    assert run("train.py", *flags, cwd=home, PYTHONPATH=str(home / "none"), **NARROW).returncode == 0


def test_a_package_that_fails_gets_one_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one whose protobuf has another version."""
    (home / "broken" / "tensorboard").mkdir(parents=True)
    (home / "broken" / "tensorboard" / "__init__.py").write_text("raise TypeError('Descriptors cannot be\\ncreated')")
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(home / "broken")
    with pytest.raises(InputError, match=r"the package fails \(Descriptors cannot be created\); reinstall it"):
        train_run("--tensorboard")
    assert not Path("models").exists()


class Recorder:
    """Stands for a SummaryWriter."""

    def __init__(self):
        self.images: dict[str, torch.Tensor] = {}

    def add_image(self, tag: str, tensor: torch.Tensor, step: int) -> None:
        self.images[tag] = tensor

    def add_scalar(self, *_args) -> None:
        pass

    def flush(self) -> None:
        pass


def test_large_images_are_reduced_and_classes_stand_side_by_side() -> None:
    recorder = Recorder()
    board = Board(recorder, lambda img_id: (np.full((40, 70, 3), (255, 0, 51), np.uint8), None))
    logits, target = torch.zeros(3, 2, 400, 300), torch.zeros(3, 2, 400, 300)
    target[:, 1] = 1
    board.keep_images(logits, target, ["a", "b", "c"])
    board.keep_images(logits, target, ["d", "e", "f"])
    board.write_epoch({"epoch": 0})
    assert {tag.partition("/")[0] for tag in recorder.images} == set("abcd")
    truth = recorder.images["d/truth"]
    assert truth.shape == (1, 171, 256) and max(truth.shape) == MAX_SIDE
    assert (truth[..., :120] == 0).all() and (truth[..., 136:] > 0.999).all()
    assert torch.allclose(recorder.images["d/probability"], torch.tensor(0.5))
    assert torch.allclose(recorder.images["d/image"].mean((1, 2)), torch.tensor([0.2, 0.0, 1.0])), "BGR becomes RGB"
    recorder.images.clear()
    board.keep_images(logits, target, ["a", "b", "c"])
    board.write_epoch({"epoch": 1})
    assert set(recorder.images) == {"a/probability", "b/probability", "c/probability"}
