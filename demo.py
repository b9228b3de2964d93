"""Segment images with a trained model: the validation split, or any images given by --input."""

import options
import runtime as rt
import startup
from errors import InputError, one_sentence

if __name__ == "__main__":  # before torch is imported: --help and a mistyped flag are answered at once
    ARGS = options.parse_demo()
    startup.require_torch()

import glob
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import augment
import background
import dataset
import engine
import files
import metrics
import names
import pictures
import utils

ON_SHEET = 24  # pictures on the contact sheet, spread over all images


class Gallery:
    """Writes each image's pictures under `folder`, counts its nuclei, and gathers the contact sheet.

    A pool's threads do so: what they write, or could not, is known at the pool's end.
    """

    def __init__(self, folder: Path, total: int, threshold: float, pool: background.Pool):
        self.folder, self.threshold, self.pool = folder, threshold, pool
        self.on_sheet = set(np.linspace(0, total - 1, min(total, ON_SHEET)).round().astype(int).tolist())
        self.painted = []

    @property
    def added(self) -> int:
        """How many images were taken in."""
        return len(self.painted)

    def add(self, name: str, image: np.ndarray, probability: np.ndarray, truth: np.ndarray = ()) -> None:
        """Take in an image, uint8 BGR (H, W, 3), its probabilities (C, h, w), and true masks, boolean (C, H, W)."""
        shown = self.added in self.on_sheet
        self.painted.append(self.pool.submit(self._paint, name, image, probability, truth, shown))

    def _paint(
        self, name: str, image: np.ndarray, probability: np.ndarray, truth: np.ndarray, on_sheet: bool
    ) -> tuple[list[dict], list[np.ndarray] | None]:
        pictures.write_probabilities(self.folder, name, probability)
        masks, rows = [pictures.to_mask(channel, *image.shape[:2], self.threshold) for channel in probability], []
        for k, mask in enumerate(masks):
            self.pool.go_on()
            files.write_image(self.folder / str(k) / f"{name}_mask.png", mask.astype(np.uint8) * 255)
            nuclei = int(metrics.label_instances(mask).max())
            rows.append({"id": name, "class": k, "nuclei": nuclei, "covered_share": round(float(mask.mean()), 4)})
        self.pool.go_on()
        shown = pictures.brighten(image)
        files.write_image(self.folder / "overlay" / f"{name}.png", pictures.overlay(shown, masks, truth))
        return rows, self.strip(shown, probability, masks, truth) if on_sheet else None

    @staticmethod
    def strip(image: np.ndarray, probability: np.ndarray, masks: list[np.ndarray], truth: list[np.ndarray]):
        """An image's row on the sheet, at the sheet's size: originals of many megapixels would add up."""
        highest = cv2.resize(probability.max(0), image.shape[1::-1])
        masks, truth = ([pictures.fit(mask.astype(np.uint8) * 255) for mask in group] for group in (masks, truth))
        # outlines are drawn last, so that they stay thin on small images and visible on large ones
        outlined = pictures.overlay(
            pictures.fit(image), [m[..., 0] > 127 for m in masks], [t[..., 0] > 127 for t in truth]
        )
        return [pictures.fit(image), pictures.fit((highest * 255).astype(np.uint8)), np.max(masks, 0), outlined]

    def finish(self, outlines: str) -> None:
        """Write overview.png and nuclei.csv, once the pool is done."""
        painted = [future.result() for future in self.painted]
        strips = [(rows[0]["id"], strip) for rows, strip in painted if strip]
        sheet = pictures.contact_sheet(strips, ["image", "probability", "mask", outlines])
        files.write_image(self.folder / "overview.png", sheet)
        with files.replacing(self.folder / "nuclei.csv") as partial:
            pd.DataFrame([row for rows, _ in painted for row in rows]).to_csv(partial, index=False)


def find_images(inputs: list[str]) -> list[Path]:
    """Image files that `--input` names: files, folders and globs. Raises InputError where one names none.

    A folder without images of its own is searched through, its `masks` folders left out (Kaggle's raw layout).
    """
    found = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            matches = [p for p in path.iterdir() if p.suffix.lower() in files.IMAGE_EXTENSIONS]
            deeper = (p for p in path.rglob("*") if "masks" not in p.relative_to(path).parts[:-1])
            matches = matches or [p for p in deeper if p.suffix.lower() in files.IMAGE_EXTENSIONS]
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(name) for name in glob.glob(text, recursive=True) if os.path.isfile(name)]
        if not matches:
            raise InputError(f"--input {text}: no image there ({', '.join(files.IMAGE_EXTENSIONS)})")
        found += sorted(matches)
    return list(dict.fromkeys(found))


def unique_names(paths: list[Path]) -> list[str]:
    """A file name for each image's pictures: its stem, with its folder's name or a number where that is taken."""
    chosen, taken = [], set()
    for path in paths:
        stem = names.tame(path.stem)
        candidates = [stem, names.tame(f"{path.resolve().parent.name}_{path.stem}")]
        candidates += [f"{stem}_{number}" for number in range(2, len(paths) + 2)]
        chosen.append(next(name for name in candidates if name not in taken))
        taken.add(chosen[-1])
    return chosen


def read_each(read: Callable[[str], tuple], sources: list) -> Iterator[tuple]:
    """For each source what `read` makes of it, a tuple, or the InputError that it raises, as a tuple of its own."""
    for source in sources:
        try:
            yield read(source)
        except InputError as error:
            yield (error,)


