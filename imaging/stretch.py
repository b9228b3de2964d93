"""Stretching images of more than 8 bits, or of signed or float numbers, to 8 bits."""

import cv2
import numpy as np

from runtime.errors import InputError

WINDOW = 5  # pixels, of the median filter
NOISE_LEVELS = 8  # of 255: the most that one standard deviation of noise is stretched to
MAD_TO_DEVIATION = 1.4826  # of normally distributed numbers: standard deviation ÷ median absolute deviation
STRIP_VALUES = 2**20


def stretch_to_8_bits(values: np.ndarray, name: object) -> np.ndarray:
    """Map numbers of any kind, (H, W) or (H, W, 3), to uint8; uint8 is returned as it is.

    result = 255 × (value - low) ÷ max(high - low, 32 × noise), limited to 0 … 255 and rounded
    low and high: the smallest and largest value after a median filter of 5×5 pixels, all channels together. A handful
    of hot or dead pixels has no effect on them, a nucleus of five pixels across has.
    noise: the standard deviation of the differences to the filtered image, by their median absolute value. It keeps
    an empty field dark, whose noise would otherwise be spread over all 255 levels.
    If the filtered image is constant, and the noise 0, low and high are the smallest and largest value themselves.
    NaN and -infinity become 0, infinity becomes 255; the filter sees the median in their place.
    Raises InputError naming the image if the values span more than float64 can hold.
    """
    if values.dtype == np.uint8:
        return values
    low, high, noise = _find_range(values, name)
    span = max(high - low, 255 / NOISE_LEVELS * noise)
    stretched = np.empty(values.shape, np.uint8)
    for rows in _strips(values):
        with np.errstate(invalid="ignore", over="ignore"):  # of NaN and infinity
            scaled = (values[rows].astype(np.float64) - low) * (255 / span if span else 1)
            stretched[rows] = np.nan_to_num(scaled, posinf=255, neginf=0).clip(0, 255).round()
    return stretched


def _find_range(values: np.ndarray, name: object) -> tuple[float, float, float]:
    """Return low, high and noise; (0, 0, 0) if no value is finite."""
    finite = np.isfinite(values)
    if not finite.any():
        return 0.0, 0.0, 0.0
    least, most = (float(find(values[finite])) for find in (np.min, np.max))
    scale = most - least
    if not np.isfinite(scale) or (scale and not np.isfinite(255 / scale)):
        raise InputError(f"{name}: its values, from {least} to {most}, cannot be stretched to 8 bits; rescale them")
    if not scale:
        return least, most, 0.0
    usual = float(np.median(values[finite][:: 1 + values.size // 2**20].astype(np.float64)))
    lows, highs, noises = [], [], []
    for rows in _strips(values):  # with a margin, so that the filter sees the rows beside a strip
        top = max(0, rows.start - WINDOW // 2)
        around = slice(top, rows.stop + WINDOW // 2)
        part = np.where(finite[around], values[around].astype(np.float64), usual)
        # OpenCV filters float32; scaled first, since float32 does not hold all digits of large numbers
        part = ((part - least) / scale).astype(np.float32)
        smooth = cv2.medianBlur(part, WINDOW).reshape(part.shape)
        own = slice(rows.start - top, rows.stop - top)
        lows.append(smooth[own].min())
        highs.append(smooth[own].max())
        noises.append(MAD_TO_DEVIATION * np.median(np.abs(part[own] - smooth[own])))
    low, high, noise = (scale * float(value) for value in (min(lows), max(highs), np.median(noises)))
    if not max(high - low, noise):
        return least, most, 0.0
    return least + low, least + high, noise


def _strips(values: np.ndarray) -> list[slice]:
    """Divide the rows: several float64 copies of the largest image would take 10 GB."""
    height = max(1, STRIP_VALUES // values[0].size)
    return [slice(top, min(top + height, len(values))) for top in range(0, len(values), height)]
