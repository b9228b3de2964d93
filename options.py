"""The command line of every script. No torch in here, so that `--help` and a mistyped flag are answered at once."""

import argparse
import math
import sys

import names
import runtime

# kept equal to the tables in archs.py, losses.py and train.py by a test: importing those would import torch
ARCHS = ("UNet", "NestedUNet")
LOSSES = ("LovaszHingeLoss", "BCEDiceLoss", "BCEWithLogitsLoss")
OPTIMIZERS = ("Adam", "AdamW", "SGD")
SCHEDULERS = ("CosineAnnealingLR", "ReduceLROnPlateau", "MultiStepLR", "ConstantLR", "OneCycleLR")
AUGMENTATIONS = ("published", "turns", "warps")
NORMALIZATIONS = ("standard", "image")
# what each puts in place of the defaults of train.py's flags; "faithful" is the published one
RECIPES = {
    "faithful": {},
    "fast": {
        "epochs": 10,
        "augmentation": "turns",
        "normalization": "image",
        "divide_twice": False,
        "min_lr": 3e-4,
        "ema": 0.99,
    },
}
SIDE_MULTIPLE = 16  # archs.STRIDE
DATASET = "dsb2018_96"
DOWNLOAD_URL = "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to each flag's help, but where the help tells it itself."""

    def _get_help_string(self, action):
        return action.help if "(default: " in action.help else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Shows defaults, and accepts every flag with hyphens as well as with underscores."""

    def __init__(self, description: str):
        super().__init__(
            description=description,
            formatter_class=_Formatter,
            epilog="Every flag may be written with hyphens or with underscores.",
        )

    def parse_known_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        end = args.index("--") if "--" in args else len(args)
        return super().parse_known_args([*map(_underscored, args[:end]), *args[end:]], namespace)


def _underscored(token: str) -> str:
    if not token.startswith("--"):
        return token
    flag, equals, value = token[2:].partition("=")
    return f"--{flag.replace('-', '_')}{equals}{value}"


def _whole(least: int, most: float = math.inf):
    """A type for argparse: a whole number of at least `least` and at most `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            upper = "" if math.isinf(most) else f" and at most {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}{upper}")
        return value

    return parse


def _real(least: float, open_end: bool = False, below: float = math.inf):
    """A type for argparse: a number of at least (`open_end`: above) `least`, and below `below`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (value > least if open_end else value >= least) or not value < below:
            upper = "" if math.isinf(below) else f" and below {below}"
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number {'above' if open_end else 'from'} {least}{upper}"
            )
        return value

    return parse


def _loss_scale(text: str) -> float:
    return -1.0 if text in ("-1", "-1.0", "dynamic") else _real(0, open_end=True)(text)


def _side(text: str) -> int:
    value = _whole(SIDE_MULTIPLE)(text)
    if value % SIDE_MULTIPLE:
        below = value - value % SIDE_MULTIPLE
        raise argparse.ArgumentTypeError(
            f"{value} is not a multiple of {SIDE_MULTIPLE}, as the net's four poolings need; "
            f"use {below} or {below + SIDE_MULTIPLE}"
        )
    return value


def _true_or_false(text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def _milestones(text: str) -> list[int]:
    return [_whole(1)(part) for part in text.split(",")]


def _extension(text: str) -> str:
    extension = text if text.startswith(".") else f".{text}"
    if not names.EXTENSION.fullmatch(extension):
        raise argparse.ArgumentTypeError(f"{text!r} is not an extension, as .png is one")
    return extension


def _folder_name(text: str) -> str:
    if not names.is_plain(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a folder under inputs/; a path is --data_path's")
    return text


def _add_device(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("device")
    group.add_argument("--device", default="auto", choices=runtime.DEVICES, help="auto: NPU, then CUDA GPU, then CPU")
    group.add_argument(
        "--device_id", type=_whole(0), help="its number; ASCEND_DEVICE_ID beats it (default: 0, or by the rank)"
    )


def _add_amp(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--amp", action="store_true", help="compute in half precision, on the CPU bfloat16")


def _add_tta(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tta", action="store_true", help="average over each image's eight flips and turns, for eight times the work"
    )


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust_checkpoint", action="store_true", help="run whatever Python objects a checkpoint holds"
    )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num_workers", default=4, type=_whole(0), help="processes that load data, over all ranks")


def _add_side(parser: argparse.ArgumentParser, kind, default, help: str) -> None:
    parser.add_argument("--input_h", default=default, type=kind, help=f"height of {help}")
    parser.add_argument("--input_w", default=default, type=kind, help=f"width of {help}")


def parse_train(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of train.py. Adds `name` and `data_path` where they were left to their defaults."""
    parser = _Parser("Train UNet or UNet++ on a prepared data set.")
    parser.add_argument("data_path", nargs="?", help="folder with images/ and masks/ (default: inputs/<dataset>)")
    run = parser.add_argument_group("run")
    run.add_argument("--name", help="folder under models/ (default: <dataset>_<arch>_wDS or _woDS)")
    run.add_argument(
        "--recipe", default="faithful", choices=RECIPES, help="which defaults hold; fast: see --recipe fast --help"
    )
    run.add_argument("--epochs", default=100, type=_whole(1), help="how often to go through the training images")
    run.add_argument("-b", "--batch_size", default=16, type=_whole(1), help="images a step, over all ranks")
    run.add_argument("--seed", default=5, type=_whole(0), help="for weights, order and augmentation")
    run.add_argument("--early_stopping", default=-1, type=int, help="stop after N epochs without a better IoU; -1: off")
    run.add_argument("-e", "--evaluate", action="store_true", help="only evaluate the checkpoint given by --resume")
    run.add_argument(
        "--resume",
        metavar="PATH",
        help="checkpoint to go on from, evaluate or start from; auto: the run's latest, if any",
    )
    run.add_argument("--resume_anyway", action="store_true", help="go on from it although the run is another one")
    run.add_argument("--pretrained", action="store_true", help="start a fresh run from the weights given by --resume")
    run.add_argument(
        "--save_steps", default=0, type=_whole(0), help="save every N steps too; 0: after each epoch alone"
    )
    _add_trust(run)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset", default=DATASET, type=_folder_name, help="name of the data set, for the default paths"
    )
    data.add_argument("--img_ext", default=".png", type=_extension, help="extension of the images")
    data.add_argument("--mask_ext", default=".png", type=_extension, help="extension of the masks")
    data.add_argument(
        "--inner_split",
        action="store_true",
        help="validate on a fifth of the training images, for choosing among recipes",
    )
    data.add_argument(
        "--augmentation",
        default="published",
        choices=AUGMENTATIONS,
        help="published: flips, quarter turns, shifts of colours; turns: without the shifts; warps: affine and elastic "
        "ones in place of them",
    )
    data.add_argument(
        "--normalization",
        default="standard",
        choices=NORMALIZATIONS,
        help="standard: by the published mean and deviation; image: by each image's own",
    )
    data.add_argument(
        "--divide_twice", default=True, type=_true_or_false, help="divide by 255 after normalising as well"
    )
    data.add_argument("--skip_bad", action="store_true", help="go on without images that cannot be read")
    data.add_argument(
        "--cache_mb", default=1024, type=_whole(0), help="MB that decoded images may take, in each rank; 0: none"
    )
    _add_workers(data)
    net = parser.add_argument_group("net")
    net.add_argument("-a", "--arch", default="UNet", choices=ARCHS, help="architecture")
    net.add_argument("--deep_supervision", default=False, type=_true_or_false, help="NestedUNet with four heads")
    net.add_argument("--input_channels", default=3, type=int, choices=(3,), help="images are read as BGR")
    net.add_argument("--num_classes", default=1, type=_whole(1), help="mask folders 0 … N-1")
    _add_side(net, _side, 96, "the net's input, a multiple of 16")
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--loss", default="LovaszHingeLoss", choices=LOSSES, help="training loss")
    recipe.add_argument("--optimizer", default="Adam", choices=OPTIMIZERS, help="optimiser")
    recipe.add_argument(
        "--lr", "--learning_rate", default=1e-3, type=_real(0, True, below=1e36), help="initial learning rate"
    )
    recipe.add_argument("--momentum", default=0.9, type=_real(0), help="of SGD")
    recipe.add_argument("--weight_decay", default=1e-4, type=_real(0), help="L2 penalty")
    recipe.add_argument("--nesterov", default=False, type=_true_or_false, help="Nesterov momentum of SGD")
    recipe.add_argument("--scheduler", default="CosineAnnealingLR", choices=SCHEDULERS, help="how the rate changes")
    recipe.add_argument(
        "--min_lr", default=1e-5, type=_real(0), help="of CosineAnnealingLR, ReduceLROnPlateau, OneCycleLR"
    )
    recipe.add_argument(
        "--ema",
        default=0.0,
        type=_real(0, below=1),
        help="evaluate and keep the weights' average of this decay; 0: off",
    )
    recipe.add_argument(
        "--warmup",
        default=0.1,
        type=_real(0, below=1),
        help="of OneCycleLR: share of the steps in which the rate rises",
    )
    recipe.add_argument("--factor", default=0.1, type=_real(0, True, below=1), help="of ReduceLROnPlateau")
    recipe.add_argument("--patience", default=2, type=_whole(0), help="of ReduceLROnPlateau, in epochs")
    recipe.add_argument("--milestones", default="1,2", type=_milestones, help="of MultiStepLR: epochs, as 1,2")
    recipe.add_argument("--gamma", default=2 / 3, type=_real(0, True), help="of MultiStepLR")
    mixed = parser.add_argument_group("precision")
    mixed.add_argument("--amp", action="store_true", default=None, help="mixed precision (default: by device)")
    mixed.add_argument("--no_amp", dest="amp", action="store_false", help="no mixed precision (default: by device)")
    mixed.add_argument("--opt_level", default="O2", choices=("O0", "O1", "O2", "O3"), help="kind of mixed precision")
    mixed.add_argument("--loss_scale", default=128.0, type=_loss_scale, help="static loss scale; -1: dynamic")
    mixed.add_argument(
        "--precision_mode",
        default="allow_mix_precision",
        choices=("allow_mix_precision", "must_keep_origin_dtype"),
        help="the latter: no mixed precision",
    )
    mixed.add_argument("--hf32", action="store_true", help="leave HF32 (NPU) or TF32 (CUDA) on")
    mixed.add_argument("--fp32", action="store_true", help="switch HF32 (NPU) or TF32 (CUDA) off")
    mixed.add_argument("--bin_mode", default=0, type=int, choices=(0, 1), help="1: precompiled operators on the NPU")
    _add_device(parser)
    speed = parser.add_argument_group("speed")
    speed.add_argument("--compile", action="store_true", help="compile the net, in its first step")
    speed.add_argument("--channels_last", action="store_true", help="keep the weights in NHWC, not on NPUs")
    ranks = parser.add_argument_group("several processes")
    ranks.add_argument("--rank_id", default=0, type=_whole(0), help="this process's rank in a hand-made launch")
    ranks.add_argument("--num_gpus", default=1, type=_whole(1), help="number of processes in a hand-made launch")
    ranks.add_argument("--addr", default="127.0.0.1", help="address of rank 0")
    ranks.add_argument("--port", default=29588, type=_whole(1, 65535), help="port of rank 0")
    ranks.add_argument("--dist_backend", help="collective library (default: by device)")
    ranks.add_argument(
        "--dist_timeout", default=600, type=_real(0, True, below=1e6), help="seconds to wait for the other processes"
    )
    ranks.add_argument("--sync_bn", action="store_true", help="BatchNorm over the batches of all processes")
    trace = parser.add_argument_group("profile")
    trace.add_argument("--profiling", default="False", choices=("CANN", "GE", "False"), help="trace some steps")
    trace.add_argument("--start_step", default=0, type=_whole(0), help="first step traced")
    trace.add_argument("--stop_step", default=20, type=_whole(0), help="step before which tracing stops")
    parser.set_defaults(**_recipe_of(argv))
    args = parser.parse_args(argv)
    if args.amp and args.precision_mode == "must_keep_origin_dtype":
        parser.error("--amp and --precision_mode must_keep_origin_dtype, which is without it: give one of them")
    if args.resume == "":
        parser.error("--resume lacks its value: name a checkpoint, give auto, or leave the flag out")
    if args.evaluate and not args.resume:
        parser.error("--evaluate needs --resume PATH, the checkpoint to evaluate")
    if args.pretrained and not args.resume:
        parser.error("--pretrained needs --resume PATH, the checkpoint to take the weights from")
    if args.resume == "auto" and (args.evaluate or args.pretrained):
        parser.error("--resume auto goes on with a run; --evaluate and --pretrained need the path of a checkpoint")
    if args.deep_supervision and args.arch == "UNet":
        parser.error("--deep_supervision True: UNet has a single head; add --arch NestedUNet")
    if args.profiling != "False" and args.stop_step <= args.start_step:
        parser.error(f"--stop_step {args.stop_step} must be above --start_step {args.start_step}")
    if args.scheduler == "OneCycleLR" and args.min_lr == 0:
        parser.error("--scheduler OneCycleLR ends at --min_lr, which must be above 0")
    if args.nesterov and args.momentum == 0:
        parser.error("--nesterov True needs a --momentum above 0")
    if args.batch_size * args.input_h * args.input_w <= SIDE_MULTIPLE**2:
        parser.error("--batch_size 1 with a 16×16 input leaves BatchNorm a single value; raise one of them")
    args.name = args.name or default_name(args.dataset, args.arch, args.deep_supervision, args.recipe)
    args.data_path = args.data_path or f"inputs/{args.dataset}"
    return args


def _recipe_of(argv: list[str] | None) -> dict:
    """The defaults of the recipe that a command line asks for, found ahead of --help, which shows them."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--recipe", nargs="?", default="faithful")
    return RECIPES.get(parser.parse_known_args(argv)[0].recipe, {})


def default_name(
    dataset: str = DATASET, arch: str = "UNet", deep_supervision: bool = False, recipe: str = "faithful"
) -> str:
    """The run's folder under models/ where `--name` is not given: another one for each recipe."""
    ending = "" if recipe == "faithful" else f"_{recipe}"
    return f"{dataset}_{arch}_{'wDS' if deep_supervision else 'woDS'}{ending}"


def parse_val(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of val.py."""
    parser = _Parser("Evaluate a trained model on the validation split and write its predicted masks.")
    parser.add_argument("--name", default=default_name(), help="folder under models/")
    parser.add_argument("--data_path", help="prepared data (default: as in training)")
    parser.add_argument(
        "-b", "--batch_size", type=_whole(1), help="images at a time; batch IoU depends on it (default: as in training)"
    )
    parser.add_argument("--output", default="outputs", help="folder that gets <name>/<class>/<id>.jpg")
    _add_workers(parser)
    _add_device(parser)
    _add_amp(parser)
    _add_tta(parser)
    _add_trust(parser)
    return parser.parse_args(argv)


def parse_demo(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of demo.py."""
    parser = _Parser("Segment images: the validation split, or any images given by --input.")
    parser.add_argument("--input", nargs="+", metavar="PATH", help="image files, folders or globs; no masks needed")
    parser.add_argument(
        "--name", help=f"folder under models/ whose best checkpoint is used (default: {default_name()})"
    )
    parser.add_argument("--resume", metavar="PATH", help="another checkpoint to use")
    parser.add_argument("--onnx", metavar="FILE", help="an export to use instead, through onnxruntime on the CPU")
    parser.add_argument("--data_path", help="prepared data (default: as in training)")
    parser.add_argument("--dataset", type=_folder_name, help="inputs/<dataset> as the prepared data")
    parser.add_argument("-b", "--batch_size", default=16, type=_whole(1), help="images at a time")
    parser.add_argument("--threshold", default=0.5, type=_real(0), help="probability above which a pixel is a nucleus")
    parser.add_argument("--output", default="outputs/UNet_Demo", help="folder for the pictures")
    _add_side(parser, _whole(1, 2**14), None, "the net's input (default: as in training, or the export's)")
    _add_workers(parser)
    _add_device(parser)
    _add_amp(parser)
    _add_tta(parser)
    _add_trust(parser)
    args = parser.parse_args(argv)
    if args.threshold >= 1:
        parser.error(f"--threshold {args.threshold}: must be below 1")
    if args.input and (args.data_path or args.dataset):
        parser.error("--input takes images anywhere; leave out --data_path and --dataset, or leave out --input")
    if args.onnx == "":
        parser.error("--onnx lacks its value: name an ONNX file, or leave the flag out")
    if args.onnx and (args.resume is not None or args.name is not None):
        parser.error("--onnx takes the net from that file; leave out --resume and --name, or leave out --onnx")
    if args.onnx and args.tta:
        parser.error("--tta turns images, which an export may not take; leave it out, or leave out --onnx")
    if args.onnx and args.amp:
        parser.error("--onnx computes in the precision of the export; leave out --amp")
    if args.onnx and args.device not in ("auto", "cpu"):
        parser.error(f"--onnx runs on the CPU; leave out --device {args.device}")
    args.name = default_name() if args.name is None else args.name
    return args


def parse_export(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of pthtar2onnx.py."""
    parser = _Parser("Export a trained model to ONNX and check it against torch.")
    parser.add_argument("--name", default=default_name(), help="folder under models/ whose best checkpoint is exported")
    parser.add_argument("--checkpoint", metavar="PATH", help="another checkpoint to export")
    parser.add_argument("--output", default="UNet_npu8p.onnx", help="file to write")
    parser.add_argument("--opset", default=11, type=_whole(11, 20), help="version of the ONNX operators")
    parser.add_argument("-b", "--batch_size", default=1, type=_whole(1), help="of the input")
    _add_side(parser, _side, 96, "the input, a multiple of 16")
    parser.add_argument("--dynamic", action="store_true", help="leave batch, height and width open")
    _add_trust(parser)
    return parser.parse_args(argv)


def parse_preprocess(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of preprocess_dsb2018.py."""
    parser = _Parser("Prepare raw DSB2018 images (one mask file a nucleus) for training.")
    parser.add_argument(
        "--input",
        help="raw folder or zip (default: what lies under inputs/); with --synthetic: the raw folder to write",
    )
    parser.add_argument(
        "--output",
        help="folder to write (default: inputs/dsb2018_<img_size>, with --synthetic inputs/synthetic_<img_size>)",
    )
    parser.add_argument("--img_size", default=96, type=_whole(1, 4096), help="side of the prepared images")
    parser.add_argument("--workers", default=2, type=_whole(1), help="processes")
    parser.add_argument("--overwrite", action="store_true", help="replace a prepared data set that is already there")
    parser.add_argument("--download", action="store_true", help="fetch the zip to inputs/stage1_train.zip first")
    parser.add_argument("--url", default=DOWNLOAD_URL, help="where --download fetches it from")
    parser.add_argument("--synthetic", type=_whole(2), metavar="N", help="make N synthetic images instead")
    parser.add_argument("--seed", default=0, type=_whole(0), help="of --synthetic")
    args = parser.parse_args(argv)
    if args.synthetic and args.download:
        parser.error("--synthetic makes its own images; leave out --download")
    if args.download and args.input:
        parser.error("--download fetches the raw images; leave out --input")
    args.output = args.output or f"inputs/{'synthetic' if args.synthetic else 'dsb2018'}_{args.img_size}"
    return args
