# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Check a prepared data set before training starts, and report everything that is wrong with it at once."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imaging.listing import describe_unused, explain_missing_masks, find_unused, other_spelling
from imaging.masks import MIN_JUDGED_PIXELS, NOT_TURNED, Mask, align, decode_mask, to_training_mask
from imaging.prepared import PreparedFolder
from imaging.reader import IMAGE_EXTENSIONS, TURNED
from imaging.survey import Survey
from runtime.errors import InputError

MIN_MARKED = 20  # pixels; on fewer, the soft edges of a nucleus or two may outweigh their inside
MAX_LISTED = 20  # problems that are listed one by one; the rest are counted
MAX_MARKED_SHARE, MAX_TYPICAL_SHARE = 0.98, 0.5  # of a mask's pixels; of the median mask's


def check_dataset(
    folder: PreparedFolder,
    skip_bad: bool = False,
    dense_masks: bool = False,
    keep: Callable[[str, np.ndarray, np.ndarray], None] = lambda *sample: None,
) -> Survey:
    """Return a survey of a prepared data set, with its ids; raises one InputError that lists everything wrong with it.

    Each file is decoded once: without that, a missing or unreadable file would stop the training epochs later.
    Image files in the folder that are not used are named in one line.

    skip_bad: only print which samples are unusable. Their ids are still returned, so that the split is the same.
    dense_masks: accept masks that are white nearly everywhere, and sets whose typical mask is mostly white.
    keep: is called with each usable sample, one call at a time: id, image, uint8 BGR (H, W, 3), and masks, uint8
    (H, W, num_classes), in the values of their files.
    """
    ids = _find_ids(folder)
    classes = [k for k in range(folder.num_classes) if folder.masks(k).is_dir()]
    if unused := find_unused(folder, ids, classes):
        print(f"warning: {describe_unused(unused)}", flush=True)
    problems = [_missing_class(folder, k) for k in range(folder.num_classes) if k not in classes]
    problems += (explained := explain_missing_masks(folder, ids, classes))
    reports = _check_samples(folder, ids, classes, keep)
    unusable = [] if explained else [problem for report in reports for problem in report.problems]
    if not skip_bad or all(report.problems for report in reports):
        problems += unusable
    elif unusable:
        print(f"warning: {_listed(folder.path, unusable)}\nthese are skipped because of --skip_bad", flush=True)
    zero_one = {report.zero_one for report in reports if report.zero_one is not None} == {True}
    if _look_swapped(reports):
        mask_folder = folder.masks(classes[0])
        remedy = f"exchange the contents of {folder.images} and {mask_folder}"
        problems.insert(0, f"{folder.path}: images and masks look swapped; {remedy}")
    else:
        problems += [problem for report in reports for problem in report.bad_values]
        problems += [] if zero_one else [problem for report in reports for problem in report.dark_values]
        for k in classes:
            problems += _judge_class(folder, k, reports, zero_one, dense_masks)
        problems += judge_orientations(folder.path, Counter(note for report in reports for note in report.notes))
    if problems:
        raise InputError(_listed(folder.path, problems))
    if zero_one:
        print(f"{folder.path}: all masks hold 0 and 1; each 1 is read as 255", flush=True)
    survey = Survey(ids, zero_one=zero_one)
    for report in reports:
        if report.size:
            survey.add(report.size, report.notes)
    return survey


class _Report(NamedTuple):
    """What is wrong with an image and its masks, and what their values look like."""

    problems: list[str]
    bad_values: list[str]  # problems with a mask's values; not reported if images and masks look swapped
    dark_values: list[str]  # few marked pixels are above 127; no problem if all masks of the set hold 0 and 1
    binary_shares: list[tuple[float, float]]  # the share of pixels that are exactly 0 or 255, in image and mask
    peaks: dict[int, int]  # by class, the largest value of the mask
    marked: dict[int, tuple[Path, float]]  # by class, the mask and the share of its pixels that are marked
    notes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    zero_one: bool | None = None  # is 1 the largest value of its masks? None: they mark nothing


def _find_ids(folder: PreparedFolder) -> list[str]:
    """List the ids; raises InputError if the layout is wrong or there are no images."""
    path, images = folder.path, folder.images
    if not path.is_dir():
        raise InputError(
            f"{path}: no such data folder; prepare it with preprocess_dsb2018.py, for the recipe nuclei with "
            "preprocess_dsb2018.py --img_size 0 --borders, or give the folder that holds "
            "images/ and masks/"
        )
    if not images.is_dir():
        found = next((name for name in ("imgs", "image", "img") if (path / name).is_dir()), None)
        remedy = f"rename {path / found} to images" if found else "put the images there"
        raise InputError(f"{images}: no such folder; {remedy}")
    ids = folder.list_ids()
    if not ids:
        others = Counter(
            p.suffix for p in images.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS and not p.name.startswith(".")
        )
        remedy = f"the files there end in {', '.join(sorted(others))}: pass --img_ext" if others else "put some there"
        raise InputError(f"{images}: no {folder.img_ext} images; {remedy}")
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
        if classes and not report.problems and len(masks) == len(classes):
            with one_at_a_time:
                keep(img_id, image, np.dstack(masks))
        return report

    with ThreadPoolExecutor() as pool:  # the libraries decode without Python's global lock
        return list(pool.map(check, ids))


