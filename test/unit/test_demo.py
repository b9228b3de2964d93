# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""demo.py and val.py: any image in, pictures and tables out; the scores are compared with counts by hand."""

import re

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_net, run, write_dataset
from helpers.bright_net import Bright, score, segment
from helpers.parsed_page import Page, assert_self_contained
from helpers.sample_data import write_set

import dataset
import demo
import engine
import metrics
import options
import val
from imaging import drawing
from runtime.distributed import Runtime, init_runtime
from runtime.errors import InputError


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
    assert list(table) == ["id", "path", "class", "nuclei", "covered_share"]
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
    table = pd.read_csv("out/nuclei.csv").set_index("id")
    assert dict(table.path) == {
        "cell": "a/images/cell.png",
        "images_cell": "b/images/cell.png",
        "c_cell": "c/cell.png",
    }


def test_the_table_tells_which_picture_is_whose(bright):
    """Plate, well, field: the marked rectangle of each plate has another place. One name is not UTF-8."""
    plates = ["plate1", "plate2", "plate\udcff3"]
    for k, plate in enumerate(plates):
        image = np.full((96, 96), 30, np.uint8)
        image[32 * k + 4 : 32 * k + 28, 10:80] = 200
        (bright / "screen" / plate / "A01").mkdir(parents=True)
        (bright / "screen" / plate / "A01" / "f01.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    segment("--input", "screen", "--output", "out")
    table = pd.read_csv("out/nuclei.csv").set_index("path")
    for k, plate in enumerate(plates):
        img_id = table.id[f"screen/{plate}/A01/f01.png".replace("\udcff", "\\udcff")]
        rows = np.flatnonzero(cv2.imread(f"out/0/{img_id}_mask.png", 0).any(1))
        assert 32 * k <= rows.min() and rows.max() < 32 * (k + 1)


def test_a_folder_from_macos(bright, capsys):
    (bright / "mac" / "__MACOSX" / "plate").mkdir(parents=True)
    (bright / "mac" / "plate").mkdir()
    for name in ("plate/._cell.png", "__MACOSX/plate/._cell.png"):
        (bright / "mac" / name).write_bytes(bytes(99))
    cv2.imwrite("mac/plate/cell.png", square(32, 32)[0])
    segment("--input", "mac", "--output", "out")  # any unreadable file would be an error
    assert pd.read_csv("out/nuclei.csv").path.tolist() == ["mac/plate/cell.png"]


def test_unreadable_files_are_named_and_the_others_segmented(home):
    torch.save({"state_dict": random_net().state_dict()}, home / "net.pth.tar")
    (home / "mine").mkdir()
    (home / "mine" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (home / "mine" / "empty.png").write_bytes(b"")
    for k in range(5):
        (home / "mine" / f"scan{k}.png").write_bytes(b"no image")
        (home / f"{k}.czi").write_bytes(b"ZISRAWFILE")
    cv2.imwrite(str(home / "mine" / "good.png"), square(32, 32)[0])
    result = run("demo.py", "--resume", "net.pth.tar", "--input", "mine", "--output", "out", cwd=home)
    assert result.returncode == 1 and "Traceback" not in result.stdout
    lines = [line for line in result.stdout.splitlines() if line.startswith("[Error]")]
    assert lines == [
        "[Error] 6 files (mine/broken.png, mine/scan0.png, mine/scan1.png, …): not a readable image; replace the file "
        "or remove it",
        "[Error] mine/empty.png: an empty file, of 0 bytes; replace the file or remove it",
        "[Error] 7 of 8 images could not be read; the reasons are above",
    ]
    assert "\n1 image segmented, " in result.stdout
    assert (home / "out" / "0" / "good_mask.png").exists() and (home / "out" / "overview.png").exists()
    result = run("demo.py", "--resume", "net.pth.tar", "--input", "[0-1].czi", "2.czi", cwd=home)
    foreign = "[Error] 3 files (0.czi, 1.czi, 2.czi): .czi files cannot be read; export it as TIFF"
    assert result.returncode == 1 and foreign in result.stdout
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
    assert pd.read_csv("outputs/UNet_Demo/nuclei.csv").path.tolist() == [f"inputs/discs/images/{i}.png" for i in ids]
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
    assert list(table.index) == ids and list(table)[:2] == ["path", "class"]
    for img_id in ids:
        assert table.path[img_id] == f"inputs/discs/images/{img_id}.png"
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


# --- a test set of one's own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 9])
def test_val_scores_all_images_on_demand(bright, capsys, count):
    """The table has a row for each image, and its scores are those that the image has in a validation split."""
    write_dataset(bright / "own", count)
    table = score("--data_path", "own", "--all")
    assert table.path.tolist() == [f"own/images/disc{k:02d}.png" for k in range(count)]
    out = capsys.readouterr().out
    assert f"data: own, all of its images: {count}\n" in out and "warning" not in out
    if count == 1:
        with pytest.raises(InputError, match=r"^own: a single image cannot be split; pass --all to score it$"):
            score("--data_path", "own")
        return
    split = score("--data_path", "own")
    assert len(split) == len(dataset.split_ids(table.id.tolist())[1])
    same = table.set_index("id").loc[split.id].reset_index()[list(split)]
    pd.testing.assert_frame_equal(split, same)


def test_val_scores_all_images_of_other_extensions_and_classes(bright):
    """With one image too; masks that hold 0 and 1 give the same scores."""
    image, mask = square(32, 32)[0], square(32, 32, high=255, low=0)[0]
    for k in range(2):
        write_set(bright / f"own{k}", ["x", "y"][: k + 1], 1, ".tif", ".bmp", image, mask)
        flags = ("--data_path", f"own{k}", "--all", "--img_ext", "tif", "--mask_ext", "bmp")
        assert score(*flags, "--input_h", "48", "--input_w", "50").id.tolist() == ["x", "y"][: k + 1]
        assert cv2.imread("outputs/bright/0/x_mask.png").shape[:2] == (48, 50)
    flags = ("--data_path", "own0", "--all", "--img_ext", "tif", "--mask_ext", "bmp")
    expected = score(*flags)
    cv2.imwrite("own0/masks/0/x.bmp", mask // 255)
    pd.testing.assert_frame_equal(score(*flags), expected)


def test_val_warns_if_scores_include_training_images(bright, capsys):
    for flags in ((), ("--data_path", "inputs/../inputs/discs")):
        assert len(score("--all", *flags)) == 15
        assert "warning: the model was trained on images of this folder" in capsys.readouterr().out
    assert len(score()) == 3 and "warning" not in capsys.readouterr().out
    (bright / "link").symlink_to("inputs/discs")
    state = torch.load("models/bright/model_best.pth.tar", weights_only=True)
    state["config"]["data_path"] = "link"
    torch.save(state, "models/bright/model_best.pth.tar")
    assert len(score("--all", "--data_path", "inputs/discs")) == 15
    assert "warning: the model was trained" in capsys.readouterr().out


# --- val.py --report -------------------------------------------------------------------------------------------------


def test_the_report_has_the_scores_and_the_pictures_of_the_images(bright, capsys):
    table = score("--report", "--batch_size", "2")
    assert "report: outputs/bright/report.html\n" in capsys.readouterr().out
    page = Page(bright / "outputs/bright/report.html")
    assert_self_contained(page)
    assert page.headings() == ["Pixels", "Worst images", "Best images", "Settings", "All images"], "there is no log.csv"
    for row in table.itertuples():
        assert f"{row.id} 0 {row.iou:.4f} {row.mask_dice:.4f} {row.dice:.4f} {row.ap:.4f}" in page.text
        assert f"{row.id} AP {row.ap:.3f}, IoU {row.iou:.3f}, 1 found, 1 true" in page.text
    assert re.search(rf"IoU by image mask Dice by image AP by image all( \S+){{5}} {table.ap.mean():.4f} ", page.text)
    assert "model models/bright/model_best.pth.tar data inputs/discs flags --batch_size 2, --name bright" in page.text
    assert "batch_size 4 16" in page.text, "of the training, with the default"
    pictures = page.images()
    assert len(pictures) == 6
    worst = cv2.imread(f"inputs/discs/images/{table.sort_values('ap', kind='stable').id.iloc[0]}.png")
    shown = cv2.resize(pictures[0], worst.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.corrcoef(shown.ravel(), drawing.brighten(worst).ravel())[0, 1] > 0.95


@pytest.mark.parametrize("more", [(), ("--raw", "raw", "--all")])
def test_the_report_has_the_scores_of_nuclei(bright, more):
    """Two true nuclei in each image, of which the network finds one; with --raw there are no scores of pixels."""
    for k in range(4):
        image, one = square(32, 32)
        two = np.roll(one, (14, 14), (0, 1))
        image[two] = 30 + k  # too dark to be found
        for path, pixels in {
            f"own/images/x{k}.png": image,
            f"own/masks/0/x{k}.png": (one | two) * np.uint8(255),
            f"raw/x{k}/images/x{k}.png": image,
            f"raw/x{k}/masks/one.png": one * np.uint8(255),
            f"raw/x{k}/masks/two.png": two * np.uint8(255),
        }.items():
            (bright / path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(path, pixels)
    flags = more or ("--instances", "--data_path", "own", "--all")
    val.main(options.parse_val(["--name", "bright", "--num_workers", "0", "--report", *flags]))
    page = Page(bright / "outputs/bright/report.html")
    assert_self_contained(page)
    nuclei = ["Nuclei", "Precision and counts", "Nuclei by IoU", "What became of the nuclei"]
    pixels = [] if more else ["Pixels"]
    assert page.headings() == [*nuclei, *pixels, "Worst images", "Best images", "Settings", "All images"]
    table = pd.read_csv("outputs/bright/nuclei.csv")
    assert (table[["true", "found"]] == (2, 1)).all(axis=None) and table["ap_0.50"].tolist() == [0.5] * 4
    for row in table.itertuples():
        assert f"{row.id} {row.kind}, AP {row.ap:.3f}, 1 found, 2 true" in page.text
        assert f"{row.id}: 1 found, 2 true" in page.text
    tiles = f"{table.ap.mean():.4f} mean AP 0.5000 AP 0.50 4 nuclei found 8 true nuclei"
    assert tiles in page.text and "nuclei by threshold 0.5, " in page.text
    for picture, outlined in zip(page.images()[::2], page.images()[1::2]):
        assert (picture < 60).mean() > 0.9, "the images are as dark as they are"
        # 8 of 32 pixels are 100 of 400
        assert abs((outlined > 180).all(2).sum() - 4 * 98 * 2) < 50, "the missing nucleus has a white outline"


def test_the_report_has_the_curves_of_the_training(bright):
    rows = ["0,0.1,0.9,0.2,0.8,0.3", "1,0.1,0.7,0.4,0.6,0.5", "2,0.1,0.6,0.5,0.7,0.4"]
    (bright / "models/bright/log.csv").write_text("\n".join(["epoch,lr,loss,iou,val_loss,val_iou", *rows]))
    score("--report")
    page = Page(bright / "outputs/bright/report.html")
    assert "Training" in page.headings() and page.source.count("<circle") == 3 * 4
    assert "epoch 2: 0.7" in page.text and "epoch 3: 0.4" in page.text


def test_the_report_of_a_single_image_with_an_odd_name(bright):
    """Masks may hold 0 and 1."""
    image, mask = square(32, 32)[0], square(32, 32, high=255, low=0)[0]
    pages = []
    for high in (255, 1):
        write_set(bright / f"own{high}", ["<b>&'\"ä"], 1, image=image, mask=mask // 255 * high)
        score("--data_path", f"own{high}", "--all", "--report")
        pages.append(Page(bright / "outputs/bright/report.html"))
        assert_self_contained(pages[-1])
        assert "Worst images" in pages[-1].headings() and "Best images" not in pages[-1].headings()
        assert "<b>&'\"ä AP " in pages[-1].text and ", 1 true" in pages[-1].text
    assert all(np.array_equal(*pair) for pair in zip(*(page.images() for page in pages)))
