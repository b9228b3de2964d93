"""Prepare raw DSB2018 images (Kaggle's layout, one mask file a nucleus) for training: one image, one mask, one size."""

import options
import startup
from errors import InputError, one_sentence

if __name__ == "__main__":  # before the libraries are imported: --help and a mistyped flag are answered at once
    ARGS = options.parse_preprocess()
    startup.require_packages()

import json
import os
import shutil
from argparse import Namespace
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

import download
import files
import memory
import synthetic
from rawset import RawSet, compose, is_usable
from workers import process_pool

RAW_FOLDER = Path("inputs/data-science-bowl-2018/stage1_train")
RAW_ZIP = Path("inputs/stage1_train.zip")
RAW_SYNTHETIC = Path("inputs/synthetic/stage1_train")


def prepare_one(raw: RawSet, img_id: str, output: Path, size: int) -> dict:
    """Write one id's image and mask, `size` × `size`, under `output`; returns what the summary needs.

    The mask is resized as 0/1 numbers and truncated to uint8: its edges stay soft. This is, pixel for pixel, what the
    older editions wrote.
    """
    try:
        image, union = compose(raw, img_id)
    except InputError as error:
        return {"id": img_id, "skipped": str(error)}
    files.write_image(output / "images" / f"{img_id}.png", cv2.resize(image, (size, size)))
    soft = (cv2.resize(union, (size, size)) * 255).astype(np.uint8)
    files.write_image(output / "masks" / "0" / f"{img_id}.png", soft)
    return {"id": img_id, "size": f"{image.shape[1]}×{image.shape[0]}", "nuclei": len(raw.masks[img_id])}


def prepare(source: Path, output: Path, size: int, workers: int, overwrite: bool = False) -> None:
    """Prepare the raw set at `source` into `output` and print the summary.

    All is written to `<output>.partial`, which takes the name `output` at the end; a journal in there lets a rerun go
    on where a killed run stopped. Raises InputError where `output` holds other data and `overwrite` is not given.
    """
    if not output.name:
        raise InputError(f"--output {output}: give the name of a folder of its own")
    raw = RawSet(source)
    if overwrite:
        refuse_to_destroy(output, source)
    elif already_prepared(raw, output, size):
        return
    building = output.with_name(output.name + ".partial")
    journal = building / "journal.jsonl"
    stat = source.stat()
    origin = {"source": str(source.resolve()), "size": size, "ids": len(raw.ids)}
    origin |= {"masks": sum(map(len, raw.masks.values())), "changed": stat.st_mtime_ns if raw.is_zip else 0}
    done = read_journal(journal, origin)
    if not done:
        shutil.rmtree(building, ignore_errors=True)
    for leftover in building.rglob(".*.partial.png"):  # of a worker killed while it wrote
        leftover.unlink()
    for folder in ("images", "masks/0"):
        (building / folder).mkdir(parents=True, exist_ok=True)
    memory.keep_freed()
    waiting = [img_id for img_id in raw.ids if img_id not in done]
    print(
        f"preparing {len(waiting)} images of {source}" + (f", {len(done)} are done already" if done else ""), flush=True
    )
    with open(journal, "a", encoding="utf-8") as file:
        if not done:
            print(json.dumps(origin), file=file, flush=True)
        for result in tqdm(run(raw, waiting, building, size, workers), total=len(waiting), unit="image", disable=None):
            done[result["id"]] = result
            print(json.dumps(result), file=file, flush=True)
    results = [done[img_id] for img_id in raw.ids]
    prepared = [result for result in results if "skipped" not in result]
    if not prepared:
        shutil.rmtree(building)
        raise InputError(f"{source}: no image could be prepared; the first: {results[0]['skipped']}")
    journal.unlink()
    put_in_place(building, output)
    summarise(prepared, [result["skipped"] for result in results if "skipped" in result], output)


