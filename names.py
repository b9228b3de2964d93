"""Names that somebody else chose: may one become a file here, and how is it shown. Imports nothing of ours."""

import re

# what could rewrite a terminal's line or begin one of its own in a log: control characters, line separators, marks that
# turn the direction of writing, and halves of characters, which cannot even be printed
_TRICKS = re.compile("[\0-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST = 200  # bytes of UTF-8: file systems take 255, and the scripts append `_mask.png` and the like

EXTENSION = re.compile(r"(\.[A-Za-z0-9_-]{1,16}){1,3}")


def is_plain(name: str) -> bool:
    """Does it name a file or folder that stays in the folder it is put into, and can be printed as it is?"""
    if name in ("", ".", "..") or re.search(r"[/\\]", name) or _TRICKS.search(name):
        return False
    return len(name.encode()) <= LONGEST


def shown(text: object, longest: int = 300) -> str:
    """The text in one line, what could play tricks in it escaped, and its middle left out where it is too long."""
    line = _TRICKS.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))
    return line if len(line) <= longest else f"{line[: longest // 2]} … {line[-longest // 2 :]}"


def tame(name: str) -> str:
    """A plain name that resembles this one."""
    name = re.sub(r"[/\\]", "_", _TRICKS.sub("_", name)).encode()[:LONGEST].decode(errors="ignore")
    return name if is_plain(name) else "_"
