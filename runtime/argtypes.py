# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Functions for argparse's `type=` that parse a flag's text; they raise ArgumentTypeError with what is allowed."""

import math
from argparse import ArgumentTypeError
from collections.abc import Callable

from runtime import names


def whole(least: int, most: float = math.inf, multiple_of: int = 1) -> Callable[[str], int]:
    """Return a parser for whole numbers from `least` to `most` that are multiples of `multiple_of`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            upper = "" if math.isinf(most) else f" and at most {most}"
            raise ArgumentTypeError(f"{text!r} is not a whole number of at least {least}{upper}")
        if value % multiple_of:
            below = value - value % multiple_of
            raise ArgumentTypeError(f"{value} is not a multiple of {multiple_of}; use {below} or {below + multiple_of}")
        return value

    return parse


def real(least: float, open_end: bool = False, below: float = math.inf) -> Callable[[str], float]:
    """Return a parser for numbers from `least`, or above it if `open_end`, and below `below`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (value > least if open_end else value >= least) or not value < below:
            upper = "" if math.isinf(below) else f" and below {below}"
            raise ArgumentTypeError(f"{text!r} is not a number {'above' if open_end else 'from'} {least}{upper}")
        return value

    return parse


def loss_scale(text: str) -> float:
    """Parse a positive number, or -1 for a dynamic loss scale."""
    return -1.0 if text in ("-1", "-1.0", "dynamic") else real(0, open_end=True)(text)


def true_or_false(text: str) -> bool:
    """Parse True or False, spelled out."""
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise ArgumentTypeError(f"{text!r} is neither True nor False")


def whole_list(text: str) -> list[int]:
    """Parse whole numbers of at least 1, separated by commas."""
    return [whole(1)(part) for part in text.split(",")]


def extension(text: str) -> str:
    """Parse the ending of file names, such as .png or _mask.png; of an extension alone, the dot may be left out."""
    found = text if "." in text else f".{text}"
    if not names.EXTENSION.fullmatch(found):
        raise ArgumentTypeError(f"{text!r} is not an extension such as .png")
    return found


def folder_name(text: str) -> str:
    """Parse the name of a folder, not a path."""
    if not names.is_safe(text):
        raise ArgumentTypeError(f"{text!r} is not the name of a folder under inputs/; give a path as the data path")
    return text
