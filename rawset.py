"""The raw images of DSB2018 in Kaggle's layout, one mask file a nucleus, in a folder or a zip."""

import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

import files
from errors import InputError

MEMBER = re.compile(r"(?:.*/)?(?P<id>[^/]+)/(?P<kind>images|masks)/(?P<file>[^/]+)")


class RawSet:
    """A raw set in a folder or a zip: for each id its image and its masks, read as bytes by name."""

    def __init__(self, path: Path):
        self.path, self.zip = path, None
        if path.is_dir():
            names = (p.relative_to(path).as_posix() for p in path.rglob("*.*") if p.is_file())
        elif path.is_file():
            try:
                self.zip = zipfile.ZipFile(path)
            except zipfile.BadZipFile as error:
                raise InputError(f"{path}: not a zip ({error}); give the raw folder or stage1_train.zip") from error
            names = self.zip.namelist()
        else:
            raise InputError(
                f"{path}: no such file or folder; give the raw set with --input, fetch it with --download, "
                "or try --synthetic 200"
            )
        self.images: dict[str, list[str]] = {}
        self.masks: dict[str, list[str]] = {}
        for name in names:
            match = MEMBER.fullmatch(name)
            if not match or match["file"].startswith(".") or name.startswith("__MACOSX/") or match["id"] in (".", ".."):
                continue
            if Path(name).suffix.lower() in files.IMAGE_EXTENSIONS:
                members = self.images if match["kind"] == "images" else self.masks
                members.setdefault(match["id"], []).append(name)
        self.ids = sorted(self.images.keys() | self.masks.keys())
        if not self.ids:
            raise InputError(f"{path}: no <id>/images/<id>.png and <id>/masks/*.png in there; is it the raw set?")

    def read(self, name: str) -> bytes:
        """A member's bytes; raises InputError naming it where they cannot be read."""
        try:
            return self.zip.read(name) if self.zip else (self.path / name).read_bytes()
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise InputError(f"{name}: cannot be read ({error})") from error


def compose(raw: RawSet, img_id: str) -> tuple[np.ndarray, np.ndarray]:
    """An id's image, uint8 BGR (H, W, 3), and the union of its masks, float64 (H, W) of 0 and 1.

    Raises InputError saying why there are none.
    """
    images, masks = raw.images.get(img_id, []), raw.masks.get(img_id, [])
    if len(images) != 1:
        raise InputError(f"{img_id}: {len(images)} images, where there must be one")
    if not masks:
        raise InputError(f"{img_id}: no masks")
    image = files.decode_image(raw.read(images[0]), images[0])
    union = np.zeros(image.shape[:2], np.float64)
    for name in masks:
        mask = files.decode_mask(raw.read(name), name)
        if mask.shape != union.shape:
            sizes = f"{mask.shape[1]}×{mask.shape[0]}, its image {union.shape[1]}×{union.shape[0]}"
            raise InputError(f"{name}: {sizes}")
        union[mask > 127] = 1
    return image, union


def is_usable(raw: RawSet, img_id: str) -> bool:
    """Can this id be prepared?"""
    try:
        compose(raw, img_id)
    except InputError:
        return False
    return True
