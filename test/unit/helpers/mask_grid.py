# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Mask files of many kinds with the pixels that they mark. Nothing here uses the code under test."""

import functools
import io
import itertools
import re
from collections.abc import Callable
from typing import NamedTuple

import cv2
import imagecodecs
import numpy as np
from PIL import Image

from helpers.format_grid import GRAY, PALETTE, RGB, RGBA, by_opencv, chunk, exif, png, saved
from helpers.image_grid import stored_as
from helpers.stack_grid import pages_of
from helpers.tiff_grid import written
from helpers.tiff_writer import Page, page_tags, strips_of, write_tiff
from runtime.errors import InputError

HEIGHT, WIDTH = 61, 78
SIZE = (HEIGHT, WIDTH)


class MaskFile(NamedTuple):
    """A mask file, and what a reader must make of it.

    truth: for each page (None: the only one), booleans (H, W), True if a pixel is marked; or numbers (H, W), one for
    each nucleus; or None if the file must be refused. Upright.
    unsure: pixels at soft edges, which may be marked or not.
    kind: of the mask that must be read, or "" if every kind is right that marks the right pixels.
    must: "read", "refuse", or "" if both are right. A mask of numbers is read if its numbers are.
    cause: a regular expression that the message of a refusal must match.
    """

    family: str
    name: str
    data: bytes
    truth: dict[int | None, np.ndarray | None]
    must: str = "read"
    cause: str = ""
    kind: str = ""
    unsure: np.ndarray | None = None
    renumbered: bool = False  # the numbers may differ, but each nucleus has one of its own

    @property
    def id(self) -> str:
        return f"{self.family}: {self.name}"


def outcome(file: MaskFile, decode: Callable, to_training: Callable, turn: Callable, name: str) -> str:
    """Read every page of a mask; returns "right", "refused", or what is wrong, as a sentence."""
    outcomes = []
    for page, truth in file.truth.items():
        try:
            mask = decode(page)
            if mask.problem:
                raise InputError(mask.problem)
            outcomes.append(_compare(file, mask, truth, to_training, turn, name))
        except InputError as error:
            named = str(error).startswith(f"{name}: ") and "\n" not in str(error)
            good = named and re.search(file.cause, str(error))
            outcomes.append("refused" if good else f"refused without the name or the cause {file.cause!r}: {error}")
        except Exception as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    wrong = [text for text in outcomes if text not in ("right", "refused")]
    return (wrong or sorted(outcomes))[0]


def _compare(file: MaskFile, mask, truth: np.ndarray | None, to_training: Callable, turn: Callable, name: str) -> str:
    if truth is None:
        return f"read as {mask.kind}, but must be refused"
    if file.kind and mask.kind != file.kind:
        return f"read as {mask.kind}, but is {file.kind}"
    pixels = turn(mask.pixels, mask.orientation)
    if pixels.shape != truth.shape:
        return f"read as {pixels.shape}, but is {truth.shape}"
    if mask.kind == "numbers" and truth.dtype == bool and np.array_equal(np.unique(pixels > 0), [False, True]):
        truth = np.where(truth, pixels.max(), 0)  # marks of another value than 255 are one nucleus
    if mask.kind == "numbers":
        return _compare_numbers(file, mask, pixels, truth, to_training, name)
    if truth.dtype != bool and len(np.unique(truth)) > 2:
        return f"numbers read as {mask.kind}"
    found = turn(to_training(mask, name), mask.orientation)
    if found.dtype != np.uint8:
        return f"read as {found.dtype}"
    marked = found == 1 if mask.kind == "zero_one" else found > 127
    sure = ~file.unsure if file.unsure is not None else np.ones(truth.shape, bool)
    differing = np.count_nonzero((marked != (truth > 0)) & sure)
    return f"{differing} pixels marked wrongly" if differing else "right"


