# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A training step as one graph of the device: captured once, then launched as a whole."""

import traceback
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from runtime.device import Device
from runtime.names import one_line
from runtime.precision_levels import Precision

# before the capture; torch's examples have 3. The steps that an epoch's speed leaves out are one more.
ORDINARY_STEPS = 8


class StepGraph:
    """Calls a step function; after the warm-up as one graph, if it was given one.

    The steps of the warm-up are ordinary ones. Capturing runs nothing, so each call does one step. The updates are the
    same with and without a graph, except that a run with one reads its learning rates in float32. What the operators of
    a captured step need:

    - forward, loss, backward: fixed addresses of the batch (`inputs`), of weights and of BatchNorm's statistics. The
      mode of modules (train) is captured too. Activations and gradients live in the graph's own memory.
    - copies between half and master weights: gradients of the masters that stay where they are (MasterWeights).
    - unscaling and the check for overflows: a static scale, which becomes a number in the graph, and a flag on the
      device. The count of steps without overflow is on the device too (ScaledLoss).
    - the optimizer: `fused` and `capturable`, so that it skips a step by the flag and counts steps on the device. Its
      state was created in the warm-up. It reads learning rates that `Precision.copy_rates` has copied to the device.
    - IoU and the numbers of a step: no read by the host. The next replay overwrites them, so their copy to the host
      must be launched before, on the same stream.

    Random operators, collectives and reads by the host are not part of a step.
    """

    def __init__(self, device: Device, graph=None):
        """graph: as Device.new_graph returns it; None: all steps are ordinary ones."""
        self.device, self.graph = device, graph
        self.steps = 0  # the ordinary ones so far
        self.inputs: list[Tensor] = []  # of the captured step; empty until then
        self.output: Tensor | None = None

    def __call__(self, step: Callable[..., Tensor], *batch: Tensor) -> Tensor:
        """Do a step with a batch from the loader; returns the step's numbers, which the next call may overwrite.

        step: takes the batch on the device. It must do the same in each call.
        """
        if self.graph and not self.inputs and self.steps >= ORDINARY_STEPS:
            self._capture(step, batch)
        if self.inputs and [_kind(x) for x in batch] == [_kind(x) for x in self.inputs]:
            for own, x in zip(self.inputs, batch):
                own.copy_(x, non_blocking=True)
            self.graph.replay()
            return self.output
        self.steps += 1
        on_device = [x.to(self.device.device, non_blocking=True) for x in batch]
        return self.graph.warm_up(step, *on_device) if self.graph else step(*on_device)

    def _capture(self, step: Callable[..., Tensor], batch: tuple[Tensor, ...]) -> None:
        """Capture the step for batches of this shape; if that fails, print why, and go on without a graph."""
        inputs = [x.to(self.device.device, copy=True) for x in batch]
        try:
            self.output = self.graph.capture(step, *inputs)
        except Exception as error:  # nothing has run yet, so the step itself will follow
            print(
                f"warning: a step could not be captured as a CUDA graph ({_cause(error)}); training goes on without",
                flush=True,
            )
            # the object stays: torch's allocator refers to it until the capture is ended, which has failed
            self.graph, self.failed_graph = None, self.graph
            return
        self.inputs = inputs
        print(f"step {self.steps + 1} of this process and later ones are launched as one graph", flush=True)


def _kind(x: Tensor) -> tuple:
    return x.shape, x.dtype


def _cause(error: BaseException) -> str:
    """Describe the first error and its place; ending a capture that has failed raises another one."""
    while error.__context__ is not None and not error.__suppress_context__:
        error = error.__context__
    *_, place = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {one_line(error)}"


def graph_obstacle(precision: Precision, device: Device, processes: int, profiling: bool) -> str:
    """Return why the steps of a run cannot be captured as a graph; an empty text if they can."""
    obstacles = {
        "the device has no graphs, or they are untried": device.new_graph() is None,
        "the run has several processes": processes > 1,
        f"{precision.name} with this optimizer or loss scale is not capturable": not precision.is_capturable,
        "--profiling records single operators": profiling,
    }
    return next((text for text, applies in obstacles.items() if applies), "")
