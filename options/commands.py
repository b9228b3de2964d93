# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The command line of every script."""

import argparse
import os

from options.table import ANY_SIDE, DEFAULT_TILE, DOWNLOAD_URL, FLAGS, GROUPS, LARGE_PIXELS, RECIPES, SEED, default_name
from runtime.argtypes import real, whole
from runtime.flags import FlagParser, Flags


def parse_train(argv: list[str] | None = None, allow_abbrev: bool = True) -> Flags:
    """Parse the flags of train.py; `name` and `data_path` get their defaults from the other flags."""
    parser = FlagParser("Train UNet or UNet++ on a prepared data set.", allow_abbrev)
    parser.add_argument("data_path", nargs="?", help="folder with images/ and masks/ (default: inputs/<dataset>)")
    for title, flags in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, flag in flags.items():
            flag.add_to(group, name)
        if "amp" in flags:
            group.add_argument(
                "--no_amp", dest="amp", action="store_false", help="no mixed precision (default: by device)"
            )
            group.add_argument(
                "--no_channels_last",
                dest="channels_last",
                action="store_false",
                help="keep the weights in NCHW (default: by device)",
            )
    parser.set_defaults(amp=None, channels_last=None, **_recipe_defaults(argv))
    args = parser.parse(argv)
    if args.amp and args.precision_mode == "must_keep_origin_dtype":
        parser.error("--amp and --precision_mode must_keep_origin_dtype exclude each other: give one of them")
    if args.resume == "":
        parser.error("--resume lacks its value: name a checkpoint, give auto, or leave the flag out")
    if args.evaluate and not args.resume:
        parser.error("--evaluate needs --resume PATH, the checkpoint to evaluate")
    if args.pretrained and not args.resume:
        parser.error("--pretrained needs --resume PATH, the checkpoint to take the weights from")
    if args.resume == "auto" and (args.evaluate or args.pretrained):
        parser.error("--resume auto continues a run; --evaluate and --pretrained need the path of a checkpoint")
    if args.deep_supervision and args.arch == "UNet":
        parser.error("--deep_supervision True: UNet has a single head; add --arch NestedUNet")
    if args.loss == "BorderLoss" and args.num_classes != 2:
        parser.error("--loss BorderLoss needs --num_classes 2: nuclei, and the borders between them")
    if args.profiling != "False" and args.stop_step <= args.start_step:
        parser.error(f"--stop_step {args.stop_step} must be above --start_step {args.start_step}")
    if args.scheduler == "OneCycleLR" and args.min_lr == 0:
        parser.error("--scheduler OneCycleLR ends at --min_lr, which must be above 0")
    if (args.train_ids is None) != (args.val_ids is None) and not (args.evaluate and args.val_ids):
        parser.error("--train_ids and --val_ids belong together: give both, or neither")
    if args.inner_split and args.val_ids is not None:
        parser.error("--inner_split divides the usual split; leave it out, or leave out --train_ids and --val_ids")
    _check_split(parser, args)
    if args.nesterov and args.momentum == 0:
        parser.error("--nesterov True needs a --momentum above 0")
    if args.performance and "augmentation" in args.given and args.augmentation == "published":
        parser.error("--performance leaves out the color shifts of --augmentation published; give one of the two")
    if args.performance and args.augmentation == "published":
        args.augmentation = "turns"  # the same without the color group
    args.name = args.name or default_name(args.dataset, args.arch, args.deep_supervision, args.recipe)
    args.data_path = args.data_path or f"inputs/{args.dataset}"
    return args


