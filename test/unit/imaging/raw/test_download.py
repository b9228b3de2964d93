# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The download of the zip: connections that break, servers that are busy, files that are damaged."""

import http.server
import re
import threading
import zipfile
from pathlib import Path

import pytest
from conftest import run
from helpers.sample_raw_data import as_zip, write_raw

from imaging.raw import download
from runtime.errors import InputError


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw"))


class BreakingServer(http.server.BaseHTTPRequestHandler):
    """Serves one file, but closes the connection after `piece` bytes of every answer.

    limit: no bytes beyond are ever sent. ranges: whether Range headers are answered. statuses: for the first requests,
    what is sent instead of the file.
    """

    data, piece, ranges, limit, statuses = b"", 0, True, 0, ()

    def do_GET(self):
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match and self.ranges:
            start = int(match[1])
        self.requests.append(start)
        if len(self.requests) <= len(self.statuses):
            self.send_response(self.statuses[len(self.requests) - 1])
            self.end_headers()
            return
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
    """A function that starts a server and returns its URL and the list of the requested starts."""
    servers = []

    def start(
        data: bytes, piece: int, ranges: bool = True, limit: int = 1 << 30, statuses: tuple[int, ...] = ()
    ) -> tuple[str, list[int]]:
        how = {"data": data, "piece": piece, "ranges": ranges, "limit": limit, "statuses": statuses, "requests": []}
        handler = type("Handler", (BreakingServer,), how)
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/stage1_train.zip", handler.requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_interrupted_download_is_resumed(serve, raw, tmp_path):
    """In a process: the rest of a killed download is used, an answer breaks off, then the set is prepared."""
    data = as_zip(raw, tmp_path / "served.zip").read_bytes()
    piece = len(data) // 2 + 1
    url, requests = serve(data, piece)
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "stage1_train.zip.part").write_bytes(data[:1000])
    result = run("preprocess_dsb2018.py", "--download", "--url", url, "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert requests == [1000, 1000 + piece]
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


def test_a_connection_that_keeps_breaking_ends_with_what_is_kept(serve, tmp_path):
    """Attempts are counted from the last progress: three without any end the download."""
    url, requests = serve(b"x" * 1000, 10, limit=50)
    with pytest.raises(InputError, match=r"50 bytes are kept.*BBBC038 in a browser"):
        download.fetch_zip(url, tmp_path / "got.zip", attempts=3, pause=0)
    assert requests == [0, 10, 20, 30, 40, 50, 50, 50] and (tmp_path / "got.zip.part").stat().st_size == 50


def test_a_damaged_member_is_found(serve, raw, tmp_path):
    data = bytearray(as_zip(raw, tmp_path / "served.zip").read_bytes())
    data[len(data) // 3] ^= 0xFF
    url, _ = serve(bytes(data), len(data))
    with pytest.raises(InputError, match="the downloaded file is damaged"):
        download.fetch_zip(url, tmp_path / "got.zip", pause=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["served.zip"]


def test_a_damaged_compressed_member_is_found(serve, tmp_path):
    """zlib raises errors of its own."""
    with zipfile.ZipFile(tmp_path / "served.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/images/a.png", bytes(range(256)) * 40)
        start = archive.getinfo("a/images/a.png").header_offset + 30 + len("a/images/a.png")
    data = bytearray((tmp_path / "served.zip").read_bytes())
    data[start] = 0xFF  # no valid type of a block
    url, _ = serve(bytes(data), len(data))
    with pytest.raises(InputError, match=r"the downloaded file is damaged \(Error -3 while decompressing"):
        download.fetch_zip(url, tmp_path / "got.zip", pause=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["served.zip"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(serve, raw, tmp_path, status, capsys):
    data = as_zip(raw, tmp_path / "served.zip").read_bytes()
    url, requests = serve(data, len(data), statuses=(status, status))
    download.fetch_zip(url, tmp_path / "got.zip", attempts=3, pause=0)
    assert (tmp_path / "got.zip").read_bytes() == data and requests == [0, 0, 0]
    assert capsys.readouterr().out.count(f"(the server answers {status} ") == 2


def test_a_server_that_stays_busy_ends_the_download(serve, tmp_path):
    url, requests = serve(b"x" * 100, 100, statuses=(503,) * 9)
    with pytest.raises(InputError, match=r"cannot be downloaded: the server answers 503 .*BBBC038 in a browser"):
        download.fetch_zip(url, tmp_path / "got.zip", attempts=3, pause=0)
    assert len(requests) == 3


def test_a_busy_server_does_not_lose_what_is_there(serve, raw, tmp_path):
    data = as_zip(raw, tmp_path / "served.zip").read_bytes()
    url, requests = serve(data, len(data), statuses=(503,))
    (tmp_path / "got.zip.part").write_bytes(data[:1000])
    download.fetch_zip(url, tmp_path / "got.zip", pause=0)
    assert (tmp_path / "got.zip").read_bytes() == data and requests == [1000, 1000]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(serve, tmp_path, status):
    url, requests = serve(b"x" * 100, 100, statuses=(status,) * 9)
    with pytest.raises(InputError, match=rf"cannot be downloaded: the server answers {status} .*BBBC038 in a browser"):
        download.fetch_zip(url, tmp_path / "got.zip", pause=0)
    assert len(requests) == 1


def test_without_a_network_one_sentence_names_the_page(tmp_path):
    url = "http://127.0.0.1:9/stage1_train.zip"  # no server listens on the discard port
    result = run("preprocess_dsb2018.py", "--download", "--url", url, cwd=tmp_path)
    assert result.returncode == 1 and len(result.stdout.strip().splitlines()) == 1
    assert "[Error]" in result.stdout and download.PAGE in result.stdout and "inputs/stage1_train.zip" in result.stdout
