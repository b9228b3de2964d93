# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Raw images and their masks in a folder or a zip, such as those of DSB2018."""

import re
import zipfile
from pathlib import Path

from imaging.listing import describe_unused
from imaging.raw.archive import list_members, open_zip, read_member
from imaging.raw.folder import list_folder
from imaging.raw.layouts import Layout, sort_files
from runtime import names
from runtime.errors import InputError
from runtime.files import read_bytes

INNER_ZIP = "stage1_train.zip"  # in the zip that Kaggle offers for the whole competition


class RawSet:
    """A raw set in a folder or a zip: by id, the names of its images and masks; `read` returns the bytes of one.

    A zip may hold the zip of the raw images. `is_paired`: does an image have one mask file in place of one per nucleus?
    `unused` names what looks like an image and is not used, by reason.
    `ambiguous` tells by id why it is unclear which mask belongs to the image.
    It can be sent to another process, which then opens the zip itself.
    Raises InputError if the path does not exist, holds no raw images or several classes of masks, or is a zip that
    `open_zip` refuses.
    """

    def __init__(self, path: Path):
        self.path, self.is_zip = path, path.is_file()
        self.unused: dict[str, list[str]] = {}
        self._inner_zip: str | None = None
        self._archive: zipfile.ZipFile | None = None
        if path.is_dir():
            layout = sort_files({name: name for name in list_folder(path, self.unused)}, path)
        elif self.is_zip:
            layout = self._open()
        else:
            raise InputError(
                f"{path}: no such file or folder; give the raw set's path, fetch it with preprocess_dsb2018.py "
                "--download, or try preprocess_dsb2018.py --synthetic 200"
            )
        self.images, self.masks, self.is_paired = layout.images, layout.masks, layout.is_paired
        for reason, found in layout.unused.items():
            self.unused.setdefault(reason, []).extend(found)
        self.ids = sorted(self.images.keys() | self.masks.keys())
        if not self.ids:
            found = f" ({describe_unused(self.unused)})" if self.unused else ""
            raise InputError(
                f"{path}: no <id>/images/<id>.png and <id>/masks/*.png in there, nor images/<id>.png and "
                f"masks/<id>.png{found}; is it the raw set?"
            )
        self.ambiguous = {
            img_id: f"{img_id} ({', '.join(found)}): {len(found)} mask files, but there must be one"
            for img_id, found in self.masks.items()
            if self.is_paired and len(found) > 1 and img_id in self.images
        }

    def _open(self) -> Layout:
        """Open the zip, or the zip in it if it holds no raw images itself."""
        self._archive = open_zip(self.path)
        members = list_members(self._archive)
        layout = sort_files(members, self.path)
        inner = [] if layout.images.keys() & layout.masks.keys() else layout.unused.get("files that end in .zip", [])
        if not inner:
            return layout
        named = [name for name in inner if re.split(r"[/\\]", name)[-1].lower() == INNER_ZIP]
        if len(named or inner) > 1:
            listed = names.printable(", ".join(named or inner))
            raise InputError(f"{self.path}: holds several zips ({listed}); unpack it and give one of them")
        (self._inner_zip,) = named or inner
        outer = layout.unused | {"files that end in .zip": [name for name in inner if name != self._inner_zip]}
        self.unused = {reason: found for reason, found in outer.items() if found}
        self._archive = open_zip(self.path, self._inner_zip)
        return sort_files(list_members(self._archive), f"{self.path}/{self._inner_zip}")

    def __getstate__(self) -> dict:
        return vars(self) | {"_archive": None}

    def read(self, name: str) -> bytes:
        """Return the bytes of an image or mask file; raises InputError naming it if it cannot be read."""
        if not self.is_zip:
            return read_bytes(self.path / name)
        try:
            self._archive = self._archive or open_zip(self.path, self._inner_zip)
            return read_member(self._archive, name)
        except Exception as error:  # zipfile, zlib and the disk raise errors of many types
            raise InputError(f"{name}: cannot be read ({names.printable(error)})") from error
