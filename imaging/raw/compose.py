# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The image and the nuclei of one id of a raw set, from an image file and one or several mask files."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from imaging.checks import MAX_MARKED_SHARE
from imaging.masks import Mask, align, decode_mask
from imaging.raw.rawset import RawSet
from imaging.reader import TURNED, Picture, count_pages, decode_picture
from runtime import names
from runtime.errors import InputError

MAX_LOOKED_AT = 5  # ids by which look_swapped judges
# of masks that do not hold 0 and 255, by Mask.kind
KINDS = {"numbers": "numbered nuclei", "zero_one": "0 and 1, each 1 is read as 255"}


class RawSample(NamedTuple):
    """An id of a raw set.

    image: uint8 BGR (H, W, 3). labels: the nuclei, int32 (H, W); 0 is background, and of nuclei that overlap, a pixel
    belongs to the first. nuclei: number of mask files, or of numbers in them.
    notes: what was done to the image, in words. remarks: mask files that mark nothing, or the same as another.
    kinds: what the masks hold, in words, if it is not 0 and 255.
    too_dense: if nearly all pixels are marked, a sentence that names the mask file; else "".
    """

    image: np.ndarray
    labels: np.ndarray
    nuclei: int
    notes: tuple[str, ...]
    remarks: tuple[str, ...]
    kinds: tuple[str, ...]
    too_dense: str


def compose(raw: RawSet, img_id: str, channel: int = 0) -> RawSample:
    """Read an id; raises InputError with the reason if it cannot be prepared."""
    if not names.is_safe(img_id):
        raise InputError(f"{names.printable(img_id)}: too long, or unsuitable as a file name; rename the folder")
    if img_id in raw.ambiguous:
        raise InputError(raw.ambiguous[img_id])
    images, files = raw.images.get(img_id, []), raw.masks.get(img_id, [])
    if len(images) != 1:
        raise InputError(f"{img_id}: {len(images)} images, but there must be one")
    if not files:
        raise InputError(f"{img_id}: no masks")
    picture = decode_picture(raw.read(images[0]), images[0], channel=channel)
    image, union, turned = _unite(raw, files, picture)
    notes = (*picture.notes, turned) if turned else picture.notes
    return RawSample(
        image,
        union.labels,
        union.nuclei,
        notes,
        tuple(union.remarks),
        tuple(sorted(union.kinds)),
        union.explain_density(img_id),
    )


def look_swapped(raw: RawSet) -> bool:
    """Do nearly all pixels of the first few images hold 0 or 255, as in masks, and those of their masks do not?"""
    complete = [img_id for img_id in raw.ids if img_id in raw.images and img_id in raw.masks]
    shares = []
    for img_id in complete[:MAX_LOOKED_AT]:
        try:
            pair = [decode_mask(raw.read(files[img_id][0]), img_id).pixels for files in (raw.images, raw.masks)]
        except InputError:  # the preparation reports it
            continue
        shares.append([((pixels == 0) | (pixels == 255)).mean() for pixels in pair])
    return bool(shares) and all(image > 0.9 and mask < 0.4 for image, mask in shares)


class _Union:
    """The nuclei that the masks mark, and what was found in the masks. Only one mask at a time is in memory.

    one_each: a mask file marks one nucleus; else its connected regions are nuclei, if it does not hold numbers.
    """

    def __init__(self, size: tuple[int, int], one_each: bool):
        self.labels = np.zeros(size, np.int32)
        self.one_each = one_each
        self._last = 0  # label
        self.nuclei = 0
        self.remarks: list[str] = []
        self.kinds: set[str] = set()
        self._names: dict[tuple, str] = {}  # by the place and a digest of the marked pixels
        self._densest = (0, "")  # number of marked pixels, name

    def add(self, values: np.ndarray, kind: str, name: str) -> None:
        """Add the pixels of a mask that is turned like the image; see Mask for `kind`."""
        # above 127, as in the older editions: the edges of a mask may be soft
        marked = values > (127 if kind == "marks" else 0)
        self.nuclei += len(np.unique(values[marked])) if kind == "numbers" else 1
        if kind in KINDS:
            self.kinds.add(KINDS[kind])
        # most masks mark few pixels of a large image; the rest is done with these alone
        x, y, width, height = box = cv2.boundingRect(marked.view(np.uint8))
        if not width:
            self.remarks.append(f"{name} marks nothing")
            return
        part = marked[y : y + height, x : x + width]
        digest = hashlib.blake2b(part.tobytes(), digest_size=16).digest()
        if (same := self._names.setdefault((*box, digest), name)) != name:
            self.remarks.append(f"{name} marks the same pixels as {same}")
        self._densest = max(self._densest, (int(np.count_nonzero(part)), name))
        numbers = self._number(values[y : y + height, x : x + width], part, kind)
        region = self.labels[y : y + height, x : x + width]
        np.copyto(region, numbers + self._last, where=part & (region == 0))
        self._last += int(numbers.max())

    def _number(self, values: np.ndarray, marked: np.ndarray, kind: str) -> np.ndarray:
        """Number the nuclei of a mask from 1."""
        if kind == "numbers":
            # 0, also if it is not among the values, gets the number 0
            return np.unique(np.append(values, 0), return_inverse=True)[1][:-1].reshape(values.shape).astype(np.int32)
        if self.one_each:
            return marked.astype(np.int32)
        return cv2.connectedComponents(marked.view(np.uint8), connectivity=8)[1]

    def explain_density(self, img_id: str) -> str:
        """Return "", or a sentence if nearly all pixels are marked."""
        share, (count, name) = np.count_nonzero(self.labels) / self.labels.size, self._densest
        if share <= MAX_MARKED_SHARE:
            return ""
        one = name if count > MAX_MARKED_SHARE * self.labels.size else f"{img_id}, all masks together"
        return f"{one}: marked nearly everywhere ({share:.0%}); correct it, or pass --dense_masks if it is right"


def _unite(
    raw: RawSet, files: list[str], picture: Picture, ignore_tags: bool = False
) -> tuple[np.ndarray, _Union, str]:
    """Return the image, the union of its masks, and how they were turned; see masks.align.

    Either all masks are turned as their orientation tags say, or none. If one fits the image only as it is stored, all
    are read again, because not all of them may fit into memory.
    """
    if ignore_tags:
        picture = picture._replace(orientation=1)
    turned = TURNED if picture.orientation != 1 else ""
    union = None
    for name, mask in _decode_masks(raw, files, ignore_tags):
        image, (values,), done = align(picture, [mask], [name])
        if done != turned:
            image, union, _ = _unite(raw, files, picture, ignore_tags=True)
            return image, union, done
        union = union or _Union(image.shape[:2], not raw.is_paired)
        union.add(values, mask.kind, name)
    return image, union, turned


def _decode_masks(raw: RawSet, files: list[str], ignore_tags: bool) -> Iterator[tuple[str, Mask]]:
    """Yield each mask with its name for messages: that of its file, and of its page if there are several."""
    for file in files:
        content = raw.read(file)
        pages = count_pages(content, file)
        for page in range(pages):
            name = f"{file}, page {page + 1}" if pages > 1 else file
            mask = decode_mask(content, name, page)
            if mask.problem:
                raise InputError(mask.problem)
            yield name, mask._replace(orientation=1) if ignore_tags else mask
