# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Synthetic nuclei in the raw layout of the 2018 Data Science Bowl, to try the whole recipe without the real images."""

import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from imaging.raw.process_pool import process_pool
from runtime.files import sync_folder

MODALITIES = ("fluorescence", "tissue", "brightfield")
# In the real set about 81, 16 and 3 %; here the rare ones are more frequent, so that a small set has some of them.
SHARES = (0.74, 0.18, 0.08)
# Smaller regions, such as the rest of a nucleus at the border, are not marked in the real set either.
MIN_AREA = 20  # pixels

Range = tuple[float, float]


class Plate(NamedTuple):
    """One fluorescence experiment: sizes in pixels, intensities in gray levels, `coverage` as a share of the area."""

    share: float
    size: tuple[int, int]
    diameter: Range
    coverage: Range
    background: Range
    signal: Range
    read_noise: Range


PLATES = (
    Plate(0.42, (256, 256), (9, 18), (0.015, 0.13), (2, 15), (22, 120), (0.2, 0.8)),
    Plate(0.12, (256, 256), (14, 24), (0.08, 0.40), (2, 8), (25, 80), (0.1, 0.6)),
    Plate(0.20, (360, 360), (36, 54), (0.22, 0.42), (3, 8), (11, 28), (0.3, 0.5)),
    Plate(0.14, (520, 696), (23, 50), (0.03, 0.36), (2, 20), (20, 85), (0.2, 0.7)),
    Plate(0.06, (512, 640), (32, 46), (0.06, 0.20), (0, 7), (13, 45), (0.7, 1.8)),
    Plate(0.06, (256, 320), (14, 27), (0.015, 0.40), (3, 9), (35, 90), (0.2, 0.6)),
)
# BGR of the empty slide and of a median nucleus, for the two stains of the real tissue images
STAINS = (((202, 160, 178), (193, 64, 119)), ((212, 208, 207), (172, 74, 134)))


