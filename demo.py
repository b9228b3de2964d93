"""Segment images with a trained model: the validation split, or any images given by --input."""

import options
from runtime import startup

if __name__ == "__main__":  # before torch is imported, so that --help and a mistyped flag are answered at once
    ARGS = startup.parse_flags(options.parse_demo)

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

import archs
import dataset
import engine
import metrics
import utils
from imaging import augment, drawing
from imaging.finding import Source, find_images, list_pages
from imaging.reader import read_upright, write_image
from imaging.survey import Survey, describe_unreadable
from runtime import names
from runtime.background import BackgroundPool, prefetch
from runtime.distributed import Runtime, init_runtime
from runtime.errors import InputError
from runtime.files import atomic_write
from runtime.settings import apply_recorded_settings, recorded_settings, settings_from_metadata

SHEET_IMAGES = 24  # on the contact sheet, spread over all images


class Gallery:
    """Writes each image's pictures under `folder`, counts its nuclei, and collects the contact sheet.

    The threads of a pool do the work. Its results are complete, and its errors raised, at the pool's end.
    """

    def __init__(self, folder: Path, total: int, threshold: float, pool: BackgroundPool):
        self.folder, self.threshold, self.pool = folder, threshold, pool
        self.on_sheet = set(np.linspace(0, total - 1, min(total, SHEET_IMAGES)).round().astype(int).tolist())
        self.futures = []

    @property
    def added(self) -> int:
        return len(self.futures)

    def add(self, name: str, path: Path, image: np.ndarray, probability: np.ndarray, truth: np.ndarray = ()) -> None:
        """Add an image, uint8 BGR (H, W, 3), its probabilities (C, h, w), and true masks, boolean (C, H, W).

        name: of its pictures. path: of its file, for the table.
        """
        on_sheet = self.added in self.on_sheet
        self.futures.append(self.pool.submit(self._paint, name, path, image, probability, truth, on_sheet))

    def _paint(
        self, name: str, path: Path, image: np.ndarray, probability: np.ndarray, truth: np.ndarray, on_sheet: bool
    ) -> tuple[list[dict], list[np.ndarray] | None]:
        drawing.write_probabilities(self.folder, name, probability)
        masks, rows = [drawing.to_mask(channel, *image.shape[:2], self.threshold) for channel in probability], []
        for k, mask in enumerate(masks):
            self.pool.check_cancelled()
            write_image(self.folder / str(k) / f"{name}_mask.png", mask.astype(np.uint8) * 255)
            nuclei = int(metrics.label_instances(mask).max())
            row = {"id": name, "path": names.printable_path(path), "class": k, "nuclei": nuclei}
            rows.append(row | {"covered_share": round(float(mask.mean()), 4)})
        self.pool.check_cancelled()
        shown = drawing.brighten(image)
        write_image(self.folder / "overlay" / f"{name}.png", drawing.overlay(shown, masks, truth))
        return rows, self._strip(shown, probability, masks, truth) if on_sheet else None

    @staticmethod
    def _strip(
        image: np.ndarray, probability: np.ndarray, masks: list[np.ndarray], truth: list[np.ndarray]
    ) -> list[np.ndarray]:
        """Return an image's row on the sheet, at the sheet's size: originals of many megapixels would add up."""
        highest = cv2.resize(probability.max(0), image.shape[1::-1])
        masks, truth = ([drawing.fit(mask.astype(np.uint8) * 255) for mask in group] for group in (masks, truth))
        # outlines are drawn last, so that they stay thin on small images and visible on large ones
        outlined = drawing.overlay(
            drawing.fit(image), [m[..., 0] > 127 for m in masks], [t[..., 0] > 127 for t in truth]
        )
        return [drawing.fit(image), drawing.fit((highest * 255).astype(np.uint8)), np.max(masks, 0), outlined]

    def finish(self, outlines: str) -> None:
        """Write overview.png and nuclei.csv; call it after the pool's end. outlines: title of their column."""
        painted = [future.result() for future in self.futures]
        strips = [(rows[0]["id"], strip) for rows, strip in painted if strip]
        sheet = drawing.contact_sheet(strips, ["image", "probability", "mask", outlines])
        write_image(self.folder / "overview.png", sheet)
        with atomic_write(self.folder / "nuclei.csv") as partial:
            pd.DataFrame([row for rows, _ in painted for row in rows]).to_csv(partial, index=False)


