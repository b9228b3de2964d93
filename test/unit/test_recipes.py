# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What a recipe changes: each ingredient against its formula, and later commands that follow what a run recorded."""

import math
import re
from pathlib import Path
from random import Random

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from conftest import TINY, random_net
from sklearn.model_selection import train_test_split
from torch import nn

import archs
import dataset
import demo
import losses
import options
import pthtar2onnx
import train
import val
from imaging import augment
from runtime.distributed import init_runtime
from runtime.errors import InputError
from runtime.precision import prepare

CPU = init_runtime("cpu")

pytestmark = pytest.mark.usefixtures("narrow", "unplotted")


def train_here(*flags: str) -> dict:
    """Train on inputs/discs for 2 epochs of 3 steps as the run `run`; returns its checkpoint."""
    train.main(options.parse_train(["inputs/discs", *TINY, "--epochs", "2", "--name", "run", *flags]))
    return torch.load("models/run/checkpoint.pth.tar", weights_only=True)


# --- flags -----------------------------------------------------------------------------------------------------------


def test_a_recipe_gives_defaults_and_flags_win():
    faithful, fast = options.parse_train([]), options.parse_train(["--recipe", "fast"])
    differing = {flag: value for flag, value in vars(fast).items() if value != getattr(faithful, flag)}
    name = {"recipe": "fast", "name": "dsb2018_96_UNet_woDS_fast"}
    assert differing == options.RECIPES["fast"] | name
    mine = options.parse_train(["--ema", "0", "--recipe=fast", "--lr", "0.5", "--epochs=60"])
    assert (mine.ema, mine.lr, mine.epochs, mine.augmentation) == (0, 0.5, 60, "turns")


def test_help_shows_the_defaults_of_the_given_recipe(capsys):
    for argv, epochs in ((["--help"], 100), (["--recipe", "fast", "--help"], options.RECIPES["fast"]["epochs"])):
        with pytest.raises(SystemExit):
            options.parse_train(argv)
        assert f"passes over the training images (default: {epochs})" in " ".join(capsys.readouterr().out.split())


def test_the_faithful_recipe_is_the_default():
    """The flags that define a run have the defaults of the published recipe."""
    args = vars(options.parse_train([]))
    expected = {
        **{"recipe": "faithful", "epochs": 100, "batch_size": 16, "arch": "UNet", "loss": "LovaszHingeLoss"},
        **{"optimizer": "Adam", "lr": 1e-3, "weight_decay": 1e-4, "scheduler": "CosineAnnealingLR", "min_lr": 1e-5},
        **{"augmentation": "published", "normalization": "standard", "divide_twice": True, "ema": 0},
        **{"inner_split": False, "input_h": 96, "input_w": 96, "name": "dsb2018_96_UNet_woDS", "seed": 5},
        **{"num_classes": 1, "input_channels": 3, "deep_supervision": False, "sync_bn": False, "early_stopping": -1},
        **{"channel": 0, "crop_diameter": 0, "balance": False, "performance": False},
    }
    assert {name for name, flag in options.FLAGS.items() if flag.same_run is True} <= expected.keys()
    assert {flag: args[flag] for flag in expected} == expected


# --- ingredients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_weight_decay_of_convolutions_alone(level):
    """Without gradients, AdamW changes nothing else, and shrinks them by lr × weight decay."""
    model = random_net().train()
    args = options.parse_train(["--optimizer", "AdamW", "--lr", "0.1", "--weight_decay", "0.5"])
    before = {name: value.clone() for name, value in model.named_parameters()}
    precision = prepare(model, train.OPTIMIZERS["AdamW"](model, args, CPU, level), CPU, level, 128.0)
    output = precision.model(torch.zeros(2, 3, 16, 16))
    precision.step(output.sum() * 0)
    after = precision.weights()
    for name, value in before.items():
        kept = 1 - 0.1 * 0.5 if name.endswith("weight") and ("conv" in name.split(".")[-2] or "final" in name) else 1
        torch.testing.assert_close(after[name], value * kept, rtol=1e-6, atol=0, msg=name)


