"""The loops: one training epoch, one evaluation, one prediction pass; and loading the net that they run."""

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amp
import archs
import checkpoints
from errors import InputError
from losses import LOSSES, DeepSupervisionLoss
from metrics import dice_coef, iou_score
from runtime import Later, Runtime
from stopping import Interrupted
from utils import AverageMeter, progress_line

DIVERGED = "training stops, the last checkpoint stays. Try a lower --lr, and look at the images and masks"
# compiling and filling of queues, left out of an epoch's speed: with one process, with several
WARM_UP_STEPS = (9, 3)


def load_model(
    path: Path, runtime: Runtime, any_channels: bool = False, trust: bool = False, half: bool = False
) -> tuple[nn.Module, dict]:
    """The net that a checkpoint holds, ready for evaluation on the runtime's device, and the checkpoint.

    Architecture, heads, classes and channels are read off the weights. Raises InputError where they are not a net's,
    or, unless `any_channels`, where it does not take the three channels that images are read with. `trust`: see
    checkpoints.load. `half`: see amp.halve.
    """
    checkpoint = checkpoints.load(path, trust)
    try:
        model = archs.from_state_dict(checkpoint["state_dict"])
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if model.input_channels != 3 and not any_channels:
        raise InputError(f"{path}: its net takes {model.input_channels} channels, but images are read with 3")
    model = model.to(runtime.device).eval()
    if half:
        amp.tell_if_slow(runtime)
        amp.halve(model, runtime)
        print(f"computing in {runtime.half}".replace("torch.", ""))
    return model, checkpoint


def build_criterion(loss: str) -> nn.Module:
    """The named loss, averaged over a net's heads; raises InputError where there is no such loss."""
    if loss not in LOSSES:
        raise InputError(f"loss {loss!r} is not known; config.yml must name one of {', '.join(LOSSES)}")
    return DeepSupervisionLoss(LOSSES[loss]())


class Padded(nn.Module):
    """A net for inputs of any size: pads by repeating the edge up to multiples of 16, and crops the outputs."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.num_classes = model, model.num_classes

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        height, width = x.shape[2:]
        output = self.model(F.pad(x, (0, -width % archs.STRIDE, 0, -height % archs.STRIDE), mode="replicate"))
        if isinstance(output, Tensor):
            return output[:, :, :height, :width]
        return [head[:, :, :height, :width] for head in output]


class TestTimeAugmented(nn.Module):
    """A net whose logits (N, num_classes, H, W) are its last head's, averaged over an input's eight flips and turns.

    A loss of them is that of the one head.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.num_classes = model, model.num_classes

    def forward(self, x: Tensor) -> Tensor:
        total = 0
        for turns in range(4):
            for flipped in (False, True):
                turned = torch.rot90(x.flip(3) if flipped else x, turns, (2, 3))
                logits = torch.rot90(last_head(self.model(turned)), -turns, (2, 3))
                total = total + (logits.flip(3) if flipped else logits)
        return total / 8


def for_any_size(model: nn.Module, tta: bool = False) -> nn.Module:
    """The net as it is evaluated and demonstrated: for inputs of any size, with `tta` as in TestTimeAugmented."""
    return TestTimeAugmented(Padded(model)) if tta else Padded(model)


def last_head(output: Tensor | list[Tensor]) -> Tensor:
    """The logits that count: with deep supervision the last head's."""
    return output if isinstance(output, Tensor) else output[-1]


def left_out(steps: int, world_size: int = 1) -> int:
    """How many of an epoch's first steps its speed leaves out; where none would remain, only the first of several."""
    most = WARM_UP_STEPS[world_size > 1]
    return most if steps > most else int(steps > 1)


def images_per_second(batch_size: int, step_times: list[float], world_size: int = 1) -> float:
    """Global batch ÷ mean step time, the first steps left out."""
    steady = step_times[left_out(len(step_times), world_size) :]
    return batch_size * len(steady) / sum(steady)


def share_batch_norm(model: nn.Module, runtime: Runtime) -> nn.Module:
    """The net with every BatchNorm looking at the batches of all processes; raises InputError on the CPU."""
    if not runtime.accelerated:
        raise InputError("--sync_bn: torch's SyncBatchNorm does not run on the CPU; leave it out")
    return model if runtime.world_size == 1 else nn.SyncBatchNorm.convert_sync_batchnorm(model)


def lay_out_channels_last(model: nn.Module, runtime: Runtime) -> nn.Module:
    """The net with its weights in NHWC, which its convolutions then compute in; raises InputError on the NPU."""
    if not runtime.takes_channels_last:
        raise InputError("--channels_last: the NPU has memory formats of its own; leave it out")
    return model.to(memory_format=torch.channels_last)


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


