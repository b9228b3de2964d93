# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Every flag of train.py: default, range, help, and what it means when resuming and in other commands."""

from dataclasses import replace

from runtime.argtypes import extension, folder_name, loss_scale, real, true_or_false, whole, whole_list
from runtime.flags import Flag

# a test compares these with the tables in archs.py, losses.py, train.py and augment.py: importing those imports torch
ARCHS = ("UNet", "NestedUNet")
LOSSES = ("LovaszHingeLoss", "BCEDiceLoss", "BCEWithLogitsLoss", "BorderLoss")
OPTIMIZERS = ("Adam", "AdamW", "SGD")
SCHEDULERS = ("CosineAnnealingLR", "ReduceLROnPlateau", "MultiStepLR", "ConstantLR", "OneCycleLR")
AUGMENTATIONS = ("published", "turns", "warps", "nuclei")
NORMALIZATIONS = ("standard", "image")
RECIPE_NAMES = ("faithful", "fast", "nuclei")
DEVICES = ("auto", "npu", "gpu", "cuda", "cpu")
SIDE_MULTIPLE = 16  # archs.STRIDE: four poolings halve the sides
LARGE_PIXELS = 2048 * 2048  # demo.py finds the nuclei of an image of more by windows
DEFAULT_TILE = 512
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
        "recipe": Flag("faithful", None, "set of defaults, see --recipe fast --help and --recipe nuclei --help",
            RECIPE_NAMES),
        "epochs": Flag(100, whole(1), "number of passes over the training images", fast=10, nuclei=60,
            same_run=WITH_EPOCHS),
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
        "tensorboard": Flag(False, None, "write the curves and a few validation images for TensorBoard"),
        "performance": Flag(False, None, "only to measure the speed: without the color shifts of the published "
            "augmentation, and the speed counts from the first step", same_run=True),
        "debug": Flag(False, None, "print the traceback of an error before its sentence", local=True),
    },
    "data": {
        "dataset": Flag("dsb2018_96", folder_name, "name of the data set, for the default paths",
            nuclei="dsb2018_native"),
        "img_ext": Flag(".png", extension, "extension of the images", evaluation=True),
        "mask_ext": Flag(".png", extension, "extension of the masks", evaluation=True),
        "channel": Flag(0, whole(0), "channel to read from images that hold several, counted from 1; 0: none",
            same_run=True, input=True),
        "dense_masks": Flag(False, None, "accept masks that are mostly white", evaluation=True),
        "inner_split": Flag(False, None, "validate on a fifth of the training images, to choose among recipes",
            same_run=True, evaluation=True),
        "train_ids": Flag(None, str, "file with the ids of the training images, one per line (default: the "
            "usual split)", metavar="FILE", local=True),
        "val_ids": Flag(None, str, "file with the ids of the validation images (default: the usual split)",
            metavar="FILE", local=True),
        "augmentation": Flag("published", None, "published: flips, quarter turns, color shifts; turns: without the "
            "color shifts; warps: affine and elastic warps instead of them; nuclei: turns, colors, brightness, noise",
            AUGMENTATIONS, fast="turns", nuclei="nuclei", same_run=True),
        "crop_diameter": Flag(0.0, real(0, below=4096), "cut the inputs out of images scaled so that their nuclei have "
            "this diameter, in pixels; 0: resize whole images", nuclei=24.0, same_run=True, input=True),
        "balance": Flag(False, true_or_false, "draw images of rare kinds more often, and with --crop_diameter also "
            "those that hold many crops", nuclei=True, same_run=True, image_order=True),
        "normalization": Flag("standard", None,
            "standard: by the published mean and std; image: by the mean and std of each image", NORMALIZATIONS,
            fast="image", nuclei="image", same_run=True, input=True),
        "divide_twice": Flag(True, true_or_false, "divide by 255 again after normalization", fast=False,
            nuclei=False, same_run=True, input=True),
        "skip_bad": Flag(False, None, "continue without images that cannot be read", evaluation=True),
        "cache_mb": Flag(1024, whole(0), "MB of memory for decoded images, in each rank; 0: none"),
        "num_workers": Flag(4, whole(0), "processes that load data, over all ranks"),
    },
    "net": {
        "arch": Flag("UNet", None, "architecture", ARCHS, aliases=("-a",), same_run=True),
        "deep_supervision": Flag(False, true_or_false, "NestedUNet with four heads", same_run=True),
        "input_channels": Flag(3, int, "images are read as BGR", (3,), same_run=True),
        "num_classes": Flag(1, whole(1), "mask folders 0 … N-1", nuclei=2, same_run=True),
        "input_h": Flag(96, INPUT_SIDE, "height of the net's input, a multiple of 16", nuclei=192, same_run=True,
            input=True),
        "input_w": Flag(96, INPUT_SIDE, "width of the net's input, a multiple of 16", nuclei=192, same_run=True,
            input=True),
    },
    "recipe": {
        "loss": Flag("LovaszHingeLoss", None, "training loss", LOSSES, nuclei="BorderLoss", same_run=True,
            evaluation=True),
        "optimizer": Flag("Adam", None, "optimizer", OPTIMIZERS, nuclei="AdamW", same_run=True),
        "lr": Flag(1e-3, real(0, open_end=True, below=1e36), "initial learning rate", aliases=("--learning_rate",),
            nuclei=2e-3, same_run=True),
        "momentum": Flag(0.9, real(0), "of SGD", same_run=WITH_SGD),
        "weight_decay": Flag(1e-4, real(0), "L2 penalty", same_run=True),
        "nesterov": Flag(False, true_or_false, "Nesterov momentum of SGD", same_run=WITH_SGD),
        "scheduler": Flag("CosineAnnealingLR", None, "schedule of the learning rate", SCHEDULERS, same_run=True),
        "min_lr": Flag(1e-5, real(0), "of CosineAnnealingLR, ReduceLROnPlateau, OneCycleLR", fast=3e-4,
            same_run=WITH_MIN_LR),
        "ema": Flag(0.0, real(0, below=1), "decay of the weights' EMA, which is evaluated and saved; 0: off",
            fast=0.99, nuclei=0.99, same_run=True),
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
        "deterministic": Flag(False, None, "the same weights from each run on the same NPU or GPU; slower"),
        "bin_mode": Flag(0, int, "1: precompiled operators on the NPU", (0, 1)),
        "channels_last": Flag(None, None, "keep the weights in NHWC (default: by device)"),
    },
    "device": {
        "device": Flag("auto", None, "auto: NPU, then CUDA GPU, then CPU", DEVICES),
        "device_id": Flag(None, whole(0), "its number; ASCEND_DEVICE_ID has priority (default: 0, or the local rank)",
            local=True),
        "cuda_graph": Flag("off", None, "launch a training step as one CUDA graph (not tried yet); auto: if possible",
            ("auto", "on", "off"), local=True),
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
        "profiling": Flag("False", None, "trace some steps; CANN and GE do the same", ("CANN", "GE", "False")),
        "start_step": Flag(0, whole(0), "first step to profile"),
        "stop_step": Flag(20, whole(0), "step before which profiling stops"),
    },
}
# fmt: on
FLAGS = {name: flag for group in GROUPS.values() for name, flag in group.items()}
# the values of `fast=` and `nuclei=` in the table above are the defaults of these recipes
RECIPES = {
    recipe: {name: value for name, flag in FLAGS.items() if (value := getattr(flag, recipe, None)) is not None}
    for recipe in RECIPE_NAMES
}
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
