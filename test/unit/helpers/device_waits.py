# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Train one epoch of 5 steps, and print how often the host had waited for the device when each step ended.

Usage: device_waits.py DEVICE LEVEL [FLAG…], with more flags of train.py. Except at O0, the gradients of the third step
overflow.
"""

import json
import sys
from itertools import pairwise

import torch
from torch import Tensor

import archs
import engine
import options
import train
from runtime.distributed import init_runtime

archs.WIDTHS = (2, 4, 4, 8, 8)
STEPS = 5


def main(device: str, level: str, *flags: str) -> None:
    """Train, and print waits, losses, the steps that changed no bias, and the state of the loss scale."""
    runtime = init_runtime(device)
    torch.manual_seed(3)
    args = options.parse_train(["--epochs", "1", "--amp", "--opt_level", level, "--device", device, *flags])
    runtime.configure(deterministic=args.deterministic)
    state = train.build_state(args, runtime, STEPS)
    loader = [
        (torch.rand(2, 3, 16, 16).div_(255), torch.rand(2, 1, 16, 16).round_(), {"img_id": ["a", "b"]})
        for _ in range(STEPS)
    ]
    criterion = engine.build_criterion(args.loss)
    losses, waits, biases, averages = [], [], [], []

    def loss_of(output: Tensor, target: Tensor) -> Tensor:
        losses.append(criterion(output, target))
        bias = state.model.final.bias.float()
        # this adds 0 to the loss, and to its gradient a number that overflows in fp32 after scaling
        return losses[-1] + (bias - bias.detach()).sum() * (3e38 if len(losses) == 3 and level != "O0" else 0)

    def after_step() -> None:
        waits.append(torch.npu.waits() if device == "npu" else 0)
        biases.append({name: value.clone() for name, value in state.precision.weights().items() if "bias" in name})
        if state.ema:
            averages.append(state.ema.module.final.bias.clone())

    before = torch.npu.waits() if device == "npu" else 0
    engine.train_one_epoch(state, loader, loss_of, callbacks=[after_step])
    print("waits:", *(count - before for count in waits))
    print("losses:", *(f"{loss.item():.8f}" for loss in losses))
    unchanged = [all(torch.equal(old[name], new[name]) for name in old) for old, new in pairwise(biases)]
    print("unchanged:", *(step for step, same in enumerate(unchanged, 2) if same))
    print("averages:", *(f"{average.item():.8f}" for average in averages))
    print("state:", json.dumps(state.precision.state_dict()))


main(*sys.argv[1:])
