"""The command line of every script. No torch in here, so that `--help` and a mistyped flag are answered at once."""

import argparse
from dataclasses import replace

from runtime.argtypes import extension, folder_name, loss_scale, real, true_or_false, whole, whole_list
from runtime.flags import Flag, FlagParser, Flags

# a test compares these with the tables in archs.py, losses.py, train.py and augment.py: importing those imports torch
ARCHS = ("UNet", "NestedUNet")
LOSSES = ("LovaszHingeLoss", "BCEDiceLoss", "BCEWithLogitsLoss")
OPTIMIZERS = ("Adam", "AdamW", "SGD")
SCHEDULERS = ("CosineAnnealingLR", "ReduceLROnPlateau", "MultiStepLR", "ConstantLR", "OneCycleLR")
AUGMENTATIONS = ("published", "turns", "warps")
NORMALIZATIONS = ("standard", "image")
DEVICES = ("auto", "npu", "gpu", "cuda", "cpu")
SIDE_MULTIPLE = 16  # archs.STRIDE: four poolings halve the sides
DOWNLOAD_URL = "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"

ANY_SIDE = whole(1, 4096)
INPUT_SIDE = whole(SIDE_MULTIPLE, 4096, multiple_of=SIDE_MULTIPLE)
BATCH_SIZE = whole(1, 2**16)
SEED = whole(0, 2**64 - 1)


