# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The preparation: the older editions' pixels, unusable files, interrupted runs, and what `--overwrite` replaces."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, run
from helpers.sample_raw_data import as_zip, contents, old_preparation, prepare, write_raw

from imaging.checks import check_dataset
from imaging.prepared import PreparedFolder
from imaging.raw import synthetic
from runtime.errors import InputError

IMAGE = cv2.imencode(".png", np.full((8, 8), 200, np.uint8))[1].tobytes()


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw"))


def test_pixels_of_the_real_set(real_zip, tmp_path):
    """At least 40 images, covering every raw size and both color modes."""
    archive = zipfile.ZipFile(real_zip)
    images, masks = {}, defaultdict(list)
    for name in archive.namelist():
        img_id, kind, _ = name.split("/")[-3:]
        if kind == "images":
            images[img_id] = name
        else:
            masks[img_id].append(name)
    assert len(images) == 664 and sum(map(len, masks.values())) == 28986

    def read(name: str, flags: int) -> np.ndarray:
        return cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), flags)

    groups = defaultdict(list)
    for img_id in sorted(images):
        image = read(images[img_id], cv2.IMREAD_COLOR)  # every file is RGBA, but many images are gray
        groups[image.shape, bool((image[..., 0] != image[..., 2]).any())].append(img_id)
    chosen = [img_id for group in groups.values() for img_id in group[:5]]
    assert len(chosen) >= 40 and len({shape for shape, _ in groups}) == 9 and len({color for _, color in groups}) == 2
    some = tmp_path / "some.zip"
    with zipfile.ZipFile(some, "w") as target:
        for img_id in chosen:
            for name in [images[img_id], *masks[img_id]]:
                target.writestr(name, archive.read(name))
    prepare("--input", some, "--output", tmp_path / "out")

    for img_id in chosen:
        image, mask = old_preparation(read, images[img_id], masks[img_id])
        assert np.array_equal(cv2.imread(str(tmp_path / "out/images" / f"{img_id}.png"), cv2.IMREAD_UNCHANGED), image)
        assert np.array_equal(cv2.imread(str(tmp_path / "out/masks/0" / f"{img_id}.png"), cv2.IMREAD_UNCHANGED), mask)


def test_folder_and_zip_with_and_without_the_leading_folder_give_the_same(raw, tmp_path, capsys):
    sources = {
        "folder": raw,
        "parent": raw.parent,
        "flat zip": as_zip(raw, tmp_path / "flat.zip"),
        "nested zip": as_zip(raw, tmp_path / "nested.zip", "stage1_train/"),
    }
    results = {}
    for name, source in sources.items():
        prepare("--input", source, "--output", tmp_path / name, "--img_size", 64, "--workers", 1 + ("zip" in name))
        results[name] = contents(tmp_path / name)
    assert len(results["folder"]) == 24 and all(found == results["folder"] for found in results.values())
    assert not list(tmp_path.glob("*.partial"))
    read = lambda name, flags: cv2.imread(str(name), flags)  # noqa: E731
    for folder in raw.iterdir():
        image, mask = old_preparation(
            read, next((folder / "images").iterdir()), sorted((folder / "masks").iterdir()), 64
        )
        assert np.array_equal(cv2.imread(str(tmp_path / "folder/images" / f"{folder.name}.png")), image)
        assert np.array_equal(cv2.imread(str(tmp_path / "folder/masks/0" / f"{folder.name}.png"), 0), mask)
    nuclei = len(list(raw.rglob("masks/*.png")))
    assert re.search(rf"^all +12 +{nuclei}$", capsys.readouterr().out, re.MULTILINE)


