# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What a run records of its flags: reading it back, honoring it in later commands, and comparing two runs."""

import re
from pathlib import Path

import pytest

import options
from runtime.errors import InputError
from runtime.run_files import save_config
from runtime.settings import (
    apply_recorded_settings,
    check_same_run,
    load_config,
    recorded_settings,
    run_differences,
    settings_from_metadata,
)

DEFAULTS = {name: flag.default for name, flag in options.RECORDED_FLAGS.items()}


# --- config.yml ------------------------------------------------------------------------------------------------------


def test_a_config_of_the_gpu_edition_is_read(tmp_path):
    (tmp_path / "config.yml").write_text("arch: NestedUNet\nimg_ext: .png\nlr: 0.001\nname: x\nnum_workers: 0\n")
    expected = {"arch": "NestedUNet", "img_ext": ".png", "lr": 0.001, "name": "x", "num_workers": 0}
    assert load_config(tmp_path) == expected


def test_no_config(tmp_path):
    assert load_config(tmp_path) == {} and load_config(tmp_path / "nowhere") == {}


ALIASES_OF_ALIASES = b"".join(b"k%d: &k%d [%s]\n" % (i, i, b", ".join([b"*k%d" % (i - 1)] * 9)) for i in range(1, 30))
MERGES_OF_MERGES = "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9))
UNREADABLE = [
    b"input_h: &side 32\ninput_w: *side",
    b"k0: &k0 [1]\n" + ALIASES_OF_ALIASES,  # written out, 9 ** 29 numbers
    b"a: &x {b: 1}\nc:\n  <<: *x",
    b"a0: &a0 {x: 1}\n" + MERGES_OF_MERGES.encode(),  # takes ten times as long with each line
    b"a: [1,",
    b"a: b: c",
    b"\ta: 1",
    b"- a\n- b",
    b"",
    b"only text",
    b"a: \xff\xfe",
    b"a: \x00",
    b"a: !!python/object/apply:os.system ['touch ran']",
    b"a: *x",
    b"a: " + b"[" * 60000,
    b"a: " + b"{a: " * 5000,
    b"a: " + b"9" * 60000,
    b"a: 2001-99-99",
    b"a: !!timestamp x",
    b"a: !!int ''",
    b"a: !!bool x",
    b"a: 1" + b":1" * 30000 + b".5",
    b"a: 1\n" + b"#" * 2**16,
]


@pytest.mark.parametrize("content", UNREADABLE, ids=lambda content: repr(content[:20]))
def test_an_unreadable_config_is_named(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "config.yml"))) as error:
        load_config(tmp_path)
    assert re.search("mend or remove|give a smaller file", str(error.value))
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert not (tmp_path / "ran").exists()


# --- recorded settings -----------------------------------------------------------------------------------------------


def recorded(config: dict | None, path: Path = Path("x.pth.tar"), processes: int = 0) -> dict:
    """Return the settings of a checkpoint, as load_checkpoint returns it, that records this config."""
    return recorded_settings({"config": config, "processes": processes}, path, options.RECORDED_FLAGS)


def test_the_recorded_flags_are_those_that_other_commands_need():
    assert set(options.RECORDED_FLAGS) == {
        *("dataset", "img_ext", "mask_ext", "seed", "inner_split"),
        *("input_h", "input_w", "crop_diameter", "normalization", "divide_twice"),
        *("batch_size", "loss", "skip_bad", "channel", "dense_masks"),
    }
    assert set(options.INPUT_FLAGS) == {
        *("input_h", "input_w", "crop_diameter", "normalization", "divide_twice", "channel")
    }
    assert set(options.EVALUATION_FLAGS) == set(options.RECORDED_FLAGS) - {"dataset", "seed"}
    args = vars(options.parse_train([]))
    assert {name: args[name] for name in DEFAULTS} == DEFAULTS, "the defaults are the recipe's"


def test_settings_come_from_the_checkpoint_else_from_config_yml(tmp_path):
    """What neither of them records has the recipe's default."""
    path = tmp_path / "model_best.pth.tar"
    assert recorded(None, path).items() >= DEFAULTS.items()
    save_config({"loss": "BCEDiceLoss", "depth": 3}, tmp_path)
    expected = DEFAULTS | {"loss": "BCEDiceLoss", "depth": 3}
    assert recorded(None, path).items() >= expected.items()
    assert recorded_settings({}, str(path), options.RECORDED_FLAGS).items() >= expected.items()
    own = recorded({"input_h": 32, "seed": None}, path)
    assert own.items() >= (DEFAULTS | {"input_h": 32}).items() and "depth" not in own


