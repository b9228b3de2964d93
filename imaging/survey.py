"""What was found in a set of images, and what was done to them, in words for the log."""

from collections import Counter
from dataclasses import dataclass, field

MAX_SIZES = 3  # that are listed


def describe_counts(counts: Counter) -> str:
    """Return `what (number), what (number)`, the largest number first."""
    return ", ".join(f"{what} ({count})" for what, count in counts.most_common())


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
        lines = [f"images: {total}, of {', '.join(listed)}{rest}; {resized} are resized to {width}×{height}"]
        if self.notes:
            lines.append(f"converted: {describe_counts(self.notes)}")
        return "\n".join(lines)
