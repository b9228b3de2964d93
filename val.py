"""Evaluate a trained model on the validation split: IoU, Dice and average precision, a table by image, its masks."""

import options
import runtime as rt
from errors import one_sentence

if __name__ == "__main__":  # before torch is imported: --help and a mistyped flag are answered at once
    ARGS = options.parse_val()
    rt.require_torch()

from argparse import Namespace

import pandas as pd
import torch

import dataset
import engine
import files
import metrics
import pictures
import utils


class Scores:
    """Collects the scores of each image and class, and of each class over whole batches, and writes the masks."""

    def __init__(self, folder):
        self.folder, self.images, self.batches = folder, [], []

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, ids: list[str]) -> None:
        """Take in a batch: logits and targets (N, num_classes, H, W)."""
        logits, target = logits.cpu(), target.cpu()
        probability = torch.sigmoid(logits).numpy()
        for k in range(logits.shape[1]):
            scores = {"class": k, "iou": metrics.iou_score(logits[:, k], target[:, k]).item()}
            scores["dice"] = metrics.dice_coef(logits[:, k], target[:, k]).item()
            self.batches.append(scores | {"weight": len(ids)})
        for i, img_id in enumerate(ids):
            pictures.write_probabilities(self.folder, img_id, probability[i])
            for k in range(logits.shape[1]):
                mask = probability[i, k] > 0.5
                files.write_image(self.folder / str(k) / f"{img_id}_mask.png", mask.astype("uint8") * 255)
                instances = [metrics.label_instances(m) for m in (mask, target[i, k].numpy() > 0.5)]
                self.images.append(
                    {
                        "id": img_id,
                        "class": k,
                        "iou": metrics.iou_score(logits[i, k], target[i, k]).item(),
                        "dice": metrics.dice_coef(logits[i, k], target[i, k]).item(),
                        "ap": metrics.average_precision(*instances),
                    }
                )

    def table(self, overall: dict[str, float]) -> pd.DataFrame:
        """A row for each class and one for all: batch IoU and Dice, and the means of the images' IoU and AP."""
        batches, images = pd.DataFrame(self.batches), pd.DataFrame(self.images)
        rows = {"all": [overall["iou"], overall["dice"], images["iou"].mean(), images["ap"].mean()]}
        for k, group in batches.groupby("class"):
            of_class = images[images["class"] == k]
            means = [(group[key] * group["weight"]).sum() / group["weight"].sum() for key in ("iou", "dice")]
            rows[f"class {k}"] = [*means, of_class["iou"].mean(), of_class["ap"].mean()]
        return pd.DataFrame.from_dict(rows, orient="index", columns=["IoU", "Dice", "IoU by image", "AP by image"])


def main(args: Namespace) -> None:
    """Load the model and its data, evaluate, write and print the tables."""
    runtime = rt.init(args.device, args.device_id)
    path = utils.find_model(args.name)
    model, checkpoint = engine.load_model(path, runtime)
    config = utils.config_of(checkpoint, path)
    print(f"model: {path}, {checkpoint['epoch']} epochs trained")
    data_path = utils.find_data(args.data_path, config)
    _, data = dataset.open_dataset(data_path, model.num_classes, config)
    print(f"data: {data_path}, {len(data)} images to validate")
    batch_size = args.batch_size or config.get("batch_size", 16)
    loader = dataset.val_loader(data, batch_size, args.num_workers, runtime.pin_memory)
    criterion = engine.build_criterion(config.get("loss", "LovaszHingeLoss"))
    folder = utils.run_folder(args.name, args.output)
    scores = Scores(folder)
    result = engine.evaluate(model, loader, criterion, runtime, scores)
    with files.replacing(folder / "metrics.csv") as partial:
        pd.DataFrame(scores.images).to_csv(partial, index=False)
    print(scores.table(result).to_string(float_format="{:.4f}".format))
    print(f"masks: {folder}, by image: {folder / 'metrics.csv'}")
    print(f"Dice: {result['dice']:.4f}")
    print(f"IoU: {result['iou']:.4f}")


if __name__ == "__main__":
    with one_sentence():
        main(ARGS)
