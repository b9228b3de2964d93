"""The raw images of DSB2018 in Kaggle's layout, one mask file a nucleus, in a folder or a zip."""

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

import files
import names
from errors import InputError

MEMBER = re.compile(r"(?:.*/)?(?P<id>[^/]+)/(?P<kind>images|masks)/(?P<file>[^/]+)")

# a zip's limits; the whole raw set of DSB2018 has 30 000 members and 83 MB
MOST_MEMBERS = 250_000
MOST_DIRECTORY_BYTES = 48 * 2**20  # zipfile makes an object of every 47 bytes: a million of them take six seconds
MOST_TOTAL_BYTES = 64 * 2**30
# a blank mask as BMP shrinks to a thousandth, so that only of large members the ratio tells anything
LARGE_MEMBER_BYTES, MOST_RATIO = 64 * 2**20, 200
LOCAL_HEADER = struct.Struct("<4s22x2H")  # what counts of it: its mark, the lengths of a name and of an extra field


class Member(NamedTuple):
    """Where a member lies in its zip, and how to tell that what was read is what the directory promised."""

    offset: int
    packed_size: int
    size: int
    checksum: int
    deflated: bool


class RawSet:
    """A raw set in a folder or a zip: for each id its image and its masks, read as bytes by name.

    Another process that it is sent to reads the same members, without going through the zip's directory again.
    Raises InputError where the path is neither, holds no raw images, or is a zip that `read_directory` refuses.
    """

    def __init__(self, path: Path):
        self.path, self.is_zip, self._file = path, path.is_file(), None
        self._members: dict[str, Member] = {}
        if path.is_dir():
            found = (p.relative_to(path).as_posix() for p in path.rglob("*.*") if p.is_file())
        elif self.is_zip:
            found = self._members = read_directory(path)
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
            if name.lower().endswith(files.IMAGE_EXTENSIONS):
                members = self.images if match["kind"] == "images" else self.masks
                members.setdefault(match["id"], []).append(name)
        self.ids = sorted(self.images.keys() | self.masks.keys())
        if not self.ids:
            raise InputError(f"{path}: no <id>/images/<id>.png and <id>/masks/*.png in there; is it the raw set?")

    def __getstate__(self) -> dict:
        return vars(self) | {"_file": None}  # each process opens the zip for itself

    def read(self, name: str) -> bytes:
        """A member's bytes; raises InputError naming it where they cannot be read."""
        if not self.is_zip:
            return files.read_bytes(self.path / name)
        try:
            self._file = self._file or open(self.path, "rb", buffering=0)  # noqa: SIM115  # open as long as this is
            return _unpack(self._file.fileno(), self._members[name])
        except Exception as error:  # zlib, struct and the disk have a type each
            raise InputError(f"{name}: cannot be read ({names.shown(error)})") from error


def _unpack(file: int, member: Member) -> bytes:
    """A member of an open zip. zipfile's own way costs as much again, and there are tens of thousands to read."""
    mark, name_size, extra_size = LOCAL_HEADER.unpack(os.pread(file, LOCAL_HEADER.size, member.offset))
    if mark != b"PK\3\4":
        raise zipfile.BadZipFile("the zip's directory points to something else")
    start = member.offset + LOCAL_HEADER.size + name_size + extra_size
    content = os.pread(file, member.packed_size, start)
    if member.deflated:
        # never more than the directory says, which was checked: a member may hold more than it claims
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, max(member.size, 1))
    if len(content) != member.size or zlib.crc32(content) != member.checksum:
        raise zipfile.BadZipFile("Bad CRC-32 or length")
    return content


class _ZipFile(io.FileIO):
    """A zip on the disk, out of which no more than a directory may have are read at a time."""

    def read(self, size: int = -1) -> bytes:
        if size > MOST_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory has more than {MOST_DIRECTORY_BYTES} bytes")
        return super().read(size)


