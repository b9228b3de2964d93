"""Stands in for Ascend's apex, for device `npu` and the CPU: its calls, its four levels, and its traps.

Put the folder above on PYTHONPATH. STANDIN_APEX_RECORD names a file that gets a JSON line for each call;
STANDIN_APEX_COMBINE_GRAD=0 makes `initialize` NVIDIA's, which knows no `combine_grad`.
"""

from . import amp, optimizers

__all__ = ["amp", "optimizers"]