def _log_uniform(rng: np.random.Generator, bounds: Range) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _noise_field(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """Return smooth Gaussian noise, float32 (H, W), mean about 0, deviation about 1, with grains of `scale` pixels."""
    grid = [int(np.ceil(length / max(scale, 1))) + 1 for length in size]
    return cv2.resize(rng.standard_normal(grid, dtype=np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)


def _defocus(image: np.ndarray, sigma: float) -> np.ndarray:
    """Apply a wide Gaussian blur at a quarter of the resolution, which is much faster and looks the same."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(sigma / 4, 0.5))
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _outline(
    rng: np.random.Generator, center: np.ndarray, diameter: float, aspect: float, angle: float, roughness: float
) -> np.ndarray:
    """Return a closed smooth curve around `center` (x, y), int32 (40, 2): an ellipse plus a few low harmonics."""
    theta = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    order = np.arange(2, 6)[:, None]
    waves = np.cos(order * theta + rng.uniform(0, 2 * np.pi, (4, 1))) * rng.normal(0, roughness, (4, 1)) / order
    radius = diameter / 2 * (1 + waves.sum(0))
    x, y = radius * np.cos(theta) * np.sqrt(aspect), radius * np.sin(theta) / np.sqrt(aspect)
    turned = np.stack((x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)), 1)
    return np.round(center + turned).astype(np.int32)


def _scatter(rng: np.random.Generator, size: tuple[int, int], count: int, margin: float) -> np.ndarray:
    """Return points (x, y), float (count, 2), up to `margin` outside the image, denser in some regions."""
    density = np.exp(rng.uniform(0, 1.2) * _noise_field(rng, (16, 16), 5).astype(np.float64)).ravel()
    cell = np.stack(np.divmod(rng.choice(256, count, p=density / density.sum()), 16)[::-1], 1)
    return (cell + rng.random((count, 2))) / 16 * (np.array(size[::-1]) + 2 * margin) - margin


def _place_nuclei(
    rng: np.random.Generator, size: tuple[int, int], diameter: float, coverage: float, aspect: float, crowding: float
) -> tuple[np.ndarray, float]:
    """Return labels, uint16 (H, W), 1..n, and the direction (radians) of long nuclei; crowding: share that touch."""
    labels = np.zeros(size, np.uint16)
    count = max(1, round(coverage * labels.size / (np.pi / 4 * diameter**2)))
    centers = _scatter(rng, size, count, 0.4 * diameter)
    diameters = np.clip(diameter * rng.lognormal(0, rng.uniform(0.1, 0.3), count), 0.45 * diameter, 2 * diameter)
    lean, spread, roughness = rng.uniform(0, np.pi), rng.choice((0.2, 0.5, 2.0)), rng.uniform(0.03, 0.16)
    # the first one is complete and inside, so that every image has a nucleus
    centers[0], diameters[0] = rng.uniform(0.2, 0.8, 2) * size[::-1], diameter
    placed = 0
    for index in range(count):
        center, d = centers[index], diameters[index]
        if index and rng.random() < crowding:
            other, direction = rng.integers(index), rng.uniform(0, 2 * np.pi)
            reach = (d + diameters[other]) / 2 * rng.uniform(0.75, 1.1)
            center = centers[index] = centers[other] + reach * np.array((np.cos(direction), np.sin(direction)))
        stretch = max(1.0, aspect * rng.lognormal(0, 0.15))
        points = _outline(rng, center, d, stretch, rng.normal(lean, spread), roughness)
        x0, y0 = np.maximum(points.min(0), 0)
        x1, y1 = np.minimum(points.max(0) + 1, size[::-1])
        if x1 <= x0 or y1 <= y0:
            continue
        patch = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(patch, [points - (x0, y0)], 1)
        whole = int(patch.sum())
        region = labels[y0:y1, x0:x1]
        patch[region > 0] = 0
        _, parts, stats, _ = cv2.connectedComponentsWithStats(patch, connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        # real nuclei press on each other, but are seldom mostly hidden
        if areas.size and areas.max() >= max(MIN_AREA, 0.6 * whole):
            placed += 1
            region[parts == 1 + areas.argmax()] = placed
    return labels, lean


def _levels(rng: np.random.Generator, labels: np.ndarray, spread: float) -> np.ndarray:
    """Return the strength of each nucleus, float32 (n + 1,), with a median of 1; index 0, the background, is 0."""
    levels = rng.lognormal(0, spread, int(labels.max()) + 1).astype(np.float32)
    levels[0] = 0
    return levels


def _depth(labels: np.ndarray, diameter: float) -> np.ndarray:
    """Return the distance from the outline: 0 there, also between touching nuclei, and 1 at the center of a nucleus."""
    seam = cv2.dilate(labels, np.ones((3, 3), np.uint8)) != labels
    inside = ((labels > 0) & ~seam).astype(np.uint8)
    return np.minimum(cv2.distanceTransform(inside, cv2.DIST_L2, 3) / (0.45 * diameter), 1)


def _smears(rng: np.random.Generator, size: tuple[int, int], count: int, diameter: float, lean: float) -> np.ndarray:
    """Return out-of-focus nuclei and cytoplasm, float32 (H, W), from 0 to about 1."""
    canvas = np.zeros(size, np.float32)
    for x, y in _scatter(rng, size, count, diameter):
        half, angle = rng.uniform(0.1, 2.5) * diameter, rng.normal(lean, 0.5)
        ends = np.array([(x, y)]) + np.array([[-half], [half]]) * (np.cos(angle), np.sin(angle))
        thickness = max(1, round(rng.uniform(0.2, 1.0) * diameter))
        start, stop = (tuple(map(int, end)) for end in ends)
        cv2.line(canvas, start, stop, rng.uniform(0.3, 1.0), thickness)
    return _defocus(canvas, 0.35 * diameter)


def _draw_specks(rng: np.random.Generator, canvas: np.ndarray, clumps: int, diameter: float, strength: Range) -> None:
    """Draw clumps of debris, much smaller than nuclei, on a float32 (H, W) canvas."""
    for center in _scatter(rng, canvas.shape, clumps, 0):
        for offset in rng.normal(0, 0.35 * diameter, (rng.integers(1, 16), 2)):
            x, y = (center + offset).astype(int).tolist()
            cv2.circle(canvas, (x, y), int(rng.uniform(0, 0.1) * diameter), rng.uniform(*strength), -1)


def _fluorescence(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    plate = PLATES[rng.choice(len(PLATES), p=[plate.share for plate in PLATES])]
    size, diameter, coverage = plate.size, _log_uniform(rng, plate.diameter), _log_uniform(rng, plate.coverage)
    signal, background = _log_uniform(rng, plate.signal), rng.uniform(*plate.background)
    labels, lean = _place_nuclei(rng, size, diameter, coverage, rng.uniform(1.05, 1.7), rng.uniform(0, 0.3))
    levels = _levels(rng, labels, rng.uniform(0.1, 0.4))
    # mitotic and dying nuclei are very bright and others very dim, so that both lie side by side
    draw = rng.random(levels.size)
    levels[draw < rng.choice((0, 0.03, 0.15))] *= rng.uniform(2, 5)
    levels[draw > 1 - rng.choice((0, 0, 0.3))] *= rng.uniform(0.25, 0.6)
    # nobody would have marked a fainter nucleus
    levels[1:] = np.maximum(levels[1:], 8 / signal)
    light = levels[labels] * (1 - rng.uniform(-0.3, 0.6) * (1 - _depth(labels, diameter)) ** 2)
    for grain in (0.1, 0.3):
        light *= np.exp(rng.uniform(0, 0.28) * _noise_field(rng, size, grain * diameter))
    if rng.random() < 0.35:
        _draw_specks(rng, light, int(rng.integers(1, 5)), diameter, (0.2, 1.5))
    light = cv2.GaussianBlur(light, (0, 0), max(0.6, rng.uniform(0.025, 0.09) * diameter))
    light += rng.choice((0.05, 0.15, 0.3)) * _defocus(light, rng.uniform(0.5, 1.2) * diameter)
    if rng.random() < 0.7:
        light += rng.uniform(0.03, 0.2) * _smears(rng, size, int(rng.integers(3, 30)), diameter, lean)
    shading = _noise_field(rng, size, max(size))
    # sometimes stray light brightens one side
    stray = 2 if rng.random() < 0.05 else rng.uniform(0, 0.15)
    gray = signal * light * (1 + rng.uniform(0, 0.15) * shading) + background * np.maximum(0, 1 + stray * shading)
    variance = _log_uniform(rng, plate.read_noise) ** 2 + rng.uniform(0.005, 0.05) * np.maximum(gray, 0)
    return gray + np.sqrt(variance) * rng.standard_normal(size, dtype=np.float32), labels


def _tissue(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    size, white = (256, 320), rng.random() < 0.35
    slide, nucleus = (np.array(color) + rng.normal(0, 4, 3) for color in STAINS[int(white)])
    diameter, aspect = (rng.uniform(16, 24), 1.2) if white else (_log_uniform(rng, (13, 48)), rng.uniform(1.2, 3))
    labels, lean = _place_nuclei(rng, size, diameter, _log_uniform(rng, (0.07, 0.8)), aspect, rng.uniform(0.1, 0.6))
    stain = _levels(rng, labels, rng.uniform(0.15, 0.4))[labels]
    stain *= 1 - rng.uniform(-0.6, 0.4) * (1 - _depth(labels, diameter)) ** 2
    for grain in (0.1, 0.35):
        stain *= np.exp(rng.uniform(0.05, 0.35) * _noise_field(rng, size, grain * diameter))
    stain = cv2.GaussianBlur(stain, (0, 0), rng.uniform(0.7, 1.6))
    stain += rng.uniform(0.05, 0.5) * _smears(rng, size, int(rng.integers(0, 10)), diameter, lean)
    # the rest of the tissue takes up a little of the stain, holes in it do not
    matter = np.clip(2 * _noise_field(rng, size, 90) + rng.uniform(-1, 3), 0, 1)
    texture = 1 + 0.5 * _noise_field(rng, size, 3) + 0.5 * _noise_field(rng, size, 12)
    stain += rng.uniform(0.02, 0.1) * (0.4 if white else 1) * matter * np.maximum(texture, 0)
    # Beer-Lambert law: a layer of dye lets through a fixed share of each color
    color = slide.astype(np.float32) * np.exp(np.log(nucleus / slide).astype(np.float32) * stain[..., None])
    return color + rng.uniform(0.8, 1.8) * rng.standard_normal((*size, 1), dtype=np.float32), labels


def _brightfield(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    size, diameter = (512, 512), rng.uniform(7, 15)
    labels, _ = _place_nuclei(rng, size, diameter, _log_uniform(rng, (0.01, 0.04)), 1.2, rng.uniform(0, 0.2))
    light = rng.uniform(222, 234) * (1 + 0.015 * _noise_field(rng, size, 300))
    # pale cells overlap around the nuclei; each of them absorbs some of the light
    area = np.bincount(labels.ravel())
    y, x = (np.bincount(labels.ravel(), axis.ravel()) / area for axis in np.indices(size))
    for center in np.stack((x, y), 1)[1:]:
        cell = np.zeros(size, np.uint8)
        points = _outline(rng, center, rng.uniform(3, 6) * diameter, 1.2, rng.uniform(0, np.pi), 0.25)
        light[cv2.fillPoly(cell, [points], 1) > 0] *= rng.uniform(0.72, 0.92)
    light *= 1 - 0.04 * (light < 210) * _noise_field(rng, size, 5)
    opacity = np.minimum(rng.uniform(0.35, 0.6) * _levels(rng, labels, 0.12), 0.75)[labels]
    # in some slides only the rim of a nucleus is dark
    opacity *= 1 - rng.choice((0, 0, 0.6)) * _depth(labels, diameter)
    _draw_specks(rng, opacity, int(rng.integers(0, 10)), diameter, (0.3, 0.8))
    gray = cv2.GaussianBlur(light * (1 - opacity), (0, 0), rng.uniform(0.7, 1.4))
    return gray + rng.uniform(1.2, 2.5) * rng.standard_normal(size, dtype=np.float32), labels


def synthesize(rng: np.random.Generator, modality: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, uint8 BGR (H, W, 3), and its labels, uint16 (H, W): 0 is background, 1..n are the nuclei."""
    if modality is None:
        modality = str(rng.choice(MODALITIES, p=SHARES))
    if modality not in MODALITIES:
        raise ValueError(f"unknown modality {modality!r}: choose from {', '.join(MODALITIES)}")
    draw = {"fluorescence": _fluorescence, "tissue": _tissue, "brightfield": _brightfield}[modality]
    levels, labels = draw(rng)
    image = np.clip(np.round(levels), 0, 255).astype(np.uint8)
    return (image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)), labels


def _write_one(index: int, folder: Path, seed: int) -> int:
    image, labels = synthesize(np.random.default_rng((seed, index)))
    name, count = f"synthetic_{index:04d}", int(labels.max())
    for part in ("images", "masks"):
        (folder / name / part).mkdir(parents=True)
    masks = {f"masks/{k}.png": (labels == k + 1).astype(np.uint8) * 255 for k in range(count)}
    for file, pixels in {f"images/{name}.png": image, **masks}.items():
        # not by imwrite, which does not report a full disk
        (folder / name / file).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return count


def write_raw_set(folder: Path, count: int, seed: int, workers: int = 1) -> int:
    """Write a raw set, whose image i depends on (seed, i) alone, to `folder`; returns the number of nuclei."""
    for name, value, least in (("count", count, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty")
    unfinished = folder.with_name(folder.name + ".partial")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    write = partial(_write_one, folder=unfinished, seed=seed)
    with process_pool(workers, cv2.setNumThreads, 0) if workers > 1 else nullcontext() as pool:
        counts = pool.map(write, range(count), chunksize=4) if workers > 1 else map(write, range(count))
        nuclei = sum(tqdm(counts, total=count, desc="synthetic images", unit="image", disable=None))
    unfinished.rename(folder)  # also over an empty folder
    sync_folder(folder.parent)
    return nuclei
