# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A page of HTML, parsed, and what must not be in it."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np

VOID = {"meta", "img", "br"}
SVG_EMPTY = {"line", "path", "circle", "polyline"}


class Page(HTMLParser):
    """A parsed page: its tags with their attributes, its text, and the cells of its tables."""

    def __init__(self, path: Path):
        super().__init__()
        self.source, self.open = path.read_text(encoding="utf-8"), []
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.cells: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        assert tag in SVG_EMPTY
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def headings(self) -> list[str]:
        return re.findall("<h2>(.*?)</h2>", self.source)

    def images(self) -> list[np.ndarray]:
        """Decode all pictures."""
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        encoded = [base64.b64decode(source.removeprefix("data:image/jpeg;base64,")) for source in sources]
        return [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in encoded]


def assert_self_contained(page: Page) -> None:
    """Nothing in the page refers to another file or runs."""
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "use", "image"} & {
        t for t, _ in page.tags
    }
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("href", "srcset", "action", "style"), (tag, name)
            assert name != "src" or value.startswith("data:image/")
    assert not re.search(r"https?://|url\(|@import", page.source)
    assert len(page.source.encode()) < 5e6
