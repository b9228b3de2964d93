"""The loops: one training epoch, one evaluation, one prediction pass; and loading the net that they run."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archs
import checkpoints
from amp import Precision
from errors import InputError
from losses import LOSSES, DeepSupervisionLoss
from metrics import dice_coef, iou_score
from runtime import Runtime
from utils import AverageMeter, progress_line

DIVERGED = "training stops, the last checkpoint stays. Try a lower --lr, and look at the images and masks"
# compiling and filling of queues, left out of an epoch's speed: with one process, with several
WARM_UP_STEPS = (9, 3)


def load_model(path: Path, runtime: Runtime, any_channels: bool = False) -> tuple[nn.Module, dict]:
    """The net that a checkpoint holds, ready for evaluation on the runtime's device, and the checkpoint.

    Architecture, heads, classes and channels are read off the weights. Raises InputError where they are not a net's,
    or, unless `any_channels`, where it does not take the three channels that images are read with.
    """
    checkpoint = checkpoints.load(path)
    try:
        model = archs.from_state_dict(checkpoint["state_dict"])
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if model.input_channels != 3 and not any_channels:
        raise InputError(f"{path}: its net takes {model.input_channels} channels, but images are read with 3")
    return model.to(runtime.device).eval(), checkpoint


def build_criterion(loss: str) -> nn.Module:
    """The named loss, averaged over a net's heads; raises InputError where there is no such loss."""
    if loss not in LOSSES:
        raise InputError(f"loss {loss!r} is not known; config.yml must name one of {', '.join(LOSSES)}")
    return DeepSupervisionLoss(LOSSES[loss]())


class Padded(nn.Module):
    """A net for inputs of any size: pads by repeating the edge up to multiples of 16, and crops the outputs."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        height, width = x.shape[2:]
        output = self.model(F.pad(x, (0, -width % archs.STRIDE, 0, -height % archs.STRIDE), mode="replicate"))
        if isinstance(output, Tensor):
            return output[:, :, :height, :width]
        return [head[:, :, :height, :width] for head in output]


def last_head(output: Tensor | list[Tensor]) -> Tensor:
    """The logits that count: with deep supervision the last head's."""
    return output if isinstance(output, Tensor) else output[-1]


def images_per_second(batch_size: int, step_times: list[float], world_size: int = 1) -> float:
    """Global batch ÷ mean step time, the first steps left out; where none would remain, only the first of several."""
    steady = step_times[WARM_UP_STEPS[world_size > 1] :] or step_times[1:] or step_times
    return batch_size * len(steady) / sum(steady)


def share_batch_norm(model: nn.Module, runtime: Runtime) -> nn.Module:
    """The net with every BatchNorm looking at the batches of all processes; raises InputError on the CPU."""
    if not runtime.accelerated:
        raise InputError("--sync_bn: torch's SyncBatchNorm does not run on the CPU; leave it out")
    return model if runtime.world_size == 1 else nn.SyncBatchNorm.convert_sync_batchnorm(model)


def distribute(model: nn.Module, runtime: Runtime) -> nn.Module:
    """The model to train: with several processes, one whose backward averages the gradients over them."""
    if runtime.world_size == 1:
        return model
    index = runtime.device.index
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the newest torch has another name for broadcast_buffers
        # each process's BatchNorm gathers its own statistics; train_epoch averages them
        return nn.parallel.DistributedDataParallel(
            model, device_ids=None if index is None else [index], broadcast_buffers=False
        )


