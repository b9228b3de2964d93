# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What was found in a set of images, and what was done to them, in words for the log."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from runtime import names

# that are listed
MAX_SIZES = 3
MAX_REASONS, MAX_NAMES = 20, 3


def describe_counts(counts: Counter) -> str:
    """Return `what (number), what (number)`, the largest number first."""
    return ", ".join(f"{what} ({count})" for what, count in counts.most_common())


def describe_unreadable(errors: list[tuple[Path, str]]) -> list[str]:
    """Return a line for each reason why files could not be read, with the number and some names of these files.

    errors: the path of a file and the message of its error, which begins with the path.
    """
    found = defaultdict(set)  # a set, because the pages of a file may fail for the same reason
    for path, message in errors:
        found[message.removeprefix(f"{path}: ")].add(path)
    lines = []
    for reason, paths in list(found.items())[:MAX_REASONS]:
        listed = ", ".join(names.printable(path) for path in sorted(paths)[:MAX_NAMES])
        more = ", …" if len(paths) > MAX_NAMES else ""
        start = listed if len(paths) == 1 else f"{len(paths)} files ({listed}{more})"
        lines.append(f"{start}: {names.printable(reason)}")
    if len(found) > MAX_REASONS:
        lines.append(f"… and {len(found) - MAX_REASONS} more reasons")
    return lines


@dataclass
class Survey:
    """Counts images by size (height, width) and by what was done to them; `zero_one`: do the masks hold 0 and 1?"""

    ids: list[str] = field(default_factory=list)
    sizes: Counter = field(default_factory=Counter)
    notes: Counter = field(default_factory=Counter)
    zero_one: bool = False

    def add(self, size: tuple[int, int], notes: tuple[str, ...]) -> None:
        """Count an image."""
        self.sizes[size] += 1
        self.notes.update(notes)

    def describe(self, height: int, width: int) -> str:
        """Return a line on the sizes, for an input of height × width, and a line on conversions, if there are any."""
        total, resized = self.sizes.total(), self.sizes.total() - self.sizes[height, width]
        listed = [f"{size[1]}×{size[0]} ({count})" for size, count in self.sizes.most_common(MAX_SIZES)]
        rest = f" and {len(self.sizes) - MAX_SIZES} other sizes" if len(self.sizes) > MAX_SIZES else ""
        lines = [f"images: {total}, of {', '.join(listed)}{rest}; resized to {width}×{height}: {resized}"]
        if self.notes:
            lines.append(f"converted: {describe_counts(self.notes)}")
        return "\n".join(lines)
