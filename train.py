"""Train UNet or UNet++ for nuclei segmentation: set up → data → model → optimiser → resume → epochs."""

import options
import ranks
import runtime as rt
import startup
from errors import InputError, one_sentence

if __name__ == "__main__":  # before torch is imported: --help and a mistyped flag are answered at once
    ARGS = options.parse_train()
    startup.require_torch()

import contextlib
import math
import shutil
import warnings
import zlib
from argparse import Namespace
from pathlib import Path

import pandas as pd
from torch import nn, optim

import amp
import archs
import checkpoints
import dataset
import engine
import files
import pictures
import utils

OPTIMIZERS = {
    "Adam": lambda parameters, args, runtime, level: amp.adam(
        parameters, runtime, level, lr=args.lr, weight_decay=args.weight_decay
    ),
    "SGD": lambda parameters, args, *_: optim.SGD(
        parameters, lr=args.lr, momentum=args.momentum, nesterov=args.nesterov, weight_decay=args.weight_decay
    ),
}
SCHEDULERS = {
    "CosineAnnealingLR": lambda optimizer, args: optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=args.epochs, eta_min=args.min_lr
    ),
    "ReduceLROnPlateau": lambda optimizer, args: optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=args.factor, patience=args.patience, min_lr=args.min_lr
    ),
    "MultiStepLR": lambda optimizer, args: optim.lr_scheduler.MultiStepLR(
        optimizer, milestones=args.milestones, gamma=args.gamma
    ),
    "ConstantLR": lambda optimizer, args: optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0),
}
EACH_RANKS_OWN = ("rank_id", "device_id", "addr", "data_path", "resume")
PLATEAU_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


def main(args: Namespace) -> None:
    """Join the other processes, if any, and go through the recipe."""
    folder = utils.run_folder(args.name)
    joined = rt.init(
        args.device,
        args.device_id,
        rank_id=args.rank_id,
        num_gpus=args.num_gpus,
        addr=args.addr,
        port=args.port,
        dist_backend=args.dist_backend,
        dist_timeout=args.dist_timeout,
        several=True,
    )
    output = folder / f"{'eval_' if args.evaluate else ''}rank{joined.rank}.log"
    with joined as runtime, ranks.own_output(runtime.rank, output, append=bool(args.resume)):
        run(args, runtime, folder)


def run(args: Namespace, runtime: rt.Runtime, folder: Path) -> None:
    """The recipe, in order."""
    rt.configure(runtime, hf32=args.hf32, fp32=args.fp32, bin_mode=args.bin_mode, precision_mode=args.precision_mode)
    utils.seed_everything(args.seed)
    train_loader, val_loader = build_loaders(args, runtime)
    see_that_all_agree(args, runtime, val_loader.dataset.ids)
    criterion = engine.build_criterion(args.loss)
    if args.evaluate:
        model, checkpoint = engine.load_model(args.resume, runtime)
        if model.num_classes != args.num_classes:
            raise InputError(f"{args.resume} has {model.num_classes} classes; pass --num_classes {model.num_classes}")
        print(f"evaluating {args.resume}, {checkpoint['epoch']} epochs trained")
        engine.evaluate(model, val_loader, criterion, runtime)
        return

    model = archs.ARCHS[args.arch](args.num_classes, args.input_channels, args.deep_supervision).to(runtime.device)
    if args.sync_bn:
        model = engine.share_batch_norm(model, runtime)
    checkpoint = None
    if args.pretrained:
        load_pretrained(model, args.resume)
    elif args.resume:
        checkpoint = load_weights(args, model)
    level = amp.choose_level(args.amp, args.opt_level, args.precision_mode, runtime)
    optimizer = OPTIMIZERS[args.optimizer](model.parameters(), args, runtime, level)
    precision = amp.prepare(model, optimizer, runtime, level, args.loss_scale)
    scheduler = SCHEDULERS[args.scheduler](precision.optimizer, args)
    progress = {"epoch": 0, "best_iou": 0.0, "stale_epochs": 0, "history": []}
    if checkpoint:
        progress = resume(args, checkpoint, precision, scheduler)
        if runtime.is_main:
            progress["best_iou"] = adopt_best(Path(args.resume), folder, progress["best_iou"])
        progress = runtime.from_main(progress)
        if progress["epoch"] >= args.epochs:
            print(f"{args.resume} has finished its {progress['epoch']} epochs; raise --epochs to train on")
            return

    images = f"{len(train_loader.dataset)} images to train, {len(val_loader.dataset)} to validate"
    processes = f", {runtime.world_size} processes" if runtime.world_size > 1 else ""
    print(f"{args.arch} on {runtime.device}{processes}, {precision.name}: {images}", flush=True)
    if runtime.is_main:
        if not args.resume and (folder / "model_best.pth.tar").exists():
            print(f"{folder} holds an earlier run, whose files this one replaces; --name NAME would keep them")
        utils.save_config(vars(args), folder)
    net = engine.distribute(precision.model, runtime)
    trace = rt.profiler(runtime, args.profiling, args.start_step, args.stop_step, folder / "profile")
    with trace as after_step:
        for epoch in range(progress["epoch"], args.epochs):
            lr = precision.optimizer.param_groups[0]["lr"]
            train_loader.batch_sampler.set_epoch(epoch)
            trained = engine.train_epoch(net, train_loader, criterion, precision, runtime, epoch, after_step)
            validated = engine.evaluate(precision.model, val_loader, criterion, runtime)
            if not math.isfinite(validated["loss"]):  # an epoch's last step can spoil the weights unseen
                raise InputError(
                    f"the validation loss is {validated['loss']} after epoch {epoch + 1}; {engine.DIVERGED}"
                )
            step_scheduler(scheduler, validated["loss"])

            row = {"epoch": epoch, "lr": lr, "loss": trained["loss"], "iou": trained["iou"]}
            row |= {f"val_{key}": validated[key] for key in ("loss", "iou", "dice")} | {"images_per_s": trained["fps"]}
            progress["history"].append(row)
            is_best = validated["iou"] > progress["best_iou"]
            progress["best_iou"] = max(validated["iou"], progress["best_iou"])
            progress["stale_epochs"] = 0 if is_best else progress["stale_epochs"] + 1
            progress["epoch"] = epoch + 1
            if runtime.is_main:
                save(progress, args, precision, scheduler, folder, is_best)
            if 0 <= args.early_stopping <= progress["stale_epochs"]:
                print(f"early stopping: no better IoU for {progress['stale_epochs']} epochs")
                break
    print(f"best validation IoU {progress['best_iou']:.4f}; the run is in {folder}")


