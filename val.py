"""Evaluate a trained model on the validation split or a test set: scores of pixels and nuclei, by image, and masks."""

import options
from runtime import startup

if __name__ == "__main__":  # before torch is imported, so that --help and a mistyped flag are answered at once
    ARGS = startup.parse_flags(options.parse_val)

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

import dataset
import engine
import metrics
import utils
from imaging import augment, tuning
from imaging.drawing import write_probabilities
from imaging.instances import SplitSettings, choose_settings, describe_settings, find_nuclei
from imaging.label_files import read_labels, write_labels
from imaging.predictor import Predictor
from imaging.prepared import PreparedFolder
from imaging.raw.rawset import RawSet
from imaging.reader import read_image, write_image
from imaging.report import Example, Report, write_report
from imaging.scoring import ImageScore, error_table, image_table, score_image, summary_table, threshold_table
from imaging.truth import Sample, prepared_sample, raw_sample
from runtime import names
from runtime.background import BackgroundPool, prefetch
from runtime.checkpoint import save_checkpoint
from runtime.distributed import Runtime, init_runtime
from runtime.errors import InputError
from runtime.files import atomic_write
from runtime.flags import Flags
from runtime.run_files import read_history
from runtime.settings import apply_recorded_settings, recorded_settings

PIXEL_SCORES = {"iou": metrics.iou_score, "mask_dice": metrics.mask_dice, "dice": metrics.dice_coef}


