"""A running average of a net's weights, which is evaluated and kept in place of the weights that are trained."""

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """The exponential moving average of a net's weights and BatchNorm statistics, in fp32, on the net's device.

    decay: what remains of the average at each step, in (0, 1); less in the first ones, (1 + n) / (10 + n) after n
    steps, so that the random weights of the beginning are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        """model: with fp32 weights; the average, `model`, is a copy of it."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor]) -> None:
        """Take in the weights after a step, a state_dict of the same net in fp32."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        own = self.model.state_dict()
        averaged = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[name] for name in averaged], [weights[name] for name in averaged], 1 - decay)
        for name in own.keys() - set(averaged):
            own[name].copy_(weights[name])
        self.steps += 1
