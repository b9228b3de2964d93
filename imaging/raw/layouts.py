# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Which files of a raw set are images and masks, of which id, and which are not used."""

import posixpath
import re
import unicodedata
from collections import Counter
from typing import NamedTuple

from imaging.listing import MIN_SUFFIX_SHARE
from imaging.raw.folder import is_hidden_or_macos
from imaging.reader import FOREIGN_EXTENSIONS, IMAGE_EXTENSIONS
from runtime.errors import InputError

NOT_READ = (*FOREIGN_EXTENSIONS, ".zip")  # a zip may hold images
FILE = re.compile(r"(?:(?P<base>.*)/)?(?P<folder>images|masks|masks/\d+)/(?P<file>[^/]+)", re.DOTALL)
MASK_SUFFIX = re.compile(r"(?<=.)[_-](masks?|labels?)\Z", re.IGNORECASE | re.DOTALL)


class Layout(NamedTuple):
    """The files of a raw set, sorted.

    Kaggle's layout is `<id>/images/<file>` and `<id>/masks/<file>`, one mask file per nucleus. The paired layout is
    `images/<id><ext>` and `masks/<id><ext>`, or `masks/0/<id><ext>`, one mask file per image.
    """

    images: dict[str, list[str]]  # names by id
    masks: dict[str, list[str]]
    is_paired: bool
    unused: dict[str, list[str]]  # names by reason; a reason is a plural, such as "ids without masks"


def sort_files(files: dict[str, str], source: object) -> Layout:
    """Find the layout of a raw set and sort its files; hidden ones are passed over.

    files: names by path with slashes.
    Raises InputError naming `source` if a set in the paired layout has several classes.
    """
    visible = [path for path in files if not any(map(is_hidden_or_macos, path.split("/")))]
    placed = [match for path in visible if path.lower().endswith(IMAGE_EXTENSIONS) and (match := FILE.fullmatch(path))]
    base = _paired_base(placed)
    if base is None:
        used = [match for match in placed if match["base"] and match["folder"] in ("images", "masks")]
        ids = [match["base"].rpartition("/")[2] for match in used]
    else:
        used = [match for match in placed if (match["base"] or "") == base]
        _check_one_class(used, source)
        ids = _paired_ids(used)
    images, masks = {}, {}
    for img_id, match in zip(ids, used):
        by_id = images if match["folder"] == "images" else masks
        by_id.setdefault(img_id, []).append(files[match[0]])

    unused = _unused_files(files, visible, {match[0] for match in used}, base is not None)
    return Layout(images, masks, base is not None, unused | _incomplete_ids(images, masks, base is not None))


def _paired_base(placed: list[re.Match]) -> str | None:
    """Return the folder that holds images and masks in the paired layout, None if the layout is Kaggle's.

    `x/images/` and `x/masks/` fit both layouts. They are Kaggle's id x if there is one image and no class folder.
    """
    images = Counter(match["base"] or "" for match in placed if match["folder"] == "images")
    masks = {match["base"] or "" for match in placed if match["folder"] != "images"}
    with_class_folder = {match["base"] or "" for match in placed if match["folder"] not in ("images", "masks")}
    complete = images.keys() & masks
    kaggle_ids = [base for base in complete - with_class_folder if base and images[base] == 1]
    if "" in complete and images[""] > len(kaggle_ids):
        return ""
    bases = images.keys() | masks
    return bases.pop() if complete and len(bases) == 1 and not kaggle_ids else None


def _check_one_class(used: list[re.Match], source: object) -> None:
    folders = sorted({match["folder"] for match in used} - {"images", "masks"})
    if len(folders) > 1:
        raise InputError(
            f"{source}: holds masks of several classes ({', '.join(folders)}), but only one class can be prepared; "
            "keep one of these folders, or train on the set as it is (train.py --num_classes)"
        )


def _paired_ids(used: list[re.Match]) -> list[str]:
    """Return the id of each file: the name of its image without extension.

    If no mask fits the names of the images, a suffix that all images share, such as `_img`, is no part of the id.
    """
    # macOS may write é as two characters, e and an accent
    stems = [unicodedata.normalize("NFC", match["file"].rpartition(".")[0]) for match in used]
    is_image = [match["folder"] == "images" for match in used]
    images = {stem for stem, image in zip(stems, is_image) if image}
    masks = {stem for stem, image in zip(stems, is_image) if not image}
    for suffix in ("", _image_suffix(images)):
        ids = {stem.removesuffix(suffix) for stem in images}
        mask_ids = _mask_ids(masks, ids)
        if not ids.isdisjoint(mask_ids.values()):
            break
    return [stem.removesuffix(suffix) if image else mask_ids[stem] for stem, image in zip(stems, is_image)]


def _image_suffix(images: set[str]) -> str:
    """Return the suffix that all images share, from a separator on; "" if there is none."""
    found = re.search(r"[ ._-].*", posixpath.commonprefix([stem[::-1] for stem in images])[::-1], re.DOTALL)
    return found[0] if found and found[0] not in images else ""


def _mask_ids(masks: set[str], ids: set[str]) -> dict[str, str]:
    """Return the id of each mask: its name without the suffix that most masks share, or without MASK_SUFFIX."""
    endings = Counter(
        stem[end:]
        for stem in masks - ids
        for end in range(1, len(stem))
        if stem[:end] in ids and not stem[end].isdigit()  # a10 is no mask of a1
    )
    common, count = endings.most_common(1)[0] if endings else ("", 0)
    if count <= MIN_SUFFIX_SHARE * len(ids):
        common = ""

    def find_id(stem: str) -> str:
        if stem in ids:
            return stem
        return stem.removesuffix(common) if common and stem.endswith(common) else MASK_SUFFIX.sub("", stem)

    return {stem: find_id(stem) for stem in masks}


def _unused_files(files: dict[str, str], visible: list[str], used: set[str], is_paired: bool) -> dict[str, list[str]]:
    """Return the names of the visible files that look like images and are not used, by reason."""
    outside = f"images outside of {'images and masks' if is_paired else '<id>/images and <id>/masks'}"
    unused = {}
    for path in visible:
        if path in used:
            continue
        extension = posixpath.splitext(path)[1].lower()
        if extension in IMAGE_EXTENSIONS:
            unused.setdefault(outside, []).append(files[path])
        elif extension in NOT_READ:
            unused.setdefault(f"files that end in {extension}", []).append(files[path])
    return unused


def _incomplete_ids(images: dict[str, list[str]], masks: dict[str, list[str]], is_paired: bool) -> dict[str, list[str]]:
    """Return the ids that cannot be prepared, by reason."""
    found = {
        "ids without an image": [img_id for img_id in masks if img_id not in images],
        "ids without masks": [img_id for img_id in images if img_id not in masks],
        "ids with several images": [img_id for img_id in images if len(images[img_id]) > 1],
        "ids with several mask files": [img_id for img_id in images if is_paired and len(masks.get(img_id, ())) > 1],
    }
    return {reason: sorted(ids) for reason, ids in found.items() if ids}
