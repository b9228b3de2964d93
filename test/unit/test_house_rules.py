# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What is asked of a whole repository: its public addresses, its level in the ModelZoo, its license."""

import ipaddress
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.tracked_files import from_folder, from_git, is_ignored, tracked_files

STATEMENT = "public_address_statement.md"
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^\s\"'`<>()\[\]{}|\\,]*)")
MAIL = re.compile(r"[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::[\w./-]+)?")  # also git@host:path
IP_ADDRESS = re.compile(r"(?<![\d.=\w])\d{1,3}(?:\.\d{1,3}){3}(?![\d.\w])")
# Names that are reserved for examples, and so reach nobody (RFC 2606).
EXAMPLE = re.compile(r"(?:.*\.)?(?:localhost|example|invalid|test|example\.(?:com|net|org))")


def is_public(host: str) -> bool:
    """Return whether a host may exist in the internet: no example, no private or local IP address."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not EXAMPLE.fullmatch(host.lower())


def addresses(text: str) -> set[str]:
    """Return the public addresses in a text: of the web, of git, of mail, and IP addresses."""
    found = set()
    for match in URL.finditer(text):
        host = re.split(r"[/?#]", match[1].rpartition("@")[2])[0].partition(":")[0]
        if is_public(host):
            found.add(match[0].rstrip(".;:*"))
    rest = URL.sub(" ", text)
    found |= {match.rstrip(".") for match in MAIL.findall(rest) if is_public(match.partition("@")[2].partition(":")[0])}
    return found | {match for match in IP_ADDRESS.findall(rest) if is_public(match)}


def found_in(root: Path, files: list[Path]) -> set[tuple[str, str]]:
    """Return (file, address) for each address in the text files."""
    pairs = set()
    for path in files:
        data = (root / path).read_bytes()
        if path.name != STATEMENT and b"\0" not in data:
            pairs |= {(path.as_posix(), address) for address in addresses(data.decode("utf-8", "replace"))}
    return pairs


def stated(text: str) -> list[tuple[str, str]]:
    """Return (file, address) for each row of the statement; file may be a pattern such as `*.py`."""
    return re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| \S.+ \| \S.+ \|$", text, re.MULTILINE)


def problems(found: set[tuple[str, str]], rows: list[tuple[str, str]]) -> list[str]:
    """Return what the statement lacks, and what it says in vain."""
    missing = [pair for pair in sorted(found) if not any(fits(pair, row) for row in rows)]
    stale = [row for row in rows if not any(fits(pair, row) for pair in found)]
    return [f"not stated: {file}: {address}" for file, address in missing] + [
        f"stated in vain: {file}: {address}" for file, address in stale
    ]


def fits(pair: tuple[str, str], row: tuple[str, str]) -> bool:
    return pair[1] == row[1] and fnmatchcase(pair[0], row[0])


def test_the_statement_names_each_public_address_of_the_repository() -> None:
    text = (ROOT / STATEMENT).read_text(encoding="utf-8")
    rows = stated(text)
    assert problems(found_in(ROOT, tracked_files(ROOT)), rows) == []
    assert len(set(rows)) == len(rows) == text.count("\n| `") > 5


def test_a_missing_and_a_stale_address_are_found() -> None:
    found = {("a.py", "one"), ("b.py", "two"), ("c/d.sh", "two")}
    assert problems(found, [("a.py", "one"), ("*.py", "two"), ("c/*", "two")]) == []
    assert problems(found, [("a.py", "one"), ("*.py", "two"), ("*.md", "one")]) == [
        "not stated: c/d.sh: two",
        "stated in vain: *.md: one",
    ]
    assert stated("| `a.py` | `one` | 用途 | purpose |\n| `b.py` | `two` | | |\n") == [("a.py", "one")]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("see https://HOST/b?c=1#d, or (http://HOST:8080).", ["https://HOST/b?c=1#d", "http://HOST:8080"]),
        ("[a](https://HOST/b) 'git+ssh://git@HOST/b.git'", ["https://HOST/b", "git+ssh://git@HOST/b.git"]),
        ('f"https://HOST/{name}.zip"', ["https://HOST/"]),
        ("clone git@HOST:b/c.git; mail b.c@HOST.", ["git@HOST:b/c.git", "b.c@HOST"]),
        ("SERVER and http://SERVER/x", ["SERVER", "http://SERVER/x"]),
        ("http://127.0.0.1:9/x 10.0.0.1 0.0.0.0 http://localhost/x env:// tcp://{addr}:{port}", []),
        ("https://example.org/none https://a.example a@b.invalid", []),
        ("package==4.12.0.88 1.2.3 1.2.3.4.5 FPS@all https?:// @dataclass.field", []),
    ],
)
def test_addresses_are_found(text: str, expected: list[str]) -> None:
    """HOST and SERVER become public names here, so that this file holds none."""
    text, *expected = (x.replace("HOST", "a." + "io").replace("SERVER", ".".join("8888")) for x in (text, *expected))
    assert addresses(text) == set(expected)


def test_a_copy_without_git_has_the_same_files(tmp_path: Path) -> None:
    tracked = from_git(ROOT)
    if not tracked:
        pytest.skip("this is a copy without git")
    assert set(tracked) <= set(from_folder(ROOT)) and len(tracked) > 200
    assert from_git(tmp_path) == []


@pytest.mark.parametrize(
    "path, pattern, expected",
    [
        ("inputs/a/b.png", "/inputs/", True),
        ("test/inputs/b.png", "/inputs/", False),
        ("test/output/0/a.log", "/test/output/", True),
        ("a/b.onnx", "*.onnx", True),
        ("a/b.zip", "/*.zip", False),
        (".venv-newest/lib/a.py", ".venv*/", True),
        ("a/__pycache__/b.pyc", "__pycache__/", True),
        ("train.py", "/models/", False),
    ],
)
def test_is_ignored(path: str, pattern: str, expected: bool) -> None:
    assert is_ignored(Path(path), pattern) == expected


def test_the_level_of_the_model_zoo() -> None:
    """Nothing has run on an NPU, so no part is more than NOK."""
    text = (ROOT / "modelzoo_level.txt").read_text(encoding="utf-8")
    assert text == "FuncStatus:NOK\nPerfStatus:NOK\nPrecisionStatus:NOK\n"


def test_each_source_file_names_its_copyright_and_license() -> None:
    """In its first lines; empty files excepted."""
    header = re.compile(
        r"(?:#!.+\n)?# Copyright \d{4} The UNet for PyTorch Authors\n"
        r"# Licensed under the Apache License, Version 2\.0\. SPDX-License-Identifier: Apache-2\.0\n"
    )
    sources = [
        path for path in tracked_files(ROOT) if path.suffix in {".py", ".sh"} or path.name in {"run", "Dockerfile"}
    ]
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in sources}
    assert len(texts) > 250
    assert [str(path) for path, text in texts.items() if text.strip() and not header.match(text)] == []
