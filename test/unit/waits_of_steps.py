"""Trains an epoch of 5 steps on a device at a level, and prints after how many waits for the device each step ended.

Usage: waits_of_steps.py DEVICE LEVEL. Except at O0 the third step's gradients overflow.
"""

import json
import sys
from itertools import pairwise

import torch

import amp
import archs
import engine
import runtime as rt

archs.WIDTHS = (2, 4, 4, 8, 8)


def main(device: str, level: str) -> None:
    """See above."""
    runtime = rt.init(device)
    torch.manual_seed(3)
    model = archs.UNet(1).to(runtime.device)
    optimizer = amp.adam(model.parameters(), runtime, level, lr=1e-3, weight_decay=1e-4)
    precision = amp.prepare(model, optimizer, runtime, level, 128.0)
    loader = [
        (torch.rand(2, 3, 16, 16).div_(255), torch.rand(2, 1, 16, 16).round_(), {"img_id": ["a", "b"]})
        for _ in range(5)
    ]
    criterion = engine.build_criterion("LovaszHingeLoss")
    losses, waits, weights = [], [], []

    def loss_of(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        losses.append(criterion(output, target))
        bias = model.final.bias.float()
        # adds nothing to the loss, and to its gradient more than fp32 can hold once it is scaled
        return losses[-1] + (bias - bias.detach()).sum() * (3e38 if len(losses) == 3 and level != "O0" else 0)

    def after_step() -> None:
        waits.append(torch.npu.waits() if device == "npu" else 0)
        weights.append({name: value.clone() for name, value in precision.weights().items() if "bias" in name})

    so_far = engine.EpochSoFar()
    before = torch.npu.waits() if device == "npu" else 0
    engine.train_epoch(model, loader, loss_of, precision, runtime, 0, so_far, after_step)
    print("waits:", *(count - before for count in waits))
    print("losses:", *(f"{loss.item():.8f}" for loss in losses))
    unchanged = [all(torch.equal(old[name], new[name]) for name in old) for old, new in pairwise(weights)]
    print("unchanged:", *(step for step, still in enumerate(unchanged, 2) if still))
    print("state:", json.dumps(precision.state_dict()))


main(*sys.argv[1:])