def parse_val(argv: list[str] | None = None) -> Flags:
    """Parse the flags of val.py."""
    parser = FlagParser("Evaluate a trained model on the validation split and write its predicted masks.")
    parser.add_argument("--all", action="store_true", help="score all images of the data, such as your own test set")
    FLAGS["name"].add_to(parser, "name", default_name(), "folder under models/")
    parser.add_argument("--output", default="outputs", help="folder that gets <name>/<class>/<id>.jpg")
    raw_help = "score the nuclei of a raw set, folder or zip, at the size of its images, instead of pixels"
    parser.add_argument("--raw", metavar="DIR", help=raw_help)
    tune_help = "find the settings for nuclei on the training images, and record them in the model"
    parser.add_argument("--tune", action="store_true", help=tune_help)
    parser.add_argument("--tune_images", default=100, type=whole(1), help="most training images that --tune uses")
    report_help = "also write <output>/<name>/report.html, a page with scores, curves, the best and worst images"
    parser.add_argument("--report", action="store_true", help=report_help)
    for name, part in (("train_ids", "training images, for --tune"), ("val_ids", "images to score")):
        FLAGS[name].add_to(parser, name, None, f"file with the ids of the {part} (default: as in training)")
    _add_nuclei(parser)
    add_recorded(parser)
    _add_shared(parser)
    args = parser.parse(argv)
    _check_split(parser, args)
    if args.all and args.val_ids is not None:
        parser.error("--all scores every image; leave it out, or leave out --val_ids")
    if args.train_ids is not None and args.val_ids is None:
        parser.error("--train_ids needs --val_ids, the images to score")
    if args.tune and args.val_ids is not None and args.train_ids is None:
        parser.error("--tune with --val_ids needs --train_ids, the training images")
    if args.tune and args.all:
        parser.error("--tune uses the training images; leave out --all, or leave out --tune")
    return args


def parse_demo(argv: list[str] | None = None) -> Flags:
    """Parse the flags of demo.py."""
    parser = FlagParser("Segment images: the validation split, or any images given by --input.")
    parser.add_argument("--input", nargs="+", metavar="PATH", help="image files, folders or globs; no masks needed")
    FLAGS["name"].add_to(parser, "name", None, f"folder under models/ to take it from (default: {default_name()})")
    parser.add_argument("--resume", metavar="PATH", help="another checkpoint to use")
    parser.add_argument("--onnx", metavar="FILE", help="an export to use instead, with onnxruntime on the CPU")
    parser.add_argument("--bundle", metavar="FILE", help="a zip of pthtar2onnx.py --bundle to use instead")
    FLAGS["dataset"].add_to(parser, "dataset", None, "inputs/<dataset> as prepared data (default: as in training)")
    parser.add_argument("--output", default="outputs/UNet_Demo", help="folder for the pictures")
    _add_nuclei(parser)
    tile_help = "segment by windows of this side, for large images (default: "
    tile_help += f"{DEFAULT_TILE} above {LARGE_PIXELS / 1e6:.1f} million pixels, else none)"
    parser.add_argument("--tile", type=whole(64, 8192), help=tile_help)
    parser.add_argument("--overlap", default=64, type=whole(0, 4096), help="of the windows, in pixels")
    pixel_help = "micrometers per pixel, for the table of nuclei"
    parser.add_argument("--pixel_size", type=real(0, open_end=True, below=1e6), help=pixel_help)
    parser.add_argument("--rois", action="store_true", help="also write the nuclei as regions of interest for ImageJ")
    parser.add_argument(
        "--rle", metavar="FILE", help="also write run lengths, as the 2018 Data Science Bowl takes them"
    )
    add_recorded(parser)
    _add_shared(parser)
    args = parser.parse(argv)
    args.instances = args.instances or bool(args.pixel_size or args.rois or args.rle or args.tile)
    if args.overlap >= (args.tile or DEFAULT_TILE):
        parser.error(f"--overlap {args.overlap} must be less than --tile {args.tile or DEFAULT_TILE}")
    if args.rle == "" or (args.rle and os.path.isdir(args.rle)):
        parser.error(f"--rle {args.rle!r}: name the file to write")
    if args.tile and not args.input:
        parser.error("--tile is for images that --input names; leave it out, or add --input")
    if args.input and (args.data_path or args.dataset):
        parser.error("--input takes images anywhere; leave out --data_path and --dataset, or leave out --input")
    if args.onnx is not None and args.bundle is not None:
        parser.error("--onnx and --bundle both name a net; give one of them")
    for flag, file in (("onnx", "an ONNX file"), ("bundle", "a zip of pthtar2onnx.py --bundle")):
        if (value := vars(args)[flag]) is None:
            continue
        if not value:
            parser.error(f"--{flag} lacks its value: name {file}, or leave the flag out")
        if args.resume is not None or args.name is not None:
            parser.error(f"--{flag} takes the net from that file; leave out --resume and --name, or leave out --{flag}")
        if args.tta:
            parser.error(f"--tta turns images, which an export may not accept; leave it out, or leave out --{flag}")
        if args.amp:
            parser.error(f"--{flag} computes in the precision of the export; leave out --amp")
        if args.device not in ("auto", "cpu"):
            parser.error(f"--{flag} runs on the CPU; leave out --device {args.device}")
    args.name = default_name() if args.name is None else args.name
    return args


