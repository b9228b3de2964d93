# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Hostile file names given to demo.py."""

from pathlib import Path

from imaging.finding import list_pages
from runtime import names


def test_the_demos_pictures_stay_in_its_folder():
    paths = [Path("x\n\x1b[2Jy.png"), Path("a\\..\\b.png"), Path("核" * 83 + ".png"), Path("x__[2Jy.png")]
    chosen = [source.name for source in list_pages(paths)]
    assert all(map(names.is_safe, chosen)) and len(set(chosen)) == 4
