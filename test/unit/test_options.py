# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The command line: every flag in both spellings, the defaults of the recipe, and mistakes answered by name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import archs
import losses
import options
import train
from imaging import augment

ROOT = Path(__file__).resolve().parents[2]
PARSERS = {
    "train.py": options.parse_train,
    "val.py": options.parse_val,
    "demo.py": options.parse_demo,
    "pthtar2onnx.py": options.parse_export,
    "preprocess_dsb2018.py": options.parse_preprocess,
}
INFERENCE = [f"infer/{name}.py" for name in ("write_aipp", "preprocess", "infer_om", "postprocess")]

# train.py's flags with a value: flag, default, another value as typed, and as parsed
VALUES = [
    ("--name", "dsb2018_96_UNet_woDS", "my-run", "my-run"),
    ("--recipe", "faithful", "fast", "fast"),
    ("--epochs", 100, "7", 7),
    ("--batch_size", 16, "128", 128),
    ("--arch", "UNet", "NestedUNet", "NestedUNet"),
    ("--input_channels", 3, "3", 3),
    ("--num_classes", 1, "2", 2),
    ("--input_w", 96, "128", 128),
    ("--input_h", 96, "16", 16),
    ("--loss", "LovaszHingeLoss", "BCEDiceLoss", "BCEDiceLoss"),
    ("--dataset", "dsb2018_96", "my-cells", "my-cells"),
    ("--img_ext", ".png", ".jpg", ".jpg"),
    ("--mask_ext", ".png", "tif", ".tif"),
    ("--optimizer", "Adam", "SGD", "SGD"),
    ("--lr", 1e-3, "5e-4", 5e-4),
    ("--momentum", 0.9, "0.8", 0.8),
    ("--weight_decay", 1e-4, "0", 0.0),
    ("--nesterov", False, "True", True),
    ("--scheduler", "CosineAnnealingLR", "MultiStepLR", "MultiStepLR"),
    ("--min_lr", 1e-5, "1e-6", 1e-6),
    ("--factor", 0.1, "0.5", 0.5),
    ("--patience", 2, "4", 4),
    ("--milestones", [1, 2], "30,60,90", [30, 60, 90]),
    ("--gamma", 2 / 3, "0.1", 0.1),
    ("--early_stopping", -1, "10", 10),
    ("--loss_scale", 128, "-1", -1),
    ("--opt_level", "O2", "O1", "O1"),
    ("--rank_id", 0, "0", 0),
    ("--num_gpus", 1, "8", 8),
    ("--addr", "127.0.0.1", "10.0.0.1", "10.0.0.1"),
    ("--port", 29588, "29500", 29500),
    ("--dist_backend", None, "hccl", "hccl"),
    ("--num_workers", 4, "0", 0),
    ("--cache_mb", 1024, "0", 0),
    ("--channel", 0, "2", 2),
    ("--crop_diameter", 0.0, "20", 20.0),
    ("--balance", False, "True", True),
    ("--device", "auto", "npu", "npu"),
    ("--device_id", None, "3", 3),
    ("--resume", None, "a-b/c.pth.tar", "a-b/c.pth.tar"),
    ("--start_step", 0, "20", 20),
    ("--stop_step", 20, "30", 30),
    ("--profiling", "False", "CANN", "CANN"),
    ("--bin_mode", 0, "1", 1),
    ("--precision_mode", "allow_mix_precision", "must_keep_origin_dtype", "must_keep_origin_dtype"),
    ("--seed", 5, "6", 6),
    ("--train_ids", None, "a.txt", "a.txt"),
    ("--val_ids", None, "b.txt", "b.txt"),
    ("--augmentation", "published", "turns", "turns"),
    ("--normalization", "standard", "image", "image"),
    ("--divide_twice", True, "False", False),
    ("--ema", 0.0, "0.99", 0.99),
    ("--warmup", 0.1, "0.3", 0.3),
    ("--deep_supervision", False, "0", False),
    ("--save_steps", 0, "50", 50),
    ("--dist_timeout", 600, "30.5", 30.5),
    ("--cuda_graph", "off", "on", "on"),
]
NEEDED = {"--train_ids": ["--val_ids", "x"], "--val_ids": ["--train_ids", "x"]}  # flags that another flag needs
SWITCHES = ["--inner_split", "--pretrained", "--evaluate", "--hf32", "--fp32", "--amp", "--sync_bn", "--channels_last"]
SWITCHES += [
    "--deterministic",
    "--performance",
    "--skip_bad",
    "--trust_checkpoint",
    "--resume_anyway",
    "--debug",
    "--dense_masks",
    "--tensorboard",
]