class EpochSoFar:
    """What there is to tell of an epoch's training steps; saved with the weights, it lets the epoch go on there."""

    def __init__(self):
        self.step = 0  # done
        self.seconds: list[float] = []  # of each
        self.batch_size = 0  # over all processes
        self.skipped = 0  # steps, since their gradients overflowed
        self.unreadable = 0  # images, others taken in their place
        self.meters = {
            "Time": AverageMeter("Time", "6.3f"),
            "Data": AverageMeter("Data", "6.3f"),
            "Loss": AverageMeter("Loss", "6.8f"),
            "Iou": AverageMeter("Iou", "6.4f"),
        }

    def add(
        self,
        step: int,
        batch_size: int,
        loss: float,
        iou: float,
        seconds: float,
        waited: float,
        skipped: int = 0,
        unreadable: int = 0,
    ) -> None:
        """Take in a step's numbers: over all processes, times in seconds, `waited` of them for the data."""
        self.step, self.batch_size = step, batch_size
        self.skipped += skipped
        self.unreadable += unreadable
        self.seconds.append(seconds)
        self.meters["Time"].update(seconds)
        self.meters["Data"].update(waited)
        self.meters["Loss"].update(loss, batch_size)
        self.meters["Iou"].update(iou, batch_size)

    def state_dict(self) -> dict:
        """Numbers and lists alone."""
        meters = {name: [meter.val, meter.sum, meter.count] for name, meter in self.meters.items()}
        return vars(self) | {"seconds": list(self.seconds), "meters": meters}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state_dict; raises KeyError, TypeError or ValueError where it is none."""
        for key in ("step", "batch_size", "skipped", "unreadable"):
            setattr(self, key, int(state[key]))
        self.seconds = [float(seconds) for seconds in state["seconds"]]
        if len(self.seconds) != self.step or not all(seconds > 0 for seconds in self.seconds):
            raise ValueError(f"{self.step} steps, but not as many times")
        for name, meter in self.meters.items():
            meter.val, meter.sum, meter.count = map(float, state["meters"][name])


def train_epoch(
    model: nn.Module,
    loader: Iterable,
    criterion: nn.Module,
    precision: amp.Precision,
    runtime: Runtime,
    epoch: int,
    so_far: EpochSoFar | None = None,
    after_step: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
    save: Callable[[], None] = lambda: None,
    save_steps: int = 0,
) -> dict[str, float]:
    """Train for one epoch (`epoch` counts from 0) and print a line for each step; returns loss, iou and fps.

    model: what `distribute` made of precision.model. All numbers are the whole run's, over its processes.
    so_far: the epoch's steps that are done, which the loader leaves out, kept up to date as the others follow; where
    `save` is called, after every `save_steps` steps, it is. On an accelerator a step's numbers are read, and its line
    printed, only when the next one has been handed to the device, which thus never waits for this program; but for the
    last step of those that the epoch's speed leaves out, so that the others' time is all of theirs and no more.
    Raises InputError naming the epoch and step where the loss is not finite, and Interrupted, in all processes after
    the same step, once `stop` answers in one of them that the run is to stop.
    """
    model.train()
    so_far = so_far or EpochSoFar()
    steps, unread, most_unread = len(loader), deque(), int(runtime.accelerated)
    settled = steps, left_out(steps, runtime.world_size)
    clock = begin = time.perf_counter()

    def read(step: int, batch_size: int, sums: Later) -> bool:
        """Take in a step's numbers; returns whether the run is to stop."""
        nonlocal clock
        *totals, unreadable, stopping = sums.read()
        now = time.perf_counter()
        seconds, clock = now - clock, now
        # the shares are equal, and so have equal weights
        loss, iou, waited, skipped = (total / runtime.world_size for total in totals)
        if not math.isfinite(loss):
            raise InputError(f"the loss is {loss} in epoch {epoch + 1}, step {step}; {DIVERGED}")
        so_far.add(step, batch_size * runtime.world_size, loss, iou, seconds, waited, round(skipped), round(unreadable))
        print(progress_line(f"Epoch: [{epoch + 1}]", step, steps, so_far.meters.values()), flush=True)
        return bool(stopping)

    for step, (images, target, meta) in enumerate(loader, so_far.step + 1):
        waited = time.perf_counter() - begin
        images = images.to(runtime.device, non_blocking=True)
        target = target.to(runtime.device, non_blocking=True)
        output = model(images)
        loss = criterion(output, target)
        skipped = precision.step(loss)
        iou = iou_score(last_head(output).detach(), target)
        sums = runtime.sum_later(loss, iou, waited, skipped, tell_unreadable(meta), stop())
        unread.append((step, len(images), sums))
        saving = save_steps and step % save_steps == 0
        stopping = False
        while len(unread) > (0 if saving or stopping or step in settled else most_unread):
            stopping |= read(*unread.popleft())
        begin = time.perf_counter()
        if step == steps:
            # what normalises from here on, and goes into the checkpoint, has seen the images of every rank
            runtime.average_(buffer for buffer in precision.model.buffers() if buffer.is_floating_point())
        after_step()
        if saving:
            save()
        clock += time.perf_counter() - begin  # no step's time
        begin = time.perf_counter()
        if stopping:
            raise Interrupted
    fps = images_per_second(so_far.batch_size, so_far.seconds, runtime.world_size)
    print(f"[npu id: {runtime.device_id} ] * FPS@all {fps:.3f}", flush=True)
    if so_far.skipped:
        print(f"{so_far.skipped} of {steps} steps were skipped: their gradients overflowed", flush=True)
    if so_far.unreadable:
        print(f"{so_far.unreadable} unreadable images were replaced by others in this epoch", flush=True)
    return {"loss": so_far.meters["Loss"].avg, "iou": so_far.meters["Iou"].avg, "fps": fps}


