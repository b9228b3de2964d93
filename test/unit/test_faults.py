"""A short run of the fault harness, as it is run at length by hand."""

import re

from conftest import ROOT, run_python


def test_a_little_of_each_fault(tmp_path):
    result = run_python(ROOT / "test" / "faults.py", "--quick", cwd=tmp_path, seconds=900)
    assert result.returncode == 0, result.stdout
    kills = [int(n) for n in re.findall(r"^\| SIGKILL of .*? \| (\d+) \(", result.stdout, re.M)]
    assert len(kills) == 2 and kills[0] >= 3 and kills[1] >= 1
    assert re.search(r"^\| damaged checkpoint .*? \| 15 \| \d+ replaced by the previous one", result.stdout, re.M)
    assert re.search(r"^\| disk full while saving \| 1 \| one sentence, old files intact", result.stdout, re.M)
    # 21 mutated files: a clear error or handled, and none of the columns after these
    clear, handled, *bad = map(int, re.search(r"^all +(.*)$", result.stdout, re.M)[1].split())
    assert clear + handled == 21 and not any(bad)
    assert list(tmp_path.iterdir()) == []