def parse_export(argv: list[str] | None = None) -> Flags:
    """Parse the flags of pthtar2onnx.py."""
    parser = FlagParser("Export a trained model to ONNX and check it against torch.")
    FLAGS["name"].add_to(parser, "name", default_name(), "folder under models/ whose best checkpoint is exported")
    parser.add_argument("--checkpoint", metavar="PATH", help="another checkpoint to export")
    parser.add_argument("--output", default="UNet_npu8p.onnx", help="file to write")
    parser.add_argument("--bundle", metavar="FILE", help="zip to write instead: the ONNX file, settings, scores")
    parser.add_argument("--opset", default=11, type=whole(11, 20), help="version of the ONNX operators")
    FLAGS["batch_size"].add_to(parser, "batch_size", 1, "batch size of the input")
    for name, side in (("input_h", "height"), ("input_w", "width")):
        FLAGS[name].add_to(parser, name, None, f"{side} of the input, a multiple of 16 (default: as in training)")
    parser.add_argument("--dynamic", action="store_true", help="leave batch size, height and width open")
    prune_help = "export one head, and what it needs, of a net with deep supervision (1 is the smallest)"
    parser.add_argument("--prune_level", type=whole(1, 4), metavar="LEVEL", help=prune_help)
    parser.add_argument(
        "--uint8", action="store_true", help="take images as uint8 BGR (N, H, W, 3), give probabilities"
    )
    parser.add_argument("--fp16", action="store_true", help="compute in half precision; input and output stay float32")
    for name in ("trust_checkpoint", "debug"):
        FLAGS[name].add_to(parser, name)
    args = parser.parse(argv)
    if args.bundle == "":
        parser.error("--bundle lacks its value: name a zip to write, or leave the flag out")
    if args.bundle and "output" in args.given:
        parser.error("--bundle writes the ONNX file into the zip; leave out --output")
    return args


def parse_preprocess(argv: list[str] | None = None) -> Flags:
    """Parse the flags of preprocess_dsb2018.py."""
    parser = FlagParser("Prepare raw DSB2018 images (one mask file per nucleus) for training.")
    input_help = "raw folder or zip (default: what lies under inputs/); with --synthetic: the raw folder to write"
    parser.add_argument("--input", help=input_help)
    output_help = "folder to write (default: inputs/dsb2018_<img_size>, with --synthetic inputs/synthetic_<img_size>; "
    output_help += "<img_size> is native if it is 0)"
    parser.add_argument("--output", help=output_help)
    size_help = "side length of the prepared images; 0: each image keeps its size"
    parser.add_argument("--img_size", default=96, type=whole(0, 4096), help=size_help)
    borders_help = "write the borders between nuclei as a second class, for train.py --num_classes 2"
    parser.add_argument("--borders", action="store_true", help=borders_help)
    parser.add_argument("--workers", default=2, type=whole(1), help="number of processes")
    FLAGS["channel"].add_to(parser, "channel")
    FLAGS["dense_masks"].add_to(parser, "dense_masks")
    parser.add_argument("--overwrite", action="store_true", help="replace a prepared data set that is already there")
    parser.add_argument("--download", action="store_true", help="download the zip to inputs/stage1_train.zip first")
    parser.add_argument("--url", default=DOWNLOAD_URL, help="address that --download uses")
    parser.add_argument("--synthetic", type=whole(2), metavar="N", help="make N synthetic images instead")
    parser.add_argument("--seed", default=0, type=SEED, help="of --synthetic")
    FLAGS["debug"].add_to(parser, "debug")
    args = parser.parse(argv)
    if args.synthetic and args.download:
        parser.error("--synthetic makes its own images; leave out --download")
    if args.download and args.input:
        parser.error("--download gets the raw images itself; leave out --input")
    args.output = args.output or f"inputs/{'synthetic' if args.synthetic else 'dsb2018'}_{args.img_size or 'native'}"
    return args