def tell_unreadable(meta: dict[str, list]) -> int:
    """Print why images of a batch could not be read, if any; returns how many."""
    for reason in meta.get("unreadable", ()):
        print(f"warning: skipped: {reason}", flush=True)
    return len(meta.get("unreadable", ()))


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable,
    criterion: nn.Module,
    runtime: Runtime,
    on_batch: Callable[[Tensor, Tensor, list[str]], None] = lambda logits, target, ids: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """One pass over a validation loader with a line for each batch; returns loss, iou and dice.

    Each is the mean over batches weighted by batch size ("batch IoU"), as in the published tables. With several
    processes a line stands for one batch of each, and the numbers are over all of them. `on_batch` gets the logits and
    targets, both (N, num_classes, H, W), and the ids of each of this process's batches.
    Raises Interrupted, in all processes after the same batch, once `stop` answers in one of them that the run is to
    stop, and InputError where no image could be read.
    """
    model.eval()
    meters = batch_time, losses, ious = (
        AverageMeter("Time", "6.3f"),
        AverageMeter("Loss", ".4e"),
        AverageMeter("Iou", "6.4f"),
    )
    dices = AverageMeter("Dice", "6.4f")
    batches, unreadable, start = iter(loader), 0, time.perf_counter()
    steps = math.ceil(runtime.sum(len(loader))[0] / runtime.world_size)  # the last one may have no batch for some ranks
    for step in range(1, steps + 1):
        images, target, meta = next(batches, (None, None, {}))
        own = (0.0,) * 4
        if images is not None:
            images = images.to(runtime.device, non_blocking=True, memory_format=runtime.image_format)
            target = target.to(runtime.device, non_blocking=True)
            output = model(images)
            logits = last_head(output).contiguous()
            scores = criterion(output, target), iou_score(logits, target), dice_coef(logits, target)
            own = len(images), *(score * len(images) for score in scores)
            on_batch(logits, target, meta["img_id"])
        count, *totals, missed, stopping = runtime.sum(*own, tell_unreadable(meta), stop())
        unreadable += int(missed)
        for meter, total in zip((losses, ious, dices), totals):
            if count:
                meter.update(total / count, count)
        batch_time.update(time.perf_counter() - start)
        start = time.perf_counter()
        print(progress_line("Test: ", step, steps, meters), flush=True)
        if stopping:
            raise Interrupted
    if not losses.count:
        raise InputError("no image to validate with could be read; they are named above")
    if unreadable:
        print(f"{unreadable} unreadable images were left out of the validation", flush=True)
    print(f"[npu id: {runtime.device_id} ] [AVG-IOU] * Iou {ious.avg:.4f}", flush=True)
    return {"loss": losses.avg, "iou": ious.avg, "dice": dices.avg}


@torch.inference_mode()
def predict(model: nn.Module, batches: Iterable[Tensor], runtime: Runtime) -> Iterator[Tensor]:
    """For each batch of inputs (N, 3, H, W) that the model takes, yield probabilities (N, num_classes, H, W)."""
    model.eval()
    for images in batches:
        logits = last_head(model(images.to(runtime.device, memory_format=runtime.image_format)))
        yield torch.sigmoid(logits).cpu().contiguous()
