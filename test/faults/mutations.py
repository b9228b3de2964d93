# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Ways to damage a file or to make it hostile, chosen by a random generator.

A mutation takes the generator, the file's bytes and the path of a canary, a file that only a successful attack creates.
It returns the new bytes and a description.
"""

import io
import os
import pickle
import re
import shutil
import stat
import struct
import subprocess
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
import yaml

SMUGGLED = "Iou 0.9999 SMUGGLED"  # would look like a line of our output if a name could start a new line
TRICKY = f"x\n{SMUGGLED}\x1b[2J"
Mutation = Callable[[Random, bytes, Path], tuple[bytes, str]]


def one_of(*mutations: Mutation) -> Mutation:
    """Return a mutation that applies one of these; those listed twice are twice as likely."""
    return lambda rng, data, canary: rng.choice(mutations)(rng, data, canary)


def extreme(rng: Random, width: int) -> int:
    """Return a number of `width` bytes of a kind that often causes errors."""
    top = 256**width
    return rng.choice((0, 1, 2, top // 2 - 1, top // 2, top // 2 + 1, top - 1, rng.randrange(top)))


# --- any file --------------------------------------------------------------------------------------------------------


def damaged(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Change bits, bytes or the length, often near an end of the file, where formats have their structure."""
    size = len(data)
    edge = min(size, 2048)
    at = rng.choice((rng.randrange(size), rng.randrange(edge), size - 1 - rng.randrange(edge)))
    run = min(rng.choice((1, 2, 4, 16, 256, 4096)), size - at)
    kind = rng.choice(("flip", "overwrite", "cut", "insert", "duplicate", "extreme", "remove"))
    if kind == "flip":
        changed = bytearray(data)
        for place in [at, *(rng.randrange(size) for _ in range(rng.choice((0, 0, 3, 30))))]:
            changed[place] ^= 1 << rng.randrange(8)
        return bytes(changed), f"bits flipped at {at} and elsewhere"
    width = rng.choice((1, 2, 4, 8))
    new = {
        "overwrite": lambda: data[:at] + rng.randbytes(run) + data[at + run :],
        "cut": lambda: data[:at],
        "insert": lambda: data[:at] + rng.randbytes(run) + data[at:],
        "duplicate": lambda: data[: at + run] + data[at:],
        "extreme": lambda: data[:at] + extreme(rng, width).to_bytes(width, "little") + data[at + width :],
        "remove": lambda: data[:at] + data[at + run :],
    }[kind]()
    return new, f"{kind} at {at} of {size}, {run} bytes"