def _compare_numbers(
    file: MaskFile, mask, pixels: np.ndarray, truth: np.ndarray, to_training: Callable, name: str
) -> str:
    try:
        to_training(mask, name)
    except InputError as error:
        count = len(np.unique(truth)) - 1
        if not re.match(rf"{re.escape(name)}: holds {count} numbered nuclei", str(error)):
            return f"refused for training without the cause: {error}"
    else:
        return "numbers given to training"
    if not file.renumbered:
        return "right" if np.array_equal(pixels, truth) else "other numbers"
    pairs = set(zip(pixels.ravel().tolist(), truth.ravel().astype(int).tolist()))
    one_to_one = len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    return "right" if one_to_one and (0, 0) in pairs else "nuclei mixed up"


# --- nuclei ----------------------------------------------------------------------------------------------------------


@functools.cache
def nuclei(seed: int = 0, count: int = 12, radius: tuple[int, int] = (4, 7)) -> np.ndarray:
    """Return numbers 1 … count on 0, int32 (H, W): discs that may touch, none of which is covered whole."""
    draws = np.random.default_rng(seed)
    numbers = np.zeros(SIZE, np.int32)
    placed = 0
    for _ in range(20000):
        center = draws.integers((3, 3), (WIDTH - 3, HEIGHT - 3)).tolist()
        disc = cv2.circle(np.zeros(SIZE, np.uint8), center, int(draws.integers(*radius)), 1, -1) > 0
        if not numbers[disc].any():
            placed += 1
            numbers[disc] = placed
        if placed == count:
            return numbers
    raise ValueError(f"only {placed} nuclei have room")


def near_edge(marked: np.ndarray, distance: int) -> np.ndarray:
    """Return the pixels that lie at most this far from an edge."""
    kernel = np.ones((2 * distance + 1,) * 2, np.uint8)
    return cv2.dilate(marked.astype(np.uint8), kernel) != cv2.erode(marked.astype(np.uint8), kernel)


def two_values() -> list[MaskFile]:
    family, files = "two values", []
    for seed, share in ((0, "some"), (1, "all black"), (2, "all marked"), (3, "one pixel")):
        marked = nuclei(seed) > 0
        if share == "all black":
            marked = np.zeros(SIZE, bool)
        if share == "all marked":
            marked = np.ones(SIZE, bool)
        if share == "one pixel":
            marked = np.zeros(SIZE, bool)
            marked[7, 9] = True
        for dtype, high in (
            ("uint8", 255), ("uint8", 1), ("uint16", 1), ("uint16", 255), ("uint16", 4095), ("uint16", 65535),
            ("int16", 1), ("int16", 255), ("int32", 1), ("int32", 255), ("int32", 65535), ("uint32", 1),
            ("uint32", 255), ("uint32", 2**32 - 1), ("int64", 1), ("int64", 255), ("float32", 1), ("float32", 255),
            ("float64", 1), ("float64", 255), ("float32", 65535),
        ):  # fmt: skip
            values = (marked * high).astype(dtype)
            kind = "marks" if high > 1 or dtype.startswith("float") or not marked.any() else "zero_one"
            for compression in (None, "lzw"):
                data = written(values, photometric="minisblack", compression=compression)
                files.append(
                    MaskFile(family, f"TIFF {dtype} {high} {compression} {share}", data, {None: marked}, kind=kind)
                )
            if dtype in ("uint8", "uint16"):
                data = by_opencv(".png", values)
                files.append(MaskFile(family, f"PNG {dtype} {high} {share}", data, {None: marked}, kind=kind))
        data = written(marked, photometric="minisblack")
        files.append(MaskFile(family, f"TIFF bool {share}", data, {None: marked}, kind="marks"))
        data = saved(Image.fromarray(marked), "PNG")
        files.append(MaskFile(family, f"PNG 1 bit {share}", data, {None: marked}, kind="marks"))
    marked = nuclei() > 0
    for extension in (".bmp", ".webp", ".jp2"):
        parameters = (cv2.IMWRITE_WEBP_QUALITY, 101) if extension == ".webp" else ()
        data = by_opencv(extension, marked.astype(np.uint8) * 255, *parameters)
        files.append(MaskFile(family, f"{extension} 255", data, {None: marked}, "read" if extension == ".bmp" else ""))
        data = by_opencv(extension, marked.astype(np.uint8), *parameters)
        files.append(MaskFile(family, f"{extension} 1", data, {None: marked}, "read" if extension == ".bmp" else ""))
    data = saved(Image.fromarray(marked.astype(np.uint8) * 255), "GIF")
    files.append(MaskFile(family, "GIF 255", data, {None: marked}))
    for high in (128, 200, 254, 100, 7):
        values = (marked * high).astype(np.uint8)
        files.append(MaskFile(family, f"PNG {high}", by_opencv(".png", values), {None: marked}, ""))
    for dtype, high in (("int16", 32767), ("int8", 127), ("int32", 2**31 - 1), ("uint16", 32768), ("uint16", 1000)):
        data = written((marked * high).astype(dtype), photometric="minisblack")
        files.append(MaskFile(family, f"TIFF {dtype} {high}", data, {None: marked}, "", cause="1 numbered nuclei"))
    for dtype, high in (("uint8", 255), ("uint16", 65535), ("uint8", 1)):
        stored = np.iinfo(dtype).max - (marked * high).astype(dtype)
        data = written(stored, photometric="miniswhite")
        files.append(MaskFile(family, f"white is zero {dtype} {high}", data, {None: marked}))
    data = written(~marked, photometric="miniswhite", compression="deflate")
    files.append(MaskFile(family, "white is zero bool", data, {None: marked}))
    for compression in ("group4", "group3"):
        data = saved(Image.fromarray(marked), "TIFF", compression=compression)
        files.append(MaskFile(family, f"TIFF {compression}", data, {None: marked}, ""))
    for number in range(1, 9):
        stored = stored_as(marked, number)
        data = written(stored.astype(np.uint8) * 255, photometric="minisblack", extratags=[(274, 3, 1, number, True)])
        files.append(MaskFile(family, f"TIFF, orientation {number}", data, {None: marked}))
        extra = chunk(b"eXIf", exif(number).removeprefix(b"Exif\0\0"))
        data = png(stored.astype(np.uint8) * 255, 8, GRAY, before=extra)
        files.append(MaskFile(family, f"PNG, orientation {number}", data, {None: marked}))
    return files


