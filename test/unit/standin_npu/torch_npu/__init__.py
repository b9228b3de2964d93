# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A stand-in for torch_npu on hosts without an NPU: a device `npu` that computes on the CPU.

It has what this repository calls, under the real names. If the real package can easily be used wrongly, the stand-in
raises an error for the wrong use. Put the parent folder on PYTHONPATH; STANDIN_NPU_COUNT is the number of devices
(default 2; 0: none).
"""

import os

import torch

from . import _build

torch.ops.load_library(_build.library())
torch.utils.rename_privateuse1_backend("npu")

# the modules below use the device under its new name
from . import npu  # noqa: E402

torch._register_device_module("npu", npu)
torch.utils.generate_methods_for_privateuse1_backend()

from . import _batch_norm, _hccl, optim, profiler  # noqa: E402
from .npu import amp, utils  # noqa: E402

npu.amp, npu.utils = amp, utils
__version__ = torch.__version__.split("+")[0] + "+standin"
__all__ = ["_batch_norm", "_hccl", "npu", "optim", "profiler"]

if os.environ.get("TORCH_TRANSFER_TO_NPU") == "1":  # the real one has this variable too
    from .contrib import transfer_to_npu  # noqa: F401
