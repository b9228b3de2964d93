# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Evaluate a trained model on the validation split or a test set: scores of pixels and nuclei, by image, and masks."""

import options
from runtime import startup

if __name__ == "__main__":  # before torch is imported, so that --help and a mistyped flag are answered at once
    ARGS = startup.parse_flags(options.parse_val)

from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

import dataset
import engine
import utils
from evaluation.nuclei import NucleiData, score_nuclei, tune_settings
from evaluation.pixels import PixelScores
from imaging.instances import SplitSettings, check_classes, choose_settings, describe_settings
from imaging.predictor import Predictor
from imaging.prepared import PreparedFolder
from imaging.raw.rawset import RawSet
from imaging.report import Report, write_report
from imaging.scoring import error_table, image_table, summary_table, threshold_table
from imaging.split import checksum, fixed_split
from imaging.truth import prepared_sample, raw_sample
from runtime import names
from runtime.background import BackgroundPool
from runtime.checkpoint import save_checkpoint
from runtime.distributed import Runtime, init_runtime
from runtime.errors import InputError
from runtime.files import atomic_write
from runtime.flags import Flags
from runtime.run_files import read_history
from runtime.settings import apply_recorded_settings, recorded_settings


def open_data(
    args: Namespace, num_classes: int, checkpoint: Mapping, settings: Mapping
) -> tuple[dataset.NucleiDataset | None, dataset.NucleiDataset]:
    """Open the training and validation split of the data, or all images with `--all`, and print how many there are.

    settings: what the model records. Raises InputError if a single image is to be split.
    """
    path = utils.find_data(args.data_path, settings)
    if args.all:
        data = dataset.open_all(path, num_classes, vars(args))
        print(f"data: {path}, all of its images: {len(data)}")
        if utils.is_training_data(path, settings):
            print("warning: the model was trained on images of this folder, so the scores include training images")
        return None, data
    if len(PreparedFolder(path, args.img_ext, args.mask_ext).list_ids()) == 1:
        raise InputError(f"{path}: a single image cannot be split; pass --all to score it")
    train, data = dataset.open_dataset(path, num_classes, vars(args), recorded=checkpoint.get("data"))
    print(f"data: {path}, {names.counted(len(data), 'image')} to validate")
    return train, data


def open_raw(args: Namespace, checkpoint: Mapping, settings: Mapping) -> NucleiData:
    """Open the raw set of `--raw`, split as in training, or all of it with `--all`; settings: what the model records.

    Raises InputError if the split is another one than that of the training, as far as the model records it.
    """
    raw = RawSet(Path(args.raw))
    ids = [img_id for img_id in raw.ids if len(raw.images.get(img_id, ())) == 1 and img_id in raw.masks]
    read = partial(raw_sample, raw, args.channel)
    if args.all:
        print(f"data: {raw.path}, all of its images with masks: {len(ids)}")
        return NucleiData(read, [], ids, args.skip_bad)
    train, val = split_raw(ids, args, checkpoint, settings)
    print(f"data: {raw.path}, {names.counted(len(val), 'image')} to validate")
    return NucleiData(read, train, val, args.skip_bad)


def split_raw(ids: list[str], args: Namespace, checkpoint: Mapping, settings: Mapping) -> tuple[list[str], list[str]]:
    """Split the ids of a raw set as in training: by the prepared data if they are still there, else by all its ids.

    A fixed split, of the flags or recorded, comes first.
    """
    recorded = checkpoint.get("data")
    if fixed := fixed_split(vars(args), recorded, ids, args.raw, dataset.split_ids):
        return fixed
    wanted = recorded.get("images") if isinstance(recorded, Mapping) else None
    prepared = Path(args.data_path or settings.get("data_path") or Path("inputs") / settings["dataset"])
    used = set(PreparedFolder(prepared, args.img_ext, args.mask_ext).list_ids())  # the preparation may skip images
    for candidates in ([img_id for img_id in ids if img_id in used], ids):
        split = dataset.split_ids(candidates, args.inner_split) if len(candidates) > 2 else ([], [])
        if wanted in (checksum(*split), None) and split[1]:
            break
    else:
        raise InputError(
            f"{args.raw}: its images are not those of the training, or not all of them, so the validation split is "
            "unknown; give the raw set that the data were prepared from, or pass --all to score all images"
        )
    if wanted is None:
        print("warning: the model does not record its split, so the scores may include training images")
    return split