# --- names and defaults ----------------------------------------------------------------------------------------------


def test_the_tests_below_know_every_flag() -> None:
    assert {row[0] for row in VALUES} | set(SWITCHES) == {f"--{name}" for name in options.FLAGS}


def test_the_names_are_those_of_the_tables() -> None:
    """options/table.py repeats them because importing the tables would import torch."""
    assert tuple(archs.ARCHS) == options.ARCHS == ("UNet", "NestedUNet")
    assert tuple(losses.LOSSES) == options.LOSSES
    assert set(options.LOSSES) == {"LovaszHingeLoss", "BCEDiceLoss", "BCEWithLogitsLoss", "BorderLoss"}
    assert tuple(train.OPTIMIZERS) == options.OPTIMIZERS == ("Adam", "AdamW", "SGD")
    assert tuple(train.SCHEDULERS) == options.SCHEDULERS
    older = {"CosineAnnealingLR", "ReduceLROnPlateau", "MultiStepLR", "ConstantLR"}
    assert set(options.SCHEDULERS) == older | {"OneCycleLR"}
    assert tuple(augment.AUGMENTATIONS) == options.AUGMENTATIONS
    assert options.NORMALIZATIONS == ("standard", "image")
    assert options.SIDE_MULTIPLE == archs.STRIDE == 16
    assert options.DEVICES == ("auto", "npu", "gpu", "cuda", "cpu")


@pytest.mark.parametrize("flag, default, text, value", VALUES, ids=[row[0] for row in VALUES])
def test_flags_with_a_value(flag: str, default: object, text: str, value: object) -> None:
    name = flag[2:]
    found = vars(options.parse_train([]))[name]
    assert found == default and type(found) is type(default if flag != "--loss_scale" else 1.0)
    for argv in (
        [flag, text],
        [f"{flag}={text}"],
        [flag.replace("_", "-"), text],
        [f"--{name.replace('_', '-')}={text}"],
    ):
        assert vars(options.parse_train([*argv, *NEEDED.get(flag, [])]))[name] == value


@pytest.mark.parametrize("flag", SWITCHES)
def test_switches(flag: str) -> None:
    resume = ["--resume", "x"]  # two of them need it
    assert not vars(options.parse_train(resume))[flag[2:]]
    assert vars(options.parse_train([flag, *resume]))[flag[2:]] is True


def test_the_device_decides_on_mixed_precision_by_default() -> None:
    assert options.parse_train([]).amp is None
    assert options.parse_train(["--amp"]).amp is True
    assert options.parse_train(["--no-amp"]).amp is options.parse_train(["--no_amp"]).amp is False


@pytest.mark.parametrize("text, value", [("True", True), ("true", True), ("1", True), ("False", False), ("0", False)])
def test_deep_supervision_takes_a_value(text: str, value: bool) -> None:
    args = options.parse_train(["-a", "NestedUNet", "--deep-supervision", text])
    assert args.deep_supervision is value and args.name == f"dsb2018_96_NestedUNet_{'wDS' if value else 'woDS'}"


def test_short_and_second_spellings() -> None:
    args = options.parse_train(["-b", "8", "-a", "NestedUNet", "-e", "--resume", "x", "--learning_rate", "0.1"])
    assert (args.batch_size, args.arch, args.evaluate, args.lr) == (8, "NestedUNet", True, 0.1)
    assert options.parse_train(["--learning-rate", "0.2"]).lr == 0.2


def test_defaults_that_depend_on_other_flags() -> None:
    args = options.parse_train([])
    assert args.name == "dsb2018_96_UNet_woDS" and Path(args.data_path) == Path("inputs/dsb2018_96")
    args = options.parse_train(["--dataset", "cells", "--arch", "NestedUNet"])
    assert args.name == "cells_NestedUNet_woDS" and Path(args.data_path) == Path("inputs/cells")
    args = options.parse_train(["--dataset", "cells", "--name", "mine", "my-data"])
    assert args.name == "mine" and args.data_path == "my-data"


