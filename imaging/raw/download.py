# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Download one large zip over an unreliable connection: resume it, check it, and only then give it its name."""

import http.client
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

from runtime.errors import DISK_ERRORS, InputError
from runtime.files import replace_durably

PAGE = "https://bbbc.broadinstitute.org/BBBC038"
ATTEMPTS = 5
CHUNK_BYTES = 1 << 18
# answers of a busy or restarting server; other answers, such as 404, would be the same the next time
TEMPORARY_STATUS = (408, 429, 500, 502, 503, 504)


def fetch_zip(url: str, target: Path, attempts: int = ATTEMPTS, pause: float = 2.0) -> None:
    """Download `url` to `target`; tries again after `pause` seconds, up to `attempts` times without any progress."""
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    by_hand = f"download stage1_train.zip from {PAGE} in a browser and put it at {target}"
    left, before = attempts, 0
    while True:
        try:
            _fetch_rest(url, part)
            break
        except (OSError, http.client.HTTPException, ValueError) as error:
            received = part.stat().st_size if part.exists() else 0
            left, before = attempts if received > before else left - 1, received
            reason = _reason(error, part)
            if not left or not _is_temporary(error, received):
                kept = f" ({received} bytes are kept, the same command resumes there)" if received else ""
                raise InputError(f"{url}: cannot be downloaded: {reason}{kept}; or {by_hand}") from error
            print(f"download interrupted after {received} bytes ({reason}); trying again", flush=True)
            time.sleep(pause)
    if damage := _find_damage(part):
        part.unlink()  # there is no way to find the wrong bytes
        raise InputError(f"{url}: the downloaded file is damaged ({damage}) and was removed; try again, or {by_hand}")
    replace_durably(part, target)


def _reason(error: Exception, part: Path) -> str:
    """Return why a download failed; raises InputError if the disk did, because another attempt would not help."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        raise InputError(f"{part}: cannot be written: {error.strerror}; what is there is kept") from error
    return str(getattr(error, "reason", None) or error)


def _is_temporary(error: Exception, received: int) -> bool:
    """Can another attempt help? A server that was never reached is probably named wrongly, or there is no network."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in TEMPORARY_STATUS
    return received > 0


def _find_damage(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except Exception as error:  # zipfile, zlib and the disk raise errors of many types
        return str(error)


def _fetch_rest(url: str, part: Path) -> None:
    """Append the bytes of `url` that `part` lacks; raises OSError or HTTPException if the connection is lost."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # no bytes in the requested range
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return  # the file is complete
        part.unlink()  # the server's file is shorter now, so it is another one
        return _fetch_rest(url, part)
    with response:
        if response.status != 206:  # the server ignores ranges and sends the whole file
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        size = f"{total / 1e6:.1f} MB" if total else "of unknown size"
        print(f"downloading {url} ({size}{f', {have / 1e6:.1f} MB are here' if have else ''})", flush=True)
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    if total and part.stat().st_size < total:  # the server closed the connection without an error
        raise ConnectionError(f"{part.stat().st_size} of {total} bytes arrived")