def start_report(args: Flags, path: Path, checkpoint: Mapping, settings: Mapping) -> Report:
    """Return a report of the model at `path` and its training; the scores are still missing."""
    given = [f"--{name}" if vars(args)[name] is True else f"--{name} {vars(args)[name]}" for name in sorted(args.given)]
    return Report(
        args.name,
        {"model": path, "data": args.raw or utils.find_data(args.data_path, settings), "flags": ", ".join(given)},
        settings=settings,
        defaults={name: flag.default for name, flag in options.FLAGS.items()},
        log=pd.DataFrame(read_history(path.with_name("log.csv"), np.inf)),
        epochs=checkpoint["epoch"],
    )


def score_pixels(
    model: nn.Module, data: dataset.NucleiDataset, args: Namespace, runtime: Runtime
) -> tuple[PixelScores, dict[str, float]]:
    """Score the masks at the size of the model's input, write and print the tables.

    Returns the scores, and what evaluate returns.
    """
    workers = dataset.choose_num_workers(vars(args), model.num_classes)
    loader = dataset.val_loader(data, args.batch_size, workers, runtime.is_accelerator)
    criterion = engine.build_criterion(args.loss)
    folder = utils.run_folder(args.name, args.output)
    with BackgroundPool() as pool:
        scores = PixelScores(folder, data, pool)
        result = engine.evaluate(model, loader, criterion, runtime, scores)
    with atomic_write(folder / "metrics.csv") as partial:
        scores.images().to_csv(partial, index=False)
    table = scores.table()
    print(table.to_string(float_format="{:.4f}".format))
    print(f"masks: {folder}, by image: {folder / 'metrics.csv'}")
    return scores, result


def main(args: Namespace) -> None:
    """Load the model and its data, evaluate, write and print the tables."""
    runtime = init_runtime(args.device, args.device_id)
    path = utils.find_model(args.name)
    model, checkpoint = engine.load_model(path, runtime, trust=args.trust_checkpoint, half=args.amp)
    recorded = recorded_settings(checkpoint, path, options.ANY_SIZE_FLAGS)
    print(f"model: {path}, {names.counted(checkpoint['epoch'], 'epoch')} trained")
    apply_recorded_settings(args, recorded, options.ANY_SIZE_FLAGS)
    model = engine.for_any_size(model, args.tta)
    if args.raw:
        nuclei = open_raw(args, checkpoint, recorded)
    else:
        train, data = open_data(args, model.num_classes, checkpoint, recorded)
        read = partial(prepared_sample, data.read, data.folder.image_path)
        nuclei = NucleiData(read, train.ids if train else [], data.ids, args.skip_bad)
    predictor = Predictor(
        partial(engine.predict, model, runtime=runtime),
        args.normalization,
        args.divide_twice,
        (args.input_h, args.input_w),
        args.crop_diameter,
    )
    if args.instances or args.raw or args.tune:
        check_classes(model.num_classes, args.loss)
        given = {name: value for name in SplitSettings._fields if (value := vars(args)[name]) is not None}
        settings = choose_settings(None if args.tune else checkpoint.get("instances"), given, path)
    if args.tune:
        if path.suffix == ".pth":
            raise InputError(f"{path}: --tune cannot record settings in a file of the GPU edition; leave it out")
        samples = nuclei.samples(nuclei.some_train_ids(args.tune_images))
        settings = tune_settings(samples, predictor, settings, given, args.diameter)
        save_checkpoint(checkpoint | {"instances": settings._asdict()}, path)
        print(f"recorded in {path}")
    report, folder = start_report(args, path, checkpoint, recorded), utils.run_folder(args.name, args.output)
    if args.instances or args.raw:
        print(f"nuclei by {describe_settings(settings)}")
        scores = score_nuclei(nuclei.samples(nuclei.scored), predictor, settings, folder, args.diameter)
        example = partial(nuclei.example, folder / "labels")
        report.facts["nuclei by"] = describe_settings(settings)
        tables = {"Nuclei": summary_table(scores), "Nuclei by IoU": threshold_table(scores)}
        tables["What became of the nuclei"] = error_table(scores)
        report.add_scores(tables, image_table(scores), example, ("mean AP", "AP 0.50", "found", "true"))
        print(f"mean AP: {tables['Nuclei'].loc['all', 'mean AP']:.4f}")
    if not args.raw:
        scores, result = score_pixels(model, data, args, runtime)
        table = scores.table() if model.num_classes > 1 else scores.table().loc[["all"]]
        report.add_scores({"Pixels": table}, scores.images(), scores.example, ("IoU", "mask Dice"))
    if args.report:
        write_report(folder / "report.html", report)
        print(f"report: {folder / 'report.html'}")
    if not args.raw:
        print(f"Mask Dice: {table.loc['all', 'mask Dice']:.4f}")
        print(f"Dice: {result['dice']:.4f}")
        print(f"IoU: {result['iou']:.4f}")


if __name__ == "__main__":
    startup.run(main, ARGS)