def _check_split(parser: FlagParser, args: Flags) -> None:
    """Refuse an empty name of a file of ids."""
    for name in ("train_ids", "val_ids"):
        if vars(args)[name] == "":
            parser.error(f"--{name} lacks its value: name a file with one id per line, or leave the flag out")


def _add_nuclei(parser: FlagParser) -> None:
    """Add the flags of val.py and demo.py for splitting masks into nuclei; None: as `val.py --tune` found."""
    parser.add_argument("--instances", action="store_true", help="find each nucleus, also those that touch")
    share = real(0, below=1)
    for name, kind, text in (
        ("threshold", share, "a nucleus pixel is above this (default: as tuned, else 0.5)"),
        ("border_threshold", real(0, below=1.001), "a border pixel is above this (default: as tuned, else 0.5)"),
        ("smoothing", real(0, below=10), "of the depth of nuclei, in pixels (default: as tuned, else 1)"),
        ("neck", share, "nuclei are split if the depth falls below this share (default: as tuned, else 0.9)"),
        ("min_area", whole(1, 10**6), "of a nucleus, in pixels (default: as tuned, else 10)"),
        (
            "min_confidence",
            share,
            "nuclei of less are dropped; 0: probability at the threshold, 1: certain (default: as tuned, else 0)",
        ),
        ("diameter", real(0, open_end=True, below=10_000), "of the nuclei, in pixels (default: estimated if needed)"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=text)


def add_recorded(
    parser: FlagParser,
    data_default: str = "as in training",
    batch_help: str = "images per batch; the batch IoU depends on it",
) -> None:
    """Add the flags that replace what a checkpoint records of its data and its input."""
    parser.add_argument("--data_path", help=f"prepared data (default: {data_default})")
    for name, text, kind in (
        ("batch_size", batch_help, None),
        ("input_h", "height of the net's input", ANY_SIDE),
        ("input_w", "width of the net's input", ANY_SIDE),
        ("img_ext", "extension of the images", None),
        ("mask_ext", "extension of the masks", None),
        ("channel", "channel of images that hold several, from 1", None),
        ("dense_masks", "accept masks that are mostly white", None),
    ):
        FLAGS[name].add_to(parser, name, None, f"{text} (default: as in training)", type=kind)


def _add_shared(parser: FlagParser) -> None:
    """Add the flags of val.py and demo.py for loading and computing."""
    for name in ("num_workers", "device", "device_id", "trust_checkpoint", "debug"):
        FLAGS[name].add_to(parser, name)
    parser.add_argument("--amp", action="store_true", help="compute in half precision, bfloat16 on the CPU")
    parser.add_argument("--tta", action="store_true", help="average over 8 flips and rotations; 8 times the work")


def _recipe_defaults(argv: list[str] | None) -> dict:
    """Find the recipe's defaults before the flags are parsed, so that --help shows them."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--recipe", nargs="?", default="faithful")
    return RECIPES.get(parser.parse_known_args(argv)[0].recipe, {})