def segment_files(
    model, args: Namespace, settings: dict, size: tuple[int, int], runtime: rt.Runtime
) -> tuple[Gallery, int]:
    """Segment the files of `--input`, `batch_size` at a time; returns the gallery and how many could not be read."""
    paths = find_images(args.input)
    transform = augment.val_transform(*size, settings["normalization"])
    pending, failed = [], 0

    def read(path: Path) -> tuple[np.ndarray, torch.Tensor]:
        image = files.read_image(path)
        return image, augment.to_input(transform(image=image)["image"], settings["divide_twice"])

    def batches(found: Iterator[tuple]) -> Iterator[torch.Tensor]:
        nonlocal failed
        batch = []
        for name, (image, *rest) in zip(unique_names(paths), tqdm(found, total=len(paths), disable=None, unit="image")):
            if isinstance(image, InputError):
                failed += 1
                print(f"[Error] {names.shown(image)}", file=sys.stderr)
                continue
            pending.append((name, image))
            batch += rest
            if len(batch) == args.batch_size:
                yield torch.stack(batch)
                batch = []
        if batch:
            yield torch.stack(batch)

    with background.ahead(read_each(read, paths)) as found, background.Pool() as pool:
        gallery = Gallery(Path(args.output), len(paths), args.threshold, pool)
        for probabilities in engine.predict(model, batches(found), runtime):
            for (name, image), probability in zip(pending, probabilities.numpy()):
                gallery.add(name, image, probability)
            pending.clear()
    return gallery, failed


def segment_validation(model, args: Namespace, settings: dict, size: tuple[int, int], runtime: rt.Runtime) -> Gallery:
    """Segment the validation split, scoring it on the way."""
    data_path = utils.find_data(args.data_path, settings, args.dataset)
    sized = settings | {"input_h": size[0], "input_w": size[1]}
    _, data = dataset.open_dataset(data_path, model.num_classes, sized)
    print(f"data: {data_path}, the {len(data)} images of the validation split")
    loader = dataset.val_loader(data, args.batch_size, args.num_workers, runtime.accelerated)
    # the pictures are of the original size; the loader has the same ids, but for those that it could not read
    with background.ahead(read_each(data.read, data.ids)) as found, background.Pool() as pool:
        gallery, originals = Gallery(Path(args.output), len(data), args.threshold, pool), zip(data.ids, found)

        def add(logits: torch.Tensor, target: torch.Tensor, ids: list[str]) -> None:
            for img_id, probability in zip(ids, torch.sigmoid(logits).cpu().numpy()):
                image, *masks = next(original for other, original in originals if other == img_id)
                if isinstance(image, InputError):
                    raise image
                gallery.add(img_id, image, probability, masks[0].transpose(2, 0, 1) > 127)

        engine.evaluate(model, loader, engine.build_criterion(settings["loss"]), runtime, add)
    return gallery


def open_checkpoint(args: Namespace, runtime: rt.Runtime) -> tuple[torch.nn.Module, dict, tuple[int, int]]:
    """The net of `--resume` or `--name`, the settings it was trained with, and its input's height and width."""
    path = Path(args.resume) if args.resume else utils.find_model(args.name)
    model, checkpoint = engine.load_model(path, runtime, trust=args.trust_checkpoint, half=args.amp)
    settings = utils.settings_of(checkpoint, path)
    size = args.input_h or settings["input_h"], args.input_w or settings["input_w"]
    print(f"model: {path}, {checkpoint['epoch']} epochs trained; input {size[0]}×{size[1]}")
    return engine.for_any_size(model, args.tta), settings, size


def open_export(args: Namespace) -> tuple[torch.nn.Module, dict, tuple[int, int]]:
    """The same for `--onnx`: where an export tells nothing of them, the settings are training's defaults."""
    from onnx_net import OnnxNet  # here: onnxruntime takes long to import

    model = OnnxNet(Path(args.onnx), args.input_h, args.input_w)
    print(f"model: {args.onnx}, by onnxruntime; input {model.size[0]}×{model.size[1]}")
    settings = utils.SETTINGS | utils.preparation_from_text(model.recorded, Path(args.onnx))
    return engine.Padded(model) if model.any_size else model, settings, model.size


def main(args: Namespace) -> None:
    """Load the model, segment, and say where the pictures are."""
    runtime = rt.init("cpu" if args.onnx else args.device, args.device_id)
    model, settings, size = open_export(args) if args.onnx else open_checkpoint(args, runtime)
    start, failed = time.perf_counter(), 0
    if args.input:
        gallery, failed = segment_files(model, args, settings, size, runtime)
        if not gallery.added:
            raise InputError(f"none of the {failed} images could be read")
        gallery.finish("outlines")
    else:
        gallery = segment_validation(model, args, settings, size, runtime)
        gallery.finish("outlines; white: truth")
    seconds = time.perf_counter() - start
    print(f"{gallery.added} images segmented, {gallery.added / seconds:.1f} images/s with reading and writing")
    print(f"pictures: {args.output}; all at a glance: {gallery.folder / 'overview.png'}")
    if failed:
        raise InputError(f"{failed} of {failed + gallery.added} images could not be read; they are named above")


if __name__ == "__main__":
    with one_sentence():
        main(ARGS)
