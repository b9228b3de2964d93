"""Zips and images made to do harm: refused in one sentence, before anything is written or much memory taken."""

import os
import re
import resource
import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

import demo
import files
import names
import options
import pictures
import preprocess_dsb2018 as preprocess
import rawset
from errors import InputError

IMAGE = cv2.imencode(".png", np.full((8, 8), 200, np.uint8))[1].tobytes()
GOOD = {"a/images/a.png": IMAGE, "a/masks/0.png": IMAGE}

# --- zips ------------------------------------------------------------------------------------------------------------


def write_zip(path: Path, members: dict[str, bytes], **of_last: int) -> Path:
    """A zip of these members; the last one's entry in the directory gets the attributes `of_last`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        for attribute, value in of_last.items():
            setattr(archive.infolist()[-1], attribute, value)
    return path


def refusal(path: Path, tmp_path: Path) -> str:
    """What preparing the zip is refused with; nothing may have been written."""
    before = sorted(tmp_path.rglob("*"))
    flags = ["--input", str(path), "--output", str(tmp_path / "out"), "--workers", "1"]
    with pytest.raises(InputError) as error:
        preprocess.main(options.parse_preprocess(flags))
    assert sorted(tmp_path.rglob("*")) == before
    text = str(error.value)
    assert text.startswith(f"{path}: ") and text.isprintable() and len(text) < 700
    return text


@pytest.mark.parametrize(
    "name, told",
    [
        ("../evil.png", "'../evil.png' leads out of its folder"),
        ("a/../../evil.png", "leads out"),
        ("a/images/..", "leads out"),
        ("a\\..\\..\\evil.png", "leads out"),
        ("/etc/evil.png", "leads out"),
        ("//server/evil.png", "leads out"),
        ("\\\\server\\evil.png", "leads out"),
        ("C:\\evil.png", "leads out"),
        ("c:evil.png", "leads out"),
        ("__MACOSX/../../evil", "leads out"),
        ("a\nb/images/x.png", "'a\\nb/images/x.png' has a name of control characters"),
        ("a/images/\x1b[2J.png", "control characters"),
        ("a\u202eb/images/x.png", "control characters"),
        ("x" * 2000, "1000 letters"),
    ],
)
def test_a_members_name_that_leads_out_or_cannot_be_shown(tmp_path, name, told):
    assert told in refusal(write_zip(tmp_path / "x.zip", GOOD | {name: IMAGE}), tmp_path)


@pytest.mark.parametrize(
    "attributes, told",
    [
        ({"external_attr": (stat.S_IFLNK | 0o777) << 16}, "is a link or a device"),
        ({"external_attr": stat.S_IFIFO << 16}, "is a link or a device"),
        ({"flag_bits": 1}, "is encrypted"),
        ({"flag_bits": 0x40}, "is encrypted"),
        ({"compress_type": 12}, "is compressed by method 12"),
        ({"compress_type": 99}, "is compressed by method 99"),
        ({"file_size": 2**30 + 1}, "has 1073741825 bytes, and at most 1073741824"),
        ({"file_size": 2**27}, f"would grow from {len(zlib.compress(IMAGE)) - 6} to 134217728 bytes"),
        ({"header_offset": 0}, "its members overlap"),
        ({"compress_size": 10**6}, "its members overlap"),
    ],
)
def test_a_members_entry_in_the_directory(tmp_path, attributes, told):
    path = write_zip(tmp_path / "x.zip", GOOD | {"b/masks/b.png": IMAGE}, **attributes)
    assert told in refusal(path, tmp_path)


def test_the_same_name_twice(tmp_path):
    path = write_zip(tmp_path / "x.zip", GOOD)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/images/a.png", b"another")
    assert "same name" in refusal(path, tmp_path)


def test_a_name_that_ends_at_a_nul(tmp_path):
    """zipfile itself would cut it there: the name it gives and the one in the file differ."""
    path = write_zip(tmp_path / "x.zip", GOOD | {"b/images/b.png?/x": IMAGE})
    path.write_bytes(path.read_bytes().replace(b"b.png?", b"b.png\0"))
    assert r"b.png\x00/x' has a name of control characters" in refusal(path, tmp_path)


def test_a_name_that_is_no_utf8(tmp_path):
    path = write_zip(tmp_path / "x.zip", GOOD | {"ü/images/b.png": IMAGE})
    path.write_bytes(path.read_bytes().replace("ü/im".encode(), b"\xff\xff/im"))
    assert "not a zip that can be read" in refusal(path, tmp_path)


def test_limits_on_all_members_together(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "x.zip", GOOD | {f"b/masks/{number}.png": IMAGE for number in range(8)})
    for limit, most, told in (
        ("MOST_MEMBERS", 9, "it has 10 members, and at most 9"),
        ("MOST_TOTAL_BYTES", 10 * len(IMAGE) - 1, f"it would grow to {10 * len(IMAGE)} bytes"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(rawset, limit, most)
            assert told in refusal(path, tmp_path)


@pytest.mark.parametrize("zip64", [False, True])
def test_a_directory_of_millions_is_not_read(tmp_path, zip64):
    """The file is sparse: what counts is that the limit holds before the directory is in memory."""
    path, size = tmp_path / "x.zip", 2**31
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 46 if zip64 else size, 0, 0)
    if zip64:
        end = (
            struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, 0)
            + struct.pack("<4sLQL", b"PK\6\7", 0, size, 1)
            + end
        )
    with open(path, "wb") as file:
        file.seek(size)
        file.write(end)
    tracemalloc.start()
    assert "its directory has more than" in refusal(path, tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_member_that_grows_beyond_what_it_says(tmp_path, capsys):
    """10 MB of zeros that claim to be 100 bytes: read to no more than that, and told by the checksum."""
    path = write_zip(
        tmp_path / "x.zip", GOOD | {"b/masks/0.png": IMAGE, "b/images/b.png": bytes(10 * 2**20)}, file_size=100
    )
    raw = rawset.RawSet(path)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"b/images/b\.png: cannot be read \(Bad CRC"):
        raw.read("b/images/b.png")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    preprocess.main(options.parse_preprocess(["--input", str(path), "--output", str(tmp_path / "out")]))
    assert "1 images are prepared" in capsys.readouterr().out


def test_a_directory_that_points_to_something_else_than_a_member(tmp_path):
    path = write_zip(tmp_path / "x.zip", GOOD | {"b/images/b.png": IMAGE})
    path.write_bytes(path.read_bytes().replace(b"PK\3\4", b"PK\3\5"))
    with pytest.raises(InputError, match=r"b/images/b\.png: cannot be read \(the zip's directory points to something"):
        rawset.RawSet(path).read("b/images/b.png")


def test_ids_that_look_like_flags_work_and_others_are_skipped(tmp_path, capsys):
    raw = tmp_path / "raw"
    for img_id in ("-rf", "$(touch ran)", "a b'\"", "核", "line\nbreak", "\x1b[2J", "back\\slash", "x" * 201):
        for name in (f"{img_id}/images/x.png", f"{img_id}/masks/0.png"):
            (raw / name).parent.mkdir(parents=True)
            (raw / name).write_bytes(IMAGE)
    (raw / os.fsdecode(b"\xff") / "images").mkdir(parents=True)
    (raw / os.fsdecode(b"\xff") / "images" / "x.png").write_bytes(IMAGE)
    flags = ["--input", str(raw), "--output", str(tmp_path / "out"), "--workers", "1"]
    preprocess.main(options.parse_preprocess(flags))
    prepared = {path.stem for path in (tmp_path / "out" / "images").iterdir()}
    assert prepared == {"-rf", "$(touch ran)", "a b'\"", "核"}
    out = capsys.readouterr().out
    assert re.findall(r"^  (.*): too long, or not fit for a file's name", out, re.MULTILINE) == [
        r"\x1b[2J",
        "back\\slash",
        r"line\nbreak",
        "x" * 201,
        r"\udcff",
    ]
    assert re.fullmatch(r"[\n -~×核…]*", out)


# --- images ----------------------------------------------------------------------------------------------------------


def png_claiming(width: int, height: int, depth: int = 8) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    data = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def tiff_claiming(width: int, height: int) -> bytes:
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 2), (273, 8), (277, 3), (278, height), (279, 99)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 108) + bytes(100) + struct.pack("<H", len(entries)) + directory + bytes(4)


def bmp_claiming(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + header + bytes(100)


@pytest.mark.parametrize(
    "data",
    [
        png_claiming(60000, 60000),
        png_claiming(60000, 60000, 16),
        png_claiming(10001, 10000),
        jpeg_claiming(60000, 60000),
        tiff_claiming(60000, 60000),
        bmp_claiming(60000, 60000),
        bmp_claiming(60000, -60000),
    ],
    ids=["png", "png of 16 bits", "png just above", "jpeg", "tiff", "bmp", "bmp top down"],
)
@pytest.mark.parametrize("decode", [files.decode_image, files.decode_mask])
def test_an_image_above_the_limit_is_refused_before_memory_is_taken(data, decode):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"^x\.png: more than 100000000 pixels.*set .* OPENCV_IO_MAX_IMAGE_PIXELS"):
        decode(data, "x.png")
    assert len(data) < 1000 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 20_000  # KB


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once():
    usual = cv2.imencode(".jpg", np.zeros((64, 64), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert 1 < usual.count(b"\xff\xda") < 20 and files.decode_mask(usual, "x").shape == (64, 64)
    last = usual[usual.rindex(b"\xff\xda") : -2]
    with pytest.raises(InputError, match=r"^x: a JPEG of \d+ scans, and at most 100"):
        files.decode_mask(usual[:-2] + last * 5000 + usual[-2:], "x")


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_stretching_by_strips_is_stretching_the_whole(dtype):
    draws = np.random.default_rng(0)
    image = (draws.normal(0, 1000, (1500, 997)) ** 2).astype(dtype)
    if dtype in (np.float32, np.float64):
        image[3, :3] = np.nan, np.inf, -np.inf
    whole = np.nan_to_num(image.astype(np.float64), posinf=0, neginf=0)
    whole = ((whole - whole.min()) * (255 / (whole.max() - whole.min()))).round().astype(np.uint8)
    found = files.decode_image(cv2.imencode(".tiff", image)[1].tobytes(), "x")
    assert np.array_equal(found, np.dstack([whole] * 3))


def test_stretching_takes_little_memory():
    data = cv2.imencode(".png", np.arange(3000 * 2000, dtype=np.uint32).astype(np.uint16).reshape(3000, 2000))[1]
    tracemalloc.start()
    image = files.decode_image(data.tobytes(), "x")
    assert tracemalloc.get_traced_memory()[1] < 5 * image.nbytes  # 16 bits decoded, 8 bits made of it, strips
    tracemalloc.stop()


@pytest.mark.parametrize("high", [3, 60, 150])
def test_brightening_by_a_table_is_brightening_each_pixel(high):
    image = np.random.default_rng(0).integers(0, high, (40, 30, 3), np.uint8)
    low, top = np.percentile(image, (0.5, 99.8))
    expected = ((image - low) * min(255 / max(top - low, 1), 20)).clip(0, 255).astype(np.uint8)
    assert np.array_equal(pictures.brighten(image), expected)


@pytest.mark.parametrize("high", [1e308, 1e-320])
def test_values_that_cannot_be_stretched(high):
    data = cv2.imencode(".tiff", np.array([[-high, high]] * 2))[1].tobytes()
    with pytest.raises(InputError, match=r"^x: its values, from .* cannot be stretched"):
        files.decode_image(data, "x")


def test_alpha_of_float_tiffs_is_dropped():
    image = np.arange(8 * 8 * 4, dtype=np.float32).reshape(8, 8, 4)
    assert files.decode_image(cv2.imencode(".tiff", image)[1].tobytes(), "x").shape == (8, 8, 3)
    with pytest.raises(InputError, match="x: a colour mask of float32"):
        files.decode_mask(cv2.imencode(".tiff", image)[1].tobytes(), "x")


def test_what_is_no_plain_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png: not a plain file"):
        files.read_image(tmp_path / "pipe.png")
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"large\.png: 1099511627776 bytes, and at most 1073741824"):
        files.read_mask(tmp_path / "large.png")


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_prepared_image_whose_name_cannot_be_shown_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a\n[Error] b\x1b[2J.png").write_bytes(IMAGE)
    with pytest.raises(InputError, match=r"the name a\\n\[Error\] b\\x1b\[2J\.png .* rename the file"):
        files.list_ids(tmp_path)


@pytest.mark.parametrize("name", ["a", "-rf", "a b", "$(x)", "核", "..x", "a.b", "'\"", "x" * 200, "\u202f"])
def test_plain_names(name):
    assert names.is_plain(name) and names.tame(name) == name == names.shown(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a\nb", "\x1b[2J", "\0", "\u202e", "\udcff", "x" * 201, "核" * 67]
)
def test_other_names(name):
    assert not names.is_plain(name) and names.is_plain(names.tame(name))
    assert "\n" not in names.shown(name) and "\x1b" not in names.shown(name)
    names.shown(name).encode()


def test_long_texts_lose_their_middle():
    assert names.shown("a" * 500 + "b" * 500, 20) == "a" * 10 + " … " + "b" * 10


def test_the_demos_pictures_stay_in_its_folder():
    paths = [Path("x\n\x1b[2Jy.png"), Path("a\\..\\b.png"), Path("核" * 83 + ".png"), Path("x__[2Jy.png")]
    chosen = demo.unique_names(paths)
    assert all(map(names.is_plain, chosen)) and len(set(chosen)) == 4
