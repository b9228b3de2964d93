"""Image files to pixels, and pixels to image files."""

import os
from pathlib import Path

import cv2
import numpy as np

from runtime.errors import InputError
from runtime.files import atomic_write, read_bytes

# The images are small and many, so that several processes help more than several threads. In a forked worker, OpenCV
# would wait forever for the threads of its parent.
cv2.setNumThreads(0)

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MAX_SCANS = 100  # of a JPEG; about ten are usual, and a scan of 120 bytes can take a tenth of a second to decode


def decode(data: bytes, flags: int, name: object) -> np.ndarray:
    """Decode the bytes of an image file with OpenCV's `flags`, at the bit depth of the file.

    Returns (H, W) or (H, W, channels). Raises InputError naming the file if it is not an image, or too large.
    """
    if data[:2] == b"\xff\xd8" and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise InputError(f"{name}: a JPEG of {scans} scans, but at most {MAX_SCANS} are decoded; save it again")
    for tried in (flags | cv2.IMREAD_ANYDEPTH, cv2.IMREAD_UNCHANGED):  # only the latter reads gray TIFFs of floats
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), tried) if data else None
        except cv2.error as error:
            if "validateInputImageSize" in str(error):  # OpenCV checks the size before it allocates memory
                limit = os.environ.get("OPENCV_IO_MAX_IMAGE_PIXELS", 2**30)
                raise InputError(
                    f"{name}: more than {limit} pixels, or a side above {2**20}; cut it into smaller images, or set "
                    "the variable OPENCV_IO_MAX_IMAGE_PIXELS higher"
                ) from error
            image = None
        if image is not None:
            return image
    raise InputError(f"{name}: not a readable image; replace the file or remove it")


def decode_image(data: bytes, name: object) -> np.ndarray:
    """Decode the bytes of an image file to uint8 BGR (H, W, 3).

    Gray is replicated to three channels, alpha is dropped. More than 8 bits are stretched: the image's minimum becomes
    0 and its maximum 255, because 12-bit and 14-bit cameras leave most of the range of a 16-bit file unused.
    Raises InputError naming the file if it is not an image, or has more pixels than OPENCV_IO_MAX_IMAGE_PIXELS.
    """
    image = decode(data, cv2.IMREAD_COLOR, name)
    if image.ndim == 3 and image.shape[2] == 4:
        image = image[..., :3]
    if image.ndim == 3 and image.shape[2] != 3:
        raise InputError(f"{name}: {image.shape[2]} channels; gray has 1, color 3, color with alpha 4; convert it")
    if image.dtype != np.uint8:
        image = _stretch(image, name)
    return np.ascontiguousarray(image) if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)


def read_image(path: Path) -> np.ndarray:
    """Read an image file with `decode_image`; raises InputError naming it also if it is missing."""
    return decode_image(read_bytes(path), path)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W) or BGR (H, W, 3) in the format of the path's extension; a file is never half written."""
    data = cv2.imencode(path.suffix, image)[1].tobytes()
    with atomic_write(path) as partial:
        partial.write_bytes(data)


def _stretch(image: np.ndarray, name: object) -> np.ndarray:
    """Map the range of an image to 0 … 255; NaN and infinity count as 0."""
    # in strips of rows: several float64 copies of the largest image would take 10 GB
    height = max(1, 2**20 // image[0].size)
    strips = [slice(top, top + height) for top in range(0, len(image), height)]

    def finite(strip: slice) -> np.ndarray:
        return np.nan_to_num(image[strip].astype(np.float64), posinf=0, neginf=0)

    low, high = min(finite(strip).min() for strip in strips), max(finite(strip).max() for strip in strips)
    with np.errstate(over="ignore"):
        scale = 255 / (high - low) if high > low else 0.0
    if not np.isfinite(scale) or (high > low and not scale):
        raise InputError(f"{name}: its values, from {low} to {high}, cannot be stretched to 8 bits; rescale them")
    stretched = np.empty(image.shape, np.uint8)
    for strip in strips:
        stretched[strip] = ((finite(strip) - low) * scale).round().astype(np.uint8)
    return stretched
