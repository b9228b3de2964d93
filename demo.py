# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Segment images with a trained model: the validation split, or any images given by --input."""

import options
from runtime import startup

if __name__ == "__main__":  # before torch is imported, so that --help and a mistyped flag are answered at once
    ARGS = startup.parse_flags(options.parse_demo, lambda args: not (args.input and (args.onnx or args.bundle)))

import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from exporting.bundle import read_bundle
from imaging import augment
from imaging.finding import ReadableImages, Source, find_images, list_pages
from imaging.gallery import Gallery
from imaging.instances import SplitSettings, check_classes, choose_settings, describe_settings, label_masks
from imaging.large_image import LargeImage, open_image
from imaging.nuclei_gallery import NucleiGallery, NucleiOutput
from imaging.predictor import Predictor
from imaging.reader import read_upright
from runtime import names
from runtime.background import BackgroundPool, prefetch
from runtime.errors import InputError
from runtime.settings import apply_recorded_settings, json_from_metadata, recorded_settings, settings_from_metadata

# from batches of images, float32 (N, 3, H, W), to their probabilities (N, num_classes, H, W)
Predict = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]


def segment_files(predict: Predict, args: Namespace) -> tuple[Gallery, int]:
    """Segment the files of `--input`; prints why some could not be read, and returns the gallery and their number."""
    sources = list_pages(find_images(args.input))
    # no scores depend on the batch here, and large images need memory
    batch_size = args.batch_size if "batch_size" in args.given else options.FLAGS["batch_size"].default
    transform = augment.val_transform(args.input_h, args.input_w, args.normalization)
    pending, files = [], ReadableImages(sources)

    def read(source: Source) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
        image, notes = read_upright(source.path, source.page, args.channel)
        return image, notes, augment.to_input(transform(image=image)["image"], args.divide_twice)

    def batches(found: Iterator[Future]) -> Iterator[np.ndarray]:
        batch = []
        for source, image, network_input in files.readable(found):
            pending.append((source, image))
            batch.append(network_input)
            if len(batch) == batch_size:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)

    with prefetch(read, sources) as found, BackgroundPool() as pool:
        gallery = Gallery(Path(args.output), len(sources), args.threshold, pool)
        for probabilities in predict(batches(found)):
            for (source, image), probability in zip(pending, np.asarray(probabilities)):  # torch's tensors too
                gallery.add(source.name, source.path, image, probability)
            pending.clear()
    files.report()
    if gallery.added:
        print(files.survey.describe(args.input_h, args.input_w))
    return gallery, len(files.errors)


def find_nuclei_in_files(predictor: Predictor, settings: SplitSettings, args: Namespace) -> tuple[NucleiGallery, int]:
    """Find the nuclei of the files of `--input`; prints and returns as segment_files."""
    sources = list_pages(find_images(args.input))
    files = ReadableImages(sources)

    def read(source: Source) -> tuple[np.ndarray | LargeImage, tuple[str, ...]]:
        with open_image(source.path, source.page, args.channel) as image:
            is_large = args.tile or image.shape[0] * image.shape[1] > options.LARGE_PIXELS
            # the pixels of a large image are read again, in parts if its format allows it
            pixels = LargeImage(image.shape, read=None) if is_large else image.rows(0, image.shape[0])
            return pixels, image.notes

    with prefetch(read, sources) as found, BackgroundPool() as pool:
        gallery = NucleiGallery(Path(args.output), len(sources), settings, nuclei_output(args), pool)
        for source, image in files.readable(found):
            if isinstance(image, LargeImage):
                try:
                    with open_image(source.path, source.page, args.channel) as large:
                        find_nuclei_in_windows(source, large, predictor, gallery, args)
                except InputError as error:  # its pixels are read only now, and may be damaged
                    if not str(error).startswith(f"{source.path}: "):  # but a full disk, for example
                        raise
                    files.errors.append((source.path, str(error)))
            else:
                gallery.add_prediction(source.name, source.path, image, predictor(image, args.diameter))
    files.report()
    return gallery, len(files.errors)