def train_epoch(
    model: nn.Module,
    loader: Iterable,
    criterion: nn.Module,
    precision: Precision,
    runtime: Runtime,
    epoch: int,
    after_step: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Train for one epoch (`epoch` counts from 0) and print a line for each step; returns loss, iou and fps.

    model: what `distribute` made of precision.model. All numbers are the whole run's, over its processes.
    Raises InputError naming the epoch and step where the loss is not finite.
    """
    model.train()
    meters = step_time, data_time, losses, ious = (
        AverageMeter("Time", "6.3f"),
        AverageMeter("Data", "6.3f"),
        AverageMeter("Loss", "6.8f"),
        AverageMeter("Iou", "6.4f"),
    )
    steps, step_times, skipped, start = len(loader), [], precision.skipped, time.perf_counter()
    for step, (images, target, _) in enumerate(loader, 1):
        waited = time.perf_counter() - start
        images = images.to(runtime.device, non_blocking=True)
        target = target.to(runtime.device, non_blocking=True)
        output = model(images)
        loss = criterion(output, target)
        precision.step(loss)
        iou = iou_score(last_head(output).detach(), target)
        # the shares are equal, and so have equal weights
        mean_loss, mean_iou, mean_wait = (total / runtime.world_size for total in runtime.sum(loss, iou, waited))
        if not math.isfinite(mean_loss):
            raise InputError(f"the loss is {mean_loss} in epoch {epoch + 1}, step {step}; {DIVERGED}")
        batch_size = len(images) * runtime.world_size
        losses.update(mean_loss, batch_size)
        ious.update(mean_iou, batch_size)
        data_time.update(mean_wait)
        after_step()
        step_times.append(time.perf_counter() - start)
        step_time.update(step_times[-1])
        start = time.perf_counter()
        print(progress_line(f"Epoch: [{epoch + 1}]", step, steps, meters), flush=True)
    # what normalises from here on, and goes into the checkpoint, has seen the images of every rank
    runtime.average_(buffer for buffer in precision.model.buffers() if buffer.is_floating_point())
    fps = images_per_second(batch_size, step_times, runtime.world_size)
    print(f"[npu id: {runtime.device_id} ] * FPS@all {fps:.3f}", flush=True)
    if precision.skipped > skipped:
        print(f"{precision.skipped - skipped} of {steps} steps were skipped: their gradients overflowed", flush=True)
    return {"loss": losses.avg, "iou": ious.avg, "fps": fps}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable,
    criterion: nn.Module,
    runtime: Runtime,
    on_batch: Callable[[Tensor, Tensor, list[str]], None] = lambda logits, target, ids: None,
) -> dict[str, float]:
    """One pass over a validation loader with a line for each batch; returns loss, iou and dice.

    Each is the mean over batches weighted by batch size ("batch IoU"), as in the published tables. With several
    processes a line stands for one batch of each, and the numbers are over all of them. `on_batch` gets the logits and
    targets, both (N, num_classes, H, W), and the ids of each of this process's batches.
    """
    model.eval()
    meters = batch_time, losses, ious = (
        AverageMeter("Time", "6.3f"),
        AverageMeter("Loss", ".4e"),
        AverageMeter("Iou", "6.4f"),
    )
    dices = AverageMeter("Dice", "6.4f")
    batches, start = iter(loader), time.perf_counter()
    steps = math.ceil(runtime.sum(len(loader))[0] / runtime.world_size)  # the last one may have no batch for some ranks
    for step in range(1, steps + 1):
        own = (0.0,) * 4
        if (batch := next(batches, None)) is not None:
            images, target, meta = batch
            images = images.to(runtime.device, non_blocking=True)
            target = target.to(runtime.device, non_blocking=True)
            output = model(images)
            logits = last_head(output)
            scores = criterion(output, target), iou_score(logits, target), dice_coef(logits, target)
            own = len(images), *(score * len(images) for score in scores)
            on_batch(logits, target, meta["img_id"])
        count, *totals = runtime.sum(*own)
        for meter, total in zip((losses, ious, dices), totals):
            meter.update(total / count, count)
        batch_time.update(time.perf_counter() - start)
        start = time.perf_counter()
        print(progress_line("Test: ", step, steps, meters), flush=True)
    print(f"[npu id: {runtime.device_id} ] [AVG-IOU] * Iou {ious.avg:.4f}", flush=True)
    return {"loss": losses.avg, "iou": ious.avg, "dice": dices.avg}


@torch.inference_mode()
def predict(model: nn.Module, batches: Iterable[Tensor], runtime: Runtime) -> Iterator[Tensor]:
    """For each batch of inputs (N, 3, H, W) that the model takes, yield probabilities (N, num_classes, H, W)."""
    model.eval()
    for images in batches:
        yield torch.sigmoid(last_head(model(images.to(runtime.device)))).cpu()
