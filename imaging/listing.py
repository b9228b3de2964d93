"""Files beside those that are used: which are left out, and why a file that is looked for is not found."""

import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

from imaging.prepared import PreparedFolder
from imaging.reader import FOREIGN_EXTENSIONS, IMAGE_EXTENSIONS
from runtime import names

MIN_SUFFIX_SHARE = 0.5  # of the images whose masks carry the same suffix, so that it is a habit and no accident


def looks_like_image(path: Path) -> bool:
    """Does a file's name say that it is an image? Hidden ones and those that macOS adds (`._…`) do not count."""
    return path.suffix.lower() in (*IMAGE_EXTENSIONS, *FOREIGN_EXTENSIONS) and not path.name.startswith(".")


def find_unused(folder: PreparedFolder, ids: list[str], classes: list[int]) -> dict[str, list[str]]:
    """Return the names of the image files of a prepared folder that are not used, by reason; a reason is a plural."""
    unused, known = defaultdict(list), set(ids)
    for place in sorted(folder.images.iterdir()):
        if place.is_dir():
            deeper = [path for path in place.rglob("*") if looks_like_image(path)]
            unused[f"images in subfolders of {folder.images}"] += [str(p.relative_to(folder.images)) for p in deeper]
        elif looks_like_image(place) and not place.name.endswith(folder.img_ext):
            unused[f"files in {folder.images} that end in {place.suffix}"].append(place.name)
    for masks in (folder.masks(k) for k in classes):
        for path in filter(looks_like_image, sorted(masks.iterdir())):
            if not path.name.endswith(folder.mask_ext):
                unused[f"files in {masks} that end in {path.suffix}"].append(path.name)
            elif path.name[: -len(folder.mask_ext)] not in known:
                unused[f"masks in {masks} without an image"].append(path.name)
    return {reason: found for reason, found in unused.items() if found}


def describe_unused(unused: dict[str, list[str]]) -> str:
    """Return one line about what is not used: how many of each kind, and the name of one."""
    parts = []
    for reason, found in unused.items():
        if len(found) == 1:
            one = re.sub(r"^(\w+)s\b", r"\1", reason).replace("that end in", "that ends in")
            parts.append(f"1 {one}: {names.printable(found[0])}")
        else:
            parts.append(f"{len(found)} {reason}, such as {names.printable(found[0])}")
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
    """Say which file beside `path` has the same name but for its extension or the composition of its letters."""
    wanted = unicodedata.normalize("NFC", path.stem)
    for other in sorted(path.parent.iterdir()) if path.parent.is_dir() else ():
        if unicodedata.normalize("NFC", other.stem) == wanted and looks_like_image(other) and other.name != path.name:
            if other.stem != path.stem:
                return f"{other.name} has the same name in other Unicode code points, as macOS writes them; rename it"
            return f"{other.name} has another extension: convert it, or rename it if it only is spelled differently"
    return ""
