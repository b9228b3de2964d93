"""Files on the disk: images in, images out, and nothing ever half written. No torch in here: preparing needs none."""

import os
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from errors import InputError

cv2.setLogLevel(0)  # silent: a bad file is ours to tell, by its name

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@contextmanager
def replacing(path: Path):
    """Yield a name beside `path` to write to; it becomes `path` only once it is whole and on the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the extension stays last, since OpenCV and matplotlib choose the format by it
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def decode_image(data: bytes, flags: int, where: object) -> np.ndarray:
    """Decode an image file's bytes with OpenCV's flags; raises InputError naming `where` if they are no image."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{where}: not a readable image; replace the file or take it out")
    return image


def read_image(path: Path, flags: int) -> np.ndarray:
    """Read an image file with OpenCV's flags; raises InputError naming the file if it is missing or unreadable."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return decode_image(data, flags, path)


def list_ids(data_path: Path, img_ext: str = ".png") -> list[str]:
    """Names, without extension, of the images under `<data_path>/images`, sorted, so that every disk agrees."""
    return sorted(p.name[: -len(img_ext)] for p in (data_path / "images").glob(f"*{img_ext}") if p.name != img_ext)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W) or BGR (H, W, 3) in the format of the path's extension; whole or not at all."""
    data = cv2.imencode(path.suffix, image)[1].tobytes()
    with replacing(path) as partial:
        partial.write_bytes(data)
