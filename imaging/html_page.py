# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Parts of an HTML page in one file: text, tables, figures, pictures as data URIs, and the style of all of them."""

import base64
import html
from collections.abc import Callable, Iterable

import cv2
import numpy as np
import pandas as pd

from runtime import names

MAX_PICTURE_BYTES = 100_000
# dark on light also where the system asks for dark pages; sizes in rem, so that the page follows the reader's font
STYLE = """
:root { color-scheme: only light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1.5rem 3rem; background: #fff; color: #1c1e21;
  font: 0.95rem/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid #d5d9de; }
p { margin: 0 0 .8rem; color: #4a5058; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0 0 1rem; }
dt { color: #4a5058; }
dd { margin: 0; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; }
.tiles div { min-width: 8rem; padding: .6rem .9rem; background: #f1f4f7; border-radius: .4rem; }
.tiles strong { display: block; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tiles span { color: #4a5058; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e6e9ec; }
th { font-weight: 600; }
tbody th { white-space: nowrap; }
thead th { color: #4a5058; border-bottom-color: #aab1b9; vertical-align: bottom; }
.number { text-align: right; }
td.number { white-space: nowrap; }
td.words, td.default { overflow-wrap: anywhere; min-width: 7rem; }
.changed td.words { font-weight: 600; color: #9a3b00; }
figure { margin: 0; break-inside: avoid; }
figcaption { color: #4a5058; font-size: .88rem; overflow-wrap: anywhere; }
figcaption b { color: #1c1e21; font-size: .8rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr)); gap: 1rem 1.5rem; }
.figures figure { max-width: 34rem; }
.figures svg[role] { width: 100%; height: auto; display: block; }
svg text { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #3a4047; }
svg .grid { stroke: #e6e9ec; }
svg .axis { stroke: #6b737c; fill: none; }
svg .guide { stroke: #6b737c; stroke-dasharray: 4 4; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .2rem 0 0 3.4rem; font-size: .88rem; }
.cards { display: grid; gap: 1.2rem 1.5rem; }
.cards div { display: grid; grid-template-columns: 1fr 1fr; gap: .25rem; align-items: start; }
.cards img { width: 100%; height: auto; display: block; border: 1px solid #d5d9de; }
.cards figcaption { margin-top: .25rem; }
details { margin-top: .8rem; }
summary { cursor: pointer; color: #0b57a4; }
@media (min-width: 40rem) { .cards { grid-template-columns: 1fr 1fr; } }
@media (max-width: 56rem) { table { font-size: .85rem; } th, td { padding-right: .55rem; } }
@media print {
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  h2 { break-after: avoid; }
  table { font-size: 8.5pt; }
  .tiles div, tr { break-inside: avoid; }
  .cards { grid-template-columns: 1fr 1fr; }
  section:has(> h2 + details:not([open])) { display: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
@page { margin: 14mm; }
"""


def text(value: object, max_length: int = 300) -> str:
    """Return a value as text of a page; names and paths can hold any characters."""
    return html.escape(names.printable(value, max_length), quote=True)


def number(value: object) -> str:
    """Return a value as text: whole numbers and words as they are, other numbers with four digits."""
    if isinstance(value, (float, np.floating)):
        return f"{value:.4f}" if np.isfinite(value) else "–"
    return text(value)


def page(title: str, sections: Iterable[str]) -> str:
    """Return a whole page."""
    # nothing is fetched or run, even if a name in the page could be taken for code
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{text(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{''.join(sections)}</body>\n</html>\n"
    )


def section(title: str, content: str) -> str:
    """Return content below a heading; "" if there is none."""
    return f"<section>\n<h2>{text(title)}</h2>\n{content}\n</section>\n" if content else ""


def details(summary: str, content: str) -> str:
    """Return content that opens with a click on its summary."""
    return f"<details><summary>{text(summary)}</summary>\n{content}</details>"


def table(frame: pd.DataFrame, heading: Callable[[object], object] = str, index: bool = True) -> str:
    """Return a table whose numbers stand to the right. heading: the text of a column. index: show the rows' names."""
    kinds = ["number" if pd.api.types.is_numeric_dtype(kind) else "words" for kind in frame.dtypes]
    head = [f'<th class="{kind}">{text(heading(column))}</th>' for kind, column in zip(kinds, frame.columns)]
    rows = []
    for label, *values in frame.itertuples(name=None):
        cells = "".join(f'<td class="{kind}">{number(value)}</td>' for kind, value in zip(kinds, values))
        rows.append(f"<tr>{f'<th>{text(label)}</th>' if index else ''}{cells}</tr>\n")
    corner = f"<th>{text(frame.index.name or '')}</th>" if index else ""
    return raw_table(f"{corner}{''.join(head)}", rows)


def raw_table(head: str, rows: Iterable[str]) -> str:
    """Return a table of cells and rows that are HTML already; a narrow screen scrolls it."""
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(rows)}</tbody></table></div>'


def figures(charts: Iterable[tuple[str, str]]) -> str:
    """Return charts side by side, from their captions and SVGs; "" if all SVGs are empty."""
    shown = [f"<figure><figcaption>{text(caption)}</figcaption>{svg}</figure>\n" for caption, svg in charts if svg]
    return f'<div class="figures">\n{"".join(shown)}</div>' if shown else ""


def picture(image: np.ndarray, description: str) -> str:
    """Return a BGR picture as a JPEG of at most MAX_PICTURE_BYTES, if one of the usual qualities achieves that."""
    for quality in (90, 75, 50, 25):
        # without subsampling of the colors, which would smear thin outlines
        settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
        settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        data = cv2.imencode(".jpg", image, settings)[1].tobytes()
        if len(data) <= MAX_PICTURE_BYTES:
            break
    encoded = base64.b64encode(data).decode("ascii")
    return f'<img alt="{text(description)}" src="data:image/jpeg;base64,{encoded}">'