def emptied(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Replace the contents by nothing, zeros or noise."""
    return rng.choice(((b"", "empty"), (bytes(len(data)), "zeros"), (rng.randbytes(1000), "noise")))


# --- images ----------------------------------------------------------------------------------------------------------


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
# sizes, bits, compression, photometric, fill order, offsets, samples, rows, strips and tiles, SubIFDs and so on
TIFF_TAGS = (
    *range(254, 260),
    262,
    266,
    270,
    273,
    274,
    *range(277, 280),
    284,
    317,
    *range(320, 326),
    330,
    338,
    339,
    347,
)


def _tiff_directories(data: bytes) -> tuple[str, bool, list[tuple[int, int]]]:
    """Return the byte order, whether it is a BigTIFF, and place and number of entries of each directory."""
    order, big = "little" if data[:2] == b"II" else "big", data[2:4] in (b"+\0", b"\0+")
    head, entry, word = (8, 20, 8) if big else (2, 12, 4)
    at = int.from_bytes(data[8:16] if big else data[4:8], order)
    found = []
    while 0 < at < len(data) - head and at not in [place for place, _ in found]:
        count = int.from_bytes(data[at : at + head], order)
        found.append((at, count))
        end = at + head + count * entry
        at = int.from_bytes(data[end : end + word], order)
    return order, big, found


def tiff_directory(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Change a field of a TIFF's directory: a tag, its type, count or value, or where the next directory lies."""
    order, big, directories = _tiff_directories(data)
    head, entry, word = (8, 20, 8) if big else (2, 12, 4)
    start, count = rng.choice(directories)
    field = rng.choice(("value", "value", "value", "count", "type", "tag", "number of entries", "next", "sub"))
    at = start + head + entry * rng.randrange(max(count, 1))
    places = [start, directories[0][0], 0, 4, len(data) - 2, len(data), extreme(rng, word)]
    if field == "next":
        at, width, value = start + head + entry * count, word, rng.choice(places)
    elif field == "number of entries":
        at, width, value = start, head, rng.choice((0, 1, count + 1, extreme(rng, 2)))
    elif field == "sub":  # a directory below this one, which can be itself
        value = (330).to_bytes(2, order) + (4).to_bytes(2, order) + (1).to_bytes(word, order)
        value = int.from_bytes(value + rng.choice(places).to_bytes(word, order), order)
        width = entry
    elif field == "tag":
        width, value = 2, rng.choice(TIFF_TAGS)
    elif field == "type":
        width, value = 2, rng.choice((*range(19), 129, 65535))
    elif field == "count":
        at, width, value = at + 4, word, rng.choice((0, 1, 2, 3, 1000, 2**28, extreme(rng, word)))
    else:
        at, width = at + 4 + word, rng.choice((1, 2, 2, 4, word))
        value = rng.choice((*range(10), 12, 16, 32, 64, 1000, 10**5, extreme(rng, width))) % 256**width
    return data[:at] + value.to_bytes(width, order) + data[at + width :], f"TIFF {field} at {at}: {value}"


def image_header(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Set a field of the header to an extreme value; if the format has a checksum, it is right."""
    if data[:4] == b"\x89PNG":
        fields = list(struct.unpack(">IIBBBBB", data[16:29]))
        which = rng.choice((0, 1, 0, 1, 2, 3, 4, 5, 6))
        fields[which] = rng.choice((60000, 10**6, extreme(rng, 4))) if which < 2 else extreme(rng, 1)
        return data[:8] + _png_chunk(b"IHDR", struct.pack(">IIBBBBB", *fields)) + data[33:], f"IHDR {fields}"
    if data[:2] == b"BM":
        at, width = rng.choice(
            ((2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4))
        )
    elif data[:4] in TIFF_MAGIC:
        return tiff_directory(rng, data, canary)
    else:
        marker = rng.choice([match.start() for match in re.finditer(rb"\xff[\xc0-\xfe]", data)])
        at, width = marker + rng.choice((1, 2, 4, 5, 7, 9)), rng.choice((1, 2))
    value = extreme(rng, width)
    return data[:at] + value.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :], f"{value} at {at}"


def image_chunks(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Double, drop or shuffle the chunks of a PNG, or add 20 MB of pixels or text; give a JPEG thousands of scans."""
    if data[:2] == b"\xff\xd8":
        scan = data[data.rindex(b"\xff\xda") : -2]
        return data[:-2] + scan * rng.choice((2, 5000)) + data[-2:], "scans"
    if data[:4] != b"\x89PNG":
        return damaged(rng, data, canary)
    chunks, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append(data[at : at + 12 + length])
        at += 12 + length
    kind = rng.choice(("double", "drop", "shuffle", "bomb", "text"))
    which = rng.randrange(len(chunks))
    if kind == "double":
        chunks.insert(which, chunks[which])
    elif kind == "drop":
        chunks.pop(which)
    elif kind == "shuffle":
        rng.shuffle(chunks)
    elif kind == "bomb":
        chunks = [chunks[0], _png_chunk(b"IDAT", zlib.compress(bytes(20 * 2**20))), chunks[-1]]
    else:
        chunks.insert(1, _png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20 * 2**20))))
    return data[:8] + b"".join(chunks), f"chunks: {kind} {which}"


