"""Start scripts without waiting for torch and the rest to be imported: as copies of this process, which has them.

Each line of stdin is a JSON list of [script, flags, folder, environment, output] to be started side by side; the line
that answers it lists their exit codes. Such a copy is what `python SCRIPT FLAG…` would be, but for the imports.
"""

import atexit
import gc
import json
import os
import random
import runpy
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import matplotlib.figure  # noqa: F401
import numpy as np
import torch._dynamo  # noqa: F401  # an optimiser's first step would import it

import demo  # noqa: F401
import preprocess_dsb2018  # noqa: F401
import pthtar2onnx  # noqa: F401
import train  # noqa: F401
import val  # noqa: F401


def become(script: str, flags: list[str], folder: str, environment: dict[str, str], output: str) -> str:
    """Make this process the one that runs the script, save for that; returns its path."""
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:2] = [os.path.dirname(script)]  # in place of this file's and the repository's
    sys.path[1:1] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    os.chdir(folder)
    sys.argv = [script, *flags]
    random.seed()  # as a new process, each has numbers of its own
    np.random.seed()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(written, stream)
    return script


def serve() -> str | None:
    """Answer requests until there are no more; in a copy, return the path of what it is to run."""
    for line in sys.stdin:
        children = []
        for request in json.loads(line):
            children.append(os.fork())
            if not children[-1]:
                return become(*request)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
    return None


def run_to_the_end(path: str) -> None:
    """As Python does, except for taking all that was imported to pieces again, which takes long."""
    code = 0
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as leaving:
        code = leaving.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


gc.freeze()
if path := serve():
    run_to_the_end(path)
