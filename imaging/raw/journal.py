# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What a preparation is made from, and the journal by which a rerun continues an interrupted one."""

import json
from collections.abc import Iterator
from pathlib import Path

from runtime import names

ORIGIN_FILE = ".preparation.json"  # in a prepared folder
FIELDS = {"id", "size", "nuclei", "marked", "notes", "remarks", "kinds"}  # of the entry of a prepared id
# what makes the same ids of the same size different, in words
COMPARED = {
    "source": "source",
    "channel": "--channel",
    "masks": "number of mask files",
    "changed": "time of the zip's last change",
}


class Journal:
    """A file with one JSON line per finished id, after a line with the origin, which identifies the preparation.

    `entries` maps each finished id to what `prepare_one` returned; it is {} if there is no journal or it belongs to
    another preparation. Ids that were skipped are tried again: the files may have been repaired.
    """

    def __init__(self, path: Path, origin: dict):
        self.path, self.origin = path, origin
        self.entries: dict[str, dict] = self._read()

    def _read(self) -> dict[str, dict]:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            first, *entries = [json.loads(line) for line in lines if line.endswith("\n")]
            if first != self.origin:
                return {}
            return {entry["id"]: entry for entry in entries if entry.keys() >= FIELDS and "skipped" not in entry}
        except (OSError, ValueError, RecursionError, AttributeError, TypeError):  # missing, cut off or damaged
            return {}

    def record(self, results: Iterator[dict]) -> None:
        """Add each result to `entries` and to the file, as soon as it is there."""
        with open(self.path, "a", encoding="utf-8") as file:
            if not self.entries:
                print(json.dumps(self.origin), file=file, flush=True)
            for entry in results:
                self.entries[entry["id"]] = entry
                print(json.dumps(entry), file=file, flush=True)

    def finish(self) -> None:
        """Leave only the origin, as a hidden file in the same folder."""
        (self.path.parent / ORIGIN_FILE).write_text(json.dumps(self.origin) + "\n", encoding="utf-8")
        self.path.unlink()


def describe_differences(folder: Path, origin: dict) -> str:
    """Say in which way a prepared folder has another origin; "" if it has the same, or an older edition wrote it."""
    try:
        recorded = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # missing or damaged
        return ""
    if not isinstance(recorded, dict):
        return ""
    different = [name for name in COMPARED if name in recorded and recorded[name] != origin[name]]
    texts = (f"{COMPARED[name]}: {recorded[name]}, now {origin[name]}" for name in different)
    return names.printable("; ".join(texts), 2000)
