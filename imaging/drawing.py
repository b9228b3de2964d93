"""Pictures for people: probability maps, masks, outlines, contact sheets."""

from pathlib import Path

import cv2
import numpy as np

from imaging.reader import write_image

# BGR; also distinguishable with red-green color blindness
COLORS = ((0, 200, 255), (255, 120, 0), (180, 60, 220), (80, 220, 80))
TRUTH_COLOR = (255, 255, 255)
TILE_SIDE = 192  # pixels of a picture on the contact sheet


def write_probabilities(folder: Path, img_id: str, probability: np.ndarray) -> None:
    """Write `<folder>/<class>/<id>.jpg`, probability × 255 at the model's size, for (num_classes, H, W) in [0, 1]."""
    for k, channel in enumerate(probability):
        write_image(folder / str(k) / f"{img_id}.jpg", (channel * 255).astype(np.uint8))


def to_mask(probability: np.ndarray, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
    """Resize a probability map (h, w) and compare it with the threshold: boolean (height, width)."""
    # in this order, because the outlines of a resized mask would have steps
    return cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR) > threshold


def brighten(image: np.ndarray) -> np.ndarray:
    """Stretch the contrast of a dark uint8 image, all channels alike; an image with bright parts is unchanged."""
    low, high = np.percentile(image, (0.5, 99.8))
    if high > 200:
        return image
    gain = min(255 / max(high - low, 1), 20)  # limited, so that an image of nothing but noise stays dark
    levels = ((np.arange(256) - low) * gain).clip(0, 255).astype(np.uint8)
    return cv2.LUT(image, levels)  # a look-up table: a large image as floats would fill the memory


def overlay(image: np.ndarray, masks: list[np.ndarray], truth: list[np.ndarray] = ()) -> np.ndarray:
    """Outline masks (boolean (H, W), one per class) in color, and true masks in white, on a BGR image (H, W, 3)."""
    picture = image.copy()
    thickness = max(1, round(max(image.shape[:2]) / 400))
    colors = [COLORS[k % len(COLORS)] for k in range(len(masks))]
    for color, mask in [*((TRUTH_COLOR, mask) for mask in truth), *zip(colors, masks)]:
        outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(picture, outlines, -1, color, thickness)
    return picture


def fit(image: np.ndarray, side: int = TILE_SIDE) -> np.ndarray:
    """Scale a gray or BGR image to fit a black BGR square of `side` pixels; the proportions are kept."""
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    height, width = image.shape[:2]
    scale = side / max(height, width)
    interpolation = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA  # the pixels of small images stay visible
    size = max(1, round(width * scale)), max(1, round(height * scale))
    square = np.zeros((side, side, 3), np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=interpolation)
    return square


def contact_sheet(rows: list[tuple[str, list[np.ndarray]]], titles: list[str]) -> np.ndarray:
    """Arrange captions and their images, made by `fit`, in two columns; returns BGR. `titles` stand at the top."""
    side, gap, header, caption = TILE_SIDE, 6, 26, 18
    strip_width = len(titles) * (side + gap) + gap
    columns = 2 if len(rows) > 1 else 1
    lines = -(-len(rows) // columns)
    sheet = np.full((header + lines * (side + caption + gap), strip_width * columns, 3), 32, np.uint8)
    for column in range(columns):
        for k, title in enumerate(titles):
            _write_text(sheet, title, column * strip_width + gap + k * (side + gap), 18, 0.5)
    for number, (name, images) in enumerate(rows):
        top, left = header + number // columns * (side + caption + gap), number % columns * strip_width + gap
        _write_text(sheet, name if len(name) <= 48 else f"{name[:45]}...", left, top + 12, 0.38)
        for k, image in enumerate(images):
            x = left + k * (side + gap)
            sheet[top + caption : top + caption + side, x : x + side] = image
    return sheet


def _write_text(sheet: np.ndarray, text: str, x: int, y: int, size: float) -> None:
    text = text.encode("ascii", "replace").decode()  # OpenCV's font has no other characters
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (230, 230, 230), 1, cv2.LINE_AA)
