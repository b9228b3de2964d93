"""Files on the disk: images in, images out, and nothing ever half written. No torch in here: preparing needs none."""

import itertools
import os
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np

from errors import InputError

cv2.setNumThreads(0)  # images are many and small, and a forked worker hangs on the parent's thread pool

_numbers = itertools.count()  # of the files that this process has begun to write

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@contextmanager
def replacing(path: Path):
    """Yield a name beside `path` to write to; it becomes `path` only once it is whole and on the disk.

    Raises InputError naming `path` where it cannot be written.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file")
    # the extension stays last, since matplotlib chooses the format by it
    partial = path.with_name(f".{os.getpid()}-{next(_numbers)}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def clear_partials(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left under `folder`; nobody may be writing there."""
    for leftover in folder.rglob(".*.partial*"):
        leftover.unlink(missing_ok=True)


def _decode(data: bytes, kind: int, where: object) -> np.ndarray:
    for flags in (kind | cv2.IMREAD_ANYDEPTH, cv2.IMREAD_UNCHANGED):  # the latter for grey TIFFs of floats
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
        except cv2.error:
            image = None
        if image is not None:
            return image
    raise InputError(f"{where}: not a readable image; replace the file or take it out")


def decode_image(data: bytes, where: object) -> np.ndarray:
    """Decode an image file's bytes to uint8 BGR (H, W, 3).

    Grey is replicated, alpha dropped. More than 8 bits are stretched from the image's minimum to its maximum: cameras
    of 12 and 14 bits leave most of a 16-bit file's range unused. Raises InputError naming `where` if it is no image.
    """
    image = _decode(data, cv2.IMREAD_COLOR, where)
    if image.dtype != np.uint8:
        image = np.nan_to_num(image.astype(np.float64), posinf=0, neginf=0)
        low, high = image.min(), image.max()
        image = ((image - low) * (255 / (high - low) if high > low else 0)).round().astype(np.uint8)
    return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)


def decode_mask(data: bytes, where: object) -> np.ndarray:
    """Decode a mask file's bytes to grey uint8 (H, W).

    Raises InputError naming `where` if it is no image, or one of more than 8 bits and two values: numbered instances.
    """
    mask = _decode(data, cv2.IMREAD_GRAYSCALE, where)
    if mask.dtype != np.uint8:
        if len(levels := np.unique(mask)) > 2:
            raise InputError(f"{where}: a {mask.dtype} mask of {len(levels)} values; masks have 8 bits, 0 and 255")
        mask = (mask > 0).astype(np.uint8) * 255
    return mask


def read_image(path: Path) -> np.ndarray:
    """`decode_image` of a file; raises InputError naming it also where it is missing."""
    return decode_image(_read(path), path)


def read_mask(path: Path) -> np.ndarray:
    """`decode_mask` of a file; raises InputError naming it also where it is missing."""
    return decode_mask(_read(path), path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def list_ids(data_path: Path, img_ext: str = ".png") -> list[str]:
    """Names, without extension, of the images under `<data_path>/images`, sorted, so that every disk agrees."""
    names = (path.name for path in (data_path / "images").glob(f"*{img_ext}"))
    return sorted(name[: -len(img_ext)] for name in names if not name.startswith("."))  # macOS leaves ._ files behind


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W) or BGR (H, W, 3) in the format of the path's extension; whole or not at all."""
    data = cv2.imencode(path.suffix, image)[1].tobytes()
    with replacing(path) as partial:
        partial.write_bytes(data)
