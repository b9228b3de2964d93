# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Prepare a raw set for training: one image, one mask and one size per id. A rerun continues an interrupted run."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from imaging.borders import find_borders
from imaging.checks import MAX_TYPICAL_SHARE, judge_orientations, judge_shares
from imaging.listing import describe_unused
from imaging.prepared import PreparedFolder
from imaging.raw.compose import compose, look_swapped
from imaging.raw.journal import Journal, describe_differences
from imaging.raw.process_pool import process_pool
from imaging.raw.rawset import RawSet
from imaging.reader import write_image
from runtime.errors import InputError
from runtime.files import remove_partial_files, sync_folder


class PreparationSettings(NamedTuple):
    """How images are prepared.

    size: side length of the prepared images, in pixels; 0: each image keeps its size. channel: to read from images that
    hold several, from 1. dense_masks: accept masks that are mostly white. borders: write a second mask, see
    find_borders.
    """

    size: int = 96
    channel: int = 0
    dense_masks: bool = False
    borders: bool = False

    @property
    def num_classes(self) -> int:
        return 2 if self.borders else 1


def prepare(
    raw: RawSet, output: Path, settings: PreparationSettings, workers: int, overwrite: bool = False
) -> list[dict]:
    """Prepare a raw set into `output`; returns what `prepare_one` returns per id.

    Returns [] if `output` is prepared already. All files are written under `<output>.partial`, which is renamed to
    `output` at the end. Raises InputError if `output` holds other data and `overwrite` is not given, or if the set as a
    whole is wrong, see check_entries; nothing is then left under either name.
    """
    if not output.name:
        raise InputError(f"--output {output}: give the name of a folder of its own")
    if raw.unused:
        print(describe_unused(raw.unused), flush=True)
    if overwrite:
        check_replaceable(output, raw)
    elif is_prepared(raw, output, settings):
        return []
    if look_swapped(raw):
        raise InputError(f"{raw.path}: images and masks look swapped; exchange the files of images/ and masks/")
    building = output.with_name(output.name + ".partial")
    journal = Journal(building / "journal.jsonl", describe_origin(raw, settings))
    if not journal.entries:
        shutil.rmtree(building, ignore_errors=True)
    target = PreparedFolder(building, num_classes=settings.num_classes)
    for folder in (target.images, *map(target.masks, range(settings.num_classes))):
        folder.mkdir(parents=True, exist_ok=True)
    remove_partial_files(building)
    waiting = [img_id for img_id in raw.ids if img_id not in journal.entries]
    done = f", {len(journal.entries)} are done already" if journal.entries else ""
    print(f"preparing {plural(len(waiting), 'image')} of {raw.path}{done}", flush=True)
    results = prepare_each(raw, waiting, target, settings, workers)
    journal.record(tqdm(results, total=len(waiting), unit="image", disable=None))
    entries = [journal.entries[img_id] for img_id in raw.ids]
    try:
        check_entries(raw, entries, settings.dense_masks)
    except InputError:
        shutil.rmtree(building)
        raise
    journal.finish()
    put_in_place(building, output)
    return entries


def prepare_one(raw: RawSet, img_id: str, target: PreparedFolder, settings: PreparationSettings) -> dict:
    """Write the image and masks of one id.

    Returns its "id", the "size" of the raw image as text, the number of its "nuclei", the "marked" share of its pixels,
    and "notes", "remarks" and "kinds", see RawSample; or "id" and the reason why it is "skipped", with "marked" if that
    is known. The mask of the nuclei is resized as 0/1 floats and truncated to uint8, so that its edges are soft: pixel
    for pixel what the older editions wrote. Borders are too thin to be resized; they are found in resized nuclei.
    """
    try:
        sample = compose(raw, img_id, settings.channel)
    except InputError as error:
        return {"id": img_id, "skipped": str(error)}
    nuclei = sample.labels > 0
    marked = float(nuclei.mean())
    if sample.too_dense and not settings.dense_masks:
        return {"id": img_id, "skipped": sample.too_dense, "marked": marked}
    size = (settings.size, settings.size) if settings.size else sample.image.shape[1::-1]
    write_image(target.image_path(img_id), cv2.resize(sample.image, size))
    soft_mask = (cv2.resize(nuclei.astype(np.float64), size) * 255).astype(np.uint8)
    write_image(target.mask_path(img_id, 0), soft_mask)
    if settings.borders:
        labels = cv2.resize(sample.labels, size, interpolation=cv2.INTER_NEAREST)
        write_image(target.mask_path(img_id, 1), find_borders(labels).astype(np.uint8) * 255)
    return {
        "id": img_id,
        "size": f"{sample.image.shape[1]}×{sample.image.shape[0]}",
        "nuclei": sample.nuclei,
        "marked": marked,
        "notes": sample.notes,
        "remarks": sample.remarks,
        "kinds": sample.kinds,
    }


def prepare_each(
    raw: RawSet, ids: list[str], target: PreparedFolder, settings: PreparationSettings, workers: int
) -> Iterator[dict]:
    """Prepare the ids in `workers` processes; yields what `prepare_one` returns, not in the order of `ids`."""
    if workers == 1 or len(ids) < 2:
        yield from (prepare_one(raw, img_id, target, settings) for img_id in ids)
        return
    longest_first = sorted(ids, key=lambda img_id: -len(raw.masks.get(img_id, ())))  # all workers then end together
    with process_pool(workers, _set_job, raw, target, settings) as pool:
        try:
            yield from pool.map(_prepare_in_worker, longest_first)
        except BrokenProcessPool as error:
            message = "a worker process was killed, perhaps because memory ran out; run it again with --workers 1"
            raise InputError(message) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _set_job(*job) -> None:
    global _job  # the raw set is sent to a worker once, and not with each id
    _job = job


