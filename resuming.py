"""What a checkpoint holds of a run, and how a later run goes on from it as if nothing had happened."""

import contextlib
import random
import reprlib
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn, optim

import archs
import checkpoints
import files
from amp import Precision
from averaging import WeightAverage
from engine import DIVERGED, EpochSoFar
from errors import InputError
from runtime import Runtime
from utils import SETTINGS

# flags that say what a run is; those on the right count only where another flag has the value beside them
MEANING = ("arch", "deep_supervision", "num_classes", "input_channels", "input_h", "input_w", "batch_size", "seed")
MEANING += ("loss", "optimizer", "lr", "weight_decay", "scheduler", "sync_bn")
MEANING += ("augmentation", "normalization", "divide_twice", "inner_split", "ema")
MEANING_WITH = {
    ("optimizer", "SGD"): ("momentum", "nesterov"),
    ("scheduler", "CosineAnnealingLR"): ("epochs", "min_lr"),
    ("scheduler", "ReduceLROnPlateau"): ("factor", "patience", "min_lr"),
    ("scheduler", "MultiStepLR"): ("milestones", "gamma"),
    ("scheduler", "OneCycleLR"): ("epochs", "min_lr", "warmup"),
}
# what checkpoints without these flags are of
SILENT = {flag: SETTINGS[flag] for flag in ("normalization", "divide_twice", "inner_split")}
SILENT |= {"augmentation": "published", "ema": 0.0}
ORDER = ("batch_size", "seed", "train_images", "images")  # what an epoch's order of images hangs on
PLATEAU_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
MISFITS = (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, OverflowError)


def find(resume: str | None, folder: Path) -> Path | None:
    """The checkpoint that `--resume` names; for `auto` the latest of the run in `folder`, None where there is none."""
    if resume != "auto":
        return Path(resume) if resume else None
    there = any((folder / name).exists() for name in (checkpoints.LATEST, checkpoints.PREVIOUS))
    return folder / checkpoints.LATEST if there else None


def load_weights(
    checkpoint: dict, path: Path, model: nn.Module, average: WeightAverage | None, config: Mapping
) -> None:
    """Load a checkpoint's weights into the model, fp32 as yet, and into their average where the run has one.

    Raises InputError where it is of another net.
    """
    with telling_misfits(path):
        for flag, found in archs.describe(checkpoint["state_dict"]).items():
            if found != config[flag]:
                raise ValueError(f"--{flag} is {found} there and {config[flag]} here")
        trained = checkpoint.get("trained", {})  # where the state_dict is their average
        model.load_state_dict(trained.get("state_dict", checkpoint["state_dict"]))
        if average:
            average.model.load_state_dict(checkpoint["state_dict"])
            average.steps = int(trained.get("steps", 0))


def see_that_all_have_the_same(path: Path | None, checkpoint: dict | None, runtime: Runtime) -> None:
    """Raise InputError where the processes, which may be on several hosts, would not go on from the same file."""
    own = None
    if checkpoint and runtime.world_size > 1:
        sums = (float(value.double().sum()) for value in checkpoint["state_dict"].values())
        own = checkpoint["epoch"], checkpoint["step"], repr(list(sums))
    everyones = runtime.gather(own)
    differing = [rank for rank, others in enumerate(everyones) if others != everyones[0]]
    if differing:
        raise InputError(
            f"rank {differing[0]} and rank 0 would not go on from the same checkpoint; copy rank 0's"
            f"{f', {path},' if path else ''} to the same path on every host"
        )


def load_pretrained(model: nn.Module, path: Path, trust: bool) -> None:
    """Start from a file's weights; heads for another number of classes keep their fresh ones, which is said."""
    weights, own = checkpoints.load(path, trust)["state_dict"], model.state_dict()
    differing = [k for k in own if k not in weights or weights[k].shape != own[k].shape]
    body = [k for k in differing if not k.startswith("final")]
    if body:
        raise InputError(f"{path}: weights of another net ({body[0]} and {len(body) - 1} more differ); check --arch")
    model.load_state_dict({k: v for k, v in weights.items() if k in own and k not in differing}, strict=False)
    print(f"starting from the weights of {path}" + (f", but with fresh {', '.join(differing)}" if differing else ""))


