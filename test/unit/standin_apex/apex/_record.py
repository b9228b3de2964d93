# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Records calls and their arguments."""

import functools
import inspect
import json
import os


def _plain(value: object) -> object:
    return value if isinstance(value, (bool, int, float, str, dict, type(None))) else type(value).__name__


def recorded(function):
    """Let each call of `function` append {"call": name, "arguments": {…}} to the file STANDIN_APEX_RECORD.

    Only passed arguments are recorded; for objects, the name of their type.
    """

    @functools.wraps(function)
    def record(*args, **kwargs):
        path = os.environ.get("STANDIN_APEX_RECORD")
        if path:
            passed = inspect.signature(function).bind(*args, **kwargs).arguments
            call = {"call": function.__name__, "arguments": {name: _plain(value) for name, value in passed.items()}}
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(call) + "\n")
        return function(*args, **kwargs)

    return record