def _check_sample(
    folder: PreparedFolder, img_id: str, classes: list[int]
) -> tuple[_Report, np.ndarray | None, list[np.ndarray]]:
    """Return the report on a sample, its image, and those masks that can be used."""
    report = _Report([], [], [], [], {}, {})
    try:
        picture = folder.read_picture(img_id)
    except InputError as error:
        report.problems.append(str(error))
        return report, None, []
    paths, masks = [], []
    for k in classes:
        path = folder.mask_path(img_id, k)
        try:
            if not path.is_file():
                remedy = other_spelling(path) or "add it or remove the image"
                raise InputError(f"{path}: no mask for {folder.image_path(img_id)}; {remedy}")
            mask = decode_mask(path, path)
            report.binary_shares.append(tuple(_binary_share(pixels) for pixels in (picture.pixels, mask.pixels)))
            _judge_values(report, path, k, mask)
        except InputError as error:
            report.problems.append(str(error))
            continue
        paths.append(path)
        masks.append(mask)
    try:
        image, pixels, turned = align(picture, masks, paths)
    except InputError as error:
        report.problems.append(str(error))
        return report, picture.pixels, []
    peak = max(report.peaks.values(), default=0)
    notes = (*picture.notes, turned) if turned else picture.notes
    usable = [] if report.bad_values else pixels
    return report._replace(notes=notes, size=image.shape[:2], zero_one=peak == 1 if peak else None), image, usable


def _binary_share(pixels: np.ndarray) -> float:
    return float(((pixels == 0) | (pixels == 255)).mean())


def _judge_values(report: _Report, path: Path, class_index: int, mask: Mask) -> None:
    """Add to the report what a mask's values look like, and what is wrong with them."""
    try:
        pixels = to_training_mask(mask, path)
    except InputError as error:
        report.bad_values.append(str(error))
        return
    report.peaks[class_index] = int(pixels.max())
    # JPEG leaves small values around white areas
    marked, bright = np.count_nonzero(pixels > 0.06 * pixels.max()), np.count_nonzero(pixels > 127)
    report.marked[class_index] = path, marked / pixels.size
    if mask.kind == "marks" and pixels.size >= MIN_JUDGED_PIXELS:
        return  # decode_mask has judged it
    if marked >= MIN_MARKED and bright < 0.5 * marked:
        report.dark_values.append(
            f"{path}: only {bright} of {marked} marked pixels are above 127, but masks hold 0 and 255; multiply 0/1 "
            "masks by 255, make every numbered nucleus 255, give each class a folder of its own"
        )


def _judge_class(
    folder: PreparedFolder, class_index: int, reports: list[_Report], zero_one: bool, dense_masks: bool
) -> list[str]:
    """Return what is wrong with the masks of a class as a whole."""
    problems = []
    # masks with too few marked pixels to be judged one by one
    if not zero_one and max((report.peaks.get(class_index, 255) for report in reports), default=255) <= 127:
        problems.append(f"{folder.masks(class_index)}: no mask has a pixel above 127; masks hold 0 and 255")
    if not dense_masks:
        marked = [report.marked[class_index] for report in reports if class_index in report.marked]
        problems += judge_shares(folder.masks(class_index), marked)
    return problems


def judge_shares(place: Path, shares: list[tuple[object, float]]) -> list[str]:
    """Return what the marked shares of a set of masks, each with its name, say against it: it may be inverted."""
    typical = float(np.median([share for _, share in shares])) if shares else 0.0
    if typical > MAX_TYPICAL_SHARE:
        return [
            f"{place}: the masks look inverted, {typical:.0%} of the typical one is marked; nuclei are white on black. "
            "Invert them, or pass --dense_masks if they are right"
        ]
    remedy = "correct it, or pass --dense_masks if it is right"
    return [f"{name}: marked nearly everywhere ({s:.0%}); {remedy}" for name, s in shares if s > MAX_MARKED_SHARE]


def judge_orientations(place: Path, notes: Counter) -> list[str]:
    """Return what is wrong if some masks follow the orientation tags of their images and others do not.

    If an image is square, or turned by 180°, both fit, so that nothing tells to which of them it belongs.
    """
    if not (notes[TURNED] and notes[NOT_TURNED]):
        return []
    return [
        f"{place}: {notes[NOT_TURNED]} masks are drawn without regard to the orientation tags of their images, but "
        f"{notes[TURNED]} others fit the turned images; turn all images as they are to be seen, and remove the tags"
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
