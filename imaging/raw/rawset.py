"""The raw images of DSB2018 in Kaggle's layout, one mask file per nucleus, in a folder or a zip."""

import re
import zipfile
from pathlib import Path

import numpy as np

from imaging.masks import decode_mask
from imaging.prepared import check_mask_size
from imaging.raw.archive import open_zip, read_member
from imaging.reader import IMAGE_EXTENSIONS, decode_image
from runtime import names
from runtime.errors import InputError
from runtime.files import read_bytes

MEMBER = re.compile(r"(?:.*/)?(?P<id>[^/]+)/(?P<kind>images|masks)/(?P<file>[^/]+)")


class RawSet:
    """A raw set in a folder or a zip: by id, the names of its images and masks; `read` returns the bytes of one.

    It can be sent to another process, which then opens the zip itself.
    Raises InputError if the path does not exist, holds no raw images, or is a zip that `open_zip` refuses.
    """

    def __init__(self, path: Path):
        self.path, self.is_zip = path, path.is_file()
        self._archive: zipfile.ZipFile | None = None
        if path.is_dir():
            found = [p.relative_to(path).as_posix() for p in path.rglob("*.*") if p.is_file()]
        elif self.is_zip:
            self._archive = open_zip(path)
            found = self._archive.namelist()
        else:
            raise InputError(
                f"{path}: no such file or folder; give the raw set with --input, fetch it with --download, "
                "or try --synthetic 200"
            )
        self.images: dict[str, list[str]] = {}
        self.masks: dict[str, list[str]] = {}
        for name in found:
            match = MEMBER.fullmatch(name)
            if not match or match["file"].startswith(".") or name.startswith("__MACOSX/") or match["id"] in (".", ".."):
                continue
            if name.lower().endswith(IMAGE_EXTENSIONS):
                files = self.images if match["kind"] == "images" else self.masks
                files.setdefault(match["id"], []).append(name)
        self.ids = sorted(self.images.keys() | self.masks.keys())
        if not self.ids:
            raise InputError(f"{path}: no <id>/images/<id>.png and <id>/masks/*.png in there; is it the raw set?")

    def __getstate__(self) -> dict:
        return vars(self) | {"_archive": None}

    def read(self, name: str) -> bytes:
        """Return the bytes of an image or mask file; raises InputError naming it if it cannot be read."""
        if not self.is_zip:
            return read_bytes(self.path / name)
        try:
            self._archive = self._archive or open_zip(self.path)
            return read_member(self._archive, name)
        except Exception as error:  # zipfile, zlib and the disk raise errors of many types
            raise InputError(f"{name}: cannot be read ({names.printable(error)})") from error


def compose(raw: RawSet, img_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Return an id's image, uint8 BGR (H, W, 3), and the union of its masks, float64 (H, W) of 0 and 1.

    Raises InputError with the reason if the id cannot be prepared.
    """
    if not names.is_safe(img_id):
        raise InputError(f"{names.printable(img_id)}: too long, or unsuitable as a file name; rename the folder")
    images, masks = raw.images.get(img_id, []), raw.masks.get(img_id, [])
    if len(images) != 1:
        raise InputError(f"{img_id}: {len(images)} images, but there must be one")
    if not masks:
        raise InputError(f"{img_id}: no masks")
    image = decode_image(raw.read(images[0]), images[0])
    brightest = np.zeros(image.shape[:2], np.uint8)
    for name in masks:
        mask = decode_mask(raw.read(name), name)
        check_mask_size(name, mask, image)
        np.maximum(brightest, mask, out=brightest)
    return image, (brightest > 127).astype(np.float64)


def is_usable(raw: RawSet, img_id: str) -> bool:
    """Can this id be prepared?"""
    try:
        compose(raw, img_id)
    except InputError:
        return False
    return True