@dataclass
class Progress:
    """How far a run has come: finished epochs, their rows of log.csv, and the steps of the epoch that it is in."""

    epoch: int = 0
    best_iou: float = 0.0
    stale_epochs: int = 0  # since the best one
    history: list[dict] = field(default_factory=list)
    so_far: EpochSoFar = field(default_factory=EpochSoFar)

    def finish_epoch(self, row: dict) -> bool:
        """Take in a finished epoch's row of log.csv; returns whether it is the best so far."""
        self.history.append(row)
        is_best = row["val_iou"] > self.best_iou
        self.best_iou = max(row["val_iou"], self.best_iou)
        self.stale_epochs = 0 if is_best else self.stale_epochs + 1
        self.epoch, self.so_far = self.epoch + 1, EpochSoFar()
        return is_best


def differences(checkpoint: dict, config: Mapping, data: Mapping) -> dict[str, str]:
    """What makes the checkpoint's run another one than this, each with its words; what it does not record is left out.

    config: this run's flags; data: dataset.describe.
    """
    recorded, images = checkpoint.get("config"), checkpoint.get("data")
    recorded, images = (value if isinstance(value, dict) else {} for value in (recorded, images))
    recorded = SILENT | recorded if recorded else {}

    def differ(there: Mapping, here: Mapping, key: str) -> bool:
        return there.get(key) is not None and there[key] != here[key]

    flags = list(MEANING)
    for (flag, value), more in MEANING_WITH.items():
        flags += more if config[flag] == value else ()
    found = {
        key: f"--{key} {reprlib.repr(recorded[key])} there and {config[key]!r} here"
        for key in flags
        if differ(recorded, config, key)
    }
    for key in ("train_images", "val_images"):
        if differ(images, data, key):
            found[key] = f"{key.replace('_', ' ')} {reprlib.repr(images[key])} there and {data[key]} here"
    if differ(images, data, "images") and not {"train_images", "val_images"} & found.keys():
        found["images"] = "images of other names"
    return found


def see_that_it_is_the_same_run(checkpoint: dict, path: Path, config: Mapping, data: Mapping, anyway: bool) -> None:
    """Raise InputError naming the `differences`, unless `anyway`; an epoch of other images is then begun anew."""
    with telling_misfits(path):
        found = differences(checkpoint, config, data)
    if not found:
        return
    told = f"{path} is of another run: {', '.join(found.values())}"
    if not anyway:
        raise InputError(f"{told}; give the same, or pass --resume_anyway to go on all the same")
    print(f"warning: {told}; going on all the same, as --resume_anyway asks")
    for part in ("optimizer", "scheduler"):
        if part in found:
            print(f"the {part} begins anew")
            checkpoint[part] = {}
    if checkpoint["step"] and found.keys() & set(ORDER):
        print(f"epoch {checkpoint['epoch'] + 1} is begun anew, since its images come in another order")
        checkpoint["step"] = 0


