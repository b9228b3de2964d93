# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Line charts and scatter plots as SVG, for a page that needs no other files."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

# of each series; also distinguishable with color blindness, and by their dashes if the page is printed in gray
COLORS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#555555", "#c79a00", "#56b4e9")
DASHES = ("none", "7 4", "2 3", "9 3 2 3")
WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 46  # margins around the plot, for the numbers and names of the axes
MAX_MARKERS = 30  # lines of more points have no markers
MAX_POINTS = 2000  # of a scatter plot; more would make the page large


class Series(NamedTuple):
    """Points of one kind. titles: a text for each, which a browser shows when the pointer rests on the point."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    titles: Sequence[str] = ()

    def points(self) -> list[tuple[float, float, str]]:
        """Return x, y and title of the points with finite numbers."""
        titles = self.titles or [""] * len(self.x)
        found = zip(map(float, self.x), map(float, self.y), titles)
        return [point for point in found if math.isfinite(point[0]) and math.isfinite(point[1])]


class Axis(NamedTuple):
    """An axis. low, high: its ends; None: those of the data. whole: only whole numbers. root: square roots, from 0."""

    label: str
    low: float | None = None
    high: float | None = None
    whole: bool = False
    root: bool = False

    def over(self, values: Sequence[float]) -> "Axis":
        """Return the axis with ends that the values and round numbers determine, unless they are given."""
        low = min(values) if self.low is None else self.low
        high = max(values) if self.high is None else self.high
        high = high if high > low else low + 1
        step = self._step(low, high)
        low = math.floor(low / step) * step if self.low is None else low
        high = math.ceil(high / step - 1e-9) * step if self.high is None else high
        return self._replace(low=low, high=high)

    def at(self, value: float) -> float:
        """Return the position of a value: 0 at the low end, 1 at the high end."""
        low, high, value = (math.sqrt(max(x, 0)) if self.root else x for x in (self.low, self.high, value))
        return (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Return the values to write beside the axis."""
        if self.root:
            rounded = [digit * 10.0**power for power in range(9) for digit in (1, 2, 5)]
            found = []
            for value in reversed(rounded):
                if 0.09 <= self.at(value) <= (self.at(found[0]) - 0.09 if found else 1):
                    found.insert(0, value)
            return [self.low, *found]
        step = self._step(self.low, self.high)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _step(self, low: float, high: float) -> float:
        """Return a round distance between ticks: 1, 2 or 5 times a power of ten."""
        rough = (high - low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * 0.999)
        return max(1, step) if self.whole else step


def chart(
    series: Sequence[Series], x: Axis, y: Axis, lines: bool = True, diagonal: bool = False, mark: float | None = None
) -> str:
    """Return an SVG element with a legend below it if there are several series; "" if there is no finite point.

    lines: join the points. diagonal: draw the line on which both numbers are equal. mark: draw a vertical line there.
    """
    named = [(one.name, one.points()) for one in series]
    every = [point for _, points in named for point in points]
    if not every:
        return ""
    x, y = x.over([point[0] for point in every]), y.over([point[1] for point in every])
    parts = [*_axes(x, y)]
    if diagonal:
        ends = max(x.low, y.low), min(x.high, y.high)
        (x1, y1), (x2, y2) = (_place(x, y, end, end) for end in ends)
        parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="guide"/>')
    if mark is not None and x.low <= mark <= x.high:
        at = _place(x, y, mark, y.low)[0]
        parts.append(f'<line x1="{at}" y1="{TOP}" x2="{at}" y2="{HEIGHT - BOTTOM}" class="guide"/>')
    share = min(1, MAX_POINTS / len(every))
    for number, (_, points) in enumerate(named):
        color = COLORS[number % len(COLORS)]
        if lines:
            parts += _line(x, y, points, color, DASHES[number % len(DASHES)])
        else:
            kept = [points[int(k / share)] for k in range(math.ceil(len(points) * share))]
            parts += [_circle(x, y, point, color, 'r="3.5" fill-opacity="0.5"') for point in kept]
    label = html.escape(f"{y.label} over {x.label}", quote=True)
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return picture + (_legend([name for name, _ in named], lines) if len(named) > 1 else "")


def _axes(x: Axis, y: Axis) -> list[str]:
    """Return the grid, its numbers and the names of the axes."""
    right, bottom, parts = WIDTH - RIGHT, HEIGHT - BOTTOM, []
    for value in x.ticks():
        at = _place(x, y, value, y.low)[0]
        parts.append(f'<line x1="{at}" y1="{TOP}" x2="{at}" y2="{bottom}" class="grid"/>')
        parts.append(f'<text x="{at}" y="{bottom + 16}" text-anchor="middle">{value:.6g}</text>')
    for value in y.ticks():
        at = _place(x, y, x.low, value)[1]
        parts.append(f'<line x1="{LEFT}" y1="{at}" x2="{right}" y2="{at}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" class="axis"/>')
    center, middle = (LEFT + right) / 2, (TOP + bottom) / 2
    parts.append(f'<text x="{center}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x.label)}</text>')
    turned = f'transform="translate(13 {middle}) rotate(-90)" text-anchor="middle"'
    parts.append(f"<text {turned}>{html.escape(y.label)}</text>")
    return parts


def _line(x: Axis, y: Axis, points: list[tuple[float, float, str]], color: str, dash: str) -> list[str]:
    places = " ".join("{},{}".format(*_place(x, y, *point[:2])) for point in points)
    parts = [
        f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="2" stroke-linejoin="round" '
        f'stroke-dasharray="{dash}"/>'
    ]
    if len(points) <= MAX_MARKERS:
        parts += [_circle(x, y, point, color, 'r="2.8"') for point in points]
    return parts


def _circle(x: Axis, y: Axis, point: tuple[float, float, str], color: str, style: str) -> str:
    column, row = _place(x, y, *point[:2])
    text = point[2] or f"{x.label} {point[0]:.6g}: {point[1]:.4g}"
    return f'<circle cx="{column}" cy="{row}" {style} fill="{color}"><title>{html.escape(text)}</title></circle>'


def _place(x: Axis, y: Axis, column: float, row: float) -> tuple[float, float]:
    """Return the position of a point in the picture; a point outside the axes lies on their edge."""
    across, up = (min(max(axis.at(value), 0), 1) for axis, value in ((x, column), (y, row)))
    return round(LEFT + across * (WIDTH - LEFT - RIGHT), 1), round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1)


def _legend(names: list[str], lines: bool) -> str:
    items = []
    for number, name in enumerate(names):
        color, dash = COLORS[number % len(COLORS)], DASHES[number % len(DASHES)]
        if lines:
            sample = f'<line x1="0" y1="6" x2="28" y2="6" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>'
        else:
            sample = f'<circle cx="22" cy="6" r="4" fill="{color}"/>'
        items.append(f'<span><svg width="28" height="12" aria-hidden="true">{sample}</svg> {html.escape(name)}</span>')
    return f'<p class="legend">{"".join(items)}</p>'
