# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Checking and printing names and texts that other people chose."""

import re

# Control characters, line separators and marks that change the direction of writing could rewrite a terminal's line or
# start a new one in a log. Halves of surrogate pairs cannot be printed at all.
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
MAX_NAME_BYTES = 200  # of UTF-8; file systems take 255, and the scripts append `_mask.png` and the like

EXTENSION = re.compile(r"([_-][A-Za-z0-9_-]{1,32})?(\.[A-Za-z0-9_-]{1,16}){1,3}")


def is_safe(name: str) -> bool:
    """Is this a printable name of a file or folder that cannot lead out of the folder it is put into?"""
    if name in ("", ".", "..") or re.search(r"[/\\]", name) or _UNPRINTABLE.search(name):
        return False
    return len(name.encode()) <= MAX_NAME_BYTES


def safe_name(name: str) -> str:
    """Return a safe name that resembles this one."""
    name = re.sub(r"[/\\]", "_", _UNPRINTABLE.sub("_", name)).encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return name if is_safe(name) else "_"


def one_line(error: Exception, max_length: int = 200) -> str:
    """Return the beginning of an error message of a library, on one line."""
    return " ".join(str(error).split())[:max_length]


def printable(text: object, max_length: int = 300) -> str:
    """Return the text as one line: unprintable characters are escaped, and the middle of a long text is left out."""
    line = _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))
    return line if len(line) <= max_length else f"{line[: max_length // 2]} … {line[-max_length // 2 :]}"


def counted(number: int, noun: str) -> str:
    """Return `1 image`, `2 images`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable_path(path: object) -> str:
    """Return a path as text for a table: as it is, but with escapes for unprintable characters."""
    return printable(path, 2**16)