class Scores:
    """Collects the scores of whole batches and of each image, by class, and writes the masks.

    The threads of a pool do the work on images. Their rows are complete, and their errors raised, at the pool's end.
    """

    def __init__(self, folder: Path, data: PreparedFolder, pool: BackgroundPool):
        self.folder, self.data, self.pool, self.batches, self.futures = folder, data, pool, [], []

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, ids: list[str]) -> None:
        """Take in a batch: logits and targets (N, num_classes, H, W)."""
        logits, target = logits.cpu(), target.cpu()
        classes = range(logits.shape[1])
        for label, chosen in [("all", slice(None)), *((f"class {k}", k) for k in classes)]:
            scores = {key: score(logits[:, chosen], target[:, chosen]).item() for key, score in PIXEL_SCORES.items()}
            self.batches.append({"label": label, "weight": len(ids), **scores})
        for img_id, own_logits, own_target in zip(ids, logits, target):
            self.futures.append(self.pool.submit(self._score, img_id, own_logits, own_target))

    def _score(self, img_id: str, logits: torch.Tensor, target: torch.Tensor) -> list[dict]:
        """Write an image's pictures and return its row for each class."""
        probability, rows = torch.sigmoid(logits).numpy(), []
        path = names.printable_path(self.data.image_path(img_id))
        write_probabilities(self.folder, img_id, probability)
        for k in range(len(probability)):
            self.pool.check_cancelled()
            mask, true = probability[k] > 0.5, target[k].numpy() > 0.5
            write_image(self.folder / str(k) / f"{img_id}_mask.png", mask.astype("uint8") * 255)
            row = {"id": img_id, "path": path, "class": k}
            row |= {key: score(logits[k], target[k]).item() for key, score in PIXEL_SCORES.items()}
            row["ap"] = metrics.average_precision(metrics.label_instances(mask), metrics.label_instances(true))
            rows.append(row)
        return rows

    def images(self) -> pd.DataFrame:
        """Return a row for each image and class, in the order of the images; call it after the pool's end."""
        return pd.DataFrame([row for future in self.futures for row in future.result()])

    def table(self) -> pd.DataFrame:
        """Return a row for all classes and one for each: batch scores, then the mean IoU, Dice and AP of the images."""
        rows, images = {}, self.images()
        for label, group in pd.DataFrame(self.batches).groupby("label", sort=False):
            own = images if label == "all" else images[images["class"] == int(label.removeprefix("class "))]
            batch = [np.average(group[key], weights=group["weight"]) for key in PIXEL_SCORES]
            rows[label] = [*batch, own["iou"].mean(), own["mask_dice"].mean(), own["ap"].mean()]
        columns = ["IoU", "mask Dice", "soft Dice", "IoU by image", "mask Dice by image", "AP by image"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def example(self, row: Mapping) -> Example:
        """Return the picture of one of the rows of `images`, with the regions of the mask of its class."""
        image, masks = self.data.read(row["id"])
        true = masks[..., row["class"]] > (0 if self.data.zero_one else 127)
        found = read_image(self.folder / str(row["class"]) / f"{row['id']}_mask.png")[..., 0] > 127
        return Example(row, image, metrics.label_instances(found), metrics.label_instances(true))


class NucleiData(NamedTuple):
    """Images with true nuclei: `read` returns the sample of an id; the ids of the training part, and those to score."""

    read: Callable[[str], Sample]
    train: list[str]
    scored: list[str]

    def samples(self, ids: list[str]) -> Iterator[Sample]:
        """Read samples ahead, and yield them in order."""
        with prefetch(self.read, ids) as found:
            for future in found:
                yield future.result()

    def example(self, folder: Path, row: Mapping) -> Example:
        """Return the picture of a row of image_table, with the labels that score_nuclei wrote."""
        sample = self.read(row["id"])
        return Example(row, sample.image, read_labels(folder / f"{row['id']}_labels.tif"), sample.labels)


def open_data(
    args: Namespace, num_classes: int, settings: Mapping
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
    train, data = dataset.open_dataset(path, num_classes, vars(args))
    print(f"data: {path}, {names.counted(len(data), 'image')} to validate")
    return train, data


def open_raw(args: Namespace, checkpoint: Mapping) -> NucleiData:
    """Open the raw set of `--raw`, split as in training, or all of it with `--all`.

    Raises InputError if the split is another one than that of the training, as far as the model records it.
    """
    raw = RawSet(Path(args.raw))
    ids = [img_id for img_id in raw.ids if len(raw.images.get(img_id, ())) == 1 and img_id in raw.masks]
    read = partial(raw_sample, raw, args.channel)
    if args.all:
        print(f"data: {raw.path}, all of its images with masks: {len(ids)}")
        return NucleiData(read, [], ids)
    train, val = dataset.split_ids(ids, args.inner_split)
    recorded = checkpoint.get("data")
    if isinstance(recorded, Mapping) and recorded.get("images") not in (None, dataset.checksum(train, val)):
        raise InputError(
            f"{raw.path}: the model was trained on other images, so its validation split is unknown here; give the raw "
            "set that its data were prepared from, or pass --all to score all images"
        )
    print(f"data: {raw.path}, {names.counted(len(val), 'image')} to validate")
    return NucleiData(read, train, val)


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
) -> tuple[Scores, dict[str, float]]:
    """Score the masks at the size of the model's input, write and print the tables.

    Returns the scores, and what evaluate returns.
    """
    workers = dataset.choose_num_workers(vars(args), model.num_classes)
    loader = dataset.val_loader(data, args.batch_size, workers, runtime.is_accelerator)
    criterion = engine.build_criterion(args.loss)
    folder = utils.run_folder(args.name, args.output)
    with BackgroundPool() as pool:
        scores = Scores(folder, data.folder, pool)
        result = engine.evaluate(model, loader, criterion, runtime, scores)
    with atomic_write(folder / "metrics.csv") as partial:
        scores.images().to_csv(partial, index=False)
    table = scores.table()
    print(table.to_string(float_format="{:.4f}".format))
    print(f"masks: {folder}, by image: {folder / 'metrics.csv'}")
    return scores, result


def score_nuclei(
    samples: Iterator[Sample], predictor: Predictor, settings: SplitSettings, args: Namespace
) -> list[ImageScore]:
    """Score the nuclei of images at their own size, write and print the tables."""
    folder = utils.run_folder(args.name, args.output)
    print(f"nuclei by {describe_settings(settings)}")

    def score(sample: Sample, probability: np.ndarray) -> ImageScore:
        labels = find_nuclei(probability, settings)
        write_labels(folder / "labels" / f"{sample.img_id}_labels.tif", labels)
        matches, errors = metrics.match_nuclei(labels, sample.labels), metrics.match_errors(labels, sample.labels)
        return score_image(sample.img_id, sample.path, sample.image, matches, errors)

    with BackgroundPool() as pool:
        futures = [
            pool.submit(score, sample, predictor(sample.image, args.diameter).probability)
            for sample in tqdm(samples, disable=None, unit="image")
        ]
    scores = [future.result() for future in futures]
    with atomic_write(folder / "nuclei.csv") as partial:
        image_table(scores).to_csv(partial, index=False)
    for table in (summary_table(scores), threshold_table(scores), error_table(scores)):
        print(table.to_string(float_format="{:.4f}".format))
    print(f"labels: {folder / 'labels'}, by image: {folder / 'nuclei.csv'}")
    return scores


def tune_settings(nuclei: NucleiData, predictor: Predictor, start: SplitSettings, args: Namespace) -> SplitSettings:
    """Find the settings with the highest mean AP on training images, spread over all of them, and print the search."""
    chosen = np.linspace(0, len(nuclei.train) - 1, min(len(nuclei.train), args.tune_images)).round().astype(int)
    images = []
    for sample in nuclei.samples([nuclei.train[index] for index in chosen]):
        images.append((predictor(sample.image, args.diameter).probability, sample.labels))
    with ThreadPoolExecutor() as pool:
        best, score, tried = tuning.tune(images, metrics.average_precision, start, pool.map)
    print(pd.DataFrame(tried).sort_values("score").to_string(index=False, float_format="{:.4f}".format))
    print(f"tuned on {names.counted(len(images), 'training image')}: mean AP {score:.4f}")
    return best


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
        nuclei = open_raw(args, checkpoint)
    else:
        train, data = open_data(args, model.num_classes, recorded)
        read = partial(prepared_sample, data.read, data.folder.image_path)
        nuclei = NucleiData(read, train.ids if train else [], data.ids)
    predictor = Predictor(
        partial(engine.predict, model, runtime=runtime),
        augment.input_maker(args.normalization, args.divide_twice),
        (args.input_h, args.input_w),
        args.crop_diameter,
    )
    given = {name: vars(args)[name] for name in SplitSettings._fields}
    settings = choose_settings(checkpoint.get("instances"), given, path)
    if args.tune:
        settings = tune_settings(nuclei, predictor, settings, args)
        save_checkpoint(checkpoint | {"instances": settings._asdict()}, path)
        print(f"recorded in {path}")
    report, folder = start_report(args, path, checkpoint, recorded), utils.run_folder(args.name, args.output)
    if args.instances or args.raw:
        scores = score_nuclei(nuclei.samples(nuclei.scored), predictor, settings, args)
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
