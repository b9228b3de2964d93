"""The image and mask of one id of a raw set, from an image file and one or several mask files."""

from typing import NamedTuple

import numpy as np

from imaging.masks import Mask, align, decode_mask
from imaging.raw.rawset import RawSet
from imaging.reader import count_pages, decode_picture
from runtime import names
from runtime.errors import InputError


class RawSample(NamedTuple):
    """An id of a raw set.

    image: uint8 BGR (H, W, 3). marked: float64 (H, W) of 0 and 1. nuclei: number of mask files, or of numbers in them.
    notes: what was done to the image, in words. remarks: mask files that mark nothing, or the same as another.
    """

    image: np.ndarray
    marked: np.ndarray
    nuclei: int
    notes: tuple[str, ...]
    remarks: tuple[str, ...]


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
    masks, sources = [], []
    for name in files:
        content = raw.read(name)
        for page in range(count_pages(content, name)):
            masks.append(decode_mask(content, name, page))
            sources.append(name)
    for mask in masks:
        if mask.problem:
            raise InputError(mask.problem)
    image, pixels, turned = align(picture, masks, sources)
    marked, nuclei, remarks = _unite(masks, pixels, sources)
    notes = (*picture.notes, turned) if turned else picture.notes
    return RawSample(image, marked.astype(np.float64), nuclei, notes, remarks)


def _unite(masks: list[Mask], pixels: list[np.ndarray], sources: list[str]) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """Return the pixels that any mask marks, the number of nuclei, and remarks on masks that add nothing."""
    union, nuclei, seen, remarks = np.zeros(pixels[0].shape, bool), 0, {}, []
    for mask, values, source in zip(masks, pixels, sources):
        # above 127, as in the older editions: the edges of a mask may be soft
        marked = values > (127 if mask.kind == "marks" else 0)
        nuclei += len(np.unique(values)) - (0 in values) if mask.kind == "numbers" else 1
        if not marked.any():
            remarks.append(f"{source} marks nothing")
        elif (same := seen.setdefault(marked.tobytes(), source)) != source:
            remarks.append(f"{source} marks the same pixels as {same}")
        union |= marked
    return union, nuclei, tuple(remarks)


def is_usable(raw: RawSet, img_id: str, channel: int = 0) -> bool:
    """Can this id be prepared?"""
    try:
        compose(raw, img_id, channel)
    except InputError:
        return False
    return True
