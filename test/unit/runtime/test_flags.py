# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Flags and their parser: spellings, defaults, help, and which flags a command line gives."""

import re

import pytest

from runtime.argtypes import true_or_false, whole
from runtime.flags import Flag, FlagParser

FLAGS = {
    "batch_size": Flag(default=16, type=whole(1, 64), help="images per step", aliases=("-b",)),
    "learning_rate": Flag(default=0.1, type=float, help="the rate", aliases=("--lr",)),
    "arch": Flag(default="UNet", type=None, help="the net", choices=("UNet", "NestedUNet")),
    "channels": Flag(default=3, type=int, help="of an image", choices=(1, 3)),
    "switch": Flag(default=False, type=None, help="turns something on"),
    "deep": Flag(default=False, type=true_or_false, help="heads"),
    "note": Flag(default=None, type=str, help="any text (default: none at all)", metavar="TEXT"),
}


def make_parser() -> FlagParser:
    """Return a parser of all flags; a parser parses once, since it changes its defaults to see what is given."""
    parser = FlagParser("Does something.")
    parser.add_argument("data_path", nargs="?", help="a folder")
    for name, flag in FLAGS.items():
        flag.add_to(parser, name)
    return parser


@pytest.mark.parametrize(
    "name, accepted, refused",
    [
        ("batch_size", [1, 64], [0, 65, 16.0, True, "16", None, [16], 10**5000]),
        ("arch", ["UNet", "NestedUNet"], ["VGG", "", 3, None, ["UNet"]]),
        ("channels", [1, 3], [2, True, 3.0, "3"]),
        ("switch", [True, False], [1, 0, "True", None]),
        ("deep", [True, False], [1, 0, "True", None]),
    ],
)
def test_a_recorded_value_must_be_one_that_the_command_line_could_give(name, accepted, refused):
    assert all(FLAGS[name].accepts(value) for value in accepted)
    assert [value for value in refused if FLAGS[name].accepts(value)] == []


def test_defaults():
    assert vars(make_parser().parse([])) == {name: flag.default for name, flag in FLAGS.items()} | {"data_path": None}


@pytest.mark.parametrize(
    "line, name, value",
    [
        ("--batch_size 8", "batch_size", 8),
        ("--batch-size=8", "batch_size", 8),
        ("-b 8", "batch_size", 8),
        ("--learning-rate 2", "learning_rate", 2.0),
        ("--lr 2", "learning_rate", 2.0),
        ("--batch 8", "batch_size", 8),  # argparse accepts abbreviations
        ("--switch", "switch", True),
        ("--deep False", "deep", False),
        ("--arch NestedUNet", "arch", "NestedUNet"),
        ("--note=a-b_c", "note", "a-b_c"),  # only flags are spelled in two ways
        ("my-data", "data_path", "my-data"),
        ("-- --my-data", "data_path", "--my-data"),
    ],
)
def test_spellings_and_what_is_given(line, name, value):
    args = make_parser().parse(line.split())
    assert vars(args)[name] == value and args.given == {name}
    assert "given" not in vars(args), "config.yml records vars(args)"


def test_a_flag_that_repeats_its_default_is_given():
    args = make_parser().parse(["--batch_size", "16", "--arch", "UNet", "--deep", "False"])
    assert args.given == {"batch_size", "arch", "deep"} and args == make_parser().parse([])


def test_default_and_help_of_another_script(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    parser = FlagParser("Does something else.")
    FLAGS["batch_size"].add_to(parser, "batch_size", None, "images per batch (default: as in training)", type=whole(1))
    with pytest.raises(SystemExit):
        parser.parse(["--help"])
    assert "images per batch (default: as in training)\n" in capsys.readouterr().out
    assert parser.parse([]).batch_size is None
    assert parser.parse(["-b", "999"]).batch_size == 999


def test_help_shows_each_default_once(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as leaving:
        make_parser().parse(["--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    for expected in (
        r"^  -b.*, --batch_size BATCH_SIZE\s+images per step \(default: 16\)$",
        r"^  --learning_rate.*, --lr LEARNING_RATE\s+the rate \(default: 0.1\)$",
        r"^  --switch\s+turns something on \(default: False\)$",
        r"^  --note TEXT\s+any text \(default: none at all\)$",
        r"^Every flag may be written with hyphens or with underscores.$",
    ):
        assert re.search(expected, text, re.MULTILINE), expected


def test_abbreviations_can_be_refused(capsys):
    """Launchers do: a flag that they do not know must not pass for another."""
    for allowed in (True, False):
        parser = FlagParser("Does something.", allow_abbrev=allowed)
        FLAGS["batch_size"].add_to(parser, "batch_size")
        if allowed:
            assert parser.parse(["--batch", "4"]).batch_size == 4
            continue
        with pytest.raises(SystemExit) as leaving:
            parser.parse(["--batch", "4"])
        assert leaving.value.code == 2 and "unrecognized arguments: --batch 4" in capsys.readouterr().err
