"""demo.py and val.py: any image in, pictures and tables out; the scores are compared with counts by hand."""

import re

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_net, run

import dataset
import demo
import engine
import metrics
import options
import val
from imaging import drawing
from runtime.distributed import Runtime, init_runtime


class Bright(torch.nn.Module):
    """Replaces a net: a pixel is a nucleus if its blue is above 128."""

    num_classes = 1

    def forward(self, x):
        blue = (x[:, :1] * 255 * 0.229 + 0.485) * 255  # undoes the recipe's normalization
        return (blue - 128) / 10


@pytest.fixture
def bright(home, monkeypatch):
    """A run called `bright` whose model is the net above; returns the current folder."""
    (home / "models" / "bright").mkdir(parents=True)
    config = {"dataset": "discs", "input_h": 32, "input_w": 32, "batch_size": 4}
    torch.save(
        {"state_dict": random_net().state_dict(), "epoch": 4, "config": config}, "models/bright/model_best.pth.tar"
    )
    real = engine.load_model
    monkeypatch.setattr(engine, "load_model", lambda path, runtime, **rest: (Bright(), real(path, runtime, **rest)[1]))
    return home


def segment(*flags: str) -> None:
    demo.main(options.parse_demo(["--name", "bright", "--num_workers", "0", *flags]))


def square(height: int, width: int, dtype=np.uint8, high=200, low=30) -> tuple[np.ndarray, np.ndarray]:
    """Return a gray image with a bright rectangle, a quarter as high and as wide, and the rectangle as a mask."""
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    return np.where(mask, high, low).astype(dtype), mask


def test_any_kind_of_image(bright):
    """Gray, color, RGBA, 16-bit and float, of several sizes and formats, get masks of their own sizes that fit."""
    (bright / "mine").mkdir()
    wanted = {}
    for name, image in {
        "gray.png": square(100, 100)[0],
        "color.jpg": np.dstack([square(64, 128)[0]] * 3),
        "alpha.png": np.dstack([square(256, 200)[0]] * 3 + [np.full((256, 200), 7, np.uint8)]),
        "deep.tif": square(90, 60, np.uint16, high=4000, low=500)[0],  # a 12-bit camera in a 16-bit file
        "deep color.png": np.dstack([square(96, 96, np.uint16, high=60000, low=100)[0]] * 3),
        "float.tiff": square(128, 64, np.float32, high=1.0, low=0.1)[0],
        "with space and $(touch pwned).bmp": square(40, 30)[0],
    }.items():
        assert cv2.imwrite(str(bright / "mine" / name), image)
        wanted[name.rpartition(".")[0]] = square(*image.shape[:2])[1]
    segment("--input", "mine", "--output", "out", "-b", "3")
    for stem, mask in wanted.items():
        probability = cv2.imread(f"out/0/{stem}.jpg", cv2.IMREAD_UNCHANGED)
        assert probability.shape == (32, 32) and probability.max() > 200 and probability.min() < 50
        found = cv2.imread(f"out/0/{stem}_mask.png", cv2.IMREAD_UNCHANGED)
        assert found.shape == mask.shape and set(np.unique(found)) == {0, 255}
        overlap = (found > 0) & mask
        assert overlap.sum() / ((found > 0) | mask).sum() > 0.75, stem
        assert cv2.imread(f"out/overlay/{stem}.png").shape == (*mask.shape, 3)
    table = pd.read_csv("out/nuclei.csv")
    assert sorted(table.id) == sorted(wanted) and set(table.nuclei) == {1}
    assert cv2.imread("out/overview.png").shape[1] > 1000
    assert not (bright / "pwned").exists()


def test_files_folders_globs_and_equal_names(bright):
    for folder in ("a/images", "b/images", "b/masks"):
        (bright / folder).mkdir(parents=True)
        cv2.imwrite(str(bright / folder / "cell.png"), square(32, 32)[0])
    found = demo.find_images(["a/images/cell.png", "b", "a/*/*.png"])
    assert [str(p) for p in found] == ["a/images/cell.png", "b/images/cell.png"], "no masks, nothing twice"
    (bright / "c").mkdir()
    cv2.imwrite(str(bright / "c" / "cell.png"), square(32, 32)[0])
    segment("--input", "a", "b", "c", "--output", "out")
    assert sorted(p.name for p in (bright / "out" / "0").glob("*.jpg")) == [
        "c_cell.jpg",
        "cell.jpg",
        "images_cell.jpg",
    ]


