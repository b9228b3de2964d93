# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""report.html: one file with the numbers of the tables, whatever the names of images and settings hold."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.parsed_page import Page, assert_self_contained

from imaging import html_page, report
from imaging.report import Example, Report, choose_examples, write_report
from runtime.errors import InputError

THRESHOLDS = [f"ap_0.{percent}" for percent in range(50, 100, 5)]


def frame(count: int, seed: int = 0, **columns) -> pd.DataFrame:
    """Return rows of images with scores of nuclei; more columns replace or follow these."""
    rng = np.random.default_rng(seed)
    rows = {
        "id": [f"cell{k:03d}" for k in range(count)],
        "path": [f"inputs/x/images/cell{k:03d}.png" for k in range(count)],
    }
    rows |= {"true": rng.integers(0, 300, count), "found": rng.integers(0, 300, count)}
    rows |= {name: rng.random(count) for name in ("ap", *THRESHOLDS, "f1_0.50", "dice", "count_error")}
    return pd.DataFrame(rows | columns)


def example(row, side: int = 64, image=None) -> Example:
    """Return an example with two true nuclei, of which one was found."""
    true = np.zeros((side, side), np.int32)
    true[side // 8 : side // 3, side // 8 : side // 3] = 1
    true[side // 2 : side // 8 * 7, side // 2 : side // 8 * 7] = 2
    image = np.full((side, side, 3), 30, np.uint8) if image is None else image
    return Example(row, image, np.where(true == 2, 9, 0), true)


def write(tmp_path: Path, made: Report) -> Page:
    """Write a report and return its parsed page, which needs nothing else."""
    write_report(tmp_path / "out" / "report.html", made)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]
    page = Page(tmp_path / "out" / "report.html")
    assert_self_contained(page)
    return page


def test_the_page_holds_the_numbers_of_the_tables(tmp_path: Path) -> None:
    images = frame(40, kind=["dark", "bright"] * 20)
    tables = {"Scores": pd.DataFrame({"IoU": [0.81234, 0.5], "n": [3, 1200]}, index=["all", "class 1"])}
    log = pd.DataFrame(
        {"epoch": [0, 1], "loss": [0.5, 0.4], "val_loss": [0.6, 0.5], "iou": [0.1, 0.2], "val_iou": [0, 1]}
    )
    worst, best = choose_examples(images)
    made = Report(
        title="my run",
        facts={"model": "models/a/b.pth.tar"},
        headline={"AP": 0.43211, "found": 12},
        settings={"lr": 0.001, "port": 7},
        defaults={"lr": 0.1},
        tables=tables,
        images=images,
        load_example=example,
        log=log,
        epochs=2,
    )
    page = write(tmp_path, made)
    assert page.headings() == [
        *("Scores", "Precision and counts", "Worst images", "Best images"),
        *("Training", "Settings", "All images"),
    ]
    for part in ("my run", "models/a/b.pth.tar", "0.4321 AP 12 nuclei found", "all 0.8123 3 class 1 0.5000 1200"):
        assert part in page.text, part
    assert "lr 0.001 0.1" in page.text and "port 7" in page.text
    for row in images.to_dict("records"):
        numbers = [f"{row[key]:.4f}" for key in ("ap", "ap_0.50", "ap_0.75", "f1_0.50", "dice", "count_error")]
        assert " ".join(map(str, [row["id"], row["kind"], row["true"], row["found"], *numbers])) in page.text
    assert "true nuclei nuclei found AP AP at 0.50 AP at 0.75 F1 at 0.50 Dice count error" in page.text
    for row in [*worst, *best]:
        assert f"{row['id']} {row['kind']}, AP {row['ap']:.3f}, {row['found']} found, {row['true']} true" in page.text
    # AP at each IoU of all images and of both kinds, the circles of the scatter plot, and those of the log
    circles = [attributes for tag, attributes in page.tags if tag == "circle"]
    assert len(circles) == 3 * 10 + 40 + 2 + 8
    write_report(tmp_path / "again.html", made)
    assert (tmp_path / "again.html").read_text() == page.source, "the same every time"


def test_many_large_noisy_images_stay_below_5_mb(tmp_path: Path) -> None:
    images = frame(5000, id=[f"{k:04d}" + "x" * 190 for k in range(5000)], kind="k" * 100)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (500, 500, 3), np.uint8)
    page = write(tmp_path, Report("r", images=images, load_example=lambda row: example(row, 500, noise)))
    assert "5000 rows, the lowest AP first; only the first 1000 are here" in page.text
    assert [max(image.shape) for image in page.images()] == [report.PICTURE_SIDE] * 24


@pytest.mark.parametrize(
    "text", ['<script>alert("1")</script>', "'><img src=x onerror=y>", "a\u202eb\nc\ud800", "Ä&核"]
)
def test_names_cannot_become_code(tmp_path: Path, text: str) -> None:
    images = frame(3, id=text, path=text, kind=[text, "x", "x"])
    table = pd.DataFrame({text: [1.0], "b": [text]}, index=[text])
    made = Report(
        title=text,
        facts={text: text},
        headline={text: 1},
        settings={text: text, "lr": text},
        defaults={text: 1, "lr": 2},
        tables={text: table},
        images=images,
        log=pd.DataFrame({"epoch": [0], "loss": [text], "val_loss": [1], text: [1]}),
        load_example=example,
    )
    page = write(tmp_path, made)
    escaped = text.encode("unicode_escape").decode() if "\n" in text else text
    for line in (f"{escaped}, AP", f"{escaped}: {images['found'][0]} found"):
        assert line in page.text
    titles = [attributes["title"] for tag, attributes in page.tags if tag == "figure" and "title" in attributes]
    assert titles == [escaped] * 3 and page.cells.count(escaped) >= 7