def test_one_cycle_is_two_cosines():
    args = options.parse_train(
        ["--scheduler", "OneCycleLR", "--lr", "0.1", "--min_lr", "1e-4", "--epochs", "4", "--warmup", "0.25"]
    )
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=args.lr, momentum=0.9)
    scheduler, found = train.SCHEDULERS["OneCycleLR"](optimizer, args, 5), []
    for _ in range(20):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    up, total = 0.25 * 20 - 1, 20 - 1

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) * (1 + math.cos(math.pi * share)) / 2

    expected = [
        between(0.1 / 25, 0.1, k / up) if k <= up else between(0.1, 1e-4, (k - up) / (total - up)) for k in range(20)
    ]
    assert found == pytest.approx(expected, rel=1e-9)
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_one_cycle_is_stepped_after_each_step(home):
    """The log has the learning rate at the end of each epoch."""
    rows = train_here("--scheduler", "OneCycleLR", "--lr", "0.1", "--min_lr", "1e-3", "--warmup", "0.5")["history"]
    # six learning rates: they rise until the third step and fall until the sixth
    assert [row["lr"] for row in rows] == pytest.approx([1e-3 + (0.1 - 1e-3) * 0.75, 1e-3], rel=1e-6)


def test_inner_split_leaves_the_validation_images_alone():
    ids = [f"{k:03}" for k in range(664)]
    outer_train, outer_val = dataset.split_ids(ids)
    inner_train, inner_val = dataset.split_ids(ids, inner=True)
    assert (len(inner_train), len(inner_val)) == (424, 107)
    assert sorted(inner_train + inner_val) == sorted(outer_train) and not set(inner_val) & set(outer_val)
    assert inner_val == train_test_split(sorted(outer_train), test_size=0.2, random_state=41)[1]


def published_augmentation(side: int) -> A.Compose:
    """Return the augmentation of the published recipe, of albumentations' own parts."""
    flips = [A.VerticalFlip(p=1), A.HorizontalFlip(p=1)]
    shifts = [
        A.HueSaturationValue(20, 30, 20, p=0.5),
        A.RandomBrightnessContrast(0.2, 0, p=0.5),
        A.RandomBrightnessContrast(0, 0.2, p=0.5),
    ]
    turns = [A.RandomRotate90(p=0.5), A.OneOf([*flips, A.Sequential(flips, p=1)], p=0.5)]
    normalize = A.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return A.Compose([*turns, A.OneOf(shifts, p=1), A.Resize(side, side), normalize])


@pytest.mark.parametrize(
    ("flags", "memory_format"), [((), torch.channels_last), (("--no-channels_last",), torch.contiguous_format)]
)
def test_the_default_is_the_published_recipe_bit_for_bit(home, flags, memory_format):
    """Two epochs of three steps, written out with the parts of the libraries."""
    trained = train_here(*flags)["state_dict"]

    torch.manual_seed(5)
    net = archs.UNet(1).to(memory_format=memory_format)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2, eta_min=1e-5)
    ids = train_test_split([f"disc{k:02d}" for k in range(15)], test_size=0.2, random_state=41)[0]
    compose = published_augmentation(16)
    for epoch in range(2):
        order = np.random.default_rng((5, epoch)).permutation(12).reshape(3, 4)
        for batch in order:
            images, masks = [], []
            for index in batch.tolist():
                draws = np.random.default_rng((5, epoch, index))
                compose.set_random_state(draws, Random(int(draws.integers(2**63))))
                image = cv2.imread(f"inputs/discs/images/{ids[index]}.png")
                found = compose(image=image, mask=cv2.imread(f"inputs/discs/masks/0/{ids[index]}.png", 0))
                images.append(torch.from_numpy(found["image"].transpose(2, 0, 1) / np.float32(255)))
                masks.append(torch.from_numpy(found["mask"][None] / np.float32(255)))
            loss = losses.LovaszHingeLoss()(net.train()(torch.stack(images)), torch.stack(masks))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    differing = [name for name, value in net.state_dict().items() if not torch.equal(value, trained[name])]
    assert differing == []