def test_unreadable_files_are_named_and_the_others_segmented(home):
    torch.save({"state_dict": random_net().state_dict()}, home / "net.pth.tar")
    (home / "mine").mkdir()
    (home / "mine" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (home / "mine" / "empty.png").write_bytes(b"")
    cv2.imwrite(str(home / "mine" / "good.png"), square(32, 32)[0])
    result = run("demo.py", "--resume", "net.pth.tar", "--input", "mine", "--output", "out", cwd=home)
    assert result.returncode == 1 and "Traceback" not in result.stdout
    for name in ("broken", "empty"):
        assert f"[Error] mine/{name}.png: not a readable image" in result.stdout
    assert "2 of 3 images could not be read" in result.stdout
    assert (home / "out" / "0" / "good_mask.png").exists() and (home / "out" / "overview.png").exists()
    result = run("demo.py", "--resume", "net.pth.tar", "--input", "nowhere/*.png", cwd=home)
    assert result.returncode == 1 and "[Error] --input nowhere/*.png: no image there" in result.stdout


def test_a_picture_that_cannot_be_written_is_named(home):
    torch.save({"state_dict": random_net().state_dict()}, home / "net.pth.tar")
    (home / "mine").mkdir()
    for k in range(9):
        cv2.imwrite(str(home / "mine" / f"{k}.png"), square(32, 32)[0])
    (home / "out" / "overlay" / "3.png").mkdir(parents=True)
    result = run("demo.py", "--resume", "net.pth.tar", "--input", "mine", "--output", "out", "-b", "2", cwd=home)
    assert result.returncode == 1 and "Traceback" not in result.stdout
    assert result.stdout.splitlines()[-1] == "[Error] out/overlay/3.png: is a folder; give the name of a file"
    assert not (home / "out" / "nuclei.csv").exists() and not list((home / "out").rglob(".*"))


def test_sides_that_are_not_multiples_of_16_are_padded():
    net = random_net()
    padded, x = engine.Padded(net), torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(padded(x), net(x)), "nothing to pad, nothing changed"
        odd = padded(x[:, :, :41, :50])
        by_hand = torch.nn.functional.pad(x[:, :, :41, :50], (0, 14, 0, 7), mode="replicate")
        assert odd.shape == (1, 1, 41, 50) and torch.equal(odd, net(by_hand)[:, :, :41, :50])


class Formats(Bright):
    """Records the memory formats of its inputs; its outputs have the format of the last one."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen += [f for f in (torch.contiguous_format, torch.channels_last) if x.is_contiguous(memory_format=f)]
        return torch.cat([super().forward(x)] * 2, 1).contiguous(memory_format=self.seen[-1])


def test_nets_get_the_memory_format_that_suits_the_device():
    images, target, net = torch.rand(4, 3, 16, 16), torch.rand(4, 2, 16, 16), Formats()
    assert Runtime(torch.device("meta"), 0).memory_format is torch.contiguous_format
    (probabilities,) = engine.predict(net, [images], init_runtime("cpu"))
    batch = (images, target, {"img_id": list("abcd")})
    got = []
    criterion = engine.build_criterion("LovaszHingeLoss")
    engine.evaluate(net, [batch], criterion, init_runtime("cpu"), lambda logits, target, ids: got.append(logits))
    assert net.seen == [torch.channels_last] * 2 and got[0].is_contiguous() and probabilities.is_contiguous()
    assert torch.equal(torch.sigmoid(got[0]), probabilities)


def test_the_validation_split_by_default(bright, capsys):
    segment()
    out = capsys.readouterr().out
    assert "model: models/bright/model_best.pth.tar" in out
    assert re.search(r"^\[npu id: 0 \] \[AVG-IOU\] \* Iou \d\.\d{4}$", out, re.MULTILINE)
    _, ids = dataset.split_ids([f"disc{k:02d}" for k in range(15)])
    written = {p.stem for p in (bright / "outputs" / "UNet_Demo" / "0").glob("*.jpg")}
    assert written == set(ids)
    assert (bright / "outputs" / "UNet_Demo" / "overview.png").exists()


def test_val_scores_are_those_counted_by_hand(bright, capsys):
    val.main(options.parse_val(["--name", "bright", "--num_workers", "0", "-b", "2"]))
    out = capsys.readouterr().out
    _, ids = dataset.split_ids([f"disc{k:02d}" for k in range(15)])
    predicted, true = {}, {}
    for img_id in ids:
        image = cv2.imread(f"inputs/discs/images/{img_id}.png").astype(np.float64)
        predicted[img_id] = 1 / (1 + np.exp(-(image[..., 0] - 128) / 10))
        true[img_id] = cv2.imread(f"inputs/discs/masks/0/{img_id}.png", 0) / 255

    def iou(names):
        p, t = (np.concatenate([x[n].ravel() for n in names]) > 0.5 for x in (predicted, true))
        return (p & t).sum() / (p | t).sum()

    def dice(names):
        p, t = (np.concatenate([x[n].ravel() for n in names]) for x in (predicted, true))
        return 2 * (p * t).sum() / (p.sum() + t.sum())

    def mask_dice(names):
        return 2 * iou(names) / (1 + iou(names))

    batches = [ids[:2], ids[2:]]  # three images, two at a time
    expected = {f: sum(f(b) * len(b) for b in batches) / 3 for f in (iou, dice, mask_dice)}
    assert float(re.search(r"^Mask Dice: (\S+)$", out, re.MULTILINE)[1]) == pytest.approx(expected[mask_dice], abs=1e-4)
    assert float(re.search(r"^Dice: (\S+)$", out, re.MULTILINE)[1]) == pytest.approx(expected[dice], abs=1e-4)
    assert out.splitlines()[-1] == f"IoU: {expected[iou]:.4f}"
    table = pd.read_csv("outputs/bright/metrics.csv").set_index("id")
    assert list(table.index) == ids
    for img_id in ids:
        assert table.iou[img_id] == pytest.approx(iou([img_id]), abs=1e-4)
        assert table.dice[img_id] == pytest.approx(dice([img_id]), abs=1e-4)
        assert table.mask_dice[img_id] == pytest.approx(mask_dice([img_id]), abs=1e-4)
    by_image = re.search(r"^all" + r" +(\S+)" * 6 + "$", out, re.MULTILINE)
    assert float(by_image[4]) == pytest.approx(np.mean([iou([n]) for n in ids]), abs=1e-4)
    # with one disc per image, the average precision is the share of thresholds that its IoU exceeds
    ap = np.mean([[iou([n]) > t for t in metrics.THRESHOLDS] for n in ids])
    assert float(by_image[6]) == pytest.approx(ap, abs=1e-4)


def test_overlay_outlines_without_hiding_the_inside():
    image, mask = np.full((40, 40, 3), 90, np.uint8), np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    picture = drawing.overlay(image, [mask])
    changed = (picture != image).any(2)
    inside = cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0
    outside = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) == 0
    assert changed.any() and not changed[inside].any() and not changed[outside].any()
    assert (image == 90).all(), "the input is not changed"


@pytest.mark.usefixtures("narrow")
def test_half_precision_on_demand(home, monkeypatch, capsys):
    """With --amp both scripts compute in bfloat16, and their pictures are nearly the same."""
    (home / "models" / "net").mkdir(parents=True)
    config = {"dataset": "discs", "input_h": 32, "input_w": 32, "batch_size": 4}
    state = {"state_dict": random_net().state_dict(), "epoch": 1, "config": config}
    torch.save(state, "models/net/model_best.pth.tar")
    loaded, real = [], engine.load_model

    def load_model(*args, **rest):
        loaded.append(real(*args, **rest))
        return loaded[-1]

    monkeypatch.setattr(engine, "load_model", load_model)
    named = ["--name", "net", "--num_workers", "0"]
    for k, more in enumerate(([], ["--amp"])):
        demo.main(options.parse_demo([*named, *more, "--output", f"demo{k}"]))
        val.main(options.parse_val([*named, *more, "--output", f"val{k}"]))
    assert capsys.readouterr().out.count("computing in bfloat16") == 2
    assert [model.final.weight.dtype for model, _ in loaded] == [torch.float32] * 2 + [torch.bfloat16] * 2
    for folders in (("demo0", "demo1"), ("val0/net", "val1/net")):
        names = sorted(path.name for path in (home / folders[0] / "0").glob("*.jpg"))
        assert len(names) == 3
        for name in names:
            full, half = (cv2.imread(f"{folder}/0/{name}", cv2.IMREAD_UNCHANGED).astype(int) for folder in folders)
            assert abs(full - half).max() <= 3, name