@pytest.mark.parametrize("parse", [options.parse_val, options.parse_demo, options.parse_export])
def test_the_other_scripts_take_the_default_run(parse) -> None:
    assert parse([]).name == options.parse_train([]).name == options.default_name()


def test_the_other_scripts_defaults() -> None:
    demo, export = options.parse_demo([]), options.parse_export([])
    assert (demo.output, demo.resume, demo.device) == ("outputs/UNet_Demo", None, "auto")
    given = ["--resume", "x", "--name", "n", "--dataset", "d", "-b", "4", "--device", "cpu"]
    demo = options.parse_demo(given)
    assert (demo.resume, demo.name, demo.dataset, demo.batch_size, demo.device) == ("x", "n", "d", 4, "cpu")
    assert (export.output, export.batch_size) == ("UNet_npu8p.onnx", 1)
    assert Path(options.parse_preprocess([]).output) == Path("inputs/dsb2018_96")
    assert Path(options.parse_preprocess(["--img-size", "128"]).output) == Path("inputs/dsb2018_128")
    assert options.parse_val([]).data_path is None and options.parse_val(["--data-path", "x-y"]).data_path == "x-y"


def test_what_a_checkpoint_records_has_no_other_default() -> None:
    """None: as in training."""
    recorded = ("batch_size", "input_h", "input_w", "img_ext", "mask_ext")
    for parse in (options.parse_val, options.parse_demo):
        assert {name: vars(parse([]))[name] for name in recorded} == dict.fromkeys(recorded)
        given = parse(["-b", "4", "--input_h", "50", "--input_w", "70", "--img_ext", "jpg", "--mask_ext", ".tif"])
        assert [vars(given)[name] for name in recorded] == [4, 50, 70, ".jpg", ".tif"]
        assert given.given == set(recorded)
    export = options.parse_export([])
    assert (export.input_h, export.input_w) == (None, None)


# --- command lines as users and old launchers type them ---------------------------------------------------------------

OLD_LAUNCHER = (
    "--device_id 0 --bin_mode 0 --start_step 20 --stop_step 30 --profiling False DATA --optimizer Adam --epochs 1 "
    "--batch_size 16 --lr 1e-3 --num_workers 4 --precision_mode allow_mix_precision"
)


def test_the_old_launchers_command_line() -> None:
    args = options.parse_train(OLD_LAUNCHER.split())
    expected = {
        **{"device_id": 0, "bin_mode": 0, "start_step": 20, "stop_step": 30, "profiling": "False"},
        **{"data_path": "DATA", "optimizer": "Adam", "epochs": 1, "batch_size": 16, "lr": 1e-3, "num_workers": 4},
        **{"precision_mode": "allow_mix_precision", "device": "auto"},
    }
    assert {name: vars(args)[name] for name in expected} == expected


@pytest.mark.parametrize(
    "line, expected",
    [
        ("DATA", {"data_path": "DATA"}),
        ("--epochs 3 DATA", {"data_path": "DATA", "epochs": 3}),
        ("--hf32 DATA --fp32", {"data_path": "DATA", "hf32": True, "fp32": True}),
        ("--epochs 3 -- --odd-folder", {"data_path": "--odd-folder", "epochs": 3}),
        (
            "DATA --rank_id 1 --num_gpus 8 --device npu",
            {"data_path": "DATA", "rank_id": 1, "num_gpus": 8, "device": "npu"},
        ),
        ("--evaluate --resume m/x.pth.tar DATA", {"data_path": "DATA", "evaluate": True, "resume": "m/x.pth.tar"}),
    ],
)
def test_the_data_path_may_stand_anywhere(line: str, expected: dict) -> None:
    args = vars(options.parse_train(line.split()))
    assert {name: args[name] for name in expected} == expected


def test_every_flag_becomes_plain_yaml() -> None:
    """config.yml holds them all; a tuple or an object of another class could not be read back."""
    for value in vars(options.parse_train([])).values():
        assert type(value) in (str, int, float, bool, list, type(None))


# --- mistakes --------------------------------------------------------------------------------------------------------


def refusal(capsys: pytest.CaptureFixture, parse, argv: list[str]) -> str:
    with pytest.raises(SystemExit) as leaving:
        parse(argv)
    assert leaving.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]  # the lines before are the usage, which names every flag


