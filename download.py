"""Fetch one large zip over an unreliable line: streamed beside its target, resumed, checked, then put in place."""

import http.client
import os
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

from errors import DISK_TROUBLE, InputError

PAGE = "https://bbbc.broadinstitute.org/BBBC038"
ATTEMPTS = 5
CHUNK = 1 << 18


def fetch_zip(url: str, target: Path, attempts: int = ATTEMPTS, pause: float = 2.0) -> None:
    """Download `url` to `target`, going on from `<target>.part` where an earlier try left off.

    A line that breaks is tried again after `pause` seconds, up to `attempts` times without any progress. Raises
    InputError, naming the page to fetch the file from by hand, where the server cannot be reached, the line keeps
    breaking, or the file's members are damaged.
    """
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    by_hand = f"download stage1_train.zip from {PAGE} in a browser and put it at {target}"
    left, before = attempts, 0
    while True:
        try:
            _fetch_rest(url, part)
            break
        except urllib.error.HTTPError as error:
            raise InputError(f"{url}: the server answers {error.code} {error.reason}; {by_hand}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, OSError) and error.errno in DISK_TROUBLE:
                raise InputError(f"{part}: cannot be written: {error.strerror}; what is there is kept") from error
            reason = getattr(error, "reason", None) or error
            started = part.exists() and part.stat().st_size
            left, before = attempts if started > before else left - 1, started
            if not started or not left:
                kept = f" ({started} bytes are kept, the same command goes on from there)" if started else ""
                raise InputError(f"{url}: cannot be downloaded: {reason}{kept}; or {by_hand}") from error
            print(f"the line broke after {started} bytes ({reason}); going on from there", flush=True)
            time.sleep(pause)
    try:
        with zipfile.ZipFile(part) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        damaged = error
    if damaged:
        part.unlink()  # nothing tells which bytes are wrong
        raise InputError(f"{url}: what arrived is damaged ({damaged}) and was removed; try again, or {by_hand}")
    os.replace(part, target)


def _fetch_rest(url: str, part: Path) -> None:
    """Append what `part` lacks of `url`; raises OSError or HTTPException where the line breaks."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return  # nothing is lacking
        part.unlink()  # longer than the file there is now: start again
        return _fetch_rest(url, part)
    with response:
        if response.status != 206:  # the server starts from the beginning
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        size = f"{total / 1e6:.1f} MB" if total else "size not told"
        print(f"downloading {url} ({size}{f', {have / 1e6:.1f} MB are here' if have else ''})", flush=True)
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total and part.stat().st_size < total:  # the server hung up without an error
        raise ConnectionError(f"{part.stat().st_size} of {total} bytes arrived")
