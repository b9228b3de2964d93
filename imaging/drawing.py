# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Pictures for people: probability maps, masks, outlines, contact sheets."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from imaging.reader import write_image

# BGR; also distinguishable with red-green color blindness
COLORS = ((0, 200, 255), (255, 120, 0), (180, 60, 220), (80, 220, 80))
TRUTH_COLOR, TRUTH_COLOR_ON_BRIGHT = (255, 255, 255), (0, 0, 0)
# BGR, of single nuclei: light enough for fluorescence images, and darkened on bright ones
NUCLEUS_COLORS = np.array(
    [
        *((0, 220, 255), (255, 150, 60), (90, 230, 60), (255, 80, 230), (0, 130, 255)),
        *((255, 240, 60), (90, 90, 255), (60, 255, 190), (255, 140, 170), (200, 130, 255)),
    ],
    np.uint8,
)
DARKENED = 0.6
STRIP_ROWS = 1024  # large label images are outlined by strips, which saves memory
TILE_SIDE = 192  # pixels of a picture on the contact sheet


def write_probabilities(folder: Path, img_id: str, probability: np.ndarray) -> None:
    """Write `<folder>/<class>/<id>.jpg`, probability × 255 at the model's size, for (num_classes, H, W) in [0, 1]."""
    for k, channel in enumerate(probability):
        write_image(folder / str(k) / f"{img_id}.jpg", (channel * 255).astype(np.uint8))


def to_mask(probability: np.ndarray, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
    """Resize a probability map (h, w) and compare it with the threshold: boolean (height, width)."""
    # in this order, because the outlines of a resized mask would have steps
    return cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR) > threshold


def brighten(image: np.ndarray) -> np.ndarray:
    """Stretch the contrast of a dark uint8 image, all channels alike; an image with bright parts is unchanged."""
    low, high = np.percentile(image, (0.5, 99.8))
    if high > 200:
        return image
    gain = min(255 / max(high - low, 1), 20)  # limited, so that an image of nothing but noise stays dark
    levels = ((np.arange(256) - low) * gain).clip(0, 255).astype(np.uint8)
    return cv2.LUT(image, levels)  # a look-up table: a large image as floats would fill the memory


def overlay(image: np.ndarray, masks: list[np.ndarray], truth: list[np.ndarray] = ()) -> np.ndarray:
    """Outline masks (boolean (H, W), one per class) in color, and true masks in white, on a BGR image (H, W, 3)."""
    picture = image.copy()
    thickness = max(1, round(max(image.shape[:2]) / 400))
    colors = [COLORS[k % len(COLORS)] for k in range(len(masks))]
    for color, mask in [*((TRUTH_COLOR, mask) for mask in truth), *zip(colors, masks)]:
        outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(picture, outlines, -1, color, thickness)
    return picture


def outline_labels(
    image: np.ndarray, labels: np.ndarray, truth_labels: np.ndarray | None = None, thickness: int | None = None
) -> np.ndarray:
    """Outline each nucleus of a label image in its own color on a BGR image (H, W, 3), and true nuclei in white.

    labels, truth_labels: (H, W), whole numbers from 0; 0 is background. Outlines lie inside their nuclei, so two nuclei
    that touch have two outlines; their colors differ. If the image is bright, true nuclei are outlined in black.
    thickness: in pixels; None: about a 400th of the longer side, but at most a 12th of the nuclei's mean diameter.
    Raises ValueError if the sizes differ.
    """
    for given in (labels, truth_labels):
        if given is not None and given.shape != image.shape[:2]:
            raise ValueError(f"labels must have the size of the image, {image.shape[:2]}, not {given.shape}")
    picture, is_bright = image.copy(), image[::4, ::4].mean() > 127
    if truth_labels is not None:
        for rows, _, outlines in _outlines(truth_labels, thickness):
            picture[rows][outlines] = TRUTH_COLOR_ON_BRIGHT if is_bright else TRUTH_COLOR
    colors = (NUCLEUS_COLORS * (DARKENED if is_bright else 1)).astype(np.uint8)[color_numbers(labels)]
    for rows, strip, outlines in _outlines(labels, thickness):
        picture[rows][outlines] = colors[strip[outlines]]
    return picture