# a table, one flag per line if it fits
# fmt: off
WITH_SGD, WITH_STEPS = ("optimizer", ("SGD",)), ("scheduler", ("MultiStepLR",))
WITH_PLATEAU, WITH_ONE_CYCLE = ("scheduler", ("ReduceLROnPlateau",)), ("scheduler", ("OneCycleLR",))
WITH_EPOCHS = ("scheduler", ("CosineAnnealingLR", "OneCycleLR"))
WITH_MIN_LR = ("scheduler", ("CosineAnnealingLR", "ReduceLROnPlateau", "OneCycleLR"))
GROUPS = {
    "run": {
        "name": Flag(None, str, "folder under models/ (default: <dataset>_<arch>_wDS or _woDS)"),
        "recipe": Flag("faithful", None, "set of defaults; fast: see --recipe fast --help", ("faithful", "fast")),
        "epochs": Flag(100, whole(1), "number of passes over the training images", fast=10, same_run=WITH_EPOCHS),
        "batch_size": Flag(16, BATCH_SIZE, "images per step, over all ranks", aliases=("-b",), same_run=True,
            evaluation=True, image_order=True),
        "seed": Flag(5, SEED, "for weights, order and augmentation", same_run=True, image_order=True),
        "early_stopping": Flag(-1, whole(-1), "stop after N epochs without a better IoU; -1: off"),
        "evaluate": Flag(False, None, "only evaluate the checkpoint given by --resume", aliases=("-e",)),
        "resume": Flag(None, str, "checkpoint to continue from, evaluate or start from; auto: the run's latest, if any",
            metavar="PATH", local=True),
        "resume_anyway": Flag(False, None, "continue although flags or images differ from the checkpoint's"),
        "pretrained": Flag(False, None, "start a new run from the weights given by --resume"),
        "save_steps": Flag(0, whole(0), "also save every N steps; 0: only after each epoch"),
        "trust_checkpoint": Flag(False, None, "load any Python objects from a checkpoint, which can run code"),
        "debug": Flag(False, None, "print the traceback of an error before its sentence", local=True),
    },
    "data": {
        "dataset": Flag("dsb2018_96", folder_name, "name of the data set, for the default paths"),
        "img_ext": Flag(".png", extension, "extension of the images", evaluation=True),
        "mask_ext": Flag(".png", extension, "extension of the masks", evaluation=True),
        "channel": Flag(0, whole(0), "channel to read from images that hold several, counted from 1; 0: none",
            same_run=True, input=True),
        "dense_masks": Flag(False, None, "accept masks that are mostly white", evaluation=True),
        "inner_split": Flag(False, None, "validate on a fifth of the training images, to choose among recipes",
            same_run=True, evaluation=True),
        "augmentation": Flag("published", None, "published: flips, quarter turns, color shifts; turns: without the "
            "color shifts; warps: affine and elastic warps instead of them", AUGMENTATIONS, fast="turns",
            same_run=True),
        "normalization": Flag("standard", None,
            "standard: by the published mean and std; image: by the mean and std of each image", NORMALIZATIONS,
            fast="image", same_run=True, input=True),
        "divide_twice": Flag(True, true_or_false, "divide by 255 again after normalization", fast=False,
            same_run=True, input=True),
        "skip_bad": Flag(False, None, "continue without images that cannot be read", evaluation=True),
        "cache_mb": Flag(1024, whole(0), "MB of memory for decoded images, in each rank; 0: none"),
        "num_workers": Flag(4, whole(0), "processes that load data, over all ranks"),
    },
    "net": {
        "arch": Flag("UNet", None, "architecture", ARCHS, aliases=("-a",), same_run=True),
        "deep_supervision": Flag(False, true_or_false, "NestedUNet with four heads", same_run=True),
        "input_channels": Flag(3, int, "images are read as BGR", (3,), same_run=True),
        "num_classes": Flag(1, whole(1), "mask folders 0 … N-1", same_run=True),
        "input_h": Flag(96, INPUT_SIDE, "height of the net's input, a multiple of 16", same_run=True, input=True),
        "input_w": Flag(96, INPUT_SIDE, "width of the net's input, a multiple of 16", same_run=True, input=True),
    },
    "recipe": {
        "loss": Flag("LovaszHingeLoss", None, "training loss", LOSSES, same_run=True, evaluation=True),
        "optimizer": Flag("Adam", None, "optimizer", OPTIMIZERS, same_run=True),
        "lr": Flag(1e-3, real(0, open_end=True, below=1e36), "initial learning rate", aliases=("--learning_rate",),
            same_run=True),
        "momentum": Flag(0.9, real(0), "of SGD", same_run=WITH_SGD),
        "weight_decay": Flag(1e-4, real(0), "L2 penalty", same_run=True),
        "nesterov": Flag(False, true_or_false, "Nesterov momentum of SGD", same_run=WITH_SGD),
        "scheduler": Flag("CosineAnnealingLR", None, "schedule of the learning rate", SCHEDULERS, same_run=True),
        "min_lr": Flag(1e-5, real(0), "of CosineAnnealingLR, ReduceLROnPlateau, OneCycleLR", fast=3e-4,
            same_run=WITH_MIN_LR),
        "ema": Flag(0.0, real(0, below=1), "decay of the weights' EMA, which is evaluated and saved; 0: off",
            fast=0.99, same_run=True),
        "warmup": Flag(0.1, real(0, below=1), "of OneCycleLR: share of the steps with a rising learning rate",
            same_run=WITH_ONE_CYCLE),
        "factor": Flag(0.1, real(0, open_end=True, below=1), "of ReduceLROnPlateau", same_run=WITH_PLATEAU),
        "patience": Flag(2, whole(0), "of ReduceLROnPlateau, in epochs", same_run=WITH_PLATEAU),
        "milestones": Flag([1, 2], whole_list, "of MultiStepLR: epochs (default: 1,2)", same_run=WITH_STEPS),
        "gamma": Flag(2 / 3, real(0, open_end=True), "of MultiStepLR", same_run=WITH_STEPS),
    },
    "precision": {
        "amp": Flag(None, None, "mixed precision (default: by device)"),
        "opt_level": Flag("O2", None, "kind of mixed precision", ("O0", "O1", "O2", "O3")),
        "loss_scale": Flag(128.0, loss_scale, "static loss scale; -1: dynamic"),
        "precision_mode": Flag("allow_mix_precision", None, "must_keep_origin_dtype: no mixed precision",
            ("allow_mix_precision", "must_keep_origin_dtype")),
        "hf32": Flag(False, None, "switch HF32 (NPU) or TF32 (CUDA) on"),
        "fp32": Flag(False, None, "switch HF32 (NPU) or TF32 (CUDA) off"),
        "bin_mode": Flag(0, int, "1: precompiled operators on the NPU", (0, 1)),
        "channels_last": Flag(False, None, "keep the weights in NHWC; not on NPUs"),
    },
    "device": {
        "device": Flag("auto", None, "auto: NPU, then CUDA GPU, then CPU", DEVICES),
        "device_id": Flag(None, whole(0), "its number; ASCEND_DEVICE_ID has priority (default: 0, or the local rank)",
            local=True),
    },
    "several processes": {
        "rank_id": Flag(0, whole(0), "rank of this process in a launch by hand", local=True),
        "num_gpus": Flag(1, whole(1), "number of processes in a launch by hand"),
        "addr": Flag("127.0.0.1", str, "address of rank 0", local=True),
        "port": Flag(29588, whole(1, 65535), "port of rank 0"),
        "dist_backend": Flag(None, str, "library of collectives (default: by device)"),
        "dist_timeout": Flag(600, real(0, open_end=True, below=1e6), "seconds to wait for the other processes"),
        "sync_bn": Flag(False, None, "SyncBatchNorm: statistics over the batches of all processes", same_run=True),
    },
    "profile": {
        "profiling": Flag("False", None, "profile some steps", ("CANN", "GE", "False")),
        "start_step": Flag(0, whole(0), "first step to profile"),
        "stop_step": Flag(20, whole(0), "step before which profiling stops"),
    },
}
# fmt: on
FLAGS = {name: flag for group in GROUPS.values() for name, flag in group.items()}
# the values of `fast=` in the table above are the defaults of --recipe fast
RECIPES = {"faithful": {}, "fast": {name: flag.fast for name, flag in FLAGS.items() if flag.fast is not None}}
# may differ from process to process
LOCAL_FLAGS = {"data_path", *(name for name, flag in FLAGS.items() if flag.local)}
# how images are prepared for a net: taken over from a checkpoint also for a new run from its weights
INPUT_FLAGS = {name: flag for name, flag in FLAGS.items() if flag.input}
# besides these, what scores depend on: taken over by every command that evaluates
EVALUATION_FLAGS = {name: flag for name, flag in FLAGS.items() if flag.input or flag.evaluation}
# those that other scripts read from a checkpoint or config.yml
RECORDED_FLAGS = {name: FLAGS[name] for name in ("dataset", "seed", *EVALUATION_FLAGS)}
# the same for val.py and demo.py, which pad inputs of any size
ANY_SIZE_FLAGS = RECORDED_FLAGS | {name: replace(FLAGS[name], type=ANY_SIDE) for name in ("input_h", "input_w")}