def test_bad_files_are_skipped_with_the_reason(raw, tmp_path, capsys):
    bad = tmp_path / "bad"
    shutil.copytree(raw, bad)
    ids = sorted(p.name for p in bad.iterdir())
    (bad / ids[0] / "images" / f"{ids[0]}.png").write_bytes(b"no image")
    (bad / ids[1] / "masks" / "0.png").write_bytes(b"")
    shutil.rmtree(bad / ids[2] / "masks")
    cv2.imwrite(str(bad / ids[3] / "masks" / "0.png"), np.zeros((5, 7), np.uint8))
    shutil.rmtree(bad / ids[4] / "images")
    (bad / ids[5] / "images" / "._x.png").write_bytes(b"added by macOS")
    (bad / ids[5] / "masks" / "Thumbs.db").write_bytes(b"added by Windows")
    prepare("--input", bad, "--output", tmp_path / "out")
    out = capsys.readouterr().out
    assert f"{ids[0]}/images/{ids[0]}.png: not a readable image" in out
    assert f"{ids[1]}/masks/0.png: an empty file, of 0 bytes" in out
    assert f"{ids[2]}: no masks" in out
    assert f"{ids[3]}/masks/0.png: the mask is 7×5, but its image is" in out
    assert f"{ids[4]}: 0 images" in out
    assert "7 images are prepared in" in out and "5 were skipped" in out
    prepare("--input", bad, "--output", tmp_path / "out")
    assert "is already prepared, with 7 of 12 images" in capsys.readouterr().out
    assert sorted(p.stem for p in (tmp_path / "out" / "images").iterdir()) == ids[5:]


