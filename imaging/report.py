# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""report.html: one page with the scores, the training, the settings, and the best and worst images of a model."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from imaging.charts import Axis, Series, chart
from imaging.drawing import brighten, outline_labels
from imaging.html_page import details, figures, number, page, picture, raw_table, section, table, text
from runtime import names
from runtime.files import atomic_write

EXAMPLES = 6  # of the worst images, and of the best
PICTURE_SIDE, OUTLINE = 400, 2  # pixels of an example's longer side, and of an outline in it
MAX_ROWS = 1000  # in the table of all images
# settings that are shown also if they have their default
MAIN_SETTINGS = (
    *("arch", "deep_supervision", "num_classes", "dataset", "input_h", "input_w", "recipe", "epochs", "batch_size"),
    *("loss", "optimizer", "lr", "scheduler", "augmentation", "normalization", "seed"),
)
HEADINGS = {
    **{"iou": "IoU", "mask_dice": "mask Dice", "dice": "Dice", "ap": "AP", "count_error": "count error"},
    **{"found": "nuclei found", "true": "true nuclei"},
}
ABOUT = ("id", "path", "class", "kind", "width", "height", "true", "found")  # other columns of images are their scores
LEGEND = (
    "Each card shows the image, dark ones brightened, and beside it the outlines: a color for each nucleus that was "
    "found, and white, in bright images black, for the true ones. An outline that is only white or black was missed."
)


@dataclass(frozen=True)
class Example:
    """A picture of the report. row: one of Report.images; image: uint8 BGR (H, W, 3).

    found, true: label images, whole numbers from 0, that show what `image` shows, perhaps in another size.
    """

    row: Mapping
    image: np.ndarray
    found: np.ndarray
    true: np.ndarray


@dataclass
class Report:
    """What the page shows. Every part but the title may be empty, and is then left out.

    title: name of the run. facts: what was evaluated, such as {"model": path}. headline: a few numbers by name.
    settings: flags by name; those that differ from `defaults` are emphasized. tables: scores by title.
    images: a row per image, or per image and class, as scoring.image_table makes them. Only `id` is needed. Charts are
    divided by `class` or else by `kind`; they show `ap_0.50` … `ap_0.95`, and the counts of nuclei `true` and `found`.
    The rows with the lowest and highest `ap` become examples, which `load_example` reads.
    log: log.csv, which counts epochs from 0. epochs: how many of them the model was trained for.
    """

    title: str
    facts: dict[str, object] = field(default_factory=dict)
    headline: dict[str, float] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    images: pd.DataFrame = field(default_factory=pd.DataFrame)
    load_example: Callable[[Mapping], Example] | None = None
    log: pd.DataFrame = field(default_factory=pd.DataFrame)
    epochs: int | None = None

    def add_scores(
        self,
        tables: Mapping[str, pd.DataFrame],
        images: pd.DataFrame,
        load_example: Callable[[Mapping], Example],
        headline: Sequence[str],
    ) -> None:
        """Add tables; the images that are added first are those that the page shows.

        headline: columns of the first table, whose first row has the numbers.
        """
        first = next(iter(tables.values()))
        self.headline |= {name: first[name].iloc[0] for name in headline}
        self.tables |= tables
        if self.images.empty:
            self.images, self.load_example = images, load_example


