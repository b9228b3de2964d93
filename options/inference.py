# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The command lines of offline inference."""

from options.commands import add_recorded
from options.table import FLAGS
from runtime.argtypes import whole
from runtime.flags import FlagParser, Flags

INPUTS, OUTPUTS, MASKS = "infer_data/inputs", "infer_data/outputs", "infer_data/masks"


def parse_write_aipp(argv: list[str] | None = None) -> Flags:
    """Parse the flags of infer/write_aipp.py."""
    parser = FlagParser("Write an AIPP file for ATC that normalizes images as the published recipe does.")
    _add_onnx(parser)
    parser.add_argument("--output", default="infer_data/aipp.cfg", help="file to write")
    for name, side in (("input_h", "height"), ("input_w", "width")):
        FLAGS[name].add_to(parser, name, None, f"{side} of the input, a multiple of 16 (default: as in training)")
    FLAGS["debug"].add_to(parser, "debug")
    return parser.parse(argv)


def parse_infer_preprocess(argv: list[str] | None = None) -> Flags:
    """Parse the flags of infer/preprocess.py."""
    parser = FlagParser("Write images as .bin files for infer/infer_om.py.")
    _add_onnx(parser)
    input_help = "image files, folders or globs without masks (default: the validation split of the data)"
    parser.add_argument("--input", nargs="+", metavar="PATH", help=input_help)
    parser.add_argument("--output", default=INPUTS, help="folder to write")
    parser.add_argument(
        "--uint8", action="store_true", help="write bytes, for a model with AIPP, which normalizes them"
    )
    batch_help = "batch size to record, the default of infer/postprocess.py --batch_size"
    add_recorded(parser, f"inputs/{FLAGS['dataset'].default}", batch_help)
    val_help = "file with the ids of the images, in place of the validation split"
    FLAGS["val_ids"].add_to(parser, "val_ids", None, val_help)
    FLAGS["debug"].add_to(parser, "debug")
    args = parser.parse(argv)
    for name in ("data_path", "val_ids"):
        if args.input and vars(args)[name]:
            parser.error(f"--input takes images anywhere; leave out --{name}, or leave out --input")
    return args


def parse_infer_om(argv: list[str] | None = None) -> Flags:
    """Parse the flags of infer/infer_om.py."""
    parser = FlagParser("Run a converted model on an Ascend inference card.")
    parser.add_argument("--model", metavar="FILE", help="the .om file")
    tool_help = "program that runs it: ais_bench, or pyACL, which comes with CANN; auto: the first that is installed"
    parser.add_argument("--tool", default="auto", choices=("auto", "ais_bench", "pyacl"), help=tool_help)
    parser.add_argument("--stand_in", metavar="FILE", help="an ONNX file to run on the CPU instead, with onnxruntime")
    parser.add_argument("--input", default=INPUTS, help="folder that infer/preprocess.py wrote")
    parser.add_argument("--output", default=OUTPUTS, help="folder for the outputs")
    parser.add_argument("--batch_size", default=1, type=whole(1, 1024), help="batch size that the model was made for")
    parser.add_argument(
        "--device_id", default=0, type=whole(0), help="number of the card; ASCEND_DEVICE_ID has priority"
    )
    FLAGS["debug"].add_to(parser, "debug")
    args = parser.parse(argv)
    if bool(args.model) == bool(args.stand_in):
        parser.error("give --model FILE.om, or --stand_in FILE.onnx to do without a card")
    return args


def parse_infer_postprocess(argv: list[str] | None = None) -> Flags:
    """Parse the flags of infer/postprocess.py."""
    parser = FlagParser("Turn outputs into masks, and score them if the images have masks.")
    parser.add_argument("--input", default=INPUTS, help="folder that infer/preprocess.py wrote")
    parser.add_argument("--predictions", default=OUTPUTS, help="folder that infer/infer_om.py wrote")
    parser.add_argument("--output", default=MASKS, help="folder for masks and tables")
    batch_help = "images per batch of the score; the batch IoU depends on it (default: as in training)"
    FLAGS["batch_size"].add_to(parser, "batch_size", None, batch_help)
    FLAGS["debug"].add_to(parser, "debug")
    return parser.parse(argv)


def _add_onnx(parser: FlagParser) -> None:
    parser.add_argument("--onnx", default="UNet_npu8p.onnx", metavar="FILE", help="the export of pthtar2onnx.py")