def build_loaders(args: Namespace, runtime: rt.Runtime):
    """Check the data, split it and return the loaders for training (None to evaluate only) and validation."""
    train, val = dataset.open_dataset(Path(args.data_path), args.num_classes, vars(args))
    loading = args.batch_size, args.num_workers, runtime.accelerated, runtime.rank, runtime.world_size
    return None if args.evaluate else dataset.train_loader(train, *loading), dataset.val_loader(val, *loading)


def see_that_all_agree(args: Namespace, runtime: rt.Runtime, val_ids: list[str]) -> None:
    """Raise InputError where the processes, which may be on several hosts, have other flags or other images."""
    own = {flag: value for flag, value in vars(args).items() if flag not in EACH_RANKS_OWN}
    everyones = runtime.gather(own | {"the validation images": zlib.crc32("\n".join(val_ids).encode())})
    for rank, others in enumerate(everyones):
        differing = [what for what, value in everyones[0].items() if others[what] != value]
        if differing:
            raise InputError(f"rank {rank} and rank 0 differ in {', '.join(differing)}; start all ranks alike")


def step_scheduler(scheduler: optim.lr_scheduler.LRScheduler, val_loss: float) -> None:
    """Step once an epoch; only ReduceLROnPlateau looks at a number, the validation loss."""
    if isinstance(scheduler, optim.lr_scheduler.ReduceLROnPlateau):
        scheduler.step(val_loss)
    else:
        scheduler.step()


def load_pretrained(model: nn.Module, path: str) -> None:
    """Start from a file's weights; heads for another number of classes keep their fresh ones, which is said."""
    weights, own = checkpoints.load(path)["state_dict"], model.state_dict()
    differing = [k for k in own if k not in weights or weights[k].shape != own[k].shape]
    body = [k for k in differing if not k.startswith("final")]
    if body:
        raise InputError(f"{path}: weights of another net ({body[0]} and {len(body) - 1} more differ); check --arch")
    model.load_state_dict({k: v for k, v in weights.items() if k in own and k not in differing}, strict=False)
    print(f"starting from the weights of {path}" + (f", but with fresh {', '.join(differing)}" if differing else ""))


def load_weights(args: Namespace, model: nn.Module) -> dict:
    """Load the weights of `--resume` into the model, fp32 as yet; returns the checkpoint."""
    checkpoint = checkpoints.load(args.resume)
    with telling_misfits(args.resume):
        for flag, found in archs.describe(checkpoint["state_dict"]).items():
            if found != vars(args)[flag]:
                raise ValueError(f"--{flag} is {found} there and {vars(args)[flag]} here")
        model.load_state_dict(checkpoint["state_dict"])
    return checkpoint


