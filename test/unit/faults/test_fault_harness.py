# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A short run of the fault harness; the full one takes about 45 minutes."""

import re

from conftest import ROOT, run_python


def test_a_little_of_each_fault(tmp_path):
    result = run_python(ROOT / "test" / "faults" / "run.py", "--quick", cwd=tmp_path, seconds=900)
    assert result.returncode == 0, result.stdout
    kills = [int(n) for n in re.findall(r"^\| SIGKILL of .*? \| (\d+) \(", result.stdout, re.MULTILINE)]
    assert len(kills) == 2 and kills[0] >= 2 and kills[1] >= 1
    damage = r"^\| damaged checkpoint .*? \| 15 \| \d+ replaced by the previous one"
    assert re.search(damage, result.stdout, re.MULTILINE)
    assert re.search(r"^\| disk full while saving \| 1 \| one sentence, old files intact", result.stdout, re.MULTILINE)
    # a mutated file of each of the 13 kinds, and another one in a new Python, give a clear error or are handled; the
    # columns after these are faults
    clear, handled, *bad = map(int, re.search(r"^all +(.*)$", result.stdout, re.MULTILINE)[1].split())
    assert clear + handled == 14 and not any(bad)
    assert list(tmp_path.iterdir()) == []