image = one_of(damaged, damaged, damaged, image_header, image_header, image_chunks, emptied)

# --- zips ------------------------------------------------------------------------------------------------------------


def zip_fields(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Set a field of a local header, of a directory entry, or of the end of the directory to an extreme value."""
    signature, length = rng.choice(((b"PK\1\2", 46), (b"PK\1\2", 46), (b"PK\3\4", 30), (b"PK\5\6", 22)))
    places = [match.start() for match in re.finditer(re.escape(signature), data)]
    at = rng.choice(places) + 4 + 2 * rng.randrange((length - 4) // 2)
    width = rng.choice((2, 4))
    value = extreme(rng, width)
    return data[:at] + value.to_bytes(width, "little") + data[at + width :], f"{signature!r} field at {at}: {value}"


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED, **of_last: int) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")  # about names that occur twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
        for attribute, value in of_last.items():
            setattr(archive.infolist()[-1], attribute, value)
    return buffer.getvalue()


def zip_names(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Add members with a name that leads out of the folder, smuggles a line into the output, or is odd."""
    members = _members(data)
    content = rng.choice([*members.values()])
    names = (
        f"../{canary.name}",
        f"{'../' * 9}{str(canary).lstrip('/')}",
        str(canary),
        f"a/images/../../../{canary.name}",
        "C:\\canary.png",
        "\\\\host\\canary.png",
        f"..\\..\\{canary.name}",
        f"__MACOSX/../../{canary.name}",
        f"{TRICKY}/images/x.png",
        f"{TRICKY}/masks/0.png",
        f"{'x' * 300}/images/x.png",
        "-rf/images/-rf.png",
        "$(touch canary)/images/x.png",
        "a\\b/images/x.png",
        "./images/x.png",
        "a//images/x.png",
        "核/images/x.png",
        rng.choice([*members]),
    )
    name = rng.choice(names)
    renamed = [*members.items(), (name, content), (re.sub("/images/.*", "/masks/0.png", name), content)]
    return _zipped(renamed, rng.choice((0, 8))), f"a member named {name!r}"


def zip_attributes(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Let a member be a link or encrypted, or state another compression or another size than it has."""
    attribute, value = rng.choice(
        (
            *(("external_attr", kind << 16) for kind in (stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFCHR)),
            *(("flag_bits", bits) for bits in (1, 0x20, 0x40, 0x800, 0x2000)),
            *(("compress_type", method) for method in (8, 9, 12, 14, 93, 99)),
            *(("file_size", size) for size in (0, 1, 10**6, 2**30, 2**40)),
            *(("compress_size", size) for size in (0, 1, 10**6, 2**40)),
            *(("header_offset", 0), ("CRC", 0), ("extract_version", 99), ("create_system", 255)),
        )
    )
    members = [*_members(data).items()]
    rng.shuffle(members)
    return _zipped(members, 8, **{attribute: value}), f"{members[-1][0]}: {attribute} {value}"


def zip_bomb(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Add 100 MB of zeros or ten thousand members, or use another compression that zipfile knows."""
    members = [*_members(data).items()]
    kind = rng.choice(("large", "many", "bz2", "lzma"))
    if kind == "large":
        members.append((rng.choice(("bomb/images/x.png", "bomb.txt")), bytes(10**8)))
    elif kind == "many":
        members += [(f"many/masks/{number}.png", b"") for number in range(10**4)]
    return _zipped(members, {"bz2": 12, "lzma": 14}.get(kind, 8)), f"bomb: {kind}"


def zip_images(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Mutate an image in the zip, with the right checksum."""
    members = _members(data)
    name = rng.choice([*members])
    members[name], mutation = image(rng, members[name], canary)
    return _zipped([*members.items()], 8), f"{name}: {mutation}"


raw_zip = one_of(damaged, damaged, zip_fields, zip_fields, zip_names, zip_attributes, zip_bomb, zip_images)

# --- odd values, in YAML and in checkpoints --------------------------------------------------------------------------


def odd_value(rng: Random, canary: Path):
    """Return a value that a flag or an entry of a checkpoint should not have."""
    deep: list = []
    for _ in range(100):
        deep = [deep]
    plain = (None, True, False, -1, 0, 1, 3, 10**9, 2**40, -(2**70), 16**5000, 0.5, 1e308, float("nan"), float("inf"))
    texts = ("", "x", ".", "../..", str(canary), f"../{canary.name}", "/dev/zero", "-rf", TRICKY, "a\0b", "x" * 10**4)
    return rng.choice((*plain, *texts, "\u202e", "$(touch canary)", [], {}, [1], ["x"], {"a": 1}, {1: 2}, deep))


def config(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Put odd values, YAML bombs or foreign objects into a config.yml, or damage it."""
    if rng.random() < 0.3:
        return rng.choice((damaged, damaged, emptied))(rng, data, canary)
    flag = rng.choice([*(values := yaml.safe_load(data)), "seed", "loss", "data_path", "data_path"])
    if rng.random() < 0.5:
        values[flag] = odd_value(rng, canary)
        if type(values[flag]) is int:  # Python refuses to print thousands of decimal digits
            text = yaml.safe_dump(values | {flag: "HERE"}).replace("HERE", hex(values[flag]))
            return text.encode(), f"{flag}: {_described(values[flag])}"
        return yaml.safe_dump(values).encode(), f"{flag}: {_described(values[flag])}"
    # each line repeats the line before nine times: 9 ** 30 values if they were written out
    bomb = "\n".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9) if k else 1}]" for k in range(30))
    texts = (
        bomb,
        "a: &a {b: 1}\nc: {<<: *a}",
        f"{flag}: &x [*x]",
        "[" * 60000,
        "{a: " * 9999,
        "- " * 9999,
        "? " * 9999,
        f"{flag}: {'9' * 60000}",
        f"{flag}: 0x{'f' * 60000}",
        f"{flag}: 1{':1' * 30000}",
        f"{flag}: 2001-99-99",
        f"{flag}: !!timestamp x",
        f"{flag}: !!int ''",
        f"{flag}: !!binary =",
        f"{flag}: !!set {{1, 2}}",
        f"{flag}: !!python/object/apply:os.system ['touch {canary}']",
        f"!!python/name:os.system {flag}: 1",
        f"{flag}: 1\n" * 9999,
        f"? [{flag}]\n: 1",
        f"? {{{flag}: 1}}\n: 1",
        "a: 1\n" + "#" * 10**6,
        "\ufeff" + flag,
        f"{flag}:\t1",
        f"---\n{flag}: 1\n---\n{flag}: 2",
        "%YAML 9.9\n---\na: 1",
        f'{flag}: "\\e[2J\\n{SMUGGLED}"',
    )
    text = rng.choice(texts)
    return text.encode(), f"config {text[:60]!r}"