def test_pixel_scores_alone(tmp_path: Path) -> None:
    """As val.py has them: no nuclei, no kinds, several classes."""
    images = pd.DataFrame(
        {"id": list("aabbcc"), "path": "p", "class": [0, 1] * 3, "iou": 0.5, "dice": 0.25, "ap": np.arange(6) / 8}
    )
    worst, best = choose_examples(images, 2)
    assert [(row["id"], row["class"]) for row in worst] == [("a", 0), ("a", 1)]
    assert [(row["id"], row["class"]) for row in best] == [("c", 1), ("c", 0)]
    page = write(tmp_path, Report("r", images=images, load_example=example))
    assert page.headings() == ["Worst images", "Best images", "All images"]
    assert "c class 1, AP 0.625, IoU 0.500, 1 found, 2 true" in page.text
    page = write(tmp_path, Report("r", images=images[images["class"] == 0], load_example=example))
    assert "a AP 0.000, IoU 0.500, 1 found, 2 true" in page.text, "with a single class, its number is left out"


def test_a_single_image_and_an_empty_report(tmp_path: Path) -> None:
    images = frame(1)
    assert [len(rows) for rows in choose_examples(images)] == [1, 0]
    page = write(tmp_path, Report("r", images=images, load_example=example))
    assert page.headings() == ["Precision and counts", "Worst images", "All images"] and len(page.images()) == 2
    page = write(tmp_path, Report("nothing"))
    assert page.headings() == [] and "nothing" in page.text


@pytest.mark.parametrize("count", [2, 3, 11, 12, 13, 40])
def test_examples_are_the_lowest_and_the_highest_scores(count: int) -> None:
    images = frame(count, seed=count)
    images.loc[0, "ap"] = np.nan
    worst, best = choose_examples(images)
    scores = sorted(images["ap"].dropna())
    assert [row["ap"] for row in worst] == scores[: len(worst)]
    assert [row["ap"] for row in best] == scores[::-1][: len(best)]
    assert len(worst) + len(best) == min(12, count - 1) and 0 <= len(worst) - len(best) <= 1


@pytest.mark.parametrize("shape, level", [((20, 30), 30), ((900, 500), 30), ((60, 60), 220)])
def test_examples_show_the_outlines_of_found_and_true_nuclei(shape: tuple[int, int], level: int) -> None:
    """The labels may have another size than the image."""
    image = np.full((*shape, 3), level, np.uint8)
    made = example({"id": "a"}, 64, image)
    picture, outlined = report._draw(made)
    assert picture.shape == outlined.shape and max(picture.shape) == report.PICTURE_SIDE
    assert (picture == picture[0, 0]).all()
    height, width = picture.shape[:2]
    colors = {tuple(color) for color in outlined.reshape(-1, 3).tolist()}
    assert len(colors) == 3, "background, a true nucleus, a nucleus that was found"
    true = (0, 0, 0) if level > 127 else (255, 255, 255)
    rows, columns = np.nonzero((outlined == true).all(2))
    assert abs(rows.min() / height - 1 / 8) < 0.02 and abs(columns.max() / width - 21 / 64) < 0.02
    other = next(iter(colors - {true, tuple(outlined[0, 0].tolist())}))
    rows, columns = np.nonzero((outlined == other).all(2))
    assert abs(rows.min() / height - 1 / 2) < 0.02 and abs(columns.max() / width - 7 / 8) < 0.02


def test_a_damaged_log_gives_no_curve_for_what_is_damaged(tmp_path: Path) -> None:
    log = pd.DataFrame({"epoch": [0, 1, 2], "loss": ["x", 1, 2], "val_loss": [None, "y", 2], "iou": [0, 1, 1]})
    page = write(tmp_path, Report("r", log=log))
    lines = [attributes["points"].split() for tag, attributes in page.tags if tag == "polyline"]
    assert [len(line) for line in lines] == [2, 1]


def test_settings_that_differ_are_emphasized(tmp_path: Path) -> None:
    settings = {"zeta": 1, "lr": 0.5, "seed": 5, "beta": [1, 2], "name": "x"}
    page = write(
        tmp_path, Report("r", settings=settings, defaults={"zeta": 1, "lr": 0.1, "seed": 5, "beta": [2], "name": None})
    )
    changed = re.findall(r"<tr class=changed><th>(\w+)</th>", page.source)
    assert changed == ["lr", "beta", "name"]
    assert page.source.index("<details>") < page.source.index("<th>zeta</th>"), "a default of little interest"
    assert page.source.index("<th>seed</th>") < page.source.index("<details>")


def test_the_images_that_are_added_first_are_shown(tmp_path: Path) -> None:
    """The tables and numbers of all are."""
    made, images = Report("r"), frame(3)
    first = pd.DataFrame({"mean AP": [0.25, 0.5], "found": [7, 8]}, index=["all", "dark"])
    made.add_scores({"Nuclei": first, "More": first}, images, example, ["mean AP", "found"])
    made.add_scores({"Pixels": pd.DataFrame({"IoU": [0.75]})}, frame(5, seed=1), lambda row: None, ["IoU"])
    page = write(tmp_path, made)
    assert page.headings()[:3] == ["Nuclei", "Precision and counts", "More"]
    assert "r 0.2500 mean AP 7 nuclei found 0.7500 IoU" in page.text and "3 rows" in page.text


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/report\.html: cannot be written"):
        write_report(tmp_path / "file" / "report.html", Report("r"))


def test_the_page_stays_dark_on_light() -> None:
    assert "color-scheme: only light" in html_page.STYLE and "prefers-color-scheme" not in html_page.STYLE
