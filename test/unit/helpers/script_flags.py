# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The flags that each command has."""

import functools
from collections.abc import Callable
from unittest.mock import patch

import options
from runtime.flags import FlagParser

PARSERS: dict[str, Callable] = {
    "train.py": options.parse_train,
    "val.py": options.parse_val,
    "demo.py": options.parse_demo,
    "pthtar2onnx.py": options.parse_export,
    "preprocess_dsb2018.py": options.parse_preprocess,
    "infer/write_aipp.py": options.parse_write_aipp,
    "infer/preprocess.py": options.parse_infer_preprocess,
    "infer/infer_om.py": options.parse_infer_om,
    "infer/postprocess.py": options.parse_infer_postprocess,
}


class _Parser(Exception):
    """Carries a parser out of the function that builds it."""


@functools.cache
def script_flags(script: str) -> frozenset[str]:
    """Return the flags of a command's parser, in all spellings that it defines."""

    def stop(parser: FlagParser, argv: list[str] | None) -> None:
        raise _Parser(parser)

    with patch.object(FlagParser, "parse", stop):
        try:
            PARSERS[script]([])
        except _Parser as found:
            return frozenset(found.args[0]._option_string_actions)
    raise AssertionError(f"{script} has no FlagParser")