# --- what a checkpoint records ---------------------------------------------------------------------------------------


def read_by_hand(img_id: str, preparation: str, side: int = 16) -> np.ndarray:
    """Return an image as a net sees it, (3, side, side), with its preparation written out."""
    image = cv2.resize(cv2.imread(f"inputs/discs/images/{img_id}.png"), (side, side)).astype(np.float64)
    if preparation == "by image":
        image = ((image - image.mean()) / (image.std() + 1e-4)).clip(-20, 20)
    else:
        image = (image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    return (image / 255 if preparation == "published" else image).transpose(2, 0, 1)


def logits_by_hand(state: dict, image: np.ndarray) -> np.ndarray:
    """Return the logits of a net for an image of `read_by_hand`."""
    with torch.inference_mode():
        return archs.from_state_dict(state).eval()(torch.from_numpy(image[None].copy()).float())[0, 0].numpy()


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def save_a_net(preparation: str) -> dict:
    """Save a net with probabilities of all kinds as the best model of the run `run`; returns its weights."""
    state = random_net().state_dict()
    state["final.weight"] *= 400
    state["final.bias"] -= float(np.median(logits_by_hand(state, read_by_hand(VAL_IDS[0], preparation))))
    Path("models/run").mkdir(parents=True)
    config = vars(options.parse_train(["inputs/discs", *TINY, *PREPARATIONS[preparation]]))
    torch.save({"state_dict": state, "epoch": 1, "config": config}, "models/run/model_best.pth.tar")
    return state


VAL_IDS = dataset.split_ids([f"disc{k:02d}" for k in range(15)])[1]
PREPARATIONS = {
    "published": [],
    "divided once": ["--divide_twice", "False"],
    "by image": ["--divide_twice", "False", "--normalization", "image"],
}


@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_evaluation_demo_and_export_follow_the_recorded_preparation(home, capsys, preparation):
    state, ids = save_a_net(preparation), VAL_IDS
    found = {
        kind: {img_id: sigmoid(logits_by_hand(state, read_by_hand(img_id, kind))) for img_id in ids}
        for kind in PREPARATIONS
    }
    probability = found.pop(preparation)
    for other in found.values():
        assert min(abs(probability[img_id] - other[img_id]).mean() for img_id in ids) > 0.03, "it makes a difference"

    run = ["--name", "run", "--num_workers", "0"]
    val.main(options.parse_val(run))
    evaluated = ["inputs/discs", *TINY, "--evaluate", "--resume", "models/run/model_best.pth.tar"]
    train.main(options.parse_train(evaluated))
    demo.main(options.parse_demo([*run, "--output", "split"]))
    demo.main(options.parse_demo([*run, "--output", "files", "--input", "inputs/discs/images"]))
    pthtar2onnx.main(options.parse_export(["--name", "run", "--output", "net.onnx"]))
    onnx = ["--onnx", "net.onnx", "--input", "inputs/discs/images", "--output", "onnx"]
    demo.main(options.parse_demo([*onnx, "--num_workers", "0"]))
    for folder in ("outputs/run", "split", "files", "onnx"):
        for img_id in ids:
            found = cv2.imread(f"{folder}/0/{img_id}.jpg", cv2.IMREAD_UNCHANGED) / 255
            assert abs(found - probability[img_id]).mean() < 0.02, (folder, img_id)  # JPEG loses a little

    true = {img_id: cv2.imread(f"inputs/discs/masks/0/{img_id}.png", 0) for img_id in ids}
    true = {img_id: cv2.resize(mask, (16, 16), interpolation=cv2.INTER_NEAREST) > 127 for img_id, mask in true.items()}
    found = np.concatenate([probability[img_id].ravel() for img_id in ids]) > 0.5
    wanted = np.concatenate([true[img_id].ravel() for img_id in ids])
    iou = (found & wanted).sum() / max(1, (found | wanted).sum())
    shown = capsys.readouterr().out
    assert float(re.search(r"^IoU: (\S+)$", shown, re.MULTILINE)[1]) == pytest.approx(iou, abs=1e-3)
    logged = re.findall(r"\[AVG-IOU\] \* Iou (\S+)$", shown, re.MULTILINE)
    assert len(set(logged)) == 1 and len(logged) == 3, "val.py, train.py --evaluate and demo.py print the same"


def test_test_time_augmentation_is_the_mean_over_eight(home):
    state = save_a_net("published")
    run = ["--name", "run", "--num_workers", "0", "--tta"]
    val.main(options.parse_val(run))
    demo.main(options.parse_demo([*run, "--output", "split"]))
    for img_id in VAL_IDS:
        image, logits = read_by_hand(img_id, "published"), []
        for turns in range(4):
            for axes in ((), (1,)):
                turned = np.flip(np.rot90(image, turns, (1, 2)), [axis + 1 for axis in axes])
                logits.append(np.rot90(np.flip(logits_by_hand(state, turned), axes), -turns))
        expected, plain = sigmoid(np.mean(logits, 0)), sigmoid(logits[0])
        assert abs(expected - plain).mean() > 0.04, "it makes a difference"
        for folder in ("outputs/run", "split"):
            found = cv2.imread(f"{folder}/0/{img_id}.jpg", cv2.IMREAD_UNCHANGED) / 255
            assert abs(found - expected).mean() < 0.02, (folder, img_id)  # JPEG loses a little


def test_the_normalization_by_image_is_clipped():
    """One bright pixel on black."""
    image = np.zeros((16, 96, 3), np.uint8)
    image[3, 4] = 200
    found = augment.val_transform(16, 96, "image")(image=image)["image"]
    deviations = (200.0 - image.mean()) / image.std()
    assert deviations > 30 and found[3, 4].tolist() == [20, 20, 20]
    assert found[0, 0] == pytest.approx(-image.mean() / image.std(), rel=1e-3)


def test_a_run_that_measures_the_speed(home, capsys):
    """Its augmentation has no color group, its speed counts from the first step; it continues as such a run alone."""
    checkpoint = train_here("--performance")
    shown = capsys.readouterr().out
    seconds = [float(value) for value in re.findall(r"^Epoch: \[2\].*\tTime +(\S+) ", shown, re.MULTILINE)]
    (_, fps) = map(float, re.findall(r"^\[npu id: 0 \] \* FPS@all (\S+)$", shown, re.MULTILINE))
    assert len(seconds) == 3 and fps == pytest.approx(4 * 3 / sum(seconds), abs=0.002 / min(seconds) * fps)
    assert (checkpoint["config"]["augmentation"], checkpoint["config"]["performance"]) == ("turns", True)
    turns = train_here("--augmentation", "turns")
    for name, weights in turns["state_dict"].items():
        assert torch.equal(weights, checkpoint["state_dict"][name]), name
    with pytest.raises(InputError, match="--performance False there and True here"):
        train_here("--performance", "--resume", "auto")


def test_the_speed_run_changes_the_published_augmentation_alone():
    kept = options.parse_train(["--recipe", "nuclei", "--performance"])
    assert kept.augmentation == "nuclei" and options.parse_train(["--performance"]).augmentation == "turns"


def test_an_inner_run_is_evaluated_on_its_inner_images(home, capsys):
    train_here("--inner_split")
    assert "9 images to train, 3 to validate" in capsys.readouterr().out
    val.main(options.parse_val(["--name", "run", "--num_workers", "0"]))
    scored = re.search(r"\[AVG-IOU\].*", capsys.readouterr().out)[0]
    train.main(options.parse_train(["inputs/discs", *TINY, "--evaluate", "--resume", "models/run/model_best.pth.tar"]))
    shown = capsys.readouterr().out
    assert "as in training: " in shown and "inner_split True" in shown and scored in shown
    _, inner = dataset.split_ids([f"disc{k:02d}" for k in range(15)], inner=True)
    written = {path.stem for path in (home / "outputs" / "run" / "0").glob("*.jpg")}
    assert written == set(inner)