@pytest.mark.parametrize(
    "flag, text",
    [
        *[
            (flag, text)
            for flag in ("--epochs", "--batch_size", "--num_classes", "--num_gpus")
            for text in ("0", "-1", "x")
        ],
        *[
            (flag, "-1")
            for flag in ("--num_workers", "--device_id", "--rank_id", "--seed", "--patience", "--start_step")
        ],
        ("--cache_mb", "-1"),
        *[(flag, text) for flag in ("--ema", "--warmup") for text in ("1", "-0.1", "nan")],
        *[(flag, "1.5") for flag in ("--epochs", "--stop_step", "--seed", "--early_stopping")],
        *[("--lr", text) for text in ("0", "-1", "nan", "inf", "x", "")],
        *[(flag, "-0.1") for flag in ("--momentum", "--weight_decay", "--min_lr", "--factor", "--gamma")],
        *[("--factor", text) for text in ("0", "1", "nan")],  # torch wants it below 1
        *[("--input_h", text) for text in ("0", "8", "100", "-16", "x")],
        *[("--input_w", text) for text in ("0", "100", "96.0")],
        *[("--milestones", text) for text in ("", "1,,2", "0,1", "a", "1;2")],
        *[("--loss_scale", text) for text in ("x", "nan", "0", "-2")],  # -1 alone of these means something
        *[("--port", text) for text in ("0", "65536", "x")],
        *[("--deep_supervision", text) for text in ("maybe", "2", "")],
        ("--nesterov", "yes!"),
        ("--arch", "VGG"),
        ("--loss", "DiceLoss"),
        ("--optimizer", "adam"),
        ("--scheduler", "StepLR"),
        ("--device", "tpu"),
        ("--opt_level", "O4"),
        ("--profiling", "True"),
        ("--recipe", "slow"),
        ("--recipe", ""),
        ("--augmentation", "none"),
        ("--normalization", "min_max"),
        ("--precision_mode", "fp16"),
        ("--bin_mode", "2"),
        ("--input_channels", "4"),
        *[
            (flag, text)
            for flag in ("--img_ext", "--mask_ext")
            for text in ("", ".", "..", "/png", "../x.png", ".png/../../x", ".*", ".p\ng", "." + "x" * 99)
        ],
    ],
)
def test_a_bad_value_is_answered_by_its_flag(capsys: pytest.CaptureFixture, flag: str, text: str) -> None:
    assert flag in refusal(capsys, options.parse_train, [f"{flag}={text}"])


@pytest.mark.parametrize(
    "flag, text, bounds",
    [
        ("--input_h", "4112", "at least 16 and at most 4096"),
        ("--input_w", "4112", "at least 16 and at most 4096"),
        ("--batch_size", "65537", "at least 1 and at most 65536"),
        ("--seed", str(2**64), f"at least 0 and at most {2**64 - 1}"),
        ("--seed", "9" * 5000, f"at least 0 and at most {2**64 - 1}"),
        ("--early_stopping", "-2", "at least -1"),
        ("--port", "65536", "at least 1 and at most 65535"),
    ],
    ids=lambda text: text[:20],
)
def test_a_number_out_of_bounds_gets_them(capsys: pytest.CaptureFixture, flag: str, text: str, bounds: str) -> None:
    answer = refusal(capsys, options.parse_train, [flag, text])
    assert flag in answer and answer.endswith(f"'{text}' is not a whole number of {bounds}")


def test_the_largest_numbers_are_accepted() -> None:
    line = f"--input_h 4096 --input_w 4096 --batch_size 65536 --seed {2**64 - 1} --early_stopping -1"
    args = options.parse_train(line.split())
    assert (args.input_h, args.input_w, args.batch_size, args.seed, args.early_stopping) == (
        *(4096, 4096, 2**16, 2**64 - 1, -1),
    )
    assert options.parse_preprocess(["--synthetic", "5", "--seed", str(2**64 - 1)]).seed == 2**64 - 1


@pytest.mark.parametrize("side, below, above", [("100", "96", "112"), ("17", "16", "32")])
def test_a_side_that_is_no_multiple_gets_its_neighbors(
    capsys: pytest.CaptureFixture, side: str, below: str, above: str
) -> None:
    text = refusal(capsys, options.parse_train, ["--input-h", side])
    assert "--input_h" in text and f"use {below} or {above}" in text and "16" in text