# --- checkpoints -----------------------------------------------------------------------------------------------------


class _Call:
    """Is pickled as a call of a function; unpickling would call it."""

    def __init__(self, function: Callable, *arguments: object):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile_pickle(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Write a checkpoint that runs a command if pickle reads it, in one of three formats."""
    calls = (
        (os.system, f"touch {canary}"),
        (eval, f"open({str(canary)!r}, 'w')"),
        (exec, f"open({str(canary)!r}, 'w')"),
        (open, str(canary), "w"),
        (os.mkdir, str(canary)),
        (subprocess.Popen, ["touch", str(canary)]),
        (shutil.rmtree, "inputs"),
        (os.remove, "raw.zip"),
        (torch.save, {}, str(canary)),
        (np.save, str(canary), 1),
        (np.memmap, str(canary), "u1", "w+", 0, 9),
        (torch.hub.load, "x/y", "z"),
        (__import__, "this"),
    )
    function, *arguments = rng.choice(calls)
    call = _Call(function, *arguments)
    state = torch.load(io.BytesIO(data), weights_only=False)
    place = rng.choice(("alone", "config", "epoch", "weight"))
    places = {"config": state | {"config": call}, "epoch": state | {"epoch": call}, "weight": {"conv": call}}
    state = places.get(place, call)
    form = rng.choice(("zip", "legacy", "pickle"))
    buffer = io.BytesIO()
    if form == "pickle":
        pickle.dump(call if place != "weight" else state, buffer, protocol=rng.choice((0, 2, 4)))
    else:
        torch.save(state, buffer, _use_new_zipfile_serialization=form == "zip")
    return buffer.getvalue(), f"a pickle ({form}, {place}) that calls {function.__name__}"


def odd_tensor(rng: Random, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of another shape, kind or content."""
    return rng.choice(
        (
            lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor - 10**9,
            lambda: torch.full(tensor.shape, 3e38),
            lambda: torch.zeros((1,) * tensor.ndim).expand(tensor.shape),
            lambda: torch.zeros(()).expand(10**6, 10**6),
            lambda: torch.zeros(0),
            lambda: torch.tensor(1.0),
            lambda: tensor.unsqueeze(0),
            lambda: tensor.half(),
            lambda: tensor.bool(),
            lambda: tensor.to(torch.complex64),
            lambda: torch.zeros(2, 2).to_sparse(),
            lambda: torch.empty(tensor.shape, device="meta"),
        )
    )()


def odd_checkpoint(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Write a well-formed checkpoint with an odd, missing, added or renamed entry at any depth."""
    state = torch.load(io.BytesIO(data), weights_only=False)
    holder, trail = state, []
    while True:
        keys = [*holder] if isinstance(holder, dict) else [*range(len(holder))]
        key = rng.choice(keys)
        trail.append(key)
        if not isinstance(holder[key], (dict, list)) or not holder[key] or rng.random() < 0.3:
            break
        holder = holder[key]
    kind = rng.choice(("odd", "odd", "odd", "missing", "added", "renamed"))
    value = holder[key]
    if kind == "odd":
        holder[key] = odd_tensor(rng, value) if isinstance(value, torch.Tensor) else odd_value(rng, canary)
        value = holder[key]
    elif isinstance(holder, list) or kind == "missing":
        holder.pop(key)
    else:
        holder[rng.choice((TRICKY, "x" * 10**4, 3, "module.x", f"../{canary.name}"))] = value
        if kind == "renamed":
            del holder[key]
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=data[:2] == b"PK")
    trail = ".".join(map(str, trail))
    return buffer.getvalue(), f"{kind}: {trail[:80]!r}: {_described(value)}"


def _described(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    try:
        return repr(value)[:60]
    except ValueError:
        return "a number of thousands of digits"


def checkpoint_parts(rng: Random, data: bytes, canary: Path) -> tuple[bytes, str]:
    """Damage or rename a part of the zip, with the right checksum; if the file is no zip, damage its pickle."""
    if data[:2] != b"PK":
        at = rng.randrange(3000)
        return data[:at] + rng.randbytes(rng.choice((1, 1, 2, 9))) + data[at + 1 :], f"byte {at} of the pickle"
    members = _members(data)
    name = rng.choice([*(n for n in members if n.endswith("data.pkl")), rng.choice([*members])])
    content = members.pop(name)
    if rng.random() < 0.2:
        new = rng.choice((f"../{canary.name}", str(canary), TRICKY, "x", name.upper(), name + "0"))
        return _zipped([*members.items(), (new, content)]), f"{name} renamed to {new!r}"
    content, mutation = damaged(rng, content, canary) if content else (b"x", "no longer empty")
    return _zipped([(name, content), *members.items()]), f"{name}: {mutation}"


checkpoint = one_of(
    damaged, damaged, checkpoint_parts, checkpoint_parts, odd_checkpoint, odd_checkpoint, odd_checkpoint, hostile_pickle
)
