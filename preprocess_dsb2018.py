# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Prepare raw DSB2018 images (Kaggle's layout, one mask file per nucleus) for training."""

import options
from runtime import names, startup
from runtime.errors import InputError

if __name__ == "__main__":  # before the slow imports, so that --help and a mistyped flag are answered at once
    ARGS = startup.parse_flags(options.parse_preprocess, needs_torch=lambda args: False)

from argparse import Namespace
from collections import Counter
from pathlib import Path

from imaging.raw import download, synthetic
from imaging.raw.preparation import PreparationSettings, plural, prepare
from imaging.raw.rawset import RawSet
from imaging.survey import describe_counts

MAX_LISTED = 20  # masks that are remarked on one by one
RAW_FOLDER = Path("inputs/data-science-bowl-2018/stage1_train")
RAW_ZIP = Path("inputs/stage1_train.zip")
RAW_SYNTHETIC = Path("inputs/synthetic/stage1_train")


def main(args: Namespace) -> None:
    """Find, download or synthesize a raw set, as the flags say, prepare it, and print a summary."""
    output = Path(args.output)
    raw = RawSet(find_source(args))
    settings = PreparationSettings(args.img_size, args.channel, args.dense_masks, args.borders)
    entries = prepare(raw, output, settings, args.workers, args.overwrite)
    if entries:
        print_summary(entries, output)


def find_source(args: Namespace) -> Path:
    """Return the raw folder or zip to prepare, which is downloaded or synthesized first if the flags say so."""
    if args.synthetic:
        source = Path(args.input or RAW_SYNTHETIC)
        synthesize(source, args.synthetic, args.seed, args.workers)
        return source
    if args.download:
        if not RAW_ZIP.exists():
            download.fetch_zip(args.url, RAW_ZIP)
        return RAW_ZIP
    if args.input:
        return Path(args.input)
    return RAW_FOLDER if RAW_FOLDER.is_dir() else RAW_ZIP


def synthesize(source: Path, count: int, seed: int, workers: int) -> None:
    """Write `count` synthetic images to `source`, unless it holds as many already."""
    if source.exists() and not source.is_dir():
        raise InputError(f"--input {source}: is a file; with --synthetic it names the raw folder to write")
    present = len(list(source.iterdir())) if source.is_dir() else 0
    if present not in (0, count):
        raise InputError(f"{source} holds {plural(present, 'image')} already; remove it, or pass --synthetic {present}")
    if present:
        print(f"{source} exists already, with {plural(present, 'image')}; it is used as it is")
    else:
        nuclei = synthetic.write_raw_set(source, count, seed, workers)
        print(f"written to {source}: {plural(count, 'synthetic image')} with {nuclei} nuclei")


def print_summary(entries: list[dict], output: Path) -> None:
    """Print how many images and mask files there are of each size, what they held, and which were skipped and why."""
    import pandas as pd  # here, because its import takes long and the worker processes do not need it

    prepared = [entry for entry in entries if "skipped" not in entry]
    skipped = [entry["skipped"] for entry in entries if "skipped" in entry]
    table = pd.DataFrame(prepared).groupby("size").agg(images=("id", "count"), nuclei=("nuclei", "sum"))
    table.index.name = None
    table.columns.name = "raw size"
    table = table.sort_values("images", ascending=False)
    table.loc["all"] = table.sum()
    print(table.to_string())
    notes = Counter(note for entry in prepared for note in entry["notes"])
    if notes:
        print(f"converted: {describe_counts(notes)}")
    kinds = Counter(kind for entry in prepared for kind in entry["kinds"])
    if kinds:
        print("masks: " + "; ".join(f"{kind} ({plural(count, 'image')})" for kind, count in kinds.most_common()))
    remarks = [remark for entry in prepared for remark in entry["remarks"]]
    for remark in remarks[:MAX_LISTED]:
        print(f"warning: {remark}")
    if len(remarks) > MAX_LISTED:
        print(f"warning: … and {plural(len(remarks) - MAX_LISTED, 'more mask')} like these")
    for kind, count in Counter(reason.rpartition(": ")[2] for reason in skipped).items():
        print(f"skipped, {names.printable(kind)}: {count}")
    for reason in skipped:
        print(f"  {names.printable(reason, 1000)}")
    is_or_are, was_or_were = ("is" if len(prepared) == 1 else "are"), ("was" if len(skipped) == 1 else "were")
    count = plural(len(prepared), "image")
    print(f"{count} {is_or_are} prepared in {output}, {len(skipped)} {was_or_were} skipped")


if __name__ == "__main__":
    startup.run(main, ARGS)