@pytest.mark.parametrize(
    "script, line, named",
    [
        ("train.py", "--lerning_rate 1", "--lerning_rate"),
        ("train.py", "DATA MORE", "MORE"),
        ("train.py", "--evaluate", "--resume"),
        ("train.py", "--resume auto --evaluate", "--resume auto"),
        ("train.py", "--resume=", "--resume"),
        ("train.py", "--amp --precision_mode must_keep_origin_dtype", "--precision_mode"),
        ("train.py", "--pretrained", "--resume"),
        ("train.py", "--deep_supervision True", "NestedUNet"),
        ("train.py", "--profiling GE --start_step 20", "--stop_step"),
        ("train.py", "--optimizer SGD --nesterov True --momentum 0", "--momentum"),
        ("val.py", "--batch_size 0", "--batch_size"),
        ("val.py", "--arch UNet", "--arch"),
        ("demo.py", "--threshold 1", "--threshold"),
        ("demo.py", "--threshold -0.1", "--threshold"),
        ("demo.py", "--input x.png --data_path y", "--data_path"),
        ("demo.py", "--input x.png --dataset y", "--dataset"),
        ("demo.py", "--input_h 1000000", "--input_h"),
        ("demo.py", "--dataset ../y", "--dataset"),
        ("demo.py", "--dataset /y", "--dataset"),
        ("demo.py", "--dataset ..", "--dataset"),
        ("demo.py", "--onnx x.onnx --resume y", "--onnx"),
        ("demo.py", "--onnx x.onnx --name dsb2018_96_UNet_woDS", "--onnx"),
        ("demo.py", "--onnx x.onnx --device gpu", "--onnx"),
        ("demo.py", "--onnx x.onnx --tta", "--tta"),
        ("demo.py", "--onnx=", "--onnx"),
        ("train.py", "--scheduler OneCycleLR --min_lr 0", "--min_lr"),
        ("pthtar2onnx.py", "--input_w 100", "--input_w"),
        ("pthtar2onnx.py", "--opset 10", "--opset"),
        ("preprocess_dsb2018.py", "--synthetic 1", "--synthetic"),
        ("preprocess_dsb2018.py", "--synthetic 5 --download", "--download"),
        ("preprocess_dsb2018.py", "--download --input x", "--input"),
        ("pthtar2onnx.py", "--input_h 50", "--input_h"),
        ("val.py", "--input_h 0", "--input_h"),
        ("val.py", "--img_ext ../x", "--img_ext"),
        ("val.py", "--mask_ext .", "--mask_ext"),
        ("demo.py", "--onnx x.onnx --amp", "--onnx computes in the precision of the export; leave out --amp"),
        ("preprocess_dsb2018.py", "--img_size -1", "--img_size"),
        ("train.py", "--loss BorderLoss", "--loss BorderLoss needs --num_classes 2"),
        ("val.py", "--neck 1", "--neck"),
        ("val.py", "--border_threshold 1.1", "--border_threshold"),
        ("val.py", "--min_confidence 1", "--min_confidence"),
        ("val.py", "--tune --all", "--tune uses the training images; leave out --all"),
        ("demo.py", "--input x --overlap 512", "--overlap 512 must be less than --tile 512"),
        ("demo.py", "--tile 512", "--tile is for images that --input names"),
        ("demo.py", "--pixel_size 0", "--pixel_size"),
        ("demo.py", "--bundle x.zip --onnx x.onnx", "--onnx and --bundle both name a net; give one of them"),
        ("demo.py", "--bundle x.zip --resume y", "leave out --resume and --name, or leave out --bundle"),
        ("demo.py", "--bundle x.zip --name y", "leave out --resume and --name, or leave out --bundle"),
        ("demo.py", "--bundle x.zip --device gpu", "--bundle runs on the CPU; leave out --device gpu"),
        ("demo.py", "--bundle x.zip --tta", "leave it out, or leave out --bundle"),
        ("demo.py", "--bundle x.zip --amp", "--bundle computes in the precision of the export; leave out --amp"),
        ("demo.py", "--bundle=", "--bundle lacks its value"),
        ("pthtar2onnx.py", "--bundle=", "--bundle lacks its value"),
        ("pthtar2onnx.py", "--bundle x.zip --output x.onnx", "writes the ONNX file into the zip; leave out --output"),
        ("pthtar2onnx.py", "--prune_level 0", "--prune_level"),
        ("pthtar2onnx.py", "--prune_level 5", "--prune_level"),
        ("preprocess_dsb2018.py", f"--seed {2**64}", "--seed"),
    ],
)
def test_a_mistake_is_answered_by_name(capsys: pytest.CaptureFixture, script: str, line: str, named: str) -> None:
    assert named in refusal(capsys, PARSERS[script], line.split())


