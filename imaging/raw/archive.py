# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Zips that somebody else made: check the directory before anything is read, then read members with bounded memory."""

import io
import os
import re
import shutil
import stat
import tempfile
import zipfile
from itertools import pairwise
from pathlib import Path

from runtime import names
from runtime.errors import InputError
from runtime.files import MAX_BYTES

# limits of a zip; the raw set of DSB2018 has 30 000 members and 83 MB
MAX_MEMBERS = 250_000
MAX_DIRECTORY_BYTES = 48 * 2**20  # zipfile creates an object for every 47 bytes; a million of them take six seconds
MAX_TOTAL_BYTES = 64 * 2**30
# A blank mask as BMP is compressed to a thousandth, so only for large members does the ratio say anything.
LARGE_MEMBER_BYTES, MAX_RATIO = 64 * 2**20, 200
MAX_NAME_LENGTH = 1000
COPIED_BYTES = 2**20  # of an inner zip, at a time
LOCAL_HEADER_BYTES = 30  # without name and extra field
ENCRYPTED = 0x2041  # flag bits: encrypted in the old way, in a newer way, with its header


def open_zip(path: Path, inner: str | None = None, remedy: str | None = None) -> zipfile.ZipFile:
    """Open a zip whose directory passes all checks; nothing but the directory is read.

    inner: opens instead the zip that is this member. It is copied to a temporary file without a name, which disappears
    when it is closed, and passes the same checks.
    remedy: what an error advises to do; None: what helps with raw images.
    Raises InputError naming the zip, and the member if the reason is one, if:
    - the directory is damaged or too large, or there are too many members or two of the same name;
    - a member's name leads out of the folder it would be unpacked to, or is unprintable;
    - a member is a link or a device, is encrypted, or overlaps with another;
    - one member or all of them would expand to too many bytes;
    - the inner zip cannot be copied.
    """
    archive = _open_checked(_LimitedFile(path), str(path), remedy)
    if inner is None:
        return archive
    name = f"{path}/{names.printable(inner)}"
    try:
        with tempfile.TemporaryFile() as copy:
            with archive.open(inner) as member:
                shutil.copyfileobj(member, copy, COPIED_BYTES)
            copy.flush()
            file = _LimitedFile(os.dup(copy.fileno()))
    except Exception as error:  # zipfile, zlib and the disk raise errors of many types
        raise InputError(
            f"{name}: cannot be copied to a temporary file ({names.printable(error)}); unpack {path} and give the zip "
            "that is in it, or set the variable TMPDIR to a folder with more space"
        ) from error
    return _open_checked(file, name, remedy)


def list_members(archive: zipfile.ZipFile) -> dict[str, str]:
    """Return the names of a zip's files by their paths with slashes; Windows PowerShell writes backslashes."""
    files = (name for name in archive.namelist() if not name.endswith(("/", "\\")))
    return {_with_slashes(name): name for name in files}


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a member of an `open_zip` archive, never more bytes than its directory entry states.

    Raises an error of zipfile, zlib or the disk if it is damaged, or longer or shorter than stated.
    """
    size = archive.getinfo(name).file_size
    with archive.open(name) as member:
        # without a size, zipfile would expand the whole member before it compares the sizes
        content = member.read(max(size, 1))
    if len(content) != size:
        raise zipfile.BadZipFile(f"{len(content)} bytes instead of {size}")
    return content


class _LimitedFile(io.FileIO):
    """A file that refuses to read more than `max_read` bytes at a time: zipfile reads the whole directory at once."""

    max_read = MAX_DIRECTORY_BYTES

    def read(self, size: int = -1) -> bytes:
        if size > self.max_read:
            raise zipfile.BadZipFile(f"its directory has more than {self.max_read} bytes")
        return super().read(size)


def _open_checked(file: _LimitedFile, name: str, remedy: str | None) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # a broken directory raises errors of zipfile, struct and Unicode
        file.close()
        remedy = remedy or "give the raw folder or stage1_train.zip"
        raise InputError(f"{name}: not a readable zip ({names.printable(error)}); {remedy}") from error
    objection = _objection_to_zip(archive)
    for member in archive.infolist() if not objection else ():
        if reason := _objection_to_member(member):
            objection = f"its member '{names.printable(member.orig_filename)}' {reason}"
            break
    if objection:
        file.close()
        remedy = remedy or "make a zip of the raw images alone"
        raise InputError(f"{name}: refused, nothing of it was read: {objection}; {remedy}")
    file.max_read = MAX_BYTES
    return archive


def _with_slashes(name: str) -> str:
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _objection_to_member(member: zipfile.ZipInfo) -> str | None:
    name = member.orig_filename  # `filename` is cut at a NUL
    parts = re.split(r"[/\\]", name.removesuffix("/"))
    if ".." in parts or not parts[0] or re.match("[A-Za-z]:", name):
        return "leads out of its folder"
    if name != names.printable(name, len(name)) or len(name) > MAX_NAME_LENGTH:
        return f"has a name with control characters or more than {MAX_NAME_LENGTH} letters"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if member.flag_bits & ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {member.compress_type}, not by deflate"  # others expand without a bound
    if (size := max(member.file_size, member.compress_size)) > MAX_BYTES:
        return f"has {size} bytes, but at most {MAX_BYTES} are read"
    if member.file_size > LARGE_MEMBER_BYTES and member.file_size > MAX_RATIO * member.compress_size:
        return f"would expand from {member.compress_size} to {member.file_size} bytes"
    return None


def _objection_to_zip(archive: zipfile.ZipFile) -> str | None:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        return f"it has {len(members)} members, but at most {MAX_MEMBERS} are read"
    if (total := sum(member.file_size for member in members)) > MAX_TOTAL_BYTES:
        return f"it would expand to {total} bytes, but at most {MAX_TOTAL_BYTES} are read"
    if len({_with_slashes(member.filename) for member in members}) < len(members):
        return "two of its members have the same name"
    # members that share bytes make a small zip of any size
    spans = sorted((m.header_offset, m.header_offset + LOCAL_HEADER_BYTES + m.compress_size) for m in members)
    spans.append((archive.start_dir, archive.start_dir))
    if spans[0][0] < 0 or any(end > start for (_, end), (start, _) in pairwise(spans)):
        return "its members overlap"
    return None
