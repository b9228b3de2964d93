# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Charts as SVG: each point lies where its numbers and the numbers beside the axes say."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from imaging.charts import MAX_POINTS, Axis, Series, chart


def parse(svg: str) -> ElementTree.Element:
    """Return a chart and its legend as a tree; fails if it is not well-formed."""
    return ElementTree.fromstring(f"<div>{svg}</div>")


def positions(tree: ElementTree.Element) -> tuple[dict[float, float], dict[float, float]]:
    """Return the position of each number beside the horizontal and the vertical axis."""
    texts = [text for text in tree.iter("text") if re.fullmatch(r"-?[\d.e+-]+", text.text)]
    across = {float(text.text): float(text.get("x")) for text in texts if text.get("text-anchor") == "middle"}
    up = {float(text.text): float(text.get("y")) - 4 for text in texts if text.get("text-anchor") == "end"}
    return across, up


def circles(tree: ElementTree.Element) -> np.ndarray:
    """Return the positions of the circles, without those of the legend."""
    found = next(tree.iter("svg")).iter("circle")
    return np.array([(float(circle.get("cx")), float(circle.get("cy"))) for circle in found])


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("high", [1, 7, 40, 300, 12345])
def test_points_lie_at_their_numbers(root: bool, high: int) -> None:
    values = np.random.default_rng(high).uniform(0, high, (20, 2))
    axes = Axis("across", 0, high, root=root), Axis("up", 0, high, root=root)
    tree = parse(chart([Series("all", *values.T.tolist())], *axes, lines=False))
    scale = np.sqrt if root else np.asarray
    for found, ticks, own in zip(circles(tree).T, positions(tree), values.T):
        numbers, places = np.array(sorted(ticks.items())).T
        assert len(numbers) >= 2 + (high > 1) and numbers[0] == 0
        slope, start = np.polyfit(scale(numbers), places, 1)
        assert np.allclose(slope * scale(own) + start, found, atol=0.6)


def test_numbers_beside_the_axes_are_round_and_whole_for_epochs() -> None:
    for last in (1, 2, 3, 9, 10, 57, 100, 999):
        x = list(range(1, last + 1))
        across, up = positions(parse(chart([Series("all", x, [0.3] * last)], Axis("epoch", 1, whole=True), Axis("y"))))
        assert across and all(value == int(value) for value in across), last
        assert len(across) <= 9 and len(up) >= 2


def test_a_line_joins_the_finite_points_and_each_series_has_a_name() -> None:
    series = [Series("a < b", [1, 2, 3, 4], [0, math.nan, 1, 2]), Series("c", [1, 2], [1, 1])]
    tree = parse(chart(series, Axis("x"), Axis("y")))
    lines = [line.get("points").split() for line in tree.iter("polyline")]
    assert [len(line) for line in lines] == [3, 2]
    assert [span.find("svg").tail.strip() for span in tree.iter("span")] == ["a < b", "c"]
    colors = [line.get("stroke") for line in tree.iter("polyline")]
    assert colors == [span.find("svg/line").get("stroke") for span in tree.iter("span")]


def test_on_the_diagonal_both_numbers_are_equal() -> None:
    series = [Series("all", [0, 30, 200], [0, 30, 200])]
    axes = Axis("true", 0, 210, root=True), Axis("found", 0, 210, root=True)
    tree = parse(chart(series, *axes, lines=False, diagonal=True))
    line = next(line for line in tree.iter("line") if line.get("class") == "guide")
    (x1, y1), (x2, y2) = ((float(line.get(f"x{k}")), float(line.get(f"y{k}"))) for k in (1, 2))
    for x, y in circles(tree):
        assert abs((x - x1) * (y2 - y1) - (y - y1) * (x2 - x1)) / math.hypot(x2 - x1, y2 - y1) < 0.2


def test_titles_and_marks() -> None:
    svg = chart([Series("all", [1, 2], [3, 4], ['<script>"', "b"])], Axis("x", 1, 3), Axis("y"), lines=False, mark=2)
    tree = parse(svg)
    assert [title.text for title in tree.iter("title")] == ['<script>"', "b"] and "<script" not in svg
    line = next(line for line in tree.iter("line") if line.get("class") == "guide")
    assert float(line.get("x1")) == circles(tree)[1][0]


def test_nothing_to_draw() -> None:
    assert chart([], Axis("x"), Axis("y")) == chart([Series("a", [1], [math.inf])], Axis("x"), Axis("y")) == ""


def test_a_single_point_and_equal_points_can_be_drawn() -> None:
    for x, y in (([1], [0.5]), ([3, 3], [2, 2]), ([0], [0]), ([1], [-1e-9]), ([1], [1e12])):
        assert len(circles(parse(chart([Series("a", x, y)], Axis("x"), Axis("y"))))) == len(x)


def test_many_points_are_thinned_out() -> None:
    x = list(range(3 * MAX_POINTS))
    tree = parse(chart([Series("a", x, x), Series("b", x[:7], x[:7])], Axis("x"), Axis("y"), lines=False))
    assert MAX_POINTS * 0.9 < len(circles(tree)) <= MAX_POINTS + 2