def test_launchers_refuse_abbreviations(capsys: pytest.CaptureFixture) -> None:
    """They pass flags on by their full names. train.py itself accepts abbreviations, as argparse does."""
    assert options.parse_train(["--epoch", "3"]).epochs == 3
    answer = refusal(capsys, lambda argv: options.parse_train(argv, allow_abbrev=False), ["--epoch", "3"])
    assert "unrecognized arguments: --epoch" in answer


# --- help ------------------------------------------------------------------------------------------------------------


def entries(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, script: str) -> dict[str, str]:
    """Return what `--help` prints about each flag, by every spelling, and about each positional argument."""
    monkeypatch.setenv("COLUMNS", "250")
    with pytest.raises(SystemExit) as leaving:
        PARSERS[script](["--help"])
    assert leaving.value.code == 0
    listed = {}
    for entry in re.split(r"\n  (?=\S)", capsys.readouterr().out.split("\n\n", 1)[1])[1:]:
        entry = re.split(r"\n\S|\n\n", entry)[0]  # without the heading of the next group
        names, _, text = entry.partition("  ")
        for name in names.split(", "):
            listed[name.split()[0]] = " ".join(text.split())
    return listed


@pytest.mark.parametrize("script", PARSERS)
def test_help_gives_meaning_and_default(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    listed = entries(capsys, monkeypatch, script)
    assert len(listed) > 6 and listed.pop("-h") == listed.pop("--help")
    lacking = [name for name, text in listed.items() if len(text.split("(default")[0]) < 5]
    assert not lacking, f"no meaning: {lacking}"
    assert [name for name, text in listed.items() if text.count("(default: ") != 1] == []


def test_help_of_train_lists_every_flag_with_its_default(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = entries(capsys, monkeypatch, "train.py")
    wanted = [*(row[0] for row in VALUES), *SWITCHES, "-b", "-a", "-e", "--deep_supervision", "--no_amp", "data_path"]
    assert [flag for flag in [*wanted, "--learning_rate"] if flag not in listed] == []
    assert [name for name, flag in options.FLAGS.items() if not listed[f"--{name}"].startswith(flag.help)] == []
    for flag, default, _, _ in VALUES:
        if flag == "--milestones":
            default = "1,2"  # as it is typed
        if default is not None and flag != "--name":  # the name depends on other flags
            shown = re.search(r"\(default: (.*?)\)", listed[flag])[1]
            assert shown == str(default) or float(shown) == default, flag


@pytest.mark.parametrize(
    "script, flags",
    [
        ("val.py", "--batch_size --input_h --input_w --img_ext --mask_ext --data_path"),
        ("demo.py", "--batch_size --input_h --input_w --img_ext --mask_ext --data_path"),
        ("pthtar2onnx.py", "--input_h --input_w"),
    ],
)
def test_help_tells_what_a_checkpoint_decides(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, script: str, flags: str
) -> None:
    listed = entries(capsys, monkeypatch, script)
    assert [flag for flag in flags.split() if not listed[flag].endswith("(default: as in training)")] == []


def test_help_does_not_claim_that_mixed_precision_is_on(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device decides."""
    assert "(default: True)" not in entries(capsys, monkeypatch, "train.py")["--no_amp"]


@pytest.mark.parametrize("script", [*PARSERS, *INFERENCE])
@pytest.mark.parametrize("argv, status", [(["--help"], 0), (["--no-such-flag"], 2)], ids=["help", "mistake"])
def test_scripts_answer_before_torch_is_imported(script: str, argv: list[str], status: int) -> None:
    """The slow imports come after the flags: torch alone takes seconds."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = {[script, *argv]!r}\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as leaving:\n    print('status', leaving.code)\n"
        "print('slow', sorted({'torch', 'numpy', 'cv2', 'pandas', 'albumentations'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-2:] == [f"status {status}", "slow []"], done.stderr
    assert f"usage: {Path(script).name}" in done.stdout + done.stderr


def test_importing_options_does_not_import_torch() -> None:
    code = "import sys, options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
