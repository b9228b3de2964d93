"""Notes down who called what with which arguments."""

import functools
import inspect
import json
import os


def _plain(value: object) -> object:
    return value if isinstance(value, (bool, int, float, str, dict, type(None))) else type(value).__name__


def recorded(function):
    """`function`, of which each call appends {"call": name, "arguments": {…}} to the file STANDIN_APEX_RECORD.

    Only arguments that were passed are noted; of objects, the name of the type.
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
