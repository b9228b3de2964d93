# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Image files to pixels, and pixels to image files."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from imaging import tiff, tiff_values
from imaging.stored import StoredImage, check_size, pick_channel
from imaging.stretch import stretch_to_8_bits
from runtime.errors import InputError
from runtime.files import MAX_BYTES, atomic_write, check_file

# The images are small and many, so that several processes help more than several threads. In a forked worker, OpenCV
# would wait forever for the threads of its parent.
cv2.setNumThreads(0)

IMAGE_EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".btf", ".lsm", ".bmp", ".dib", ".webp", ".gif"),
    *(".jp2", ".j2k", ".pnm", ".ppm", ".pgm", ".pbm"),
)
# formats of microscopes, cameras and other programs that cannot be read here
FOREIGN_EXTENSIONS = (
    *(".czi", ".nd2", ".lif", ".oib", ".oif", ".oir", ".vsi", ".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".qptiff"),
    *(".stk", ".zvi", ".ims", ".ics", ".ids", ".dv", ".r3d", ".sld", ".flex", ".mvd2", ".obf", ".msr", ".zarr"),
    *(".dm3", ".dm4", ".ser", ".mrc", ".hdr", ".mha", ".mhd", ".nrrd", ".nii", ".dcm", ".fits", ".fit"),
    *(".npy", ".npz", ".h5", ".hdf5", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
    *(".heic", ".heif", ".avif", ".jxl", ".jxr", ".psd", ".xcf", ".exr", ".pfm", ".tga", ".ico", ".pcx", ".dds"),
    *(".avi", ".mp4", ".mov"),
)
MAX_SCANS = 100  # of a JPEG; about ten are usual, and a scan of 120 bytes can take a tenth of a second to decode
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")  # Pillow's names; TIFF apart
LOSSY_FORMATS = ("JPEG", "MPO", "WEBP", "JPEG2000")
COLORS = ("red", "green", "blue")
ORIENTATION_TAG = 274
TURNED = "turned by its orientation tag"
PAGES_REMEDY = "one is read here; save each as a file, or let demo.py segment page by page"
JPEG_2000_LIMITS = " (damaged, or a JPEG 2000 of signed numbers, of fewer than 8 bits, or of gray with alpha)"
warnings.filterwarnings("ignore", module=r"PIL\.")  # the scripts themselves report a bad file, by its name
Image.MAX_IMAGE_PIXELS = None  # Pillow only reads headers here; check_size has the limit


class Picture(NamedTuple):
    """An image file as pixels: uint8 BGR (H, W, 3), not yet turned; EXIF's orientation; what was done, in words."""

    pixels: np.ndarray
    orientation: int
    notes: tuple[str, ...]


def read_stored(
    source: Path | bytes, name: object, page: int | None, channel: int | None, remedy_for_pages: str
) -> StoredImage:
    """Decode a page of a file, or of its bytes.

    page: its number, from 0; None: the only page. channel: its number, from 1; 0: only images that are gray or have
    colors are decoded; None: the same, for masks, whose errors do not advise `--channel`.
    Raises InputError naming the file and the cause if it is no image of a known format, is too large, or holds several
    pages or channels none of which is chosen.
    """
    source = _load(source)
    if not _is_tiff(source):
        return _decode(source, name, channel)
    if page is None and (pages := tiff.count_pages(source, name)) > 1:
        raise InputError(f"{name}: holds {pages} pages, but {remedy_for_pages}")
    return tiff_values.read_page(source, name, page or 0, channel)


def count_pages(source: Path | bytes, name: object) -> int:
    """Return how many pages a file, or its bytes, holds; raises InputError as read_stored does."""
    source = _load(source)
    return tiff.count_pages(source, name) if _is_tiff(source) else 1


def decode_picture(source: Path | bytes, name: object, page: int | None = None, channel: int = 0) -> Picture:
    """Decode a file, or its bytes, to uint8 BGR: the page with this number, from 0; None: its only page.

    Gray is replicated to three channels, alpha is dropped. Numbers other than uint8 are stretched, see
    stretch.stretch_to_8_bits. Raises InputError as read_stored does.
    """
    return to_picture(read_stored(source, name, page, channel, PAGES_REMEDY), name)


def to_picture(stored: StoredImage, name: object) -> Picture:
    """Turn stored values into uint8 BGR, as decode_picture does."""
    pixels, notes = stretch_to_8_bits(stored.values, name), stored.notes
    if stored.values.dtype != np.uint8:
        notes += (f"{stored.values.dtype} stretched to 8 bits",)
    if stored.alpha is not None:
        notes += ("alpha dropped",)
    if pixels.ndim == 2:
        pixels, notes = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), (*notes, "gray to color")
    return Picture(np.ascontiguousarray(pixels), stored.orientation, notes)


def read_upright(path: Path, page: int | None = None, channel: int = 0) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read an image file as decode_picture does, and turn it as its orientation tag says; returns it and its notes."""
    picture = decode_picture(path, path, page, channel)
    notes = (*picture.notes, TURNED) if picture.orientation != 1 else picture.notes
    return turn_upright(picture.pixels, picture.orientation), notes


def read_image(path: Path) -> np.ndarray:
    """Read an image file to uint8 BGR (H, W, 3), turned as its orientation tag says; see decode_picture."""
    return read_upright(path)[0]


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror an array (H, W) or (H, W, C) from its stored position, an EXIF orientation of 1 … 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W) or BGR (H, W, 3) in the format of the path's extension; a file is never half written."""
    data = cv2.imencode(path.suffix, image)[1].tobytes()
    with atomic_write(path) as partial:
        partial.write_bytes(data)


def _load(source: Path | bytes) -> Path | bytes:
    """Return the bytes of a file; of a TIFF its path, because only one of its pages is read at a time."""
    if isinstance(source, bytes):
        return source
    check_file(source)
    try:
        with open(source, "rb") as file:
            start = file.read(4)
            if start in tiff.MAGIC:
                return source
            check_file(source, MAX_BYTES)
            return start + file.read()
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}") from error