def _outlines(labels: np.ndarray, thickness: int | None) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield strips of a label image: their rows, their labels, and which pixels lie on outlines; see outline_labels."""
    if thickness is None:
        diameter = (4 / np.pi * np.count_nonzero(labels) / max(1, labels.max(initial=0))) ** 0.5
        thickness = max(1, min(round(max(labels.shape) / 400), round(diameter / 12)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thickness + 1,) * 2)
    for rows, strip in _strips(labels, thickness):
        # also beyond the edges of the image is background, so that the outlines of nuclei that it cuts are closed
        padded = cv2.copyMakeBorder(strip, 0, 0, thickness, thickness, cv2.BORDER_CONSTANT, value=0)
        differing = cv2.dilate(padded, kernel) != cv2.erode(padded, kernel)
        own = slice(thickness, -thickness)
        yield rows, labels[rows], differing[own, own] & (labels[rows] > 0)


def color_numbers(labels: np.ndarray) -> np.ndarray:
    """Return the number of each label's color in NUCLEUS_COLORS (largest label + 1,); those of near nuclei differ."""
    neighbors, total = defaultdict(set), len(NUCLEUS_COLORS)
    for _, strip in _strips(labels, 1):
        for low, high in [*_touching(strip), *_touching(cv2.dilate(strip, np.ones((5, 5), np.uint8)))]:
            neighbors[high].add(low)
    numbers = np.arange(labels.max(initial=0) + 1) % total
    for label in sorted(neighbors):
        taken = {numbers[other] for other in neighbors[label]}
        free = ((label + k) % total for k in range(total) if (label + k) % total not in taken)
        numbers[label] = next(free, label % total)
    return numbers


def _touching(labels: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the pairs of labels, the lower one first, that have pixels side by side or corner to corner."""
    for first, second in (
        (labels[1:], labels[:-1]),
        (labels[:, 1:], labels[:, :-1]),
        (labels[1:, 1:], labels[:-1, :-1]),
        (labels[1:, :-1], labels[:-1, 1:]),
    ):
        differing = first != second
        pairs = np.stack([first[differing], second[differing]]).astype(np.int64)
        low, high = pairs.min(0), pairs.max(0)
        for pair in np.unique(low[low > 0] << 32 | high[low > 0]).tolist():  # far faster than unique rows
            yield divmod(pair, 2**32)


def _strips(labels: np.ndarray, margin: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield strips of rows, and their labels with `margin` more rows above and below: zeros outside the image.

    Their type is one that OpenCV's morphology takes and that holds every label.
    """
    largest, height = labels.max(initial=0), len(labels)
    kind = np.uint16 if largest < 2**16 else np.float32 if largest < 2**24 else np.float64
    for top in range(0, height, STRIP_ROWS):
        bottom = min(top + STRIP_ROWS, height)
        above, below = min(margin, top), min(margin, height - bottom)
        strip = labels[top - above : bottom + below].astype(kind)
        yield slice(top, bottom), np.pad(strip, ((margin - above, margin - below), (0, 0)))


def fit(image: np.ndarray, side: int = TILE_SIDE) -> np.ndarray:
    """Scale a gray or BGR image to fit a black BGR square of `side` pixels; the proportions are kept."""
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    height, width = image.shape[:2]
    scale = side / max(height, width)
    interpolation = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA  # the pixels of small images stay visible
    size = max(1, round(width * scale)), max(1, round(height * scale))
    square = np.zeros((side, side, 3), np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=interpolation)
    return square


def fit_outlined(image: np.ndarray, labels: np.ndarray, truth: np.ndarray | None = None) -> np.ndarray:
    """Scale a BGR image like `fit`, and outline its nuclei afterwards, so that outlines in large images stay visible.

    labels, truth: as of outline_labels.
    """
    scale = TILE_SIDE / max(labels.shape)
    rows, columns = (
        ((2 * np.arange(max(1, round(size * scale))) + 1) * size // (2 * max(1, round(size * scale))))
        for size in labels.shape
    )
    small = cv2.resize(image, (len(columns), len(rows)), interpolation=cv2.INTER_AREA)
    small_labels, small_truth = (None if found is None else found[np.ix_(rows, columns)] for found in (labels, truth))
    return fit(outline_labels(small, small_labels, small_truth, thickness=1))


def contact_sheet(rows: list[tuple[str, list[np.ndarray]]], titles: list[str]) -> np.ndarray:
    """Arrange captions and their images, made by `fit`, in two columns; returns BGR. `titles` stand at the top."""
    side, gap, header, caption = TILE_SIDE, 6, 26, 18
    strip_width = len(titles) * (side + gap) + gap
    columns = 2 if len(rows) > 1 else 1
    lines = -(-len(rows) // columns)
    sheet = np.full((header + lines * (side + caption + gap), strip_width * columns, 3), 32, np.uint8)
    for column in range(columns):
        for k, title in enumerate(titles):
            _write_text(sheet, title, column * strip_width + gap + k * (side + gap), 18, 0.5)
    for number, (name, images) in enumerate(rows):
        top, left = header + number // columns * (side + caption + gap), number % columns * strip_width + gap
        _write_text(sheet, name if len(name) <= 48 else f"{name[:45]}...", left, top + 12, 0.38)
        for k, image in enumerate(images):
            x = left + k * (side + gap)
            sheet[top + caption : top + caption + side, x : x + side] = image
    return sheet


def _write_text(sheet: np.ndarray, text: str, x: int, y: int, size: float) -> None:
    text = text.encode("ascii", "replace").decode()  # OpenCV's font has no other characters
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (230, 230, 230), 1, cv2.LINE_AA)
