"""What can be wrong with a prepared data set, found before training starts and told all at once."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from errors import InputError
from files import IMAGE_EXTENSIONS, list_ids, read_image, read_mask

FEW = 20  # marked pixels; soft edges may outweigh the inside of a nucleus or two that are no larger
MAX_LISTED = 20  # problems named one by one; the rest are counted


def check_dataset(
    data_path: Path,
    img_ext: str = ".png",
    mask_ext: str = ".png",
    num_classes: int = 1,
    skip_bad: bool = False,
    keep: Callable[[str, np.ndarray, np.ndarray], None] = lambda *sample: None,
) -> list[str]:
    """Return the ids of a prepared data set, or raise one InputError that lists everything wrong with it.

    Every file is decoded once: a missing or unreadable one would otherwise surface epochs later. With `skip_bad` an
    image that cannot be used, or whose masks cannot, is only told of; its id stays, and so does the split. `keep` is
    called, once at a time, with each sample that can: id, image, uint8 BGR (H, W, 3), masks, uint8 (H, W, num_classes).
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

    one_at_a_time = threading.Lock()

    def report(img_id: str) -> _Report:
        mask_paths = {k: masks / k / f"{img_id}{mask_ext}" for k in classes}
        found, decoded = _check_sample(images / f"{img_id}{img_ext}", mask_paths)
        if classes and not found.problems:
            with one_at_a_time:
                keep(img_id, decoded[0], np.dstack(decoded[1:]))
        return found

    with ThreadPoolExecutor() as pool:  # OpenCV decodes outside the interpreter's lock
        reports = list(pool.map(report, ids))
    unusable = [problem for report in reports for problem in report.problems]
    if not skip_bad or all(report.problems for report in reports):
        problems += unusable
    elif unusable:
        print(f"warning: {_listed(data_path, unusable)}\nthese are skipped, as --skip_bad asks", flush=True)
    # a mask is mostly exactly 0 and 255, a photograph is not
    binary = np.array([shares for report in reports for shares in report.binary_shares]).reshape(-1, 2)
    if len(binary) and np.median(binary[:, 0]) > 0.6 and np.median(binary[:, 1]) < 0.4:
        problems.insert(0, f"{data_path}: images and masks look swapped; exchange the contents of {images} and {masks}")
    else:
        problems += [problem for report in reports for problem in report.odd_values]
        for name in classes:  # what the rule for a single file is too careful to see
            if max((report.peaks.get(name, 255) for report in reports), default=255) <= 127:
                problems.append(f"{masks / name}: no mask there has a pixel above 127; masks hold 0 and 255")
    if problems:
        raise InputError(_listed(data_path, problems))
    return ids


class _Report(NamedTuple):
    """What there is to say of an image and its masks."""

    problems: list[str]
    odd_values: list[str]  # problems too, unless images and masks are swapped altogether
    binary_shares: list[tuple[float, float]]  # of the image's and of a mask's pixels that are exactly 0 or 255
    peaks: dict[str, int]  # each class's largest value


def _check_sample(image_path: Path, mask_paths: dict[str, Path]) -> tuple[_Report, list[np.ndarray]]:
    # and what was decoded: the image, then its masks
    report, decoded = _Report([], [], [], {}), []
    try:
        image = read_image(image_path)
    except InputError as error:
        report.problems.append(str(error))
        return report, decoded
    decoded.append(image)
    for name, path in mask_paths.items():
        if not path.is_file():
            report.problems.append(f"{path}: no mask for {image_path}; add it or take the image out")
            continue
        try:
            mask = read_mask(path)
        except InputError as error:
            report.problems.append(str(error))
            continue
        if mask.shape != image.shape[:2]:
            height, width = image.shape[:2]
            report.problems.append(
                f"{path}: mask is {mask.shape[1]}×{mask.shape[0]}, its image {width}×{height}; resize one to the other"
            )
            continue
        decoded.append(mask)
        marked, bright = np.count_nonzero(mask), np.count_nonzero(mask > 127)
        if marked >= FEW and bright < 0.5 * marked:
            report.odd_values.append(
                f"{path}: only {bright} of {marked} marked pixels are above 127, but masks hold 0 and 255; multiply "
                "0/1 masks by 255, make every numbered nucleus 255, give each class a folder of its own"
            )
        report.peaks[name] = int(mask.max())
        report.binary_shares.append(tuple(float(((x == 0) | (x == 255)).mean()) for x in (image, mask)))
    return report, decoded


def _listed(data_path: Path, problems: list[str]) -> str:
    lines = problems[:MAX_LISTED]
    if len(problems) > MAX_LISTED:
        lines.append(f"… and {len(problems) - MAX_LISTED} more of the kind")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n  ".join([f"{data_path} cannot be used as it is ({count}):", *lines])
