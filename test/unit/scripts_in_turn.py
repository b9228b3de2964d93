"""Run scripts one after another, each as `python SCRIPT FLAG…` would, but in one process, which imports torch once.

The command line is a JSON list of [script, flag, …]; a script that fails ends it with its exit status.
"""

import json
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

for script, *flags in json.loads(sys.argv[1]):
    sys.argv = [str(ROOT / script), *flags]
    print(f"--- {script}", flush=True)
    runpy.run_path(sys.argv[0], run_name="__main__")
