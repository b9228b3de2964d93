# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Write images as .bin files for infer/infer_om.py: the validation split of prepared data, or any images."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import options
from runtime import startup

if __name__ == "__main__":
    ARGS = startup.parse_flags(options.parse_infer_preprocess, lambda args: not args.input)

from argparse import Namespace
from collections.abc import Iterator

import numpy as np

from imaging import augment
from imaging.finding import find_images, list_pages
from imaging.reader import read_upright
from infer.files import BINS, TARGETS, Inputs, Item, bin_name, new_folder, write_inputs
from infer.network import open_network
from runtime import names
from runtime.errors import InputError

Image = tuple[int, str, Path, np.ndarray, np.ndarray | None]  # number, id, path, pixels (uint8 BGR), masks


def validation_images(args: Namespace, num_classes: int) -> Iterator[Image]:
    """Yield the images of the validation split, with their masks at the size of the input.

    Unreadable ones keep their number, on which the batches of val.py depend.
    """
    import dataset  # here: it needs torch, which images without masks do not

    _, data = dataset.open_dataset(Path(args.data_path), num_classes, vars(args))
    for index, img_id in enumerate(data.ids):
        _, target, about = data[index]
        if target is None:
            print(f"warning: skipped: {about['unreadable']}", flush=True)
            continue
        yield index, img_id, data.folder.image_path(img_id), data.read(img_id)[0], target.numpy()


def other_images(args: Namespace) -> Iterator[Image]:
    """Yield the images of `--input`, which have no masks."""
    for index, source in enumerate(list_pages(find_images(args.input))):
        yield index, source.name, source.path, read_upright(source.path, source.page, args.channel)[0], None


def write_images(images: Iterator[Image], args: Namespace) -> list[Item]:
    """Write the files of each image, prepared as for the training of the network."""
    transform = augment.val_transform(args.input_h, args.input_w, "none" if args.uint8 else args.normalization)
    output, items = Path(args.output), []
    for index, img_id, path, image, target in images:
        values = transform(image=image)["image"]
        values = np.ascontiguousarray(values) if args.uint8 else augment.to_input(values, args.divide_twice)
        item = Item(index, bin_name(index), img_id, names.printable_path(path), *image.shape[:2])
        for folder, content in ((BINS, values), (TARGETS, target)):
            if content is not None:
                (output / folder).mkdir(exist_ok=True)
                (output / folder / item.bin).write_bytes(content.tobytes())
        items.append(item)
    if not items:
        raise InputError("no image could be read; the reasons are above")
    return items


def main(args: Namespace) -> None:
    """Write the files of all images, their list and their settings."""
    output = Path(args.output)
    network = open_network(args, args.uint8)
    if not args.input and not args.val_ids:
        network.check_usual_split()
    args.data_path = "" if args.input else args.data_path or f"inputs/{options.FLAGS['dataset'].default}"
    with new_folder(output, "--output"):
        items = write_images(other_images(args) if args.input else validation_images(args, network.num_classes), args)
        write_inputs(Inputs(output, items, vars(args), args.uint8, network.num_classes, args.data_path))
    kind = f"uint8 {args.input_h}×{args.input_w}×3" if args.uint8 else f"float32 3×{args.input_h}×{args.input_w}"
    print(f"{output}: {names.counted(len(items), 'image')}, {kind}")


if __name__ == "__main__":
    startup.run(main, ARGS)
