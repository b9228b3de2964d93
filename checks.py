"""What can be wrong with a prepared data set, found before training starts and told all at once."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from errors import InputError
from files import IMAGE_EXTENSIONS, list_ids, read_image

MAX_LISTED = 20  # problems named one by one; the rest are counted


def check_dataset(data_path: Path, img_ext: str = ".png", mask_ext: str = ".png", num_classes: int = 1) -> list[str]:
    """Return the ids of a prepared data set, or raise one InputError that lists everything wrong with it.

    Every file is decoded once: a missing or unreadable one would otherwise surface epochs later.
    """
    images, masks = data_path / "images", data_path / "masks"
    if not data_path.is_dir():
        raise InputError(
            f"{data_path}: no such data folder; prepare it with preprocess_dsb2018.py, or give the folder that holds "
            "images/ and masks/"
        )
    if not images.is_dir():
        found = next((name for name in ("imgs", "image", "img") if (data_path / name).is_dir()), None)
        remedy = f"rename {data_path / found} to images" if found else "put the images there"
        raise InputError(f"{images}: no such folder; {remedy}")
    ids = list_ids(data_path, img_ext)
    if not ids:
        others = Counter(p.suffix for p in images.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS)
        remedy = f"the files there end in {', '.join(sorted(others))}: pass --img_ext" if others else "put some there"
        raise InputError(f"{images}: no {img_ext} images; {remedy}")
    if len(ids) < 2:
        raise InputError(f"{images}: only one {img_ext} image; training and validation need at least two")
    problems, classes = [], []
    for name in map(str, range(num_classes)):
        if (masks / name).is_dir():
            classes.append(name)
            continue
        loose = any(masks.glob(f"*{mask_ext}"))
        remedy = f"move the masks in {masks} into it" if loose else "each class has a folder of masks, named 0, 1 …"
        problems.append(f"{masks / name}: no such folder; {remedy}")

    def report(img_id: str):
        return _check_sample(images / f"{img_id}{img_ext}", [masks / k / f"{img_id}{mask_ext}" for k in classes])

    with ThreadPoolExecutor() as pool:  # OpenCV decodes outside the interpreter's lock
        reports = list(pool.map(report, ids))
    problems += [problem for found, _ in reports for problem in found]
    # a mask is mostly exactly 0 and 255, a photograph is not
    binary = np.array([shares for _, shares in reports if shares]).reshape(-1, 2)
    if len(binary) and np.median(binary[:, 0]) > 0.6 and np.median(binary[:, 1]) < 0.4:
        problems.insert(0, f"{data_path}: images and masks look swapped; exchange the contents of {images} and {masks}")
    if problems:
        raise InputError(_listed(data_path, problems))
    return ids


def _check_sample(image_path: Path, mask_paths: list[Path]) -> tuple[list[str], tuple[float, float] | None]:
    """Problems of an image and its masks, and the shares of image's and mask's pixels that are exactly 0 or 255."""
    problems, shares = [], None
    try:
        image = read_image(image_path, cv2.IMREAD_COLOR)
    except InputError as error:
        return [str(error)], None
    for path in mask_paths:
        if not path.is_file():
            problems.append(f"{path}: no mask for {image_path}; add it or take the image out")
            continue
        try:
            mask = read_image(path, cv2.IMREAD_GRAYSCALE)
        except InputError as error:
            problems.append(str(error))
            continue
        if mask.shape != image.shape[:2]:
            height, width = image.shape[:2]
            problems.append(
                f"{path}: mask is {mask.shape[1]}×{mask.shape[0]}, its image {width}×{height}; resize one to the other"
            )
        elif 0 < mask.max() <= 10 and np.count_nonzero(mask) >= 20:  # soft edges alone are never that dim and that many
            problems.append(
                f"{path}: largest value is {mask.max()}, but masks hold 0 and 255; "
                "multiply by 255, or give each label a class folder of its own"
            )
        elif shares is None:
            shares = tuple(float(((x == 0) | (x == 255)).mean()) for x in (image, mask))
    return problems, shares


def _listed(data_path: Path, problems: list[str]) -> str:
    lines = problems[:MAX_LISTED]
    if len(problems) > MAX_LISTED:
        lines.append(f"… and {len(problems) - MAX_LISTED} more of the kind")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n  ".join([f"{data_path} cannot be used as it is ({count}):", *lines])
