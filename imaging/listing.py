# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Files beside those that are used: which are left out, and why a file that is looked for is not found."""

import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

from imaging.prepared import PreparedFolder
from imaging.reader import FOREIGN_EXTENSIONS, IMAGE_EXTENSIONS
from runtime import names

HARNESS_WORDS = ("FPS", "AVG", "Epoch:", "Test")  # harnesses search the log of a run for them
MIN_SUFFIX_SHARE = 0.5  # of the images whose masks carry the same suffix, so that it is a habit and no accident


def looks_like_image(path: Path) -> bool:
    """Does a file's name say that it is an image? Hidden ones and those that macOS adds (`._…`) do not count."""
    return path.suffix.lower() in (*IMAGE_EXTENSIONS, *FOREIGN_EXTENSIONS) and not path.name.startswith(".")


def find_unused(folder: PreparedFolder, ids: list[str], classes: list[int]) -> dict[str, list[str]]:
    """Return the names of the image files of a prepared folder that are not used, by reason."""
    unused, known = defaultdict(list), set(ids)
    for place in sorted(folder.images.iterdir()):
        if place.is_dir():
            deeper = [path for path in place.rglob("*") if looks_like_image(path)]
            unused["images in subfolders of images/"] += [str(p.relative_to(folder.images)) for p in deeper]
        elif looks_like_image(place) and not place.name.endswith(folder.img_ext):
            unused[f"files in images/ that end in {place.suffix}"].append(place.name)
    for k in classes:
        for path in filter(looks_like_image, sorted(folder.masks(k).iterdir())):
            if not path.name.endswith(folder.mask_ext):
                unused[f"files in masks/{k}/ that end in {path.suffix}"].append(path.name)
            elif path.name[: -len(folder.mask_ext)] not in known:
                unused[f"masks in masks/{k}/ without an image"].append(path.name)
    return {reason: found for reason, found in unused.items() if found}


def describe_unused(unused: dict[str, list[str]]) -> str:
    """Return one line about what is not used, by reason: how many, and the name of one."""
    parts = []
    for reason, found in unused.items():
        example = next((name for name in found if not any(word in name for word in HARNESS_WORDS)), None)
        start = ": " if len(found) == 1 else ", such as "
        parts.append(f"{reason} ({len(found)})" + (start + names.printable(example) if example else ""))
    return f"not used: {'; '.join(parts)}"


def explain_missing_masks(folder: PreparedFolder, ids: list[str], classes: list[int]) -> list[str]:
    """Return a sentence for each class whose masks are named as their images with a common suffix, such as `_mask`."""
    explained = []
    for k in classes:
        found = {p.name for p in folder.masks(k).iterdir() if looks_like_image(p)}
        missing = {img_id for img_id in ids if f"{img_id}{folder.mask_ext}" not in found}
        endings = Counter(name[end:] for name in found for end in range(1, len(name)) if name[:end] in missing)
        ending, count = endings.most_common(1)[0] if endings else ("", 0)
        if count > MIN_SUFFIX_SHARE * len(ids):
            example = f"{folder.masks(k) / min(missing)}{ending}"
            explained.append(f"{example}: {count} masks are named like this; pass --mask_ext {ending}")
    return explained


def other_spelling(path: Path) -> str:
    """Say which file beside `path` has its name, but another extension or other code points for the same letters."""
    wanted = unicodedata.normalize("NFC", path.stem)
    for other in sorted(path.parent.iterdir()) if path.parent.is_dir() else ():
        if unicodedata.normalize("NFC", other.stem) == wanted and looks_like_image(other) and other.name != path.name:
            if other.stem != path.stem:
                form = "composed (NFC)" if other.stem == wanted else "decomposed (NFD)"
                return (
                    f"{other.name} has the same name, but in {form} letters; write all names in one form, for example "
                    "with `convmv -f utf8 -t utf8 --nfc --notest -r DIR`"
                )
            return f"{other.name} has another extension: convert it, or rename it if only the letter case differs"
    return ""
