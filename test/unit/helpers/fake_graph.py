# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A stand-in for the graph of a device: capturing runs nothing, and a replay calls the recorded function again."""

from collections.abc import Callable

import torch


class FakeGraph:
    """Records what it is asked to do in `events`. error: is raised by the capture."""

    def __init__(self, error: Exception | None = None):
        self.error, self.events = error, []

    def warm_up(self, function: Callable, *args) -> torch.Tensor:
        self.events.append("warm_up")
        return function(*args)

    def capture(self, function: Callable, *args) -> torch.Tensor:
        self.events.append("capture")
        if self.error:
            try:
                raise self.error
            finally:  # as torch.cuda.graph does when it ends the capture
                raise RuntimeError("the capture was invalidated")
        self.recorded, self.output = (function, args), torch.full((3,), torch.nan)
        return self.output

    def replay(self) -> None:
        self.events.append("replay")
        function, args = self.recorded
        self.output.copy_(function(*args))