def resume(args: Namespace, checkpoint: dict, precision: amp.Precision, scheduler) -> dict:
    """Put all but the weights back where the checkpoint left it; returns the run's progress. Says what it lacks."""
    optimizer = precision.optimizer
    lacking = [key for key in ("optimizer", "scheduler", "history") if not checkpoint.get(key)]
    with telling_misfits(args.resume):
        if "optimizer" not in lacking:
            load_optimizer(optimizer, checkpoint["optimizer"])
        precision.load_state_dict(checkpoint.get("amp") or {})
        if not isinstance(scheduler, optim.lr_scheduler.ReduceLROnPlateau):
            catch_up(optimizer, scheduler, checkpoint["epoch"], args.lr)
        elif "scheduler" not in lacking:
            # what it has seen, but the factor, patience and limits of this run's flags
            scheduler.load_state_dict({key: checkpoint["scheduler"][key] for key in PLATEAU_STATE})
    epoch, history = checkpoint["epoch"], checkpoint.get("history")
    if not history:
        history = earlier_rows(Path(args.resume).with_name("log.csv"), epoch)
    if lacking:
        rows = f"; log.csv keeps its {len(history)} rows" if history else ""
        print(f"warning: {args.resume} holds no {', '.join(lacking)}; the run goes on without{rows}")
    print(f"resuming {args.resume} after {epoch} epochs")
    progress = {"epoch": epoch, "best_iou": checkpoint["best_iou"] or 0.0, "history": history}
    return progress | {"stale_epochs": checkpoint.get("stale_epochs", 0)}


@contextlib.contextmanager
def telling_misfits(path: str):
    """Say of which checkpoint it was that something does not fit this run."""
    try:
        yield
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} does not fit this run: {' '.join(str(error).split())[:300]}") from error


def earlier_rows(log: Path, epochs: int) -> list[dict]:
    """The rows of an older edition's log.csv for the epochs that its checkpoint has finished; [] without one."""
    try:
        rows = pd.read_csv(log)
        return rows[rows["epoch"] < epochs].to_dict("records")
    except (OSError, ValueError, KeyError):
        return []


def load_optimizer(optimizer: optim.Optimizer, state: dict) -> None:
    """Load an optimiser's averages; this run's flags and device, not the file's, say how they are used.

    Raises ValueError where the state is another optimiser's.
    """
    groups = state["param_groups"]
    if ("betas" in groups[0]) != ("betas" in optimizer.defaults):
        raise ValueError("its --optimizer was another one")
    kept = ("params", "lr", "initial_lr")
    groups = [optimizer.defaults | {key: group[key] for key in kept if key in group} for group in groups]
    # a number, as torch also takes it: the NPU's fused optimiser would count a tensor twice
    averages = {
        index: own | {"step": int(own["step"])} if "step" in own else own for index, own in state["state"].items()
    }
    optimizer.load_state_dict({"state": averages, "param_groups": groups})


def adopt_best(resumed: Path, folder: Path, best_iou: float) -> float:
    """See to it that the run's folder has the best model so far; returns the IoU that a better one must exceed."""
    best = folder / "model_best.pth.tar"
    if best.exists():
        return best_iou
    source = resumed.with_name(best.name)
    if not source.is_file():
        return 0.0  # nowhere to be had: the next epoch's is the best there is
    with files.replacing(best) as partial:
        shutil.copyfile(source, partial)
    return best_iou


def catch_up(optimizer, scheduler, epochs: int, lr: float) -> None:
    """Bring a fresh scheduler to where this run's flags put it after `epochs`; exact, and old files need no state."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = lr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects an optimiser's step before each of these
        for _ in range(epochs):
            scheduler.step()


def save(progress: dict, args: Namespace, precision: amp.Precision, scheduler, folder: Path, is_best: bool) -> None:
    """Write the epoch's files: checkpoint.pth.tar, model_best.pth.tar if it is the best so far, log.csv, curves.png."""
    history = pd.DataFrame(progress["history"])
    with files.replacing(folder / "log.csv") as path:
        history.to_csv(path, index=False)
    with files.replacing(folder / "curves.png") as path:
        pictures.plot_curves(history, path)
    state = {
        **progress,
        "arch": args.arch,
        "state_dict": precision.weights(),
        "optimizer": precision.optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "config": vars(args),
    }
    if loss_scale := precision.state_dict():
        state["amp"] = loss_scale
    if is_best:
        checkpoints.save(state, folder / "model_best.pth.tar")
    checkpoints.save(state, folder / "checkpoint.pth.tar")


if __name__ == "__main__":
    with one_sentence():
        main(ARGS)