def find_nuclei_in_windows(
    source: Source, image: LargeImage, predictor: Predictor, gallery: NucleiGallery, args: Namespace
) -> None:
    """Find the nuclei of an image by windows, with a progress bar over these."""
    with tqdm(disable=None, unit="window", leave=False) as bar:
        found = predictor.predict_large(
            image, args.tile or options.DEFAULT_TILE, args.overlap, args.diameter, bar.update
        )
        bar.reset(total=found.windows)
        height, width = image.shape
        print(f"{source.path}: {width}×{height} pixels, by {found.describe()}", flush=True)
        gallery.add_large(source.name, source.path, image, found)


def nuclei_output(args: Namespace) -> NucleiOutput:
    """Return what the flags want of the nuclei."""
    return NucleiOutput(args.pixel_size, args.rois, Path(args.rle) if args.rle else None)


def segment_validation(model, args: Namespace, runtime) -> Gallery:
    """Segment the validation split with a net on the device `runtime`, and print its scores."""
    import dataset  # here: it needs torch, which an export does not
    import engine

    _, data = dataset.open_dataset(Path(args.data_path), model.num_classes, vars(args), recorded=args.recorded_data)
    print(f"data: {args.data_path}, the {names.counted(len(data), 'image')} of the validation split")
    workers = dataset.choose_num_workers(vars(args), model.num_classes)
    loader = dataset.val_loader(data, args.batch_size, workers, runtime.is_accelerator)
    # the pictures have the original size; the loader has the same ids in the same order, without unreadable ones
    with prefetch(data.read, data.ids) as found, BackgroundPool() as pool:
        gallery, originals = Gallery(Path(args.output), len(data), args.threshold, pool), zip(data.ids, found)

        def add(logits, target, ids: list[str]) -> None:
            for img_id, probability in zip(ids, logits.sigmoid().numpy()):
                image, masks = next(original for other, original in originals if other == img_id).result()
                path = data.folder.image_path(img_id)
                gallery.add(img_id, path, image, probability, masks.transpose(2, 0, 1) > 127)

        engine.evaluate(model, loader, engine.build_criterion(args.loss), runtime, add)
    return gallery


def find_nuclei_of_validation(
    num_classes: int, predictor: Predictor, settings: SplitSettings, args: Namespace
) -> NucleiGallery:
    """Find the nuclei of the validation split, whose true nuclei the pictures show too."""
    import dataset  # here: it needs torch, which an export does not

    _, data = dataset.open_dataset(Path(args.data_path), num_classes, vars(args), recorded=args.recorded_data)
    print(f"data: {args.data_path}, the {names.counted(len(data), 'image')} of the validation split")
    with prefetch(data.read, data.ids) as found, BackgroundPool() as pool:
        gallery = NucleiGallery(Path(args.output), len(data), settings, nuclei_output(args), pool)
        for img_id, future in zip(data.ids, tqdm(found, total=len(data), disable=None, unit="image")):
            try:
                image, masks = future.result()
            except InputError as error:
                if not args.skip_bad:
                    raise
                print(f"warning: skipped: {error}", flush=True)
                continue
            prediction, path = predictor(image, args.diameter), data.folder.image_path(img_id)
            gallery.add_prediction(img_id, path, image, prediction, label_masks(masks))
    return gallery


def open_checkpoint(args: Namespace, runtime) -> tuple:
    """Return the net of `--resume` or `--name`, and its settings for nuclei.

    Flags that are not given get the values that the net was trained with.
    """
    import engine  # here: they need torch, which an export does not
    import utils

    path = Path(args.resume) if args.resume else utils.find_model(args.name)
    model, checkpoint = engine.load_model(path, runtime, trust=args.trust_checkpoint, half=args.amp)
    settings = recorded_settings(checkpoint, path, options.ANY_SIZE_FLAGS)
    if not args.input:
        args.data_path = utils.find_data(args.data_path, settings, args.dataset)
        args.recorded_data = checkpoint.get("data")  # its split, if it is a fixed one
    apply_recorded_settings(args, settings, options.ANY_SIZE_FLAGS)
    print(f"model: {path}, {names.counted(checkpoint['epoch'], 'epoch')} trained; input {args.input_h}×{args.input_w}")
    return engine.for_any_size(model, args.tta), split_settings(args, checkpoint.get("instances"), path)


