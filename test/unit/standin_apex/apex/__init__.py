# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A stand-in for Ascend's apex on device `npu` and on the CPU, with its calls and its four levels.

If the real package can easily be used wrongly, the stand-in raises an error for the wrong use. Put the parent folder on
PYTHONPATH. STANDIN_APEX_RECORD names a file that gets a JSON line for each call. With STANDIN_APEX_COMBINE_GRAD=0,
`initialize` is that of NVIDIA's apex, which has no argument `combine_grad`.
"""

from . import amp, optimizers

__all__ = ["amp", "optimizers"]