@pytest.mark.parametrize(
    "junk",
    [
        {"input_h": "abc"},
        {"input_w": 0},
        {"loss": [1]},
        {"batch_size": -3},
        {"seed": "x"},
        {"img_ext": ""},
        {"img_ext": "png"},
        {"mask_ext": "/../../x.png"},
        {"mask_ext": ".."},
        {"dataset": "../x"},
        {"dataset": "/x"},
        {"dataset": "a\x1b[2J"},
        {"input_h": 10**6},
        {"input_w": 96.0},
        {"input_h": True},
        {"batch_size": 2**31},
        {"seed": 2**64},
        {"loss": "a b"},
        {"loss": "DiceLoss"},
        {"normalization": "clahe"},
        {"divide_twice": 1},
        {"inner_split": "True"},
    ],
    ids=str,
)
def test_an_impossible_value_in_config_yml_is_named(tmp_path, junk):
    save_config(junk, tmp_path)
    ((flag, value),) = junk.items()
    with pytest.raises(InputError, match=re.escape(f"config.yml: {flag} cannot be {value!r}; the recipe has")):
        recorded(None, tmp_path / "model.pth")


@pytest.mark.parametrize(
    "config, message",
    [
        ({"input_h": 16**5000}, "input_h cannot be a number of thousands of digits"),
        ({"dataset": "x" * 9999}, "dataset cannot be 'xxx"),
        ({"loss": [16**5000]}, "loss cannot be a number of thousands of digits"),
        ({"data_path": 3}, "data_path cannot be 3"),
        ({"data_path": ["x"]}, "data_path cannot be ['x']"),
        ({"data_path": "x\0"}, "data_path cannot be 'x\\x00'"),
        ({"data_path": "x\n[Error] y"}, "data_path cannot be 'x\\n[Error] y'"),
        ({"data_path": "x" * 9999}, "data_path cannot be 'xxx"),
    ],
    ids=["digits", "long", "list", "number", "listed path", "NUL", "line", "long path"],
)
def test_an_impossible_value_in_a_checkpoint_is_named(config, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        recorded(config)
    assert "x.pth.tar: " in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 600


@pytest.mark.parametrize(
    "flag, most", [("input_h", 4096), ("input_w", 4096), ("batch_size", 2**16), ("seed", 2**64 - 1)]
)
def test_recorded_values_have_the_bounds_of_the_command_line(capsys, flag, most):
    """A run that could be started can be read back, and nothing else."""
    assert vars(options.parse_train([f"--{flag}", str(most)]))[flag] == recorded({flag: most})[flag] == most
    above = most + (16 if flag.startswith("input") else 1)
    with pytest.raises(SystemExit):
        options.parse_train([f"--{flag}", str(above)])
    assert f"argument {'-b/' * (flag == 'batch_size')}--{flag}: '{above}' is not" in capsys.readouterr().err
    with pytest.raises(InputError, match=f"{flag} cannot be {above}"):
        recorded({flag: above})


def test_val_and_demo_accept_sizes_that_they_pad():
    """Other commands need multiples of 16."""
    config = {"input_h": 40, "input_w": 33}
    found = recorded_settings({"config": config}, Path("x.pth.tar"), options.ANY_SIZE_FLAGS)
    assert (found["input_h"], found["input_w"]) == (40, 33)
    with pytest.raises(InputError, match="input_h cannot be 40"):
        recorded(config)
    with pytest.raises(InputError, match="input_h cannot be 4097"):
        recorded_settings({"config": {"input_h": 4097}}, Path("x.pth.tar"), options.ANY_SIZE_FLAGS)


# --- recorded settings under the given flags -------------------------------------------------------------------------


def test_given_flags_win_over_recorded_ones(capsys):
    args = options.parse_val(["--input_h", "64", "--img_ext", ".png"])
    config = {"input_h": 32, "input_w": 32, "img_ext": ".jpg", "normalization": "image", "loss": "BCEDiceLoss"}
    apply_recorded_settings(args, recorded(config), options.RECORDED_FLAGS)
    expected = DEFAULTS | config | {"input_h": 64, "img_ext": ".png"}
    assert {name: vars(args)[name] for name in expected} == expected
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("as in training: ")
    told = dict(part.split(" ") for part in line.removeprefix("as in training: ").split(", "))
    assert told == {"input_w": "32", "normalization": "image", "loss": "BCEDiceLoss"}


def test_a_run_of_the_recipe_needs_no_line(capsys):
    args = options.parse_demo([])
    apply_recorded_settings(args, recorded({}), options.RECORDED_FLAGS)
    assert {name: vars(args)[name] for name in DEFAULTS} == DEFAULTS and capsys.readouterr().out == ""


def test_what_differs_from_the_command_line_is_printed(capsys):
    """The recipe fast has other defaults; its run starts from weights of the published one."""
    args = options.parse_train(["--recipe", "fast", "--pretrained", "--resume", "x"])
    assert (args.normalization, args.divide_twice) == ("image", False)
    apply_recorded_settings(args, recorded({}), options.INPUT_FLAGS)
    assert (args.normalization, args.divide_twice) == ("standard", True)
    assert capsys.readouterr().out == "as in training: normalization standard, divide_twice True\n"


def test_only_the_flags_asked_for_are_taken_over():
    args = options.parse_train(["--pretrained", "--resume", "x"])
    config = {"batch_size": 4, "loss": "BCEDiceLoss", "seed": 9, "input_h": 32, "divide_twice": False}
    apply_recorded_settings(args, recorded(config), options.INPUT_FLAGS)
    assert (args.input_h, args.divide_twice) == (32, False)
    assert (args.batch_size, args.loss, args.seed) == (16, "LovaszHingeLoss", 5)


@pytest.mark.parametrize(
    "batch_size, processes, world_size, expected",
    [(16, 0, 1, 16), (16, 1, 1, 16), (16, 2, 1, 8), (128, 8, 1, 16), (128, 8, 2, 32), (4, 8, 1, 1), (16, 1, 2, 32)],
)
def test_the_batch_of_each_process_stays_the_same(batch_size, processes, world_size, expected):
    """The batch IoU depends on it."""
    args = options.parse_val([])
    settings = recorded({"batch_size": batch_size}, processes=processes)
    apply_recorded_settings(args, settings, options.RECORDED_FLAGS, world_size)
    assert args.batch_size == expected


# --- is it the same run? ---------------------------------------------------------------------------------------------


def checkpoint_of(**changed) -> dict:
    """Return a checkpoint of a run of 3 epochs, with changes to its config and its data."""
    config = vars(options.parse_train(["--epochs", "3"])) | changed.pop("config", {})
    data = {"train_images": 531, "val_images": 133, "images": 7} | changed.pop("data", {})
    return {"config": config, "data": data, "epoch": 2, "step": 0} | changed


@pytest.mark.parametrize(
    "there, words",
    [
        ({}, []),
        ({"config": {"num_workers": 9, "device": "npu", "amp": True, "opt_level": "O3", "patience": 8}}, []),
        (
            {"config": {"batch_size": 8, "lr": 0.5}},
            ["--batch_size 8 there and 16 here", "--lr 0.5 there and 0.001 here"],
        ),
        ({"config": {"epochs": 100}}, ["--epochs 100 there and 3 here"]),
        (
            {"config": {"epochs": 100, "scheduler": "ConstantLR"}},
            ["--scheduler 'ConstantLR' there", "--epochs 100 there"],
        ),
        ({"config": {"seed": 6, "loss": "BCEDiceLoss"}}, ["--seed 6 there and 5 here", "--loss 'BCEDiceLoss' there"]),
        ({"data": {"train_images": 400}}, ["train images 400 there and 531 here"]),
        ({"data": {"images": 8}}, ["other image names"]),
        ({"config": None, "data": None}, []),
        ({"config": {}, "data": {}}, []),
        (
            {"config": {"divide_twice": False, "ema": 0.5}},
            ["--ema 0.5 there and 0.0 here", "--divide_twice False there"],
        ),
        (
            {"config": {"augmentation": "turns", "normalization": "image"}},
            ["--augmentation 'turns' there", "--normalization 'image' there"],
        ),
    ],
)
def test_what_makes_it_another_run(there, words, capsys):
    checkpoint = checkpoint_of()
    for key, changes in there.items():
        checkpoint[key] = changes and checkpoint[key] | changes
    args, data = options.parse_train(["--epochs", "3"]), checkpoint_of()["data"]
    if words:
        with pytest.raises(InputError, match=r"a\.tar is of another run: .*--resume_anyway") as error:
            check_same_run(checkpoint, Path("a.tar"), args, data, options.FLAGS)
        differences = str(error.value).removeprefix("a.tar is of another run: ").partition("; give the same")[0]
        assert len(differences.split(", ")) == len(words)
        assert all(word in differences for word in words)
    else:
        check_same_run(checkpoint, Path("a.tar"), args, data, options.FLAGS)
    args.resume_anyway = True
    check_same_run(checkpoint, Path("a.tar"), args, data, options.FLAGS)
    assert ("continuing anyway, as --resume_anyway asks" in capsys.readouterr().out) == bool(words)


SAME_RUN = {
    *("arch", "deep_supervision", "num_classes", "input_channels", "input_h", "input_w", "batch_size", "seed"),
    *("loss", "optimizer", "lr", "weight_decay", "scheduler", "sync_bn"),
    *("augmentation", "normalization", "divide_twice", "inner_split", "ema", "channel", "crop_diameter"),
    *("balance", "performance"),
}
SAME_RUN_WITH = {
    ("optimizer", "Adam"): set(),
    ("optimizer", "AdamW"): set(),
    ("optimizer", "SGD"): {"momentum", "nesterov"},
    ("scheduler", "CosineAnnealingLR"): {"epochs", "min_lr"},
    ("scheduler", "ReduceLROnPlateau"): {"factor", "patience", "min_lr"},
    ("scheduler", "MultiStepLR"): {"milestones", "gamma"},
    ("scheduler", "OneCycleLR"): {"epochs", "min_lr", "warmup"},
    ("scheduler", "ConstantLR"): set(),
}


@pytest.mark.parametrize(
    "flag, value, optional", [(*pair, names) for pair, names in SAME_RUN_WITH.items()], ids=map(" ".join, SAME_RUN_WITH)
)
def test_which_flags_tell_what_a_run_is(flag, value, optional):
    """Each flag of train.py is compared with a value that no run has."""
    others = {"optimizer": "Adam", "scheduler": "ConstantLR"} | {flag: value}
    config = vars(options.parse_train([text for name, other in others.items() for text in (f"--{name}", other)]))
    differing = run_differences({name: object() for name in options.FLAGS}, config, options.FLAGS)
    assert differing.keys() == SAME_RUN | optional


def test_a_run_that_does_not_record_a_flag_had_its_default():
    """As runs from before the flag. Every default is that of the published recipe."""
    for scheduler in options.SCHEDULERS:
        config = vars(options.parse_train(["--scheduler", scheduler, "--optimizer", "SGD"]))
        assert run_differences({"scheduler": scheduler, "optimizer": "SGD"}, config, options.FLAGS) == {}
    ema = vars(options.parse_train(["--ema", "0.5"]))
    assert run_differences({"lr": 1e-3}, ema, options.FLAGS) == {"ema": "--ema 0.0 there and 0.5 here"}


@pytest.mark.parametrize(
    "changed, begins_anew",
    [({"config": {"lr": 1.0}}, False), ({"config": {"balance": True}}, True), ({"data": {"images": 8}}, True)],
)
def test_an_epoch_of_other_images_begins_anew(capsys, changed, begins_anew):
    checkpoint, data = checkpoint_of(step=2, **changed), checkpoint_of()["data"]
    args = options.parse_train(["--epochs", "3", "--resume_anyway"])
    check_same_run(checkpoint, Path("a.tar"), args, data, options.FLAGS)
    assert checkpoint["step"] == (0 if begins_anew else 2)
    assert ("epoch 3 begins anew, since its images come in another order" in capsys.readouterr().out) == begins_anew


# --- the metadata of an ONNX file ------------------------------------------------------------------------------------


def test_settings_as_metadata_come_back():
    path = Path("net.onnx")
    settings = {"input_h": 32, "input_w": 4096, "normalization": "image", "divide_twice": False, "channel": 2}
    settings["crop_diameter"] = 17.5
    metadata = {name: str(value) for name, value in settings.items()}
    assert settings_from_metadata(metadata, path, options.INPUT_FLAGS) == settings
    expected = DEFAULTS | settings
    assert settings_from_metadata(metadata | {"author": "x"}, path, options.RECORDED_FLAGS) == expected
    assert settings_from_metadata({"author": "somebody"}, path, options.RECORDED_FLAGS) == DEFAULTS


@pytest.mark.parametrize(
    "name, text",
    [
        *(("normalization", text) for text in ("clahe", "", "True", "1")),
        *(("divide_twice", text) for text in ("3", "1", "true", "")),
        *(("crop_diameter", text) for text in ("-1", "x", "", "nan", "inf", "1e9", "0" * 5000 + "1")),
        *(("input_h", text) for text in ("17", "0", "-16", "9" * 5000, "96.0", "x", "True", "²")),
    ],
)
def test_metadata_with_an_unknown_value_are_refused(name, text):
    with pytest.raises(InputError, match=rf"^net\.onnx: records {name} as '.*, which is not known here$") as error:
        settings_from_metadata({"divide_twice": "False", name: text}, Path("net.onnx"), options.INPUT_FLAGS)
    assert len(str(error.value)) < 300
