"""Which image files `--input` names: what is used, what is counted as not used, what is passed over."""

from pathlib import Path

import pytest

from imaging.finding import find_images
from runtime.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*inputs: str) -> list[str]:
    return [str(path) for path in find_images(list(inputs))]


MACOS = ("mac/plate/._cell.png", "mac/__MACOSX/plate/._cell.png", "mac/__MACOSX/cell.png", "mac/.DS_Store")


def test_hidden_files_and_those_of_macos_are_passed_over_quietly(folder: Path, capsys: pytest.CaptureFixture) -> None:
    touch(*MACOS, "mac/plate/cell.png", "mac/.cache/cell.png", "mac/Thumbs.db", "mac/plate/notes.txt")
    assert found("mac") == ["mac/plate/cell.png"]
    # as a shell passes `mac/*` and `mac/plate/._*`
    assert found("mac/__MACOSX", "mac/plate", "mac/plate/._cell.png") == ["mac/plate/cell.png"]
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="--input mac/__MACOSX/plate: no image there"):
        find_images(["mac/__MACOSX/plate"])


def test_images_that_are_not_used_are_counted(folder: Path, capsys: pytest.CaptureFixture) -> None:
    touch("a/2.png", "a/1.TIF", "a/x/3.png", "a/x/y/4.bmp", "a/masks/m.png", "a/scan.czi", "a/x/b.CZI", "a/p.heic")
    touch(*(name.replace("mac/", "a/") for name in MACOS))
    assert found("a") == ["a/1.TIF", "a/2.png"]
    foreign = "1 file that ends in .heic: a/p.heic; 2 files that end in .czi, such as a/scan.czi"
    assert capsys.readouterr().out == f"not used: {foreign}; 2 images in subfolders, such as a/x/3.png\n"
    assert found("a", "a/x/3.png", "a") == ["a/1.TIF", "a/2.png", "a/x/3.png"], "nothing twice"
    assert capsys.readouterr().out == f"not used: {foreign}; 1 image in subfolders: a/x/y/4.bmp\n"
    assert found("a", "a/x", "a/x/y") == ["a/1.TIF", "a/2.png", "a/x/3.png", "a/x/y/4.bmp"]
    assert "subfolders" not in capsys.readouterr().out


def test_a_folder_without_own_images_is_searched_and_nothing_is_left_out(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    touch("raw/b/images/b.png", "raw/a/images/a.png", "raw/a/masks/1.png")
    assert found("raw") == ["raw/a/images/a.png", "raw/b/images/b.png"] and capsys.readouterr().out == ""


def test_a_folder_of_foreign_images_only(folder: Path) -> None:
    touch("scans/1.czi", "scans/2.czi", "scans/deep/3.nd2")
    with pytest.raises(InputError, match=r"^--input scans: no image there \(.*\); not used: 2 files that end in .czi"):
        find_images(["scans"])
