"""Stands in for torch_npu where there is no NPU: a device `npu` that computes on the CPU, under the real names.

It holds what this repository calls, and refuses what the real one refuses where that has a trap in it. Put the folder
above on PYTHONPATH; STANDIN_NPU_COUNT is the number of devices (default 2, 0 for none).
"""

import torch

from . import _build

torch.ops.load_library(_build.library())
torch.utils.rename_privateuse1_backend("npu")

# what follows makes use of the device under its name
from . import npu  # noqa: E402

torch._register_device_module("npu", npu)
torch.utils.generate_methods_for_privateuse1_backend()

from . import _batch_norm, _hccl, optim, profiler  # noqa: E402
from .npu import amp, utils  # noqa: E402

npu.amp, npu.utils = amp, utils
__version__ = torch.__version__.split("+")[0] + "+standin"
__all__ = ["_batch_norm", "_hccl", "npu", "optim", "profiler"]