def choose_examples(images: pd.DataFrame, count: int = EXAMPLES, score: str = "ap") -> tuple[list[dict], list[dict]]:
    """Return the rows of the worst images, the worst one first, and those of the best, the best one first.

    No row is in both lists. Rows whose score is not a number are in neither.
    """
    rows = images.dropna(subset=[score]).sort_values(score, kind="stable").to_dict("records")
    worst = rows[: min(count, (len(rows) + 1) // 2)]
    return worst, rows[len(worst) :][::-1][:count]


def write_report(path: Path, report: Report) -> None:
    """Write the page as a single file that needs no network; raises InputError if that fails."""
    images, load = report.images, report.load_example
    worst, best = choose_examples(images) if load else ((), ())
    by_class = "class" in images and images["class"].nunique() > 1
    tables = [section(title, table(frame, _heading)) for title, frame in report.tables.items()]
    sections = (
        _header(report),
        *tables[:1],
        section("Precision and counts", figures([_precision(images), _counts(images)])),
        *tables[1:],
        section("Worst images", _examples(map(load, worst), by_class, LEGEND)),
        section("Best images", _examples(map(load, best), by_class)),
        section("Training", figures(_curves(report.log, report.epochs))),
        section("Settings", _settings(report.settings, report.defaults)),
        section("All images", _all_images(images)),
    )
    with atomic_write(path) as partial:
        partial.write_text(page(report.title, sections), encoding="utf-8")


def _header(report: Report) -> str:
    facts = "".join(f"<dt>{text(name)}</dt><dd>{text(value, 1000)}</dd>\n" for name, value in report.facts.items())
    tiles = "".join(
        f"<div><strong>{number(value)}</strong><span>{text(_heading(name))}</span></div>\n"
        for name, value in report.headline.items()
    )
    lists = f"<dl>{facts}</dl>\n" * bool(facts) + f'<div class="tiles">{tiles}</div>\n' * bool(tiles)
    return f"<header>\n<h1>{text(report.title)}</h1>\n{lists}</header>\n"


def _heading(column: object) -> str:
    if match := re.fullmatch(r"(ap|f1)_(0\.\d\d)", str(column)):
        return f"{match[1].upper()} at {match[2]}"
    return HEADINGS.get(column, str(column))


def _thresholds(images: pd.DataFrame) -> dict[float, str]:
    """Return the columns of AP at one IoU, by this IoU."""
    found = sorted(name for name in map(str, images) if re.fullmatch(r"ap_0\.\d\d", name))
    return {float(name[3:]): name for name in found}


def _columns(images: pd.DataFrame) -> list[str]:
    """Return the columns for the table of images, without paths and most of the AP at one IoU."""
    scores = [name for name in images if name not in ABOUT and pd.api.types.is_numeric_dtype(images[name])]
    hidden = set(_thresholds(images).values()) - {"ap_0.50", "ap_0.75"}
    return [name for name in ABOUT if name in images and name != "path"] + [
        name for name in scores if name not in hidden
    ]


def _groups(images: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield a name and the images of each class, or else of each kind, or else all images."""
    for column, word in (("class", "class "), ("kind", "")):
        if column in images and images[column].nunique() > 1:
            for value, group in images.groupby(column):
                yield names.printable(f"{word}{value}", 40), group
            return
    yield "all", images


def _precision(images: pd.DataFrame) -> tuple[str, str]:
    """Return the chart of AP over the IoU from which on two nuclei match: the mean of the images."""
    columns = _thresholds(images)
    groups = dict(_groups(images))
    groups = {"all": images, **groups} if len(groups) > 1 else groups
    series = [
        Series(name, list(columns), group[list(columns.values())].mean().tolist()) for name, group in groups.items()
    ]
    axes = Axis("IoU above which two nuclei match", 0.5, 0.95), Axis("AP, mean of the images", 0, 1)
    return "Average precision (AP) by IoU", chart(series, *axes)


def _counts(images: pd.DataFrame) -> tuple[str, str]:
    """Return the scatter plot of the numbers of nuclei found and true."""
    if not {"found", "true"} <= set(images):
        return "", ""
    series = []
    for name, group in _groups(images):
        rows = zip(group["id"], group["found"], group["true"])
        titles = [f"{names.printable(img_id)}: {found} found, {true} true" for img_id, found, true in rows]
        series.append(Series(name, group["true"].tolist(), group["found"].tolist(), titles))
    high = 1.05 * max(1, images[["found", "true"]].max(axis=None))
    axes = (Axis(f"{label} (square-root scale)", 0, high, root=True) for label in ("true nuclei", "nuclei found"))
    return "Nuclei in each image; on the line both counts are equal", chart(series, *axes, lines=False, diagonal=True)


def _all_images(images: pd.DataFrame) -> str:
    if images.empty:
        return ""
    ordered = images.sort_values("ap", kind="stable") if "ap" in images else images
    summary = f"{names.counted(len(images), 'row')}{', the lowest AP first' if 'ap' in images else ''}"
    if len(images) > MAX_ROWS:
        summary += f"; only the first {MAX_ROWS} are here"
    return details(summary, table(ordered[_columns(images)].head(MAX_ROWS), _heading, index=False))


def _curves(log: pd.DataFrame, epochs: int | None) -> Iterator[tuple[str, str]]:
    """Yield the charts of log.csv: loss and IoU by epoch, which are shown from 1."""
    log = log.apply(pd.to_numeric, errors="coerce")
    note = f"; this model is from epoch {epochs} (vertical line)" if epochs else ""
    for caption, key, axis in (("Loss", "loss", Axis("loss")), ("IoU", "iou", Axis("IoU", 0, 1))):
        columns = {"training": key, "validation": f"val_{key}"}
        if {"epoch", *columns.values()} <= set(log):
            x = (log["epoch"] + 1).tolist()
            series = [Series(name, x, log[column].tolist()) for name, column in columns.items()]
            yield f"{caption}{note}", chart(series, Axis("epoch", 1, whole=True), axis, mark=epochs)


def _settings(settings: Mapping[str, object], defaults: Mapping[str, object]) -> str:
    """Return a table of the main settings and those that differ from their defaults; the rest opens with a click."""
    shown, rest = [], []
    main = [name for name in MAIN_SETTINGS if name in settings]
    for name in [*main, *(name for name in settings if name not in main)]:
        differs = name in defaults and settings[name] != defaults[name]
        default = text(defaults[name]) if differs and defaults[name] is not None else ""
        cells = f'<th>{text(name)}</th><td class="words">{text(settings[name])}</td><td class="default">{default}</td>'
        row = f"<tr{' class=changed' * differs}>{cells}</tr>\n"
        (shown if differs or name in main else rest).append(row)
    head = "<th>setting</th><th>value</th><th>default, if another</th>"
    parts = raw_table(head, shown) if shown else ""
    return parts + (details(f"{names.counted(len(rest), 'other setting')}", raw_table(head, rest)) if rest else "")


def _examples(examples: Iterable[Example], by_class: bool, legend: str = "") -> str:
    """Return a card for each example. by_class: do the captions name the class?"""
    cards = []
    for example in examples:
        row = example.row
        found, true = (len(np.unique(labels[labels > 0])) for labels in (example.found, example.true))
        about = [f"class {row['class']}"] if by_class else []
        about += [str(row["kind"])] if "kind" in row else []
        about += [f"{HEADINGS[key]} {row[key]:.3f}" for key in ("ap", "iou") if key in row]
        about.append(f"{row.get('found', found)} found, {row.get('true', true)} true")
        image, outlines = (picture(made, name) for made, name in zip(_draw(example), ("image", "outlines")))
        caption = f"<b>{text(row['id'], 70)}</b><br>{text(', '.join(about))}"
        title = text(row.get("path", row["id"]), 1000)
        cards.append(
            f'<figure title="{title}"><div>{image}{outlines}</div><figcaption>{caption}</figcaption></figure>\n'
        )
    return f'<p>{legend}</p>\n<div class="cards">\n{"".join(cards)}</div>' if cards else ""


def _draw(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Return the image, and the image with outlines, both enlarged or reduced to PICTURE_SIDE."""
    height, width = example.image.shape[:2]
    scale = PICTURE_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(brighten(example.image), size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    # nearest: the numbers of two nuclei have no mean
    found, true = (
        cv2.resize(labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
        for labels in (example.found, example.true)
    )
    # the picture below the outlines is faded, so that they stand out
    faded = cv2.addWeighted(image, 0.55, image, 0, 0.45 * 255 if image.mean() > 127 else 0)
    return image, outline_labels(faded, found, true, OUTLINE)
