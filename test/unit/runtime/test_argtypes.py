# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Parsers of flags' values: what they accept, and what they answer to other texts."""

from argparse import ArgumentTypeError

import pytest

from runtime.argtypes import extension, folder_name, loss_scale, real, true_or_false, whole, whole_list

PARSERS = {
    "whole": (whole(1), {"1": 1, "70000": 70000}, ["0", "-1", "1.0", "x", ""]),
    "whole, multiple of 16": (whole(16, 64, multiple_of=16), {"16": 16, "64": 64}, ["0", "8", "17", "80"]),
    "real": (real(0), {"0": 0.0, "1e-3": 1e-3}, ["-0.1", "nan", "inf", "x", ""]),
    "real, open": (real(0, open_end=True, below=1), {"0.5": 0.5}, ["0", "1", "nan"]),
    "loss_scale": (loss_scale, {"-1": -1.0, "dynamic": -1.0, "128": 128.0}, ["0", "-2", "nan", "x"]),
    "true_or_false": (true_or_false, {"True": True, "false": False, "1": True, "0": False}, ["yes", "2", ""]),
    "whole_list": (whole_list, {"1": [1], "30,60": [30, 60]}, ["", "1,,2", "0,1", "a", "1;2"]),
    "extension": (extension, {".png": ".png", "tif": ".tif", ".ome.tif": ".ome.tif"}, ["", ".", "../x", ".p\ng"]),
    "folder_name": (folder_name, {"my cells": "my cells", "核": "核"}, ["", ".", "..", "a/b", "a\x1b[2J"]),
}


@pytest.mark.parametrize("parse, values, refused", PARSERS.values(), ids=PARSERS)
def test_values(parse, values, refused):
    for text, value in values.items():
        parsed = parse(text)
        assert parsed == value and type(parsed) is type(value)
    for text in refused:
        with pytest.raises(ArgumentTypeError):
            parse(text)


@pytest.mark.parametrize(
    "parse, text, answer",
    [
        (whole(1), "0", "'0' is not a whole number of at least 1"),
        (whole(1, 8), "9", "'9' is not a whole number of at least 1 and at most 8"),
        (whole(16, 64, multiple_of=16), "40", "40 is not a multiple of 16; use 32 or 48"),
        (real(0, open_end=True, below=1), "1", "'1' is not a number above 0 and below 1"),
        (real(0), "-1", "'-1' is not a number from 0"),
        (true_or_false, "yes", "'yes' is neither True nor False"),
        (extension, "", "'' is not an extension such as .png"),
    ],
)
def test_the_answer_names_the_value_and_what_is_allowed(parse, text, answer):
    with pytest.raises(ArgumentTypeError) as error:
        parse(text)
    assert str(error.value) == answer


def test_whole_numbers_are_compared_exactly():
    """As floats, 2**64 and 2**64 - 1 would be equal."""
    parse = whole(0, 2**64 - 1)
    assert parse(str(2**64 - 1)) == 2**64 - 1
    with pytest.raises(ArgumentTypeError, match=r"at most 18446744073709551615$"):
        parse(str(2**64))


@pytest.mark.parametrize("text", ["9" * 5000, "-" * 50, "１", "1_0", " 7 "])
def test_odd_digits_are_understood_or_refused(text):
    """Python reads some of them as numbers, and refuses thousands of digits by an error of another kind."""
    try:
        assert whole(1, 100)(text) in (1, 7, 10)
    except ArgumentTypeError as error:
        assert "is not a whole number" in str(error)
