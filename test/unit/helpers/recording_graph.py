# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A graph on the CPU: it records the operators of a step, undoes the step, and replays the operators alone."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Call(NamedTuple):
    """An operator, its arguments, and what it returned: the tensors that later operators refer to."""

    operator: torch._ops.OpOverload
    args: tuple
    kwargs: dict
    result: object


class Recorder(TorchDispatchMode):
    """Records the operators that run, those of the backward pass too."""

    def __init__(self):
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        self.calls.append(Call(operator, args, kwargs or {}, result))
        return result


def tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def storages(values: object) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors(values)}


class RecordingGraph:
    """Like a device's graph, a replay knows only operators and addresses: numbers of the host are those of the capture.

    changed: returns the tensors that a step changes; their values are restored after the capture, which runs nothing
    on a device.
    """

    def __init__(self, changed: Callable[[], Iterable[Tensor]]):
        self.changed = changed

    def warm_up(self, function: Callable, *args) -> Tensor:
        return function(*args)

    def capture(self, function: Callable, *args) -> Tensor:
        before = [(tensor, tensor.detach().clone()) for tensor in self.changed()]
        with Recorder() as recorder:
            output = function(*args)
        self.calls = recorder.calls
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
        return output.fill_(torch.nan)

    @torch.no_grad()
    def replay(self) -> None:
        for operator, args, kwargs, result in self.calls:
            is_view = (
                not operator._schema.is_mutable and storages(result) and storages(result) <= storages((args, kwargs))
            )
            if is_view:  # it still shows the same memory
                continue
            for old, new in zip(tensors(result), tensors(operator(*args, **kwargs))):
                if storages(old) != storages(new):
                    old.copy_(new)
