# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Randomly damaged images, read with limited memory and time: each gives pixels or one clear error."""

import re

import pytest
from conftest import ROOT, run_python

COUNT = 50  # of each seed file; `python -m helpers.image_fuzz 2000 0` tries more, see that file


@pytest.mark.parametrize("seed", [0])
def test_damaged_images_are_read_or_refused(seed: int) -> None:
    paths = ":".join(map(str, (ROOT, ROOT / "test", ROOT / "test" / "unit")))
    result = run_python("-m", "helpers.image_fuzz", str(COUNT), str(seed), cwd=ROOT, PYTHONPATH=paths)
    assert result.returncode == 0, result.stdout[-1500:]
    assert "FAULT" not in result.stdout
    assert len(re.findall("^slowest ", result.stdout, re.MULTILINE)) >= 20
    assert int(re.search(r"^peak (\d+) MB", result.stdout, re.MULTILINE)[1]) < 2000
