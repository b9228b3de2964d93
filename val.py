"""Evaluate a trained model on the validation split or a test set: IoU, Dice, average precision, by image, and masks."""

import options
from runtime import startup

if __name__ == "__main__":  # before torch is imported, so that --help and a mistyped flag are answered at once
    ARGS = startup.parse_flags(options.parse_val)

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import dataset
import engine
import metrics
import utils
from imaging.drawing import write_probabilities
from imaging.prepared import PreparedFolder
from imaging.reader import write_image
from runtime import names
from runtime.background import BackgroundPool
from runtime.distributed import init_runtime
from runtime.errors import InputError
from runtime.files import atomic_write
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


def open_data(args: Namespace, path: Path, num_classes: int, settings: Mapping) -> dataset.NucleiDataset:
    """Open the validation split of the data, or all images with `--all`, and print how many there are.

    settings: what the model records. Raises InputError if a single image is to be split.
    """
    if args.all:
        data = dataset.open_all(path, num_classes, vars(args))
        print(f"data: {path}, all of its images: {len(data)}")
        if utils.is_training_data(path, settings):
            print("warning: the model was trained on images of this folder, so the scores include training images")
        return data
    if len(PreparedFolder(path, args.img_ext, args.mask_ext).list_ids()) == 1:
        raise InputError(f"{path}: a single image cannot be split; pass --all to score it")
    _, data = dataset.open_dataset(path, num_classes, vars(args))
    print(f"data: {path}, {names.counted(len(data), 'image')} to validate")
    return data


def main(args: Namespace) -> None:
    """Load the model and its data, evaluate, write and print the tables."""
    runtime = init_runtime(args.device, args.device_id)
    path = utils.find_model(args.name)
    model, checkpoint = engine.load_model(path, runtime, trust=args.trust_checkpoint, half=args.amp)
    settings = recorded_settings(checkpoint, path, options.ANY_SIZE_FLAGS)
    print(f"model: {path}, {names.counted(checkpoint['epoch'], 'epoch')} trained")
    apply_recorded_settings(args, settings, options.ANY_SIZE_FLAGS)
    model = engine.for_any_size(model, args.tta)
    data_path = utils.find_data(args.data_path, settings)
    data = open_data(args, data_path, model.num_classes, settings)
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
    print(f"Mask Dice: {table.loc['all', 'mask Dice']:.4f}")
    print(f"Dice: {result['dice']:.4f}")
    print(f"IoU: {result['iou']:.4f}")


if __name__ == "__main__":
    startup.run(main, ARGS)