def soft_edges() -> list[MaskFile]:
    family, files = "soft edges", []
    for seed, radius in ((0, (4, 7)), (1, (7, 11)), (2, (3, 5))):
        marked = nuclei(seed, 8, radius) > 0
        white = marked.astype(np.uint8) * 255
        name = f"nuclei of {radius[0]} to {radius[1] - 1} pixels"
        small = cv2.resize(white, (WIDTH * 2 // 3, HEIGHT * 2 // 3))
        large = cv2.resize(white, (WIDTH * 2, HEIGHT * 2))
        cubic = cv2.resize(white, (WIDTH * 3 // 2, HEIGHT * 3 // 2), interpolation=cv2.INTER_CUBIC)
        area = cv2.resize(white, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
        drawn = np.zeros(SIZE, np.uint8)
        for number in range(1, 9):
            rows, columns = np.nonzero(nuclei(seed, 8, radius) == number)
            center = int(columns.mean() * 16), int(rows.mean() * 16)
            cv2.circle(drawn, center, radius[0] * 16 + 5, 255, -1, cv2.LINE_AA, 4)
        blurred = cv2.GaussianBlur(white, (5, 5), 1)
        for way, soft in (
            ("resized to two thirds", small),
            ("resized to double", large),
            ("resized by cubic splines", cubic),
            ("resized to half", area),
            ("drawn with antialiasing", drawn),
            ("blurred", blurred),
        ):
            truth = {None: soft > 127}
            files.append(MaskFile(family, f"PNG {way}, {name}", by_opencv(".png", soft), truth, kind="marks"))
            data = written(soft, photometric="minisblack", compression="lzw")
            files.append(MaskFile(family, f"TIFF {way}, {name}", data, truth, kind="marks"))
            deep = soft.astype(np.uint16) * 257
            files.append(MaskFile(family, f"16 bits {way}, {name}", by_opencv(".png", deep), truth, kind="marks"))
            color = np.dstack([soft] * 3)
            files.append(MaskFile(family, f"RGB {way}, {name}", by_opencv(".png", color), truth, kind="marks"))
            for dtype, factor in (("uint16", 1), ("int32", 1), ("int16", 1), ("float32", 1), ("float32", 1 / 255)):
                values = (soft * np.float64(factor)).astype(dtype)
                data = written(values, photometric="minisblack")
                name_of_file = f"{dtype} to {255 * factor:.0f} {way}, {name}"
                files.append(MaskFile(family, name_of_file, data, truth, "", cause="fractions"))
    return files


def lossy() -> list[MaskFile]:
    family, files = "lossy compression", []
    for seed, quality in itertools.product((0, 1, 2), (30, 50, 75, 90, 95, 100)):
        marked = nuclei(seed, 8, (5, 9)) > 0
        white = Image.fromarray(marked.astype(np.uint8) * 255)
        unsure = near_edge(marked, 1)
        data = saved(white, "JPEG", quality=quality)
        name = f"JPEG {quality} seed {seed}"
        files.append(MaskFile(family, name, data, {None: marked}, unsure=unsure, kind="marks"))
        for subsampling in ("4:4:4", "4:2:0"):
            data = saved(white.convert("RGB"), "JPEG", quality=quality, subsampling=subsampling)
            truth = {None: marked}
            files.append(MaskFile(family, f"{name} RGB {subsampling}", data, truth, unsure=unsure, kind="marks"))
        decoded = np.asarray(Image.open(io.BytesIO(saved(white, "JPEG", quality=quality))))
        data = by_opencv(".png", decoded)
        files.append(MaskFile(family, f"PNG of a {name}", data, {None: marked}, "", unsure=unsure))
        data = saved(white, "WEBP", quality=quality)
        files.append(MaskFile(family, f"WebP {quality} seed {seed}", data, {None: marked}, "", unsure=unsure))
        data = written(
            np.asarray(white), photometric="minisblack", compression="jpeg", compressionargs={"level": quality}
        )
        files.append(MaskFile(family, f"TIFF {name}", data, {None: marked}, unsure=unsure, kind="marks"))
    for count, quality in itertools.product((2, 3, 12, 40), (50, 75, 95, 100)):
        numbers = nuclei(4, count, (3, 5) if count > 3 else (5, 8))
        for spread in (1, 255 // count):
            if spread * count < 4 and quality < 90:
                continue  # the compression makes them black
            stored = (numbers * spread).astype(np.uint8)
            name = f"{count} numbers to {count * spread}, quality {quality}"
            for format in ("JPEG", "WEBP"):
                data = saved(Image.fromarray(stored), format, quality=quality)
                files.append(MaskFile(family, f"{format} {name}", data, {None: None}, "refuse", "lossy"))
            decoded = np.asarray(Image.open(io.BytesIO(saved(Image.fromarray(stored), "JPEG", quality=quality))))
            if quality < 100 and spread > 1:
                files.append(MaskFile(family, f"PNG of a JPEG {name}", by_opencv(".png", decoded), {None: numbers}, ""))
    black = Image.fromarray(np.zeros(SIZE, np.uint8))
    files.append(MaskFile(family, "JPEG all black", saved(black, "JPEG"), {None: np.zeros(SIZE, bool)}))
    one = Image.fromarray((nuclei() > 0).astype(np.uint8))
    files.append(MaskFile(family, "JPEG 0 and 1", saved(one, "JPEG", quality=100), {None: nuclei() > 0}, ""))
    files.append(MaskFile(family, "JPEG red on black", colored_jpeg((255, 0, 0)), {None: nuclei() > 0}, "", "colors"))
    return files


def colored_jpeg(color: tuple[int, int, int]) -> bytes:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[nuclei() > 0] = color
    return saved(Image.fromarray(pixels), "JPEG", quality=95)


def numbered() -> list[MaskFile]:
    family, files = "numbered nuclei", []

    def add(name: str, data: bytes, numbers: np.ndarray, must: str = "read", **fields) -> None:
        files.append(MaskFile(family, name, data, {None: numbers}, must, **fields))

    for count, radius in ((2, (5, 8)), (12, (4, 7)), (40, (3, 5)), (120, (2, 3)), (200, (1, 2))):
        numbers = nuclei(5, count, radius)
        draws = np.random.default_rng(count)
        for spread in ("1, 2, 3", "high", "scattered"):
            for dtype in ("uint8", "uint16", "uint32", "int16", "int32", "int64", "float32"):
                if (count, spread, dtype) == (2, "high", "uint8"):
                    continue  # 254 and 255 cannot be told from white
                top = 255 if dtype == "uint8" else 30000
                table = {
                    "1, 2, 3": np.arange(count + 1),
                    "high": np.arange(count + 1) + top - count,
                    "scattered": np.concatenate([[0], draws.permutation(np.arange(1, top))[:count]]),
                }[spread]
                table[0] = 0
                stored = table[numbers].astype(dtype)
                must = "read" if 2 < count < 100 and (dtype, spread) != ("uint8", "high") else ""
                data = written(stored, photometric="minisblack", compression="lzw" if dtype == "uint16" else None)
                add(f"TIFF {dtype}, {count} of {spread}", data, stored, must)
                if dtype in ("uint8", "uint16"):
                    add(f"PNG {dtype}, {count} of {spread}", by_opencv(".png", stored), stored, must)
    for seed, size in itertools.product(range(3), (1, 2, 3)):  # squares without an inside
        draws = np.random.default_rng(seed)
        numbers = np.zeros(SIZE, np.int32)
        places = draws.permutation([(row, column) for row in range(2, 56, 5) for column in range(2, 72, 5)])[:40]
        for number, (row, column) in enumerate(places, 1):
            numbers[row : row + size, column : column + size] = number
        for factor in (1, 6):
            stored = (numbers * factor).astype(np.uint8)
            add(f"PNG, 40 squares of {size}, seed {seed}, to {stored.max()}", by_opencv(".png", stored), stored)
            add(
                f"16 bits, 40 squares of {size}, seed {seed}, to {stored.max()}",
                by_opencv(".png", stored.astype(np.uint16)),
                stored,
            )
    for width in (1, 2):  # bars
        numbers = np.zeros(SIZE, np.int32)
        for number in range(1, 15):
            numbers[4 * number : 4 * number + width, 5:60] = number
        add(f"PNG, bars of {width}", by_opencv(".png", numbers.astype(np.uint8)), numbers)
    touching = np.zeros(SIZE, np.int32)
    for row, column in itertools.product(range(6), range(7)):
        touching[row * 10 : row * 10 + 10, column * 11 : column * 11 + 11] = row * 7 + column + 1
    add("PNG, nuclei that touch everywhere", by_opencv(".png", touching.astype(np.uint8)), touching)
    for bits in (2, 4):
        numbers = nuclei(6, 2**bits - 1, (3, 5))
        add(f"PNG {bits} bits", png(numbers, bits, GRAY), numbers, renumbered=True)
        data = write_tiff([Page(page_tags(SIZE, bits, 1, 9), strips_of(numbers, bits, 9))])
        add(f"TIFF {bits} bits", data, numbers, renumbered=True)
        few = np.minimum(numbers, 2)
        add(f"PNG {bits} bits, 2 numbers", png(few, bits, GRAY), few, renumbered=True)
    numbers = nuclei(6, 12)
    color = np.dstack([numbers] * 3).astype(np.uint8)
    add("PNG, gray in RGB", by_opencv(".png", color), numbers)
    table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    add("PNG, palette of grays", png(numbers, 8, PALETTE, before=chunk(b"PLTE", table.tobytes())), numbers)
    for number in (3, 6):
        stored = stored_as(numbers, number).astype(np.uint16)
        data = written(stored, photometric="minisblack", extratags=[(274, 3, 1, number, True)])
        add(f"TIFF, orientation {number}", data, numbers)
    for dtype, top in (("uint8", 255), ("uint16", 65535)):
        data = written((top - numbers).astype(dtype), photometric="miniswhite")
        add(f"white is zero, {dtype}", data, numbers)
    files.append(
        MaskFile(
            family,
            "JPEG 2000",
            by_opencv(".jp2", numbers.astype(np.uint8), cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000),
            {None: numbers},
            "",
            "lossy",
        )
    )
    return files


def colors() -> list[MaskFile]:
    family, files = "colors, palettes and alpha", []
    marked = nuclei(7) > 0
    white = marked.astype(np.uint8) * 255
    for name, color in (
        ("white", (255, 255, 255)),
        ("red", (255, 0, 0)),
        ("blue", (0, 0, 255)),
        ("dark red", (1, 0, 0)),
        ("yellow", (200, 180, 20)),
        ("gray 128", (128, 128, 128)),
        ("gray 1", (1, 1, 1)),
    ):
        pixels = np.zeros((*SIZE, 3), np.uint8)
        pixels[marked] = color
        must = "read" if name in ("white", "red", "blue", "yellow", "gray 1") else ""
        files.append(MaskFile(family, f"PNG {name} on black", by_opencv(".png", pixels), {None: marked}, must))
        files.append(
            MaskFile(family, f"TIFF {name} on black", written(pixels, photometric="rgb"), {None: marked}, must)
        )
        files.append(MaskFile(family, f"BMP {name} on black", by_opencv(".bmp", pixels), {None: marked}, must))
        opaque = np.dstack([pixels, np.full(SIZE, 255, np.uint8)])
        files.append(MaskFile(family, f"PNG {name} on black, opaque", by_opencv(".png", opaque), {None: marked}, must))
        clear = np.dstack([pixels, np.zeros(SIZE, np.uint8)])
        files.append(MaskFile(family, f"PNG {name} on black, alpha 0", by_opencv(".png", clear), {None: marked}, ""))
        same = np.dstack([pixels, white])
        files.append(
            MaskFile(family, f"PNG {name} on black, alpha the same", by_opencv(".png", same), {None: marked}, must)
        )
    numbers = nuclei(7)
    table = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
    table[0] = 0
    pixels = table[numbers]
    files.append(
        MaskFile(family, "PNG of many colors", by_opencv(".png", pixels), {None: None}, "refuse", "several colors")
    )
    files.append(
        MaskFile(
            family, "TIFF of many colors", written(pixels, photometric="rgb"), {None: None}, "refuse", "several colors"
        )
    )
    data = png(numbers, 8, PALETTE, before=chunk(b"PLTE", table.tobytes()))
    files.append(MaskFile(family, "PNG palette of many colors", data, {None: None}, "refuse", "several colors"))
    white_ground = np.full((*SIZE, 3), 255, np.uint8)
    white_ground[marked] = 255, 0, 0
    files.append(
        MaskFile(family, "red on white", by_opencv(".png", white_ground), {None: None}, "refuse", "several colors")
    )
    two = np.zeros((*SIZE, 3), np.uint8)
    two[numbers % 2 == 1] = 255, 0, 0
    two[(numbers % 2 == 0) & marked] = 0, 255, 0
    files.append(MaskFile(family, "red and green", by_opencv(".png", two), {None: None}, "refuse", "several colors"))
    soft = cv2.GaussianBlur(white, (5, 5), 1)
    soft_red = np.dstack([soft, soft * 0, soft * 0])
    files.append(
        MaskFile(family, "red with soft edges", by_opencv(".png", soft_red), {None: soft > 127}, "", "several colors")
    )
    for color, name in ((0, "black"), (255, "white"), (90, "gray")):
        flat = np.full(SIZE, color, np.uint8)
        data = by_opencv(".png", np.dstack([flat, flat, flat, white]))
        files.append(MaskFile(family, f"in the alpha channel, {name}", data, {None: marked}))
        data = saved(Image.merge("LA", [Image.fromarray(flat), Image.fromarray(white)]), "PNG")
        files.append(MaskFile(family, f"in the alpha channel, gray file, {name}", data, {None: marked}))
        data = written(np.dstack([flat, flat, flat, white]), photometric="rgb", extrasamples=["unassalpha"])
        files.append(MaskFile(family, f"in the alpha channel of a TIFF, {name}", data, {None: marked}))
        data = by_opencv(".png", np.dstack([flat, flat, flat, soft]))
        files.append(MaskFile(family, f"in the alpha channel, soft, {name}", data, {None: soft > 127}))
        data = by_opencv(".png", (np.dstack([flat, flat, flat, white])).astype(np.uint16) * 257)
        files.append(MaskFile(family, f"in the alpha channel, 16 bits, {name}", data, {None: marked}))
    other = (nuclei(8) > 0).astype(np.uint8) * 255
    for name, alpha in (
        ("other nuclei", other),
        ("the background", 255 - white),
        ("half", np.where(numbers % 2 == 1, 255, 0).astype(np.uint8)),
    ):
        data = by_opencv(".png", np.dstack([white, white, white, alpha]))
        files.append(MaskFile(family, f"alpha marks {name}", data, {None: None}, "refuse", "alpha"))
        data = written(np.dstack([white, alpha]), photometric="minisblack", extrasamples=["unassalpha"])
        files.append(MaskFile(family, f"TIFF, alpha marks {name}", data, {None: None}, "refuse", "alpha"))
    data = by_opencv(".png", np.dstack([white, white, white, np.maximum(white, soft)]))
    files.append(
        MaskFile(family, "alpha a little wider", data, {None: marked}, "", "alpha", unsure=near_edge(marked, 3))
    )
    for name, table in (
        ("black, white", [(0, 0, 0), (255, 255, 255)]),
        ("white, black", [(255, 255, 255), (0, 0, 0)]),
        ("black, red", [(0, 0, 0), (255, 0, 0)]),
        ("black, 1", [(0, 0, 0), (1, 1, 1)]),
    ):
        first_is_black = table[0] == (0, 0, 0)
        stored = (marked if first_is_black else ~marked).astype(np.uint8)
        for bits in (1, 2, 4, 8):
            content = bytes(value for color in table for value in color) + bytes(3 * (2**bits - 2))
            data = png(stored, bits, PALETTE, before=chunk(b"PLTE", content))
            files.append(MaskFile(family, f"PNG palette {name}, {bits} bits", data, {None: marked}))
            colormap = np.frombuffer(content, np.uint8).reshape(-1, 3).T.astype(int) * 257
            tags = page_tags(SIZE, bits, 3, 9, t320=colormap.reshape(-1).tolist())
            data = write_tiff([Page(tags, strips_of(stored, bits, 9))])
            files.append(MaskFile(family, f"TIFF palette {name}, {bits} bits", data, {None: marked}))
        image = Image.fromarray(stored)
        image.putpalette([value for color in table for value in color])
        files.append(MaskFile(family, f"GIF palette {name}", saved(image, "GIF"), {None: marked}))
        files.append(MaskFile(family, f"BMP palette {name}", saved(image, "BMP"), {None: marked}))
    for colors, opaque in (((0, 255), b"\0"), ((0, 255), b"\xff\0"), ((255, 255), b"\0"), ((0, 0), b"\0\xff")):
        chunks = chunk(b"PLTE", bytes([colors[0]] * 3 + [colors[1]] * 3)) + chunk(b"tRNS", opaque)
        data = png(marked.astype(np.uint8), 1, PALETTE, before=chunks)
        name = f"palette of {colors}, alpha {list(opaque)}"
        must = "" if opaque == b"\xff\0" else "read"  # white is transparent
        files.append(MaskFile(family, name, data, {None: marked}, must, "alpha"))
    data = png(marked.astype(np.uint8) * 255, 8, GRAY, before=chunk(b"tRNS", b"\0\0"))
    files.append(MaskFile(family, "black is transparent", data, {None: marked}))
    pixels = np.dstack([white] * 3)
    files.append(
        MaskFile(
            family, "RGB, black is transparent", png(pixels, 8, RGB, before=chunk(b"tRNS", bytes(6))), {None: marked}
        )
    )
    inside = png(np.dstack([pixels, white]), 8, RGBA)
    files.append(MaskFile(family, "RGBA, transparent outside", inside, {None: marked}))
    deep = np.dstack([white.astype(np.uint16) * 257] * 3)
    files.append(MaskFile(family, "RGB of 16 bits", by_opencv(".png", deep), {None: marked}))
    files.append(
        MaskFile(
            family,
            "RGB of floats",
            written(np.dstack([marked] * 3).astype(np.float32), photometric="rgb"),
            {None: marked},
        )
    )
    files.append(
        MaskFile(family, "CMYK", saved(Image.fromarray(pixels).convert("CMYK"), "JPEG"), {None: None}, "refuse", "CMYK")
    )
    return files


def pages_and_oddities() -> list[MaskFile]:
    family, files = "pages and what is no mask", []
    numbers = nuclei(9, 4)
    each = [(numbers == number).astype(np.uint8) for number in range(1, 5)]
    for high, compression in itertools.product((1, 255), (None, "lzw", "deflate")):
        data = pages_of([page * np.uint8(high) for page in each], compression=compression)
        name = f"a page for each nucleus, {high} {compression}"
        files.append(MaskFile(family, name, data, {page: each[page] > 0 for page in range(4)}))
        files.append(MaskFile(family, f"{name}, none chosen", data, {None: None}, "refuse", "holds 4 pages"))
    data = written(np.stack(each) * np.uint8(255), imagej=True, metadata={"axes": "ZYX"})
    files.append(
        MaskFile(family, "ImageJ, a slice for each nucleus", data, {page: each[page] > 0 for page in range(4)})
    )
    data = written(np.stack(each), ome=True, photometric="minisblack", metadata={"axes": "ZYX"})
    files.append(MaskFile(family, "OME, a slice for each nucleus", data, {page: each[page] > 0 for page in range(4)}))
    data = written(np.stack(each[:2]) * np.uint8(255), imagej=True, metadata={"axes": "CYX"})
    files.append(MaskFile(family, "two channels", data, {None: None}, "refuse", "2 channels"))
    data = pages_of([page > 0 for page in each])
    files.append(
        MaskFile(family, "a page of 1 bit for each nucleus", data, {page: each[page] > 0 for page in range(4)})
    )
    blobs = cv2.GaussianBlur(np.random.default_rng(0).random(SIZE), (9, 9), 3)
    blobs = (blobs - blobs.min()) / np.ptp(blobs)
    for dtype in ("float16", "float32", "float64"):
        data = written(blobs.astype(dtype), photometric="minisblack")
        files.append(MaskFile(family, f"probabilities {dtype}", data, {None: None}, "refuse", "fractions"))
    for value in (np.nan, np.inf, -np.inf):
        values = (numbers > 0).astype(np.float32)
        values[3, 3] = value
        data = written(values, photometric="minisblack")
        files.append(MaskFile(family, f"float32 with {value}", data, {None: None}, "refuse", "fractions|finite"))
    for dtype in ("int8", "int16", "int32", "float32"):
        values = numbers.astype(dtype)
        values[3, 3] = -1
        data = written(values, photometric="minisblack")
        files.append(MaskFile(family, f"{dtype} with -1", data, {None: None}, "refuse", "negative"))
        data = written((-(numbers > 0).astype(int)).astype(dtype), photometric="minisblack")
        files.append(MaskFile(family, f"{dtype} of 0 and -1", data, {None: None}, "refuse", "negative"))
    data = by_opencv(".png", (numbers > 0).astype(np.uint8) * 255)
    for share in (0.3, 0.7, 0.95):
        cut = data[: int(len(data) * share)]
        files.append(MaskFile(family, f"PNG, cut to {share:.0%}", cut, {None: None}, "refuse", "not a readable"))
    files.append(MaskFile(family, "0 bytes", b"", {None: None}, "refuse", "empty file"))
    data = imagecodecs.jpegxl_encode((numbers > 0).astype(np.uint8) * 255)
    files.append(MaskFile(family, "JPEG XL", data, {None: None}, "refuse", "not a readable"))
    return files


@functools.cache
def all_masks() -> list[MaskFile]:
    """Return all files of this module."""
    return [*two_values(), *soft_edges(), *lossy(), *numbered(), *colors(), *pages_and_oddities()]


def verdict(file: MaskFile, result: str) -> str:
    """Return "" if the result is what the file must give, otherwise what is wrong."""
    if result not in ("right", "refused"):
        return result
    wanted = {"read": "right", "refuse": "refused"}.get(file.must, result)
    return "" if result == wanted else f"{result}, but it must be {wanted}"