def _is_tiff(source: Path | bytes) -> bool:
    return isinstance(source, Path) or source[:4] in tiff.MAGIC


def _decode(data: bytes, name: object, channel: int | None) -> StoredImage:
    """Decode any format but TIFF, after Pillow has read the header."""
    if data[:2] == b"\xff\xd8" and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise InputError(f"{name}: a JPEG of {scans} scans, but at most {MAX_SCANS} are decoded; save it again")
    if not data:
        raise InputError(f"{name}: an empty file, of 0 bytes; replace the file or remove it")
    try:
        header = Image.open(io.BytesIO(data), formats=FORMATS)
        # a phone's JPEG (MPO) may hold a second picture, which is for other purposes
        frames = 1 if header.format in ("JPEG", "MPO") else getattr(header, "n_frames", 1)
        orientation = _read_orientation(header, data)
    except Exception as error:  # Pillow raises errors of many types
        raise _not_readable(name) from error
    check_size(*header.size, name)
    if frames > 1:
        raise InputError(f"{name}: an animation of {frames} frames; save the frames as files of their own")
    if header.mode == "F":  # a PFM, which Pillow counts among PPM
        raise _not_readable(name)
    if header.mode in ("CMYK", "YCCK", "LAB", "YCbCr"):
        raise InputError(f"{name}: {header.mode} colors, made for print; save it as RGB")
    values = _decode_with_pillow(header) if _needs_pillow(header, data) else _decode_with_opencv(data)
    if values is None or values.shape[:2] != header.size[::-1]:
        raise _not_readable(name, JPEG_2000_LIMITS if header.format == "JPEG2000" else "")
    alpha, notes = None, ("palette to color",) if header.mode in ("P", "PA") else ()
    if values.ndim == 3 and values.shape[2] in (2, 4):
        values, alpha = values[..., :-1], values[..., -1]
    if values.ndim == 3 and (values.shape[2] == 1 or header.mode in ("1", "L", "LA", "I;16")):
        values = values[..., 0]
    stored = StoredImage(values, alpha, orientation, header.format in LOSSY_FORMATS, notes)
    if not channel:
        return stored
    if values.ndim == 2:
        return pick_channel(stored._replace(values=values[..., None]), channel, ("",), name)
    return pick_channel(stored._replace(values=values[..., ::-1]), channel, COLORS, name)


def _decode_with_opencv(data: bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def _needs_pillow(header: Image.Image, data: bytes) -> bool:
    """Does OpenCV decode the file wrongly? Pillow is wrong with other kinds of BMP."""
    if header.format == "BMP":  # with a palette, but the header of OS/2, of 12 bytes; or of 16 bits a pixel
        return data[14:18] == b"\x0c\0\0\0" or data[28:30] == b"\x10\0"
    if header.format == "PPM":  # of fewer than 8 bits: OpenCV does not spread them over 0 … 255
        parameters = header.tile[0].args
        return isinstance(parameters, tuple) and parameters[1] < 255
    return header.format == "GIF"  # with a transparent color


def _decode_with_pillow(header: Image.Image) -> np.ndarray | None:
    try:
        if header.mode in ("1", "L"):
            return np.asarray(header.convert("L"))
        if header.has_transparency_data:
            return cv2.cvtColor(np.asarray(header.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
        return cv2.cvtColor(np.asarray(header.convert("RGB")), cv2.COLOR_RGB2BGR)
    except Exception:  # Pillow raises errors of many types
        return None


def _read_orientation(header: Image.Image, data: bytes) -> int:
    if header.format == "PNG" and b"eXIf" not in data:  # Pillow would decode the whole file to look for it
        return 1
    try:
        orientation = header.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF data; viewers then show the picture as it is stored
        return 1
    return orientation if orientation in range(1, 9) else 1


def _not_readable(name: object, reason: str = "") -> InputError:
    extension = Path(str(name)).suffix.lower()
    if extension in FOREIGN_EXTENSIONS:
        return InputError(f"{name}: {extension} files cannot be read; export it as TIFF")
    return InputError(f"{name}: not a readable image{reason}; replace the file or remove it")