def default_name(
    dataset: str = "dsb2018_96", arch: str = "UNet", deep_supervision: bool = False, recipe: str = "faithful"
) -> str:
    """Return the run's folder under models/ if `--name` is not given."""
    ending = "" if recipe == "faithful" else f"_{recipe}"
    return f"{dataset}_{arch}_{'wDS' if deep_supervision else 'woDS'}{ending}"


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
    parser.set_defaults(amp=None, **_recipe_defaults(argv))
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
    if args.profiling != "False" and args.stop_step <= args.start_step:
        parser.error(f"--stop_step {args.stop_step} must be above --start_step {args.start_step}")
    if args.scheduler == "OneCycleLR" and args.min_lr == 0:
        parser.error("--scheduler OneCycleLR ends at --min_lr, which must be above 0")
    if args.nesterov and args.momentum == 0:
        parser.error("--nesterov True needs a --momentum above 0")
    args.name = args.name or default_name(args.dataset, args.arch, args.deep_supervision, args.recipe)
    args.data_path = args.data_path or f"inputs/{args.dataset}"
    return args


def parse_val(argv: list[str] | None = None) -> Flags:
    """Parse the flags of val.py."""
    parser = FlagParser("Evaluate a trained model on the validation split and write its predicted masks.")
    parser.add_argument("--all", action="store_true", help="score all images of the data, such as your own test set")
    FLAGS["name"].add_to(parser, "name", default_name(), "folder under models/")
    parser.add_argument("--output", default="outputs", help="folder that gets <name>/<class>/<id>.jpg")
    _add_recorded(parser)
    _add_shared(parser)
    return parser.parse(argv)


