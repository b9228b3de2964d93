# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The loops: one training epoch, one evaluation, one prediction pass; and building and loading the net they run."""

import math
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archs
from losses import LOSSES, DeepSupervisionLoss
from metrics import dice_coef, iou_score
from runtime.byte_batches import input_and_target, tensors_of, to_device
from runtime.checkpoint import load_checkpoint
from runtime.device import Device, PendingValues
from runtime.distributed import Runtime
from runtime.errors import InputError, checkpoint_errors
from runtime.interrupts import Interrupted
from runtime.precision import warn_if_half_is_slow
from runtime.precision_levels import to_half
from runtime.state import TrainingState, statistics
from utils import ValidationLogger, report_unreadable


def train_one_epoch(
    state: TrainingState,
    loader: Iterable,
    criterion: nn.Module,
    stop: Callable[[], bool] = lambda: False,
    callbacks: Iterable[Callable[[], None]] = (),
) -> dict[str, float]:
    """Train for one epoch, or for what is left of it; returns loss, iou and fps.

    Prints a line for each step, and the speed at the end.

    stop: tells if this process was asked to stop. callbacks: are called after each step, outside the step's time.
    Raises DivergedError if a loss is not finite, and Interrupted in all processes if any was asked to stop.
    """
    state.net.train()
    logger, step = state.logger, partial(training_step, state, criterion)
    for batch in logger.batches(loader, state.epoch):
        state.precision.copy_rates()
        numbers = state.step_graph(step, *tensors_of(batch))
        logger.record(len(batch[0]), numbers, report_unreadable(batch[2]), stop())
        if logger.is_last_step:
            # so that validation and the checkpoint use BatchNorm statistics of all images, not of one process's share
            state.runtime.mean_(statistics(state.model).values())
        state.after_step()
        with logger.paused():
            for callback in callbacks:
                callback()
        if logger.stop_requested:
            raise Interrupted
    return logger.finish_epoch()


