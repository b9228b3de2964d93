"""Check a prepared data set before training starts, and report everything that is wrong with it at once."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imaging.masks import read_mask
from imaging.prepared import PreparedFolder, check_mask_size
from imaging.reader import IMAGE_EXTENSIONS, read_image
from runtime.errors import InputError

MIN_MARKED = 20  # pixels; on fewer, the soft edges of a nucleus or two may outweigh their inside
MAX_LISTED = 20  # problems that are listed one by one; the rest are counted


def check_dataset(
    folder: PreparedFolder,
    skip_bad: bool = False,
    keep: Callable[[str, np.ndarray, np.ndarray], None] = lambda *sample: None,
) -> list[str]:
    """Return the ids of a prepared data set, or raise one InputError that lists everything wrong with it.

    Each file is decoded once: without that, a missing or unreadable file would stop the training epochs later.

    skip_bad: only print which samples are unusable. Their ids are still returned, so that the split is the same.
    keep: is called with each usable sample, one call at a time: id, image, uint8 BGR (H, W, 3), and masks, uint8
    (H, W, num_classes).
    """
    ids = _find_ids(folder)
    classes = [k for k in range(folder.num_classes) if folder.masks(k).is_dir()]
    problems = [_missing_class(folder, k) for k in range(folder.num_classes) if k not in classes]
    reports = _check_samples(folder, ids, classes, keep)
    unusable = [problem for report in reports for problem in report.problems]
    if not skip_bad or all(report.problems for report in reports):
        problems += unusable
    elif unusable:
        print(f"warning: {_listed(folder.path, unusable)}\nthese are skipped because of --skip_bad", flush=True)
    if _look_swapped(reports):
        mask_folder = folder.masks(classes[0])
        remedy = f"exchange the contents of {folder.images} and {mask_folder}"
        problems.insert(0, f"{folder.path}: images and masks look swapped; {remedy}")
    else:
        problems += [problem for report in reports for problem in report.odd_values]
        # masks with too few marked pixels to be judged one by one
        for k in classes:
            if max((report.peaks.get(k, 255) for report in reports), default=255) <= 127:
                problems.append(f"{folder.masks(k)}: no mask has a pixel above 127; masks hold 0 and 255")
    if problems:
        raise InputError(_listed(folder.path, problems))
    return ids


class _Report(NamedTuple):
    """What is wrong with an image and its masks, and what their values look like."""

    problems: list[str]
    odd_values: list[str]  # problems with a mask's values; not reported if images and masks look swapped
    binary_shares: list[tuple[float, float]]  # the share of pixels that are exactly 0 or 255, in image and mask
    peaks: dict[int, int]  # by class, the largest value of the mask


def _find_ids(folder: PreparedFolder) -> list[str]:
    """List the ids; raises InputError if the layout is wrong or there are fewer than two images."""
    path, images = folder.path, folder.images
    if not path.is_dir():
        raise InputError(
            f"{path}: no such data folder; prepare it with preprocess_dsb2018.py, or give the folder that holds "
            "images/ and masks/"
        )
    if not images.is_dir():
        found = next((name for name in ("imgs", "image", "img") if (path / name).is_dir()), None)
        remedy = f"rename {path / found} to images" if found else "put the images there"
        raise InputError(f"{images}: no such folder; {remedy}")
    ids = folder.list_ids()
    if not ids:
        others = Counter(p.suffix for p in images.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS)
        remedy = f"the files there end in {', '.join(sorted(others))}: pass --img_ext" if others else "put some there"
        raise InputError(f"{images}: no {folder.img_ext} images; {remedy}")
    if len(ids) < 2:
        raise InputError(f"{images}: only one {folder.img_ext} image; training and validation need at least two")
    return ids


def _missing_class(folder: PreparedFolder, class_index: int) -> str:
    masks = folder.masks(class_index)
    loose = any(masks.parent.glob(f"*{folder.mask_ext}"))
    remedy = f"move the masks in {masks.parent} into it" if loose else "each class needs its folder of masks: 0, 1, …"
    return f"{masks}: no such folder; {remedy}"


def _check_samples(folder: PreparedFolder, ids: list[str], classes: list[int], keep: Callable) -> list[_Report]:
    one_at_a_time = threading.Lock()

    def check(img_id: str) -> _Report:
        report, image, masks = _check_sample(folder, img_id, classes)
        if classes and not report.problems:
            with one_at_a_time:
                keep(img_id, image, np.dstack(masks))
        return report

    with ThreadPoolExecutor() as pool:  # OpenCV decodes without Python's global lock
        return list(pool.map(check, ids))


def _check_sample(
    folder: PreparedFolder, img_id: str, classes: list[int]
) -> tuple[_Report, np.ndarray | None, list[np.ndarray]]:
    """Return the report on a sample, its image, and those masks that can be used."""
    report, masks = _Report([], [], [], {}), []
    try:
        image = read_image(folder.image_path(img_id))
    except InputError as error:
        report.problems.append(str(error))
        return report, None, masks
    for k in classes:
        path = folder.mask_path(img_id, k)
        try:
            if not path.is_file():
                raise InputError(f"{path}: no mask for {folder.image_path(img_id)}; add it or remove the image")
            mask = read_mask(path)
            check_mask_size(path, mask, image)
        except InputError as error:
            report.problems.append(str(error))
            continue
        masks.append(mask)
        report.odd_values.extend(_odd_values(path, mask))
        report.binary_shares.append(tuple(float(((x == 0) | (x == 255)).mean()) for x in (image, mask)))
        report.peaks[k] = int(mask.max())
    return report, image, masks


def _odd_values(path: Path, mask: np.ndarray) -> list[str]:
    """Return the problem with a mask's values, if any: 0/1 masks and numbered nuclei look nearly black."""
    marked, bright = np.count_nonzero(mask), np.count_nonzero(mask > 127)
    if marked < MIN_MARKED or bright >= 0.5 * marked:
        return []
    return [
        f"{path}: only {bright} of {marked} marked pixels are above 127, but masks hold 0 and 255; multiply 0/1 masks "
        "by 255, make every numbered nucleus 255, give each class a folder of its own"
    ]


def _look_swapped(reports: list[_Report]) -> bool:
    """Do the images look like masks and the masks like images? Nearly all pixels of a mask are exactly 0 or 255."""
    shares = np.array([pair for report in reports for pair in report.binary_shares]).reshape(-1, 2)
    return bool(len(shares) and np.median(shares[:, 0]) > 0.6 and np.median(shares[:, 1]) < 0.4)


def _listed(data_path: Path, problems: list[str]) -> str:
    lines = problems[:MAX_LISTED]
    if len(problems) > MAX_LISTED:
        lines.append(f"… and {len(problems) - MAX_LISTED} more problems")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n  ".join([f"{data_path} cannot be used as it is ({count}):", *lines])