def parse_demo(argv: list[str] | None = None) -> Flags:
    """Parse the flags of demo.py."""
    parser = FlagParser("Segment images: the validation split, or any images given by --input.")
    parser.add_argument("--input", nargs="+", metavar="PATH", help="image files, folders or globs; no masks needed")
    FLAGS["name"].add_to(parser, "name", None, f"folder under models/ to take it from (default: {default_name()})")
    parser.add_argument("--resume", metavar="PATH", help="another checkpoint to use")
    parser.add_argument("--onnx", metavar="FILE", help="an export to use instead, with onnxruntime on the CPU")
    FLAGS["dataset"].add_to(parser, "dataset", None, "inputs/<dataset> as prepared data (default: as in training)")
    parser.add_argument("--threshold", default=0.5, type=real(0, below=1), help="a nucleus pixel is above this")
    parser.add_argument("--output", default="outputs/UNet_Demo", help="folder for the pictures")
    _add_recorded(parser)
    _add_shared(parser)
    args = parser.parse(argv)
    if args.input and (args.data_path or args.dataset):
        parser.error("--input takes images anywhere; leave out --data_path and --dataset, or leave out --input")
    if args.onnx == "":
        parser.error("--onnx lacks its value: name an ONNX file, or leave the flag out")
    if args.onnx and (args.resume is not None or args.name is not None):
        parser.error("--onnx takes the net from that file; leave out --resume and --name, or leave out --onnx")
    if args.onnx and args.tta:
        parser.error("--tta turns images, which an export may not accept; leave it out, or leave out --onnx")
    if args.onnx and args.amp:
        parser.error("--onnx computes in the precision of the export; leave out --amp")
    if args.onnx and args.device not in ("auto", "cpu"):
        parser.error(f"--onnx runs on the CPU; leave out --device {args.device}")
    args.name = default_name() if args.name is None else args.name
    return args


def parse_export(argv: list[str] | None = None) -> Flags:
    """Parse the flags of pthtar2onnx.py."""
    parser = FlagParser("Export a trained model to ONNX and check it against torch.")
    FLAGS["name"].add_to(parser, "name", default_name(), "folder under models/ whose best checkpoint is exported")
    parser.add_argument("--checkpoint", metavar="PATH", help="another checkpoint to export")
    parser.add_argument("--output", default="UNet_npu8p.onnx", help="file to write")
    parser.add_argument("--opset", default=11, type=whole(11, 20), help="version of the ONNX operators")
    FLAGS["batch_size"].add_to(parser, "batch_size", 1, "batch size of the input")
    for name, side in (("input_h", "height"), ("input_w", "width")):
        FLAGS[name].add_to(parser, name, None, f"{side} of the input, a multiple of 16 (default: as in training)")
    parser.add_argument("--dynamic", action="store_true", help="leave batch size, height and width open")
    for name in ("trust_checkpoint", "debug"):
        FLAGS[name].add_to(parser, name)
    return parser.parse(argv)


def parse_preprocess(argv: list[str] | None = None) -> Flags:
    """Parse the flags of preprocess_dsb2018.py."""
    parser = FlagParser("Prepare raw DSB2018 images (one mask file per nucleus) for training.")
    input_help = "raw folder or zip (default: what lies under inputs/); with --synthetic: the raw folder to write"
    parser.add_argument("--input", help=input_help)
    output_help = "folder to write (default: inputs/dsb2018_<img_size>, with --synthetic inputs/synthetic_<img_size>)"
    parser.add_argument("--output", help=output_help)
    parser.add_argument("--img_size", default=96, type=whole(1, 4096), help="side length of the prepared images")
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
    args.output = args.output or f"inputs/{'synthetic' if args.synthetic else 'dsb2018'}_{args.img_size}"
    return args


def _add_recorded(parser: FlagParser) -> None:
    """Add the flags that replace what a checkpoint records of its data and its input."""
    parser.add_argument("--data_path", help="prepared data (default: as in training)")
    for name, text, kind in (
        ("batch_size", "images per batch; the batch IoU depends on it", None),
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