def open_export(args: Namespace) -> tuple:
    """Return the OnnxModel of `--onnx` or `--bundle`, and its settings for nuclei.

    Flags that are not given get the values that the file records, else training's defaults.
    """
    from runtime.onnx_model import OnnxModel  # here: onnxruntime is slow to import

    path, content, recorded = read_bundle(Path(args.bundle)) if args.bundle else (Path(args.onnx), None, {})
    model = OnnxModel(path, content)
    model.metadata |= recorded
    for flag, fixed in zip(("input_h", "input_w"), model.fixed_size):
        asked = vars(args)[flag]
        if asked and fixed and asked != fixed:
            raise InputError(
                f"--{flag} {asked}: {path} was exported for {fixed} alone; leave the flag out, or export the net with "
                "pthtar2onnx.py --dynamic"
            )
    settings = settings_from_metadata(model.metadata, path, options.ANY_SIZE_FLAGS)
    apply_recorded_settings(args, settings, options.ANY_SIZE_FLAGS)
    if args.crop_diameter and not model.any_size:
        raise InputError(
            f"{path}: its net needs images scaled to nuclei of {args.crop_diameter:g} pixels, but takes a single size; "
            "export it with pthtar2onnx.py --dynamic"
        )
    if model.takes_bytes:  # it normalizes them itself
        args.normalization, args.divide_twice = "none", False
    if not args.input:
        model.check_usual_split()
    args.data_path, args.recorded_data = args.data_path or f"inputs/{args.dataset}", None
    model.set_size(args.input_h, args.input_w, options.SIDE_MULTIPLE)
    args.input_h, args.input_w = model.size
    print(f"model: {path}, by onnxruntime; input {args.input_h}×{args.input_w}")
    return model, split_settings(args, json_from_metadata(model.metadata, "instances", path), path)


def split_settings(args: Namespace, recorded: object, path: Path) -> SplitSettings:
    """Return how nuclei are found: as the flags say, else as the model in `path` records."""
    given = {name: vars(args)[name] for name in SplitSettings._fields}
    if not args.instances and not args.crop_diameter:
        recorded = None  # the other pictures do not depend on what was tuned for nuclei
    settings = choose_settings(recorded, given, path)
    args.threshold = settings.threshold
    return settings


def main(args: Namespace) -> None:
    """Load the model, segment, and print where the pictures are."""
    export, settings = open_export(args) if args.onnx or args.bundle else (None, None)
    if export and args.input:
        predict = export.predict
    else:
        import engine  # here: they need torch, which an export needs for the validation split alone
        from runtime.distributed import init_runtime

        runtime = init_runtime("cpu" if export else args.device, args.device_id)
        model, settings = (engine.ExportedNet(export), settings) if export else open_checkpoint(args, runtime)
        predict = partial(engine.predict, model, runtime=runtime)
    predictor = Predictor(
        predict,
        args.normalization,
        args.divide_twice,
        (args.input_h, args.input_w),
        args.crop_diameter,
        bool(export) and export.metadata.get("normalizes") == "image",
    )
    start, failed = time.perf_counter(), 0
    # a net that was trained with crops does not know whole images that are resized
    nuclei = args.instances or args.crop_diameter > 0
    if nuclei:
        check_classes((export or model).num_classes, args.loss)
        print(f"nuclei by {describe_settings(settings)}")
    if args.input:
        gallery, failed = find_nuclei_in_files(predictor, settings, args) if nuclei else segment_files(predict, args)
        if not gallery.added:
            raise InputError("no image could be read; the reasons are above")
        gallery.finish("outlines")
    else:
        gallery = (
            find_nuclei_of_validation(model.num_classes, predictor, settings, args)
            if nuclei
            else segment_validation(model, args, runtime)
        )
        gallery.finish("outlines; white: truth")
    seconds = time.perf_counter() - start
    segmented = names.counted(gallery.added, "image")
    print(f"{segmented} segmented, {gallery.added / seconds:.1f} images/s with reading and writing")
    print(f"pictures: {args.output}; overview: {gallery.folder / 'overview.png'}")
    if failed:
        raise InputError(f"{failed} of {failed + gallery.added} images could not be read; the reasons are above")


if __name__ == "__main__":
    startup.run(main, ARGS)
