# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Start scripts as forks of this process, which has already imported torch and the scripts: this saves seconds each.

Each line of stdin is a JSON list of [script, flags, folder, environment, output]; these scripts are started side by
side. The answer is a line with the JSON list of their exit codes. A fork behaves like `python SCRIPT FLAG…`, except
that it does not import anew.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import matplotlib.figure  # noqa: F401
import numpy as np
import torch._dynamo  # noqa: F401  # an optimizer's first step would import it

import archs
import demo  # noqa: F401
import preprocess_dsb2018  # noqa: F401
import pthtar2onnx  # noqa: F401
import train  # noqa: F401
import val  # noqa: F401
from runtime import run_files


def become(script: str, flags: list[str], folder: str, environment: dict[str, str], output: str) -> str:
    """Give this fork the arguments, folder, environment and output of the script; returns the script's path."""
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:2] = [os.path.dirname(script)]  # instead of the root and this file's folder
    sys.path[1:1] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    os.chdir(folder)
    sys.argv = [script, *flags]
    if "NARROW_NETS" in environment:
        archs.WIDTHS = json.loads(environment["NARROW_NETS"])
        run_files.plot_curves = lambda _history, path: path.write_bytes(b"curves")  # drawing takes longer than training
    random.seed()  # a new process would have random numbers of its own
    np.random.seed()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(written, stream)
    return script


def serve() -> str | None:
    """Answer requests until stdin ends; in a fork, return the path of the script to run."""
    for line in sys.stdin:
        children = []
        for request in json.loads(line):
            children.append(os.fork())
            if not children[-1]:
                return become(*request)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
    return None


def run_script(path: str) -> None:
    """Run a script and exit as Python does, but without freeing all imported modules, which takes long."""
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
    run_script(path)