def test_existing_data_are_not_destroyed(raw, tmp_path, capsys):
    prepare("--input", raw, "--output", tmp_path / "out")
    before = contents(tmp_path / "out")
    capsys.readouterr()
    prepare("--input", raw, "--output", tmp_path / "out")
    assert "is already prepared, with 12 of 12 images" in capsys.readouterr().out
    synthetic.write_raw_set(tmp_path / "other", 14, seed=2)
    other = as_zip(tmp_path / "other", tmp_path / "other.zip")
    with zipfile.ZipFile(other, "a") as archive:
        archive.writestr("stranger/images/stranger.png", cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())
    (tmp_path / "out" / "images" / "mine.png").write_bytes((tmp_path / "out/images/synthetic_0000.png").read_bytes())
    with pytest.raises(InputError, match=r"holds 1 image not in .*; choose another --output$"):
        prepare("--input", other, "--output", tmp_path / "out")
    with pytest.raises(InputError, match=r"out/images holds 96×96, not 32×32; choose another"):
        (tmp_path / "out" / "images" / "mine.png").unlink()
        prepare("--input", raw, "--output", tmp_path / "out", "--img_size", 32)
    assert contents(tmp_path / "out") == before
    prepare("--input", raw, "--output", tmp_path / "out", "--img_size", 32, "--overwrite")
    assert cv2.imread(str(tmp_path / "out/images/synthetic_0003.png")).shape == (32, 32, 3)
    assert not (tmp_path / "out.old").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_leaves_no_finished_folder_and_a_rerun_completes_it(tmp_path, workers):
    synthetic.write_raw_set(tmp_path / "raw", 30, seed=3)
    command = [sys.executable, ROOT / "preprocess_dsb2018.py", "--input", "raw", "--output", "out"]
    process = subprocess.Popen([*command, "--workers", str(workers)], cwd=tmp_path, start_new_session=True)
    done = tmp_path / "out.partial" / "images"
    deadline = time.monotonic() + 60
    while not done.exists() or sum(1 for p in done.iterdir() if not p.name.startswith(".")) < 10:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=True)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    result = run("preprocess_dsb2018.py", "--input", "raw", "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert re.search(r"preparing \d+ images of raw, \d+ are done already", result.stdout)
    result = run("preprocess_dsb2018.py", "--input", "raw", "--output", "undisturbed", cwd=tmp_path)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed") and len(contents(tmp_path / "out")) == 60


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_workers_end_with_their_parent(tmp_path, number, code):
    synthetic.write_raw_set(tmp_path / "raw", 40, seed=3)
    command = [sys.executable, ROOT / "preprocess_dsb2018.py", "--input", "raw", "--output", "out", "--workers", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out.partial" / "images").glob("*.png")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)

    def alive() -> list[str]:  # the processes of the session, whose number is that of its first process
        return subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True, text=True).stdout.split()

    assert len(alive()) >= 3
    process.send_signal(number)
    assert process.wait(20) == code
    deadline = time.monotonic() + 10
    while alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive() and not (tmp_path / "out").exists()


def test_overwrite_replaces_nothing_but_prepared_data(raw, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(raw, home / "raw")
    (home / "letters.txt").write_text("dear")
    before = contents(home)
    with pytest.raises(InputError, match="holds more than images/ and masks/"):
        prepare("--input", raw, "--output", home, "--overwrite")
    inside = home / "prepared" / "images" / "stage1_train"
    shutil.copytree(raw, inside)
    with pytest.raises(InputError, match=r"stage1_train lies inside .*prepared, which --overwrite would replace"):
        prepare("--input", inside, "--output", home / "prepared", "--overwrite")
    shutil.rmtree(home / "prepared")
    assert contents(home) == before


def test_a_half_prepared_folder_of_an_older_edition_is_refused(raw, tmp_path):
    prepare("--input", raw, "--output", tmp_path / "out")
    for part in ("images", "masks/0"):
        (tmp_path / "out" / part / "synthetic_0005.png").unlink()
    with pytest.raises(InputError, match="lacks 1 image, such as synthetic_0005; --overwrite"):
        prepare("--input", raw, "--output", tmp_path / "out")
    prepare("--input", raw, "--output", tmp_path / "out", "--overwrite")
    (tmp_path / "out" / "masks" / "0" / "synthetic_0005.png").unlink()
    with pytest.raises(InputError, match=r"synthetic_0005\.png: No such file"):
        prepare("--input", raw, "--output", tmp_path / "out")


def test_renames_are_synced(raw, tmp_path, monkeypatch):
    """A power cut must not undo the rename: the parent folder is synced before the earlier data are removed."""
    prepare("--input", raw, "--output", tmp_path / "out", "--workers", 1)
    events, fsync, replace, rmtree = [], os.fsync, os.replace, shutil.rmtree

    def record_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            events.append(("sync", path.relative_to(tmp_path).as_posix()))
        fsync(descriptor)

    def record_replace(source, target) -> None:
        if Path(source).is_dir():
            events.append(("rename", Path(target).name))
        replace(source, target)

    def record_rmtree(path, **options) -> None:
        if Path(path).exists():
            events.append(("remove", Path(path).name))
        rmtree(path, **options)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    monkeypatch.setattr(shutil, "rmtree", record_rmtree)
    prepare("--input", raw, "--output", tmp_path / "out", "--workers", 1, "--overwrite")
    last = [("sync", "out.partial/masks"), ("sync", "out.partial"), ("rename", "out.old"), ("rename", "out")]
    assert events[-6:] == [*last, ("sync", "."), ("remove", "out.old")]


def test_ids_that_look_like_flags_are_prepared_and_unprintable_ones_are_skipped(tmp_path, capsys):
    folder = tmp_path / "raw"
    for img_id in ("-rf", "$(touch ran)", "a b'\"", "核", "a", "line\nbreak", "\x1b[2J", "back\\slash", "x" * 201):
        for name in (f"{img_id}/images/x.png", f"{img_id}/masks/0.png"):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_bytes(IMAGE)
    (folder / os.fsdecode(b"\xff") / "images").mkdir(parents=True)
    (folder / os.fsdecode(b"\xff") / "images" / "x.png").write_bytes(IMAGE)
    prepare("--input", folder, "--output", tmp_path / "out", "--workers", 1, "--dense_masks")
    prepared = {path.stem for path in (tmp_path / "out" / "images").iterdir()}
    assert prepared == {"-rf", "$(touch ran)", "a b'\"", "核", "a"}
    out = capsys.readouterr().out
    assert re.findall(r"^  (.*): too long, or unsuitable as a file name", out, re.MULTILINE) == [
        r"\x1b[2J",
        "back\\slash",
        r"line\nbreak",
        "x" * 201,
        r"\udcff",
    ]
    assert re.fullmatch(r"[\n -~×核…]*", out)


@pytest.mark.parametrize("size", [32, 48, 96, 0])
def test_borders_of_every_size_can_be_trained_on(tmp_path, size):
    """Resized like the nuclei, thin borders would be gray, and training would refuse them."""
    synthetic.write_raw_set(tmp_path / "raw", 8, seed=4)
    prepare("--input", tmp_path / "raw", "--img_size", size, "--borders", "--output", tmp_path / "out")
    borders = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (tmp_path / "out/masks/1").iterdir()]
    assert len(borders) == 8 and set(np.unique(np.concatenate([mask.ravel() for mask in borders]))) == {0, 255}
    folder = PreparedFolder(tmp_path / "out", ".png", ".png", 2, 0)
    assert len(check_dataset(folder, skip_bad=False).ids) == 8
    for img_id in folder.list_ids():
        _, masks = folder.read(img_id)
        # a border runs along nuclei
        near = cv2.dilate(masks[..., 0], np.ones((11, 11)))
        assert not masks[..., 1][near == 0].any()