def segment_files(model: nn.Module, args: Namespace, runtime: Runtime) -> tuple[Gallery, int]:
    """Segment the files of `--input`; prints why some could not be read, and returns the gallery and their number."""
    sources = list_pages(find_images(args.input))
    # no scores depend on the batch here, and large images need memory
    batch_size = args.batch_size if "batch_size" in args.given else options.FLAGS["batch_size"].default
    transform = augment.val_transform(args.input_h, args.input_w, args.normalization)
    pending, errors, survey = [], [], Survey()

    def read(source: Source) -> tuple[np.ndarray, torch.Tensor, tuple[str, ...]]:
        image, notes = read_upright(source.path, source.page, args.channel)
        return image, augment.to_input(transform(image=image)["image"], args.divide_twice), notes

    def batches(found: Iterator[Future]) -> Iterator[torch.Tensor]:
        batch = []
        progress = tqdm(found, total=len(sources), disable=None, unit="image")
        for source, future in zip(sources, progress):
            try:
                image, network_input, notes = future.result()
            except InputError as error:
                errors.append((source.path, str(error)))
                continue
            survey.add(image.shape[:2], notes)
            pending.append((source, image))
            batch.append(network_input)
            if len(batch) == batch_size:
                yield torch.stack(batch)
                batch = []
        if batch:
            yield torch.stack(batch)

    with prefetch(read, sources) as found, BackgroundPool() as pool:
        gallery = Gallery(Path(args.output), len(sources), args.threshold, pool)
        for probabilities in engine.predict(model, batches(found), runtime):
            for (source, image), probability in zip(pending, probabilities.numpy()):
                gallery.add(source.name, source.path, image, probability)
            pending.clear()
    for line in describe_unreadable(errors):
        print(f"[Error] {line}", file=sys.stderr)
    if gallery.added:
        print(survey.describe(args.input_h, args.input_w))
    return gallery, len(errors)


def segment_validation(model: nn.Module, args: Namespace, runtime: Runtime) -> Gallery:
    """Segment the validation split, and print its scores."""
    _, data = dataset.open_dataset(Path(args.data_path), model.num_classes, vars(args))
    print(f"data: {args.data_path}, the {names.counted(len(data), 'image')} of the validation split")
    workers = dataset.choose_num_workers(vars(args), model.num_classes)
    loader = dataset.val_loader(data, args.batch_size, workers, runtime.is_accelerator)
    # the pictures have the original size; the loader has the same ids in the same order, without unreadable ones
    with prefetch(data.read, data.ids) as found, BackgroundPool() as pool:
        gallery, originals = Gallery(Path(args.output), len(data), args.threshold, pool), zip(data.ids, found)

        def add(logits: torch.Tensor, target: torch.Tensor, ids: list[str]) -> None:
            for img_id, probability in zip(ids, torch.sigmoid(logits).cpu().numpy()):
                image, masks = next(original for other, original in originals if other == img_id).result()
                path = data.folder.image_path(img_id)
                gallery.add(img_id, path, image, probability, masks.transpose(2, 0, 1) > 127)

        engine.evaluate(model, loader, engine.build_criterion(args.loss), runtime, add)
    return gallery


def open_checkpoint(args: Namespace, runtime: Runtime) -> nn.Module:
    """Return the net of `--resume` or `--name`; flags that are not given get the values that it was trained with."""
    path = Path(args.resume) if args.resume else utils.find_model(args.name)
    model, checkpoint = engine.load_model(path, runtime, trust=args.trust_checkpoint, half=args.amp)
    settings = recorded_settings(checkpoint, path, options.ANY_SIZE_FLAGS)
    if not args.input:
        args.data_path = utils.find_data(args.data_path, settings, args.dataset)
    apply_recorded_settings(args, settings, options.ANY_SIZE_FLAGS)
    print(f"model: {path}, {names.counted(checkpoint['epoch'], 'epoch')} trained; input {args.input_h}×{args.input_w}")
    return engine.for_any_size(model, args.tta)


def open_export(args: Namespace) -> nn.Module:
    """Return the net of `--onnx`; flags that are not given get what the file records, else training's defaults."""
    from runtime.onnx_model import OnnxModel  # here: onnxruntime is slow to import

    path = Path(args.onnx)
    model = OnnxModel(path)
    for flag, fixed in zip(("input_h", "input_w"), model.fixed_size):
        asked = vars(args)[flag]
        if asked and fixed and asked != fixed:
            raise InputError(
                f"--{flag} {asked}: {path} was exported for {fixed} alone; leave the flag out, or export the net with "
                "pthtar2onnx.py --dynamic"
            )
    settings = settings_from_metadata(model.metadata, path, options.ANY_SIZE_FLAGS)
    if not args.input:
        args.data_path = utils.find_data(args.data_path, settings, args.dataset)
    apply_recorded_settings(args, settings, options.ANY_SIZE_FLAGS)
    model.set_size(args.input_h, args.input_w, archs.STRIDE)
    args.input_h, args.input_w = model.size
    print(f"model: {path}, by onnxruntime; input {args.input_h}×{args.input_w}")
    return engine.Padded(model) if model.any_size else model


def main(args: Namespace) -> None:
    """Load the model, segment, and print where the pictures are."""
    runtime = init_runtime("cpu" if args.onnx else args.device, args.device_id)
    model = open_export(args) if args.onnx else open_checkpoint(args, runtime)
    start, failed = time.perf_counter(), 0
    if args.input:
        gallery, failed = segment_files(model, args, runtime)
        if not gallery.added:
            raise InputError("no image could be read; the reasons are above")
        gallery.finish("outlines")
    else:
        gallery = segment_validation(model, args, runtime)
        gallery.finish("outlines; white: truth")
    seconds = time.perf_counter() - start
    segmented = names.counted(gallery.added, "image")
    print(f"{segmented} segmented, {gallery.added / seconds:.1f} images/s with reading and writing")
    print(f"pictures: {args.output}; overview: {gallery.folder / 'overview.png'}")
    if failed:
        raise InputError(f"{failed} of {failed + gallery.added} images could not be read; the reasons are above")


if __name__ == "__main__":
    startup.run(main, ARGS)
