# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Run by the tests in one or several processes: five training steps, or one validation pass; writes what it found.

rank_tasks.py train DEVICE BATCH_NORM FILE      BATCH_NORM: fixed (evaluation mode) or sync
rank_tasks.py evaluate DEVICE DATA_PATH FILE    8 images per process and batch

Each rank writes FILE.<rank>.
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import archs
import dataset
import engine
import options
import utils
from imaging.augment import Pipeline, val_transform
from imaging.prepared import PreparedFolder
from runtime import precision
from runtime.distributed import Runtime, init_runtime
from runtime.precision_levels import NORMS
from runtime.state import TrainingState

STEPS, BATCH_SIZE = 5, 16


def rank_batches(runtime: Runtime) -> list:
    """Return this rank's shares of five batches of 16 that all ranks divide among them."""
    generator = torch.Generator().manual_seed(4)
    share = BATCH_SIZE // runtime.world_size
    own = slice(runtime.rank * share, (runtime.rank + 1) * share)
    batches = []
    for _ in range(STEPS):
        images = torch.randn(BATCH_SIZE, 3, 32, 32, generator=generator)
        target = (images.mean(1, keepdim=True) > 0).float()
        batches.append((images[own], target[own], {}))
    return batches


def fix_batch_norm(model: nn.Module) -> None:
    """Keep BatchNorm in evaluation mode, so that an output does not depend on the other images of its batch."""
    for module in model.modules():
        if isinstance(module, NORMS):
            module.eval()
            module.train = lambda mode=True: None
        elif isinstance(module, nn.Conv2d):
            module.weight.data *= 2.4  # without normalization, the signal would vanish in the deeper layers


def train(runtime: Runtime, batch_norm: str) -> dict:
    """Train five steps, each as an epoch of its own; returns their losses, the weights and by how much these moved."""
    torch.manual_seed(0)
    model = archs.UNet(1, 3).to(runtime.device)
    if batch_norm == "sync":
        model = engine.convert_sync_batchnorm(model, runtime)
    else:
        fix_batch_norm(model)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2 if batch_norm == "fixed" else 1e-3)
    prepared = precision.prepare(model, optimizer, runtime, "O0", 128.0)
    scheduler = torch.optim.lr_scheduler.ConstantLR(prepared.optimizer, factor=1)
    net, logger = engine.wrap_ddp(prepared.model, runtime), utils.MetricLogger(runtime)
    state = TrainingState(net, prepared, None, scheduler, logger, STEPS, 1)
    criterion, losses = engine.build_criterion("BCEWithLogitsLoss"), []
    for batch in rank_batches(runtime):
        losses.append(engine.train_one_epoch(state, [batch], criterion)["loss"])
        logger.reset()
    weights = {name: value.cpu() for name, value in prepared.weights().items()}
    moved = {name: weights[name] - value.cpu() for name, value in before.items()}
    return {"losses": losses, "weights": weights, "moved": moved}


def evaluate(runtime: Runtime, data_path: str) -> dict:
    """Evaluate a net with random weights; returns its scores, and the ids and mean logits of each batch of this rank.

    waits: how often the host waited for an NPU meanwhile.
    """
    folder = PreparedFolder(Path(data_path))
    data = dataset.NucleiDataset(folder, folder.list_ids(), Pipeline(val_transform(16, 16)))
    loader = dataset.val_loader(data, 8 * runtime.world_size, 0, False, runtime.rank, runtime.world_size)
    torch.manual_seed(0)
    criterion = engine.build_criterion("LovaszHingeLoss")
    model, seen, means = archs.UNet(1, 3).to(runtime.device), [], []

    def on_batch(logits: torch.Tensor, target: torch.Tensor, ids: list[str]) -> None:
        assert logits.device == target.device == torch.device("cpu") and len(logits) == len(target) == len(ids)
        seen.append(ids)
        means.append((logits + target).mean().item())

    counted = torch.npu.waits if runtime.is_accelerator else lambda: 0
    before = counted()
    result = engine.evaluate(model, loader, criterion, runtime, on_batch)
    return result | {"seen": seen, "means": means, "waits": counted() - before}


if __name__ == "__main__":
    task, device, what, path = sys.argv[1:]
    with init_runtime(device, launch=options.parse_train([])) as runtime:
        found = {"train": train, "evaluate": evaluate}[task](runtime, what)
        torch.save(found, f"{path}.{runtime.rank}")
