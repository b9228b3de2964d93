"""Files on the disk: images in, images out, and nothing ever half written. No torch in here: preparing needs none."""

import itertools
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np

import names
from errors import InputError

cv2.setNumThreads(0)  # images are many and small, and a forked worker hangs on the parent's thread pool

_numbers = itertools.count()  # of the files that this process has begun to write

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MOST_BYTES = 2**30  # of a file: 100 million pixels of four channels of 16 bits, not compressed, are less
MOST_SCANS = 100  # of a JPEG; some ten are usual, and each of 120 bytes can take a tenth of a second to decode


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
    if data[:2] == b"\xff\xd8" and (scans := data.count(b"\xff\xda")) > MOST_SCANS:
        raise InputError(f"{where}: a JPEG of {scans} scans, and at most {MOST_SCANS} are decoded; save it afresh")
    for flags in (kind | cv2.IMREAD_ANYDEPTH, cv2.IMREAD_UNCHANGED):  # the latter for grey TIFFs of floats
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
        except cv2.error as error:
            if "validateInputImageSize" in str(error):  # which comes before any memory is taken
                limit = os.environ.get("OPENCV_IO_MAX_IMAGE_PIXELS", 2**30)
                raise InputError(
                    f"{where}: more than {limit} pixels, or a side above {2**20}; cut it into smaller images, or set "
                    "the variable OPENCV_IO_MAX_IMAGE_PIXELS higher"
                ) from error
            image = None
        if image is not None:
            return image
    raise InputError(f"{where}: not a readable image; replace the file or take it out")


def _stretch(image: np.ndarray, where: object) -> np.ndarray:
    # by strips of rows: as float64, and in several copies, a whole image of the largest size would take 10 GB
    height = max(1, 2**20 // image[0].size)
    strips = [slice(top, top + height) for top in range(0, len(image), height)]

    def numbers(strip: slice) -> np.ndarray:
        return np.nan_to_num(image[strip].astype(np.float64), posinf=0, neginf=0)

    low, high = min(numbers(strip).min() for strip in strips), max(numbers(strip).max() for strip in strips)
    with np.errstate(over="ignore"):
        scale = 255 / (high - low) if high > low else 0.0
    if not np.isfinite(scale) or (high > low and not scale):
        raise InputError(f"{where}: its values, from {low} to {high}, cannot be stretched to 8 bits; rescale them")
    stretched = np.empty(image.shape, np.uint8)
    for strip in strips:
        stretched[strip] = ((numbers(strip) - low) * scale).round().astype(np.uint8)
    return stretched


def decode_image(data: bytes, where: object) -> np.ndarray:
    """Decode an image file's bytes to uint8 BGR (H, W, 3).

    Grey is replicated, alpha dropped. More than 8 bits are stretched from the image's minimum to its maximum: cameras
    of 12 and 14 bits leave most of a 16-bit file's range unused. Raises InputError naming `where` if it is no image,
    or one of more pixels than OPENCV_IO_MAX_IMAGE_PIXELS allows.
    """
    image = _decode(data, cv2.IMREAD_COLOR, where)
    if image.ndim == 3 and image.shape[2] == 4:
        image = image[..., :3]
    if image.ndim == 3 and image.shape[2] != 3:
        raise InputError(f"{where}: {image.shape[2]} channels, where grey has 1, colour 3, with alpha 4; convert it")
    if image.dtype != np.uint8:
        image = _stretch(image, where)
    return np.ascontiguousarray(image) if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)


def decode_mask(data: bytes, where: object) -> np.ndarray:
    """Decode a mask file's bytes to grey uint8 (H, W).

    Raises InputError naming `where` if it is no image, or one of more than 8 bits and two values: numbered instances.
    """
    mask = _decode(data, cv2.IMREAD_GRAYSCALE, where)
    if mask.ndim != 2:
        raise InputError(f"{where}: a colour mask of {mask.dtype}; masks have 8 bits, 0 and 255")
    if mask.dtype != np.uint8:
        if len(levels := np.unique(mask)) > 2:
            raise InputError(f"{where}: a {mask.dtype} mask of {len(levels)} values; masks have 8 bits, 0 and 255")
        mask = (mask > 0).astype(np.uint8) * 255
    return mask


def read_image(path: Path) -> np.ndarray:
    """`decode_image` of a file; raises InputError naming it also where it is missing."""
    return decode_image(read_bytes(path), path)


def read_mask(path: Path) -> np.ndarray:
    """`decode_mask` of a file; raises InputError naming it also where it is missing."""
    return decode_mask(read_bytes(path), path)


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """A file's contents; raises InputError where it is missing, longer than `most` bytes, or no plain file."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would keep us waiting
            raise InputError(f"{path}: not a plain file; give one")
        if status.st_size > most:
            raise InputError(f"{path}: {status.st_size} bytes, and at most {most} are read; give a smaller file")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def list_ids(data_path: Path, img_ext: str = ".png") -> list[str]:
    """Names, without extension, of the images under `<data_path>/images`, sorted, so that every disk agrees.

    Raises InputError where one is not fit to be a name: it will be printed, and become that of a result.
    """
    found = (path.name for path in (data_path / "images").glob(f"*{img_ext}"))
    ids = sorted(name[: -len(img_ext)] for name in found if not name.startswith("."))  # macOS leaves ._ files behind
    for img_id in ids:
        if not names.is_plain(img_id):
            raise InputError(
                f"{data_path / 'images'}: the name {names.shown(img_id)}{img_ext} is too long or holds a backslash or "
                "control characters; rename the file"
            )
    return ids


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W) or BGR (H, W, 3) in the format of the path's extension; whole or not at all."""
    data = cv2.imencode(path.suffix, image)[1].tobytes()
    with replacing(path) as partial:
        partial.write_bytes(data)
