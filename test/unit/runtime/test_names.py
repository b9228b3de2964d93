# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Names that other people chose: which are safe as file names, and how they are printed."""

import pytest

from runtime import names


@pytest.mark.parametrize("name", ["a", "-rf", "a b", "$(x)", "核", "..x", "a.b", "'\"", "x" * 200, "\u202f"])
def test_safe_names(name):
    assert names.is_safe(name) and names.safe_name(name) == name == names.printable(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a\nb", "\x1b[2J", "\0", "\u202e", "\udcff", "x" * 201, "核" * 67]
)
def test_unsafe_names(name):
    assert not names.is_safe(name) and names.is_safe(names.safe_name(name))
    assert "\n" not in names.printable(name) and "\x1b" not in names.printable(name)
    names.printable(name).encode()


def test_long_texts_are_shortened_in_the_middle():
    assert names.printable("a" * 500 + "b" * 500, 20) == "a" * 10 + " … " + "b" * 10