def read_directory(path: Path) -> dict[str, Member]:
    """The members, by name, of a zip that somebody else made; nothing but its directory is looked at.

    Raises InputError naming the zip, and the member if it is one, where it is damaged, where a member's name leads out
    of the folder it would be unpacked to, or could not be shown, where a member is a link, encrypted, or shares its
    bytes with another, and where one or all would grow absurdly.
    """
    with _ZipFile(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # struct, Unicode and zipfile have a type each for a broken directory
            raise InputError(
                f"{path}: not a zip that can be read ({names.shown(error)}); give the raw folder or stage1_train.zip"
            ) from error
    members = archive.infolist()
    objection = _objection_to_all(members, archive.start_dir)
    if not objection:
        told = ((member, _objection_to(member)) for member in members)
        objection = next((f"its member '{names.shown(m.orig_filename)}' {what}" for m, what in told if what), None)
    if objection:
        raise InputError(f"{path}: refused, nothing of it was read: {objection}; make a zip of the raw images alone")
    deflated = zipfile.ZIP_DEFLATED
    return {
        m.filename: Member(m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type == deflated)
        for m in members
    }


def _objection_to(member: zipfile.ZipInfo) -> str | None:
    name = member.orig_filename  # zipfile's own `filename` ends at a NUL
    parts = re.split(r"[/\\]", name.removesuffix("/"))
    kind = stat.S_IFMT(member.external_attr >> 16)
    if ".." in parts or not parts[0] or re.match("[A-Za-z]:", name):
        return "leads out of its folder"
    if name != names.shown(name, len(name)) or len(name) > 1000:
        return "has a name of control characters or of more than 1000 letters"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if member.flag_bits & 0x2041:  # encrypted by the old way, by a newer one, with its header
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {member.compress_type}, not by deflate"  # others inflate without a bound
    if (most := max(member.file_size, member.compress_size)) > files.MOST_BYTES:
        return f"has {most} bytes, and at most {files.MOST_BYTES} are read"
    if member.file_size > LARGE_MEMBER_BYTES and member.file_size > MOST_RATIO * member.compress_size:
        return f"would grow from {member.compress_size} to {member.file_size} bytes"
    return None


def _objection_to_all(members: list[zipfile.ZipInfo], start_of_directory: int) -> str | None:
    if len(members) > MOST_MEMBERS:
        return f"it has {len(members)} members, and at most {MOST_MEMBERS} are taken"
    if (total := sum(member.file_size for member in members)) > MOST_TOTAL_BYTES:
        return f"it would grow to {total} bytes, and at most {MOST_TOTAL_BYTES} are taken"
    if len({member.filename for member in members}) < len(members):
        return "two of its members have the same name"
    # bytes that several members share make a small zip of any size
    places = sorted((m.header_offset, m.header_offset + LOCAL_HEADER.size + m.compress_size) for m in members)
    places.append((start_of_directory, start_of_directory))
    if places[0][0] < 0 or any(end > start for (_, end), (start, _) in pairwise(places)):
        return "its members overlap"
    return None


def compose(raw: RawSet, img_id: str) -> tuple[np.ndarray, np.ndarray]:
    """An id's image, uint8 BGR (H, W, 3), and the union of its masks, float64 (H, W) of 0 and 1.

    Raises InputError saying why there are none.
    """
    if not names.is_plain(img_id):
        raise InputError(f"{names.shown(img_id)}: too long, or not fit for a file's name; rename the folder")
    images, masks = raw.images.get(img_id, []), raw.masks.get(img_id, [])
    if len(images) != 1:
        raise InputError(f"{img_id}: {len(images)} images, where there must be one")
    if not masks:
        raise InputError(f"{img_id}: no masks")
    image = files.decode_image(raw.read(images[0]), images[0])
    brightest = np.zeros(image.shape[:2], np.uint8)
    for name in masks:
        mask = files.decode_mask(raw.read(name), name)
        if mask.shape != brightest.shape:
            sizes = f"{mask.shape[1]}×{mask.shape[0]}, its image {image.shape[1]}×{image.shape[0]}"
            raise InputError(f"{name}: {sizes}")
        np.maximum(brightest, mask, out=brightest)
    return image, (brightest > 127).astype(np.float64)


def is_usable(raw: RawSet, img_id: str) -> bool:
    """Can this id be prepared?"""
    try:
        compose(raw, img_id)
    except InputError:
        return False
    return True
