# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Which images `--input` names, what their pictures are called, and which of them can be read."""

import glob
import os
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from imaging.listing import describe_unused
from imaging.reader import FOREIGN_EXTENSIONS, IMAGE_EXTENSIONS, count_pages
from imaging.survey import Survey, describe_unreadable
from runtime import names
from runtime.errors import InputError


class Source(NamedTuple):
    """An image to segment: the name of its pictures, its file, and its page, from 0; None: the file's only page."""

    name: str
    path: Path
    page: int | None


def find_images(inputs: list[str]) -> list[Path]:
    """Return the image files that `--input` names: files, folders and globs. Print how many others were not used.

    If a folder holds no images itself, its subfolders are searched, except in folders called `masks` (Kaggle's raw
    layout). Hidden files and what macOS adds are passed over.
    Raises InputError if an input names no image.
    """
    found, unused = [], set()
    for text in [text for text in inputs if not _is_from_macos(Path(text))] or inputs:  # a shell puts them for `*` too
        path = Path(text)
        if path.is_dir():
            matches, others = _search_folder(path)
            unused |= others
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(name) for name in glob.glob(text, recursive=True) if os.path.isfile(name)]
        if not matches:
            foreign = f"; {_describe(others)}; export them as TIFF" if path.is_dir() and others else ""
            raise InputError(f"--input {text}: no image there ({', '.join(IMAGE_EXTENSIONS)}){foreign}")
        found += sorted(matches)
    found = list(dict.fromkeys(found))
    if unused := unused.difference(found):
        print(_describe(unused), flush=True)
    return found


def list_pages(paths: list[Path]) -> list[Source]:
    """Return each page of each file, with different names, also for file systems that ignore the case of letters.

    A file's name is its stem, with its folder's name or a number if that is taken. If the file holds several pages,
    they are named <name>_p0001, <name>_p0002, …
    """
    sources, taken = [], set()
    for path in paths:
        pages = _page_numbers(path)
        endings = ["" if page is None else f"_p{page + 1:04d}" for page in pages]
        for name in _candidate_names(path):
            chosen = [name + ending for ending in endings]
            keys = {unicodedata.normalize("NFC", text).casefold() for text in chosen}
            if taken.isdisjoint(keys):
                break
        taken |= keys
        sources += [Source(text, path, page) for text, page in zip(chosen, pages)]
    return sources


class ReadableImages:
    """Images that are read ahead: yields those that can be read, and collects why the others cannot."""

    def __init__(self, sources: list[Source]):
        self.sources, self.errors, self.survey = sources, [], Survey()

    def readable(self, found: Iterator[Future]) -> Iterator[tuple]:
        """Yield each source with its image and what was read besides; found: futures of (image, notes, …)."""
        for source, future in zip(self.sources, tqdm(found, total=len(self.sources), disable=None, unit="image")):
            try:
                image, notes, *more = future.result()
            except InputError as error:
                self.errors.append((source.path, str(error)))
                continue
            self.survey.add(image.shape[:2], notes)
            yield source, image, *more

    def report(self) -> None:
        """Print why images could not be read."""
        for line in describe_unreadable(self.errors):
            print(f"[Error] {line}", file=sys.stderr)


def _page_numbers(path: Path) -> list[int | None]:
    try:
        pages = count_pages(path, path)
    except InputError:  # reading it reports the reason
        pages = 1
    return list(range(pages)) if pages > 1 else [None]


def _candidate_names(path: Path) -> Iterator[str]:
    stem = names.safe_name(path.stem)
    yield stem
    yield names.safe_name(f"{path.resolve().parent.name}_{path.stem}")
    yield from (f"{stem}_{number}" for number in count(2))


def _search_folder(folder: Path) -> tuple[list[Path], set[Path]]:
    """Return the images of a folder, and those images in it and below it that are not used."""
    images, foreign = [], set()
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if "masks" in parts[:-1] or "__MACOSX" in parts or any(part.startswith(".") for part in parts):
            continue
        extension = path.suffix.lower()
        if extension in IMAGE_EXTENSIONS and not path.is_dir():
            images.append(path)
        elif extension in FOREIGN_EXTENSIONS:  # also folders: some microscopes write a folder for an image
            foreign.add(path)
    own = [path for path in images if path.parent == folder]
    return own or images, foreign | (set(images).difference(own) if own else set())


def _is_from_macos(path: Path) -> bool:
    return "__MACOSX" in path.parts or path.name.startswith("._")


def _describe(unused: set[Path]) -> str:
    reasons = defaultdict(list)
    for path in sorted(unused):
        extension = path.suffix.lower()
        reason = "images in subfolders" if extension in IMAGE_EXTENSIONS else f"files that end in {extension}"
        reasons[reason].append(str(path))
    return describe_unused(reasons)