def restore(
    checkpoint: dict,
    path: Path,
    config: Mapping,
    precision: Precision,
    average: WeightAverage | None,
    scheduler,
    steps: int,
    runtime: Runtime,
) -> Progress:
    """Put all but the weights back where the checkpoint left it, and return the run's progress. Says what it lacks.

    steps: of an epoch. Raises InputError where something in it is not as train.py writes it.
    """
    optimizer, epoch = precision.optimizer, checkpoint["epoch"]
    on_plateau = isinstance(scheduler, optim.lr_scheduler.ReduceLROnPlateau)  # the others' state is in the epoch
    wanted = ("optimizer", "scheduler", "history") if on_plateau else ("optimizer", "history")
    lacking = [key for key in wanted if checkpoint.get(key) is None]
    progress = Progress(epoch, checkpoint["best_iou"] or 0.0)
    with telling_misfits(path):
        if checkpoint.get("optimizer"):
            load_optimizer(optimizer, checkpoint["optimizer"])
        precision.load_state_dict(checkpoint.get("amp") or {})
        if not on_plateau:
            past = min(epoch, config["epochs"])
            if goes_by_steps(scheduler):
                past = min(past * steps + checkpoint["step"], scheduler.total_steps - 1)
            catch_up(optimizer, scheduler, past)
        elif checkpoint.get("scheduler"):
            # what it has seen, but the factor, patience and limits of this run's flags
            seen = {key: checkpoint["scheduler"][key] for key in PLATEAU_STATE}
            scheduler.load_state_dict({key: value + 0 for key, value in seen.items()})  # numbers, that is
        progress.stale_epochs = int(checkpoint.get("stale_epochs", 0))
        progress.history = earlier_rows(checkpoint.get("history"), path.with_name("log.csv"), epoch)
        if checkpoint["step"]:
            progress.so_far.load_state_dict(checkpoint["so_far"])
        if len(ranks := checkpoint.get("ranks", ())) == runtime.world_size:
            set_random_states(ranks[runtime.rank]["random"], runtime)
            precision.model.load_state_dict(ranks[runtime.rank]["buffers"], strict=False)
            if average:
                average.model.load_state_dict(ranks[runtime.rank].get("averaged", {}), strict=False)
    if lacking:
        rows = f"; log.csv keeps its {len(progress.history)} rows" if progress.history else ""
        print(f"warning: {path} holds no {', '.join(lacking)}; the run goes on without{rows}")
    if checkpoint["processes"] not in (0, runtime.world_size):
        print(f"warning: {path} is of {checkpoint['processes']} processes, with other shares for BatchNorm")
    inside = f" and {checkpoint['step']} steps" if checkpoint["step"] else ""
    print(f"resuming {path} after {epoch} epochs{inside}")
    return progress


@contextlib.contextmanager
def telling_misfits(path: Path) -> Iterator[None]:
    """Say of which checkpoint it was that something does not fit this run."""
    try:
        yield
    except MISFITS as error:
        raise InputError(f"{path} does not fit this run: {' '.join(str(error).split())[:300]}") from error


def earlier_rows(history: list[dict] | None, log: Path, epochs: int) -> list[dict]:
    """The rows of log.csv so far: the checkpoint's, or, for an older edition's, those in the log beside it.

    Raises ValueError or TypeError where the checkpoint's are none.
    """
    columns = ["epoch", "lr", "loss", "iou", "val_loss", "val_iou"]
    if history:
        pd.DataFrame(history)[columns].astype(float)
        return history
    try:
        rows = pd.read_csv(log)
        return rows[rows["epoch"] < epochs].to_dict("records") if len(rows[columns]) else []
    except (OSError, ValueError, KeyError):
        return []