def _prepare_in_worker(img_id: str) -> dict:
    raw, target, settings = _job
    return prepare_one(raw, img_id, target, settings)


def describe_origin(raw: RawSet, settings: PreparationSettings) -> dict:
    """Return what a prepared set is made from: the raw set and the settings."""
    changed = datetime.fromtimestamp(raw.path.stat().st_mtime, timezone.utc).isoformat() if raw.is_zip else ""
    return {
        "source": str(raw.path.resolve()),
        **settings._asdict(),
        "ids": len(raw.ids),
        "masks": sum(map(len, raw.masks.values())),
        "changed": changed,
    }


def check_entries(raw: RawSet, entries: list[dict], dense_masks: bool) -> None:
    """Raise InputError if what was found in all images together shows that the set is wrong."""
    shares = [(entry["id"], entry["marked"]) for entry in entries if "marked" in entry]
    if not dense_masks and shares and np.median([share for _, share in shares]) > MAX_TYPICAL_SHARE:
        raise InputError(judge_shares(raw.path, shares)[0])
    skipped = [entry for entry in entries if "skipped" in entry]
    if len(skipped) == len(entries):
        raise InputError(f"{raw.path}: no image could be prepared; the first: {skipped[0]['skipped']}")
    # images without masks may just not be annotated yet
    kinds = Counter(re.sub(r"\d+", "", entry["skipped"].rpartition(": ")[2]) for entry in skipped)
    del kinds["no masks"]
    if 2 * max(kinds.values(), default=0) > len(entries):
        raise InputError(
            f"{raw.path}: {len(skipped)} of {len(entries)} images cannot be prepared, most of them for the same "
            f"reason; correct or remove them; the first: {skipped[0]['skipped']}"
        )
    if turned := judge_orientations(raw.path, Counter(note for entry in entries for note in entry.get("notes", ()))):
        raise InputError(turned[0])
    if not any(share for _, share in shares):
        raise InputError(f"{raw.path}: all masks are black; masks hold 0 and 255, 0 and 1, or numbers of nuclei")


def is_prepared(raw: RawSet, output: Path, settings: PreparationSettings) -> bool:
    """Is `output` complete, and made of this raw set with these settings? False if it is missing or empty.

    Older editions did not record from what they prepared a set; of theirs, the ids and the size are compared.

    Raises InputError if it is anything else.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    folder = PreparedFolder(output)
    present = folder.list_ids()
    strange = set(present) - set(raw.ids)
    if not present or strange:
        what = f"{plural(len(strange), 'image')} not in {raw.path}" if present else "other files"
        raise InputError(f"{output} exists and holds {what}; choose another --output")
    # An id may be missing because it cannot be prepared, or because an older edition, which wrote in place, was killed.
    missing = [img_id for img_id in raw.ids if img_id not in set(present) and is_usable(raw, img_id, settings)]
    if missing:
        raise InputError(
            f"{output} lacks {plural(len(missing), 'image')}, such as {missing[0]}; --overwrite prepares all again"
        )
    remedy = "choose another --output, or replace it with --overwrite"
    if folder.masks(1).is_dir() != settings.borders:
        found = "without borders" if settings.borders else "with borders"
        raise InputError(f"{output} is prepared already, but {found}; {remedy}")
    for img_id in present:
        height, width = folder.read(img_id)[0].shape[:2]  # the mask has the same size
        if settings.size and (height, width) != (settings.size, settings.size):
            raise InputError(f"{folder.images} holds {width}×{height}, not {settings.size}×{settings.size}; {remedy}")
    if different := describe_differences(output, describe_origin(raw, settings)):
        raise InputError(f"{output} is prepared already, but in another way ({different}); {remedy}")
    print(f"{output} is already prepared, with {len(present)} of {len(raw.ids)} images; --overwrite prepares it again")
    return True


def is_usable(raw: RawSet, img_id: str, settings: PreparationSettings) -> bool:
    """Can this id be prepared?"""
    try:
        sample = compose(raw, img_id, settings.channel)
    except InputError:
        return False
    return settings.dense_masks or not sample.too_dense


def check_replaceable(output: Path, raw: RawSet) -> None:
    """Raise InputError unless `output` is missing or nothing but a prepared data set, and holds none of `raw`."""
    if output.is_dir() and any(
        not p.name.startswith(".") and p.name not in ("images", "masks") for p in output.iterdir()
    ):
        raise InputError(f"{output} holds more than images/ and masks/; --overwrite does not replace it")
    lists = () if raw.is_zip else (*raw.images.values(), *raw.masks.values())
    linked = {(raw.path / name).parent for found in lists for name in found}  # links may lead there
    for folder in (raw.path, *sorted(linked)):
        if folder.resolve().is_relative_to(output.resolve()):
            raise InputError(f"{folder} lies inside {output}, which --overwrite would replace; choose another --output")


def plural(count: int, noun: str) -> str:
    """Return `1 image`, `2 images`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def put_in_place(building: Path, output: Path) -> None:
    """Rename the finished folder to `output`; an earlier one is removed only afterwards."""
    old = output.with_name(output.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    for folder in (building / "masks", building):
        sync_folder(folder)
    if output.exists():
        os.replace(output, old)
    os.replace(building, output)
    sync_folder(output.parent)  # before the earlier data are removed: a power cut must not undo the rename
    shutil.rmtree(old, ignore_errors=True)
