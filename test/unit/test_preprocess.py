"""preprocess_dsb2018.py: the older editions' pixels, folders and zips, bad files, killed runs, broken downloads."""

import http.server
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, run

import download
import options
import preprocess_dsb2018 as preprocess
import rawset
import synthetic
from errors import InputError


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "stage1_train"
    synthetic.write_raw_set(folder, 12, seed=1)
    return folder


def as_zip(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def prepare(*flags: object) -> None:
    preprocess.main(options.parse_preprocess([*map(str, flags)]))


def oracle(read, image: str, masks: list[str], size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """The older editions' preparation of one image, one step after the other."""
    picture = read(image, cv2.IMREAD_UNCHANGED)
    if picture.ndim == 2:
        picture = np.dstack([picture] * 3)
    picture = picture[:, :, :3]
    mask = np.zeros(picture.shape[:2])
    for name in masks:
        mask[read(name, cv2.IMREAD_GRAYSCALE) > 127] = 1
    return cv2.resize(picture, (size, size)), (cv2.resize(mask, (size, size)) * 255).astype("uint8")


def test_pixels_of_the_real_set(real_zip, tmp_path):
    """At least 40 images, covering every raw size and both colour modes."""
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
        image = read(images[img_id], cv2.IMREAD_COLOR)  # every file is RGBA; what differs is whether there is colour
        groups[image.shape, bool((image[..., 0] != image[..., 2]).any())].append(img_id)
    chosen = [img_id for group in groups.values() for img_id in group[:8]]
    assert len(chosen) >= 40 and len({shape for shape, _ in groups}) == 9 and len({colour for _, colour in groups}) == 2
    some = tmp_path / "some.zip"
    with zipfile.ZipFile(some, "w") as target:
        for img_id in chosen:
            for name in [images[img_id], *masks[img_id]]:
                target.writestr(name, archive.read(name))
    prepare("--input", some, "--output", tmp_path / "out")

    for img_id in chosen:
        image, mask = oracle(read, images[img_id], masks[img_id])
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
        image, mask = oracle(read, next((folder / "images").iterdir()), sorted((folder / "masks").iterdir()), 64)
        assert np.array_equal(cv2.imread(str(tmp_path / "folder/images" / f"{folder.name}.png")), image)
        assert np.array_equal(cv2.imread(str(tmp_path / "folder/masks/0" / f"{folder.name}.png"), 0), mask)
    nuclei = len(list(raw.rglob("masks/*.png")))
    assert re.search(rf"^all +12 +{nuclei}$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zips_members_are_those_that_zipfile_reads_also_once_sent_to_another_process(raw, tmp_path, method):
    """With bytes before the zip, as of a self-extracting one, and an empty member."""
    path = tmp_path / "x.zip"
    path.write_bytes(b"#!/bin/sh\n")
    with zipfile.ZipFile(path, "a", method) as archive:
        for file in sorted(raw.rglob("*.png")):
            archive.write(file, file.relative_to(raw))
        archive.writestr("empty/images/empty.png", b"")
    sent = pickle.loads(pickle.dumps(rawset.RawSet(path)))
    with zipfile.ZipFile(path) as archive:
        assert all(sent.read(name) == archive.read(name) for name in archive.namelist())
    assert len(sent.ids) == 13
    path.unlink()
    assert sent.read("empty/images/empty.png") == b"", "what is open stays open"
    with pytest.raises(InputError, match=r"a\.png: cannot be read \(.*No such file"):
        pickle.loads(pickle.dumps(sent)).read("a.png")


def test_bad_files_are_skipped_with_the_reason(raw, tmp_path, capsys):
    bad = tmp_path / "bad"
    shutil.copytree(raw, bad)
    ids = sorted(p.name for p in bad.iterdir())
    (bad / ids[0] / "images" / f"{ids[0]}.png").write_bytes(b"no image")
    (bad / ids[1] / "masks" / "0.png").write_bytes(b"")
    shutil.rmtree(bad / ids[2] / "masks")
    cv2.imwrite(str(bad / ids[3] / "masks" / "0.png"), np.zeros((5, 7), np.uint8))
    shutil.rmtree(bad / ids[4] / "images")
    (bad / ids[5] / "images" / "._x.png").write_bytes(b"what macOS leaves behind")
    (bad / ids[5] / "masks" / "Thumbs.db").write_bytes(b"what Windows leaves behind")
    prepare("--input", bad, "--output", tmp_path / "out")
    out = capsys.readouterr().out
    assert f"{ids[0]}/images/{ids[0]}.png: not a readable image" in out
    assert f"{ids[1]}/masks/0.png: not a readable image" in out
    assert f"{ids[2]}: no masks" in out
    assert f"{ids[3]}/masks/0.png: 7×5, its image" in out
    assert f"{ids[4]}: 0 images" in out
    assert "7 images are prepared in" in out and "5 were skipped" in out
    prepare("--input", bad, "--output", tmp_path / "out")
    assert "is already prepared, with 7 of 12 images" in capsys.readouterr().out
    assert sorted(p.stem for p in (tmp_path / "out" / "images").iterdir()) == ids[5:]


def test_what_is_there_is_not_destroyed(raw, tmp_path, capsys):
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
    with pytest.raises(InputError, match=r"holds 1 images that are not in .*; choose another --output$"):
        prepare("--input", other, "--output", tmp_path / "out")
    with pytest.raises(InputError, match=r"out/images holds 96×96, not 32×32; choose another"):
        (tmp_path / "out" / "images" / "mine.png").unlink()
        prepare("--input", raw, "--output", tmp_path / "out", "--img_size", 32)
    assert contents(tmp_path / "out") == before
    prepare("--input", raw, "--output", tmp_path / "out", "--img_size", 32, "--overwrite")
    assert cv2.imread(str(tmp_path / "out/images/synthetic_0003.png")).shape == (32, 32, 3)
    assert not (tmp_path / "out.old").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_leaves_nothing_that_looks_finished_and_a_rerun_completes_it(tmp_path, workers):
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

    def alive() -> list[str]:  # of the whole session, which had the process's number
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


def test_a_half_prepared_folder_of_an_older_edition_is_not_taken_for_whole(raw, tmp_path):
    prepare("--input", raw, "--output", tmp_path / "out")
    for part in ("images", "masks/0"):
        (tmp_path / "out" / part / "synthetic_0005.png").unlink()
    with pytest.raises(InputError, match="lacks 1 images, such as synthetic_0005; --overwrite"):
        prepare("--input", raw, "--output", tmp_path / "out")
    prepare("--input", raw, "--output", tmp_path / "out", "--overwrite")
    (tmp_path / "out" / "masks" / "0" / "synthetic_0005.png").unlink()
    with pytest.raises(InputError, match=r"synthetic_0005\.png: No such file"):
        prepare("--input", raw, "--output", tmp_path / "out")


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--input", "nowhere"), r"\[Error\] nowhere: no such file or folder; give the raw set with --input"),
        (("--input", "text.zip"), r"\[Error\] text\.zip: not a zip"),
        (("--input", "empty"), r"\[Error\] empty: no <id>/images/<id>\.png and <id>/masks/\*\.png in there"),
        ((), r"\[Error\] inputs/stage1_train\.zip: no such file or folder"),
        (("--synthetic", "1"), "'1' is not a whole number of at least 2"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, flags, message):
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "empty").mkdir()
    result = run("preprocess_dsb2018.py", *flags, cwd=tmp_path)
    assert result.returncode != 0 and "Traceback" not in result.stdout
    assert re.search(message, result.stdout), result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "text.zip"]


def test_synthetic_set_from_nothing_to_prepared(tmp_path):
    result = run("preprocess_dsb2018.py", "--synthetic", "6", cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert len(list((tmp_path / "inputs/synthetic/stage1_train").iterdir())) == 6
    assert len(list((tmp_path / "inputs/synthetic_96/masks/0").glob("*.png"))) == 6
    assert not (tmp_path / "inputs/dsb2018_96").exists(), "never passed off as the real set"
    again = run("preprocess_dsb2018.py", "--synthetic", "6", cwd=tmp_path)
    assert again.returncode == 0 and "is already prepared, with 6 of 6 images" in again.stdout
    other = run("preprocess_dsb2018.py", "--synthetic", "7", cwd=tmp_path)
    assert other.returncode == 1 and "holds 6 images already; remove it, or pass --synthetic 6" in other.stdout


class BreakingServer(http.server.BaseHTTPRequestHandler):
    """Serves one file and hangs up after `piece` bytes of every answer; understands ranges unless told not to."""

    data, piece, ranges, limit = b"", 0, True, 0

    def do_GET(self):
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match and self.ranges:
            start = int(match[1])
        self.requests.append(start)
        if start >= len(self.data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.data)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.data) - start))
        self.end_headers()
        self.wfile.write(self.data[start : min(start + self.piece, self.limit)])
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(data: bytes, piece: int, ranges: bool = True, limit: int = 1 << 30) -> tuple[str, list[int]]:
        how = {"data": data, "piece": piece, "ranges": ranges, "limit": limit, "requests": []}
        handler = type("Handler", (BreakingServer,), how)
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/stage1_train.zip", handler.requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_download_that_breaks_off_is_resumed(serve, raw, tmp_path):
    """A whole process: four broken answers, then a killed try's rest is used, then the set is prepared."""
    data = as_zip(raw, tmp_path / "served.zip").read_bytes()
    piece = len(data) // 4 + 1
    url, requests = serve(data, piece)
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "stage1_train.zip.part").write_bytes(data[:1000])
    result = run("preprocess_dsb2018.py", "--download", "--url", url, "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert requests == [1000 + k * piece for k in range(4)]
    assert f"({len(data) / 1e6:.1f} MB" in result.stdout
    assert (tmp_path / "inputs" / "stage1_train.zip").read_bytes() == data
    assert not (tmp_path / "inputs" / "stage1_train.zip.part").exists()
    assert len(list((tmp_path / "out" / "images").iterdir())) == 12


def test_a_server_without_ranges_is_read_from_the_beginning(serve, raw, tmp_path):
    data = as_zip(raw, tmp_path / "served.zip").read_bytes()
    url, _ = serve(data, len(data), ranges=False)
    (tmp_path / "got.zip.part").write_bytes(b"x" * 1000)
    download.fetch_zip(url, tmp_path / "got.zip", pause=0)
    assert (tmp_path / "got.zip").read_bytes() == data


def test_a_line_that_keeps_breaking_ends_with_what_is_kept(serve, tmp_path):
    """Progress earns new tries: it is giving nothing three times over that ends it."""
    url, requests = serve(b"x" * 1000, 10, limit=50)
    with pytest.raises(InputError, match=r"50 bytes are kept.*BBBC038 in a browser"):
        download.fetch_zip(url, tmp_path / "got.zip", attempts=3, pause=0)
    assert requests == [0, 10, 20, 30, 40, 50, 50, 50] and (tmp_path / "got.zip.part").stat().st_size == 50


def test_damage_is_found_by_the_members(serve, raw, tmp_path):
    data = bytearray(as_zip(raw, tmp_path / "served.zip").read_bytes())
    data[len(data) // 3] ^= 0xFF
    url, _ = serve(bytes(data), len(data))
    with pytest.raises(InputError, match="what arrived is damaged"):
        download.fetch_zip(url, tmp_path / "got.zip", pause=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["served.zip"]


def test_without_a_network_one_sentence_names_the_page(tmp_path):
    url = "http://127.0.0.1:9/stage1_train.zip"  # nobody listens on the discard port
    result = run("preprocess_dsb2018.py", "--download", "--url", url, cwd=tmp_path)
    assert result.returncode == 1 and len(result.stdout.strip().splitlines()) == 1
    assert "[Error]" in result.stdout and download.PAGE in result.stdout and "inputs/stage1_train.zip" in result.stdout