def training_step(
    state: TrainingState, criterion: nn.Module, images: Tensor, masks: Tensor, tables: Tensor | None = None
) -> Tensor:
    """Do a step; returns its loss, its IoU, and 1 if it was skipped, else 0, on the device.

    images, masks, tables: a batch on the device, see input_and_target. The step may be captured as a graph, see
    StepGraph: it must not read what the device computes.
    """
    images, target = input_and_target(images, masks, tables)
    output = state.net(images)
    loss = criterion(output, target)
    skipped = state.precision.step(loss)
    iou = iou_score(final_head(output).detach(), target)
    return state.runtime.to_tensor(loss, iou, skipped)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable,
    criterion: nn.Module,
    runtime: Runtime,
    on_batch: Callable[[Tensor, Tensor, list[str]], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Run one pass over a validation loader; returns loss, iou and dice.

    Prints a line for each batch, and the IoU at the end.

    Each value is averaged over the batches, weighted by their size ("batch IoU"), as in the published tables.
    on_batch: gets the logits and targets, both (N, num_classes, H, W) on the CPU, and the ids of each batch of this
    process. Raises InputError if no image could be read, and Interrupted in all processes if any was asked to stop.
    """
    model.eval()
    steps = len(loader)
    if runtime.world_size > 1:  # in the last step some ranks may have no batch
        steps = math.ceil(runtime.sum(steps)[0] / runtime.world_size)
    logger, batches = ValidationLogger(runtime, steps), iter(loader)
    for _ in range(steps):
        images, masks, meta = next(batches, (None, None, {}))
        own, on_read = (0.0,) * 4, None  # a rank without a batch still takes part in the sum
        if images is not None:
            images, target = to_device(images, masks, meta.get("tables"), runtime.device)
            output = model(images.to(memory_format=runtime.memory_format))
            logits = final_head(output).contiguous()
            scores = criterion(output, target), iou_score(logits, target), dice_coef(logits, target)
            own = len(images), *(score * len(images) for score in scores)
            if on_batch:
                copies = runtime.copy_to_host(logits), runtime.copy_to_host(target)
                on_read = partial(_hand_over, on_batch, copies, meta["img_id"])
        logger.record(own, meta, stop(), on_read)
        if logger.stop_requested:
            raise Interrupted
    return logger.finish()


def _hand_over(on_batch: Callable, copies: Iterable[PendingValues], ids: list[str]) -> None:
    on_batch(*(copy.wait_for_tensor() for copy in copies), ids)


@torch.inference_mode()
def predict(model: nn.Module, batches: Iterable[Tensor | np.ndarray], runtime: Runtime) -> Iterator[Tensor]:
    """Yield probabilities (N, num_classes, H, W) on the CPU for each batch of inputs (N, 3, H, W)."""
    model.eval()
    for images in batches:
        logits = final_head(model(torch.as_tensor(images).to(runtime.device, memory_format=runtime.memory_format)))
        yield torch.sigmoid(logits).cpu().contiguous()


def final_head(output: Tensor | list[Tensor]) -> Tensor:
    """Return the logits of the final head, which is the best one; a net without deep supervision has only one."""
    return output if isinstance(output, Tensor) else output[-1]


def build_criterion(loss: str) -> nn.Module:
    """Return the named loss, averaged over a net's heads."""
    return DeepSupervisionLoss(LOSSES[loss]())


def build_model(args: Namespace, runtime: Runtime) -> nn.Module:
    """Build the net that the flags describe, on the device; raises InputError if they do not fit together."""
    share = args.batch_size if args.sync_bn else args.batch_size // runtime.world_size
    if share * (args.input_h // archs.STRIDE) * (args.input_w // archs.STRIDE) < 2:
        raise InputError(
            f"--batch_size {args.batch_size}: with {args.input_h}×{args.input_w} inputs, BatchNorm gets a single value "
            f"per channel{' in each process' if runtime.world_size > 1 else ''}; raise the batch or the input size"
        )
    model = archs.ARCHS[args.arch](args.num_classes, args.input_channels, args.deep_supervision).to(runtime.device)
    if args.sync_bn:
        model = convert_sync_batchnorm(model, runtime)
    channels_last = runtime.supports_channels_last if args.channels_last is None else args.channels_last
    return to_channels_last(model, runtime) if channels_last else model


def check_architecture(checkpoint: dict, path: Path, flags: Mapping[str, object]) -> None:
    """Raise InputError if the weights belong to a net that differs in one of `flags`."""
    with checkpoint_errors(path):
        for flag, found in archs.describe(checkpoint["state_dict"]).items():
            if found != flags.get(flag, found):
                raise ValueError(f"--{flag} is {found} there and {flags[flag]} here")


def init_from_pretrained(state: TrainingState, checkpoint: dict, path: Path) -> None:
    """Load weights for a new run, except heads of another shape; raises InputError if another weight does not fit."""
    weights, own = checkpoint["state_dict"], state.precision.weights()
    differing = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    body = [name for name in differing if not name.startswith("final")]
    if body:
        raise InputError(f"{path}: weights of another net ({len(body)} differ, such as {body[0]}); check --arch")
    state.init_weights(own | {name: weights[name] for name in own if name not in differing})
    print(f"starting from the weights of {path}" + (f", but with new {', '.join(differing)}" if differing else ""))


def load_model(
    path: Path, device: Device, any_channels: bool = False, trust: bool = False, half: bool = False
) -> tuple[nn.Module, dict]:
    """Load a checkpoint; returns its net, ready for evaluation on the device, and the checkpoint.

    any_channels: accept nets that take more or fewer than 3. trust: see load_checkpoint. half: compute in half
    precision. Raises InputError if the architecture is not known.
    """
    checkpoint = load_checkpoint(path, trust)
    try:
        model = archs.from_state_dict(checkpoint["state_dict"])
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if model.input_channels != 3 and not any_channels:
        raise InputError(f"{path}: its net takes {model.input_channels} channels, but images are read with 3")
    model = model.to(device.device).eval()
    if half:
        warn_if_half_is_slow(device)
        to_half(model, device)
        print(f"computing in {device.half_dtype}".replace("torch.", ""))
    return model, checkpoint


def to_channels_last(model: nn.Module, device: Device) -> nn.Module:
    """Keep the net's weights in NHWC; convolutions then run in that layout. Raises InputError on NPUs."""
    if not device.supports_channels_last:
        raise InputError("--channels_last: NPUs choose memory formats themselves; leave it out")
    return model.to(memory_format=torch.channels_last)


def convert_sync_batchnorm(model: nn.Module, runtime: Runtime) -> nn.Module:
    """Make every BatchNorm use the batches of all processes; raises InputError on the CPU."""
    if not runtime.is_accelerator:
        raise InputError("--sync_bn: torch's SyncBatchNorm does not run on the CPU; leave it out")
    return model if runtime.world_size == 1 else nn.SyncBatchNorm.convert_sync_batchnorm(model)


def wrap_ddp(model: nn.Module, runtime: Runtime) -> nn.Module:
    """Wrap the net in DistributedDataParallel, which averages the gradients, if there are several processes."""
    if runtime.world_size == 1:
        return model
    index = runtime.device.index
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch versions rename broadcast_buffers
        # each process's BatchNorm collects its own statistics; train_one_epoch averages them
        return nn.parallel.DistributedDataParallel(
            model, device_ids=None if index is None else [index], broadcast_buffers=False
        )


class Padded(nn.Module):
    """A net for inputs of any size: pads them by repeating the edge up to multiples of 16, and crops the outputs."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.num_classes = model, model.num_classes

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        height, width = x.shape[2:]
        output = self.model(F.pad(x, (0, -width % archs.STRIDE, 0, -height % archs.STRIDE), mode="replicate"))
        if isinstance(output, Tensor):
            return output[:, :, :height, :width]
        return [head[:, :, :height, :width] for head in output]


class ExportedNet(nn.Module):
    """A runtime.onnx_model.OnnxModel as a module on the CPU: images (N, 3, H, W) → logits (N, num_classes, H, W)."""

    def __init__(self, export):
        super().__init__()
        self.export, self.num_classes = export, export.num_classes

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.export.logits(x.contiguous().numpy()))


class TestTimeAugmented(nn.Module):
    """A net that averages its final head's logits (N, num_classes, H, W) over 8 flips and rotations of an input."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.num_classes = model, model.num_classes

    def forward(self, x: Tensor) -> Tensor:
        total = 0
        for turns in range(4):
            for flipped in (False, True):
                turned = torch.rot90(x.flip(3) if flipped else x, turns, (2, 3))
                logits = torch.rot90(final_head(self.model(turned)), -turns, (2, 3))
                total = total + (logits.flip(3) if flipped else logits)
        return total / 8


def for_any_size(model: nn.Module, tta: bool = False) -> nn.Module:
    """Return the net as val.py and demo.py use it, for inputs of any size; tta: see TestTimeAugmented."""
    return TestTimeAugmented(Padded(model)) if tta else Padded(model)