def load_optimizer(optimizer: optim.Optimizer, state: dict) -> None:
    """Load an optimiser's averages; this run's flags and device, not the file's, say how they are used.

    Raises ValueError where the state is another optimiser's or another net's.
    """
    groups = state["param_groups"]
    own_groups = [optimizer.defaults | group for group in optimizer.param_groups]
    if ("betas" in groups[0]) != ("betas" in optimizer.defaults) or len(groups) != len(own_groups):
        raise ValueError("its --optimizer was another one")
    groups = [
        own | {key: group[key] for key in ("params", "lr") if key in group} for own, group in zip(own_groups, groups)
    ]
    # a number, as torch also takes it: the NPU's fused optimiser would count a tensor twice
    kept_state = {
        index: own | {"step": int(own["step"])} if "step" in own else own for index, own in state["state"].items()
    }
    optimizer.load_state_dict({"state": kept_state, "param_groups": groups})
    for parameter, own in optimizer.state.items():
        averages = {key: value for key, value in own.items() if key != "step" and value is not None}
        lacking = {"exp_avg", "exp_avg_sq"} - averages.keys() if "betas" in optimizer.defaults else ()
        if lacking or own.get("step", 0) < 0 or any(value.shape != parameter.shape for value in averages.values()):
            raise ValueError("its optimizer's state is not that of these weights")
        for key, value in averages.items():  # fused ones want them laid out as their weights are, in NHWC or not
            own[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def adopt_best(resumed: Path, folder: Path, best_iou: float) -> float:
    """See to it that the run's folder has the best model so far; returns the IoU that a better one must exceed."""
    best, source = folder / checkpoints.BEST, resumed.with_name(checkpoints.BEST)
    if source.is_file() and not (best.exists() and best.samefile(source)):
        with files.replacing(best) as partial:
            shutil.copyfile(source, partial)
    elif not source.is_file():
        best.unlink(missing_ok=True)  # another run's
        return 0.0  # nowhere to be had: the next epoch's is the best there is
    return best_iou


def goes_by_steps(scheduler) -> bool:
    """Does it step after each of the optimiser's steps? Others do once an epoch."""
    return isinstance(scheduler, optim.lr_scheduler.OneCycleLR)


def catch_up(optimizer, scheduler, times: int) -> None:
    """Bring a fresh scheduler to where this run's flags put it after so many steps; exact, and needs no state."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects an optimiser's step before each of these
        for _ in range(times):
            scheduler.step()


def snapshot(
    progress: Progress,
    config: Mapping,
    data: Mapping,
    precision: Precision,
    average: WeightAverage | None,
    scheduler,
    runtime: Runtime,
    random_states: dict | None = None,
) -> dict:
    """All that a later run needs to go on from here, for checkpoints.save; every process of the run must ask for it.

    average: of the weights, which is then the state_dict, and the weights beside it. random_states: of the generators,
    where they are not those of now. Raises InputError where a weight is not a finite number.
    """
    weights = precision.weights()
    spoilt = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if spoilt:
        where = f"epoch {progress.epoch}, step {progress.so_far.step}"
        raise InputError(f"{spoilt[0]} is not finite after {where}; {DIVERGED}")
    # BatchNorm's statistics are each process's own until the epoch's end; the net that is saved has all processes'
    inside = progress.so_far.step and runtime.world_size > 1
    averaged = average.model.state_dict() if average else {}
    own = {"buffers": own_statistics(precision.model) if inside else {}}
    own |= {"averaged": own_statistics(average.model) if inside and average else {}}
    ranks = runtime.gather(own | {"random": random_states or get_random_states(runtime)})
    for kind, whole in (("buffers", weights), ("averaged", averaged)):
        for name in own[kind]:
            whole[name] = torch.stack([rank[kind][name] for rank in ranks]).mean(0)
    trained = {"trained": {"state_dict": weights, "steps": average.steps}} if average else {}
    state = {
        "epoch": progress.epoch,
        "step": progress.so_far.step,
        "best_iou": progress.best_iou,
        "stale_epochs": progress.stale_epochs,
        "history": progress.history,
        "so_far": progress.so_far.state_dict(),
        "arch": config["arch"],
        "state_dict": averaged or weights,
        "optimizer": precision.optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "config": dict(config),
        "data": dict(data),
        "processes": runtime.world_size,
        "ranks": ranks,
        **trained,
    }
    loss_scale = precision.state_dict()
    return state | {"amp": loss_scale} if loss_scale else state


def own_statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the model's running statistics, on the CPU."""
    return {name: value.cpu().clone() for name, value in model.named_buffers() if value.is_floating_point()}


def get_random_states(runtime: Runtime) -> dict:
    """The states of the generators of Python, NumPy, torch and the device."""
    numpy_name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (numpy_name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "device": runtime.random_state(),
    }


def set_random_states(states: dict, runtime: Runtime) -> None:
    """Put `get_random_states` back."""
    random.setstate(states["python"])
    numpy_name, keys, *rest = states["numpy"]
    np.random.set_state((numpy_name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    runtime.set_random_state(states["device"])