def already_prepared(raw: RawSet, output: Path, size: int) -> bool:
    """Is `output` there, complete, made of these images and of this size? Raises InputError if it is anything else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    there = files.list_ids(output)
    strange = set(there) - set(raw.ids)
    if not there or strange:
        what = f"{len(strange)} images that are not in {raw.path}" if there else "other files"
        raise InputError(f"{output} exists and holds {what}; choose another --output")
    # left out for a reason, or not come to by a killed run of an older edition?
    lacking = [img_id for img_id in raw.ids if img_id not in set(there) and is_usable(raw, img_id)]
    if lacking:
        raise InputError(f"{output} lacks {len(lacking)} images, such as {lacking[0]}; --overwrite prepares it afresh")
    for img_id in there:
        for folder, read in (("images", files.read_image), ("masks/0", files.read_mask)):
            height, width = read(output / folder / f"{img_id}.png").shape[:2]
            if (height, width) != (size, size):
                remedy = "choose another --output, or replace it with --overwrite"
                raise InputError(f"{output / folder} holds {width}×{height}, not {size}×{size}; {remedy}")
    print(f"{output} is already prepared, with {len(there)} of {len(raw.ids)} images; --overwrite does it again")
    return True


def refuse_to_destroy(output: Path, source: Path) -> None:
    """Raise InputError unless `output` is nothing but a prepared data set, or not there."""
    if output.is_dir() and any(
        not p.name.startswith(".") and p.name not in ("images", "masks") for p in output.iterdir()
    ):
        raise InputError(f"{output} holds more than images/ and masks/; --overwrite does not replace it")
    if source.resolve().is_relative_to(output.resolve()):
        raise InputError(f"{source} lies inside {output}, which --overwrite would replace; choose another --output")


def read_journal(journal: Path, origin: dict) -> dict[str, dict]:
    """What an earlier, killed run finished; {} where there is none or it prepared something else."""
    try:
        lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        if entries[:1] != [origin]:
            return {}
        # those that were skipped may be mended by now
        return {entry["id"]: entry for entry in entries[1:] if {"id", "size", "nuclei"} <= entry.keys()}
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):  # the disk had a say in it
        return {}


def run(raw: RawSet, ids: list[str], output: Path, size: int, workers: int):
    """Prepare the ids in `workers` processes; yields their results, in an order of its own."""
    if workers == 1 or len(ids) < 2:
        yield from (prepare_one(raw, img_id, output, size) for img_id in ids)
        return
    longest_first = sorted(ids, key=lambda img_id: -len(raw.masks.get(img_id, ())))  # so that all end together
    with process_pool(workers, _take_over, raw, output, size) as pool:
        try:
            yield from pool.map(_prepare_in_worker, longest_first)
        except BrokenProcessPool as error:
            message = "a worker was killed, perhaps for want of memory; run it again, with --workers 1"
            raise InputError(message) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _take_over(raw: RawSet, output: Path, size: int) -> None:
    global _job
    _job = raw, output, size


def _prepare_in_worker(img_id: str) -> dict:
    raw, output, size = _job
    return prepare_one(raw, img_id, output, size)


def put_in_place(building: Path, output: Path) -> None:
    """Give the finished folder its name; what was there before goes only once the new one is whole."""
    old = output.with_name(output.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        os.replace(output, old)
    os.replace(building, output)
    shutil.rmtree(old, ignore_errors=True)


def summarise(prepared: list[dict], skipped: list[str], output: Path) -> None:
    """Print how many images and nuclei there are of which size, and what was skipped and why."""
    import pandas as pd  # here: the workers need none, and it takes long to import

    table = pd.DataFrame(prepared).groupby("size").agg(images=("id", "count"), nuclei=("nuclei", "sum"))
    table.index.name = None
    table.columns.name = "raw size"
    table = table.sort_values("images", ascending=False)
    table.loc["all"] = table.sum()
    print(table.to_string())
    for kind, count in Counter(reason.rpartition(": ")[2] for reason in skipped).items():
        print(f"skipped, {kind}: {count}")
    for reason in skipped:
        print(f"  {reason}")
    print(f"{len(prepared)} images are prepared in {output}, {len(skipped)} were skipped")


def main(args: Namespace) -> None:
    """Get hold of a raw set, as the flags say, and prepare it."""
    output = Path(args.output)
    if args.synthetic:
        source = Path(args.input or RAW_SYNTHETIC)
        if source.exists() and not source.is_dir():
            raise InputError(f"--input {source}: is a file; with --synthetic it names the raw folder to write")
        there = len(list(source.iterdir())) if source.is_dir() else 0
        if there not in (0, args.synthetic):
            raise InputError(f"{source} holds {there} images already; remove it, or pass --synthetic {there}")
        if there:
            print(f"{source} is there already; its {there} images are used as they are")
        else:
            nuclei = synthetic.write_raw_set(source, args.synthetic, args.seed, args.workers)
            print(f"{args.synthetic} synthetic images with {nuclei} nuclei are written to {source}")
    elif args.download:
        source = RAW_ZIP
        if not source.exists():
            download.fetch_zip(args.url, source)
    else:
        source = Path(args.input) if args.input else RAW_FOLDER if RAW_FOLDER.is_dir() else RAW_ZIP
    prepare(source, output, args.img_size, args.workers, args.overwrite)


if __name__ == "__main__":
    with one_sentence():
        main(ARGS)
