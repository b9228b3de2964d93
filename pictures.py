"""What people look at: probability maps, masks, overlays, contact sheets, training curves."""

import math
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from files import write_image

# BGR; told apart with red-green colour blindness too
COLOURS = ((0, 200, 255), (255, 120, 0), (180, 60, 220), (80, 220, 80))
TRUTH = (255, 255, 255)
SIDE = 192  # of a picture on the contact sheet


def write_probabilities(folder: Path, img_id: str, probability: np.ndarray) -> None:
    """Write `<folder>/<class>/<id>.jpg`, probability × 255 at the net's size, for (num_classes, H, W) in [0, 1]."""
    for k, channel in enumerate(probability):
        write_image(folder / str(k) / f"{img_id}.jpg", (channel * 255).astype(np.uint8))


def to_mask(probability: np.ndarray, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
    """Probability (h, w) → boolean (height, width): enlarged smoothly first, so that outlines are not steps."""
    return cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR) > threshold


def brighten(image: np.ndarray) -> np.ndarray:
    """Stretch a dark uint8 image for the eye, all channels alike; one that has bright parts stays as it is."""
    low, high = percentiles(image, 0.5, 99.8)
    if high > 200:
        return image
    gain = min(255 / max(high - low, 1), 20)  # an image of nothing but noise stays dark
    levels = ((np.arange(256) - low) * gain).clip(0, 255).astype(np.uint8)
    return cv2.LUT(image, levels)  # a table: large images as floats would fill the memory


def percentiles(image: np.ndarray, *percents: float) -> list[float]:
    """np.percentile of uint8 (H, W, 3), to the last bit; it is counted, since sorting takes long and much memory."""
    height = max(1, 2**24 // image[0].size)  # calcHist's float32 counts no further
    strips = [image[top : top + height].reshape(-1) for top in range(0, len(image), height)]
    counts = [cv2.calcHist([strip], [0], None, [256], [0, 256])[:, 0] for strip in strips]
    up_to = np.cumsum(np.sum(counts, 0, dtype=np.int64))
    found = []
    for percent in percents:
        place = percent / 100 * (image.size - 1)
        share = place - int(place)
        low, high = (int(np.searchsorted(up_to, rank, side="right")) for rank in (int(place), math.ceil(place)))
        # as np.percentile does: from the nearer one
        found.append(low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share))
    return found


def overlay(image: np.ndarray, masks: list[np.ndarray], truth: list[np.ndarray] = ()) -> np.ndarray:
    """Outline masks (boolean, H × W, one a class) in colour, and true masks in white, on a BGR image (H, W, 3)."""
    picture = image.copy()
    thickness = max(1, round(max(image.shape[:2]) / 400))
    coloured = [(TRUTH, mask) for mask in truth] + list(zip(COLOURS * (len(masks) // 4 + 1), masks))
    for colour, mask in coloured:
        outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(picture, outlines, -1, colour, thickness)
    return picture


def fit(image: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Scale grey or BGR into a black BGR square of `side`, its proportions kept."""
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    height, width = image.shape[:2]
    scale = side / max(height, width)
    interpolation = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA  # show small images' pixels as they are
    size = max(1, round(width * scale)), max(1, round(height * scale))
    square = np.zeros((side, side, 3), np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=interpolation)
    return square


def contact_sheet(rows: list[tuple[str, list[np.ndarray]]], titles: list[str]) -> np.ndarray:
    """A BGR sheet: a line of titles, then for each caption a strip of images from `fit`; two strips abreast."""
    side, gap, header, caption = SIDE, 6, 26, 18
    strip_width = len(titles) * (side + gap) + gap
    columns = 2 if len(rows) > 1 else 1
    lines = -(-len(rows) // columns)
    sheet = np.full((header + lines * (side + caption + gap), strip_width * columns, 3), 32, np.uint8)
    for column in range(columns):
        for k, title in enumerate(titles):
            _write(sheet, title, column * strip_width + gap + k * (side + gap), 18, 0.5)
    for number, (name, images) in enumerate(rows):
        top, left = header + number // columns * (side + caption + gap), number % columns * strip_width + gap
        _write(sheet, name if len(name) <= 48 else f"{name[:45]}...", left, top + 12, 0.38)
        for k, image in enumerate(images):
            x = left + k * (side + gap)
            sheet[top + caption : top + caption + side, x : x + side] = image
    return sheet


def _write(sheet: np.ndarray, text: str, x: int, y: int, size: float) -> None:
    text = text.encode("ascii", "replace").decode()  # OpenCV's font knows no more
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (230, 230, 230), 1, cv2.LINE_AA)


def plot_curves(history: pd.DataFrame, path: Path) -> None:
    """Draw loss and IoU over the epochs (columns of log.csv; epochs are shown from 1) to a PNG."""
    import matplotlib  # here: val.py and demo.py need no plots, and it takes long to import

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    epochs, marker = history["epoch"] + 1, "o" if len(history) < 30 else None
    for axis, key, label in ((axes[0], "loss", "loss"), (axes[1], "iou", "IoU")):
        axis.plot(epochs, history[key], marker=marker, markersize=3, label="training")
        axis.plot(epochs, history[f"val_{key}"], marker=marker, markersize=3, label="validation")
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend()
    best = history["val_iou"].idxmax()
    axes[1].set(ylim=(0, 1), title=f"best {history['val_iou'][best]:.4f} in epoch {epochs[best]}")
    figure.savefig(path, dpi=100)
    plt.close(figure)
