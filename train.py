# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Train UNet or UNet++ for nuclei segmentation: set up → data → model → training state → resume → epochs."""

import options
from runtime import startup

if __name__ == "__main__":  # before torch is imported, so that --help and a mistyped flag are answered at once
    ARGS = startup.parse_flags(options.parse_train)

from argparse import Namespace
from pathlib import Path

from torch import optim
from torch.utils.data import DataLoader

import dataset
import engine
import utils
from runtime import precision
from runtime.checkpoint import (
    CheckpointSaver,
    check_same_checkpoint,
    find_checkpoint,
    load_latest_checkpoint,
    restore_training,
)
from runtime.session import Runtime, interruptible, start_session
from runtime.settings import apply_recorded_settings, check_same_run, recorded_settings
from runtime.state import ModelEma, TrainingState

# The names stand a second time in options/table.py, which must not import torch: add new ones there too.
OPTIMIZERS = {
    "Adam": lambda model, args, runtime, level: precision.adam(
        model.parameters(), runtime, level, lr=args.lr, weight_decay=args.weight_decay
    ),
    "AdamW": lambda model, args, runtime, level: precision.adam(
        precision.param_groups_weight_decay(model, args.weight_decay), runtime, level, decoupled=True, lr=args.lr
    ),
    "SGD": lambda model, args, *_: optim.SGD(
        model.parameters(), lr=args.lr, momentum=args.momentum, nesterov=args.nesterov, weight_decay=args.weight_decay
    ),
}
SCHEDULERS = {
    "CosineAnnealingLR": lambda optimizer, args, steps_per_epoch: optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=args.epochs, eta_min=args.min_lr
    ),
    "ReduceLROnPlateau": lambda optimizer, args, steps_per_epoch: optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=args.factor, patience=args.patience, min_lr=args.min_lr
    ),
    "MultiStepLR": lambda optimizer, args, steps_per_epoch: optim.lr_scheduler.MultiStepLR(
        optimizer, milestones=args.milestones, gamma=args.gamma
    ),
    # constant from the first epoch on, unlike torch's class of this name
    "ConstantLR": lambda optimizer, args, steps_per_epoch: optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0),
    # up from lr / 25 to lr, then down to min_lr, both along cosines; the optimizer's betas stay as they are
    "OneCycleLR": lambda optimizer, args, steps_per_epoch: optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=args.lr,
        total_steps=args.epochs * steps_per_epoch,
        # torch divides by zero if the warm-up is exactly one step; slightly less gives the same learning rates
        pct_start=args.warmup if args.warmup * (args.epochs * steps_per_epoch) != 1 else args.warmup * (1 - 1e-9),
        cycle_momentum=False,
        final_div_factor=args.lr / 25 / args.min_lr,  # torch: the last learning rate is lr / 25 / final_div_factor
    ),
}


def main(args: Namespace) -> None:
    """Open the checkpoint of `--resume`, the data and the model, restore the run, and train."""
    folder = utils.run_folder(args.name)
    with start_session(args, folder) as runtime:
        utils.seed_everything(args.seed)
        if args.evaluate:
            evaluate_checkpoint(args, runtime)
            return
        checkpoint, path = open_checkpoint(args, folder, runtime)  # first: it says how images are prepared
        resumed = None if args.pretrained else path  # a run that starts from weights continues no checkpoint
        recorded = checkpoint.get("data") if resumed else None
        train_loader, val_loader = build_loaders(args, runtime, recorded)
        state = build_state(args, runtime, steps_per_epoch=len(train_loader))
        data = dataset.describe(train_loader.dataset, val_loader.dataset, vars(args), recorded)
        if args.pretrained:
            engine.init_from_pretrained(state, checkpoint, path)
            dataset.warn_of_trained_images(val_loader.dataset, checkpoint.get("data"))
        elif checkpoint:
            engine.check_architecture(checkpoint, path, vars(args))
            check_same_run(checkpoint, path, args, data, options.FLAGS)
            restore_training(state, checkpoint, path)
            if has_finished(state, args, path):
                return

        images = f"{data['train_images']} images to train, {data['val_images']} to validate"
        processes = f", {runtime.world_size} processes" if runtime.world_size > 1 else ""
        print(f"{args.arch} on {runtime.device}{processes}, {state.precision.name}: {images}", flush=True)
        if args.save_steps > len(train_loader):
            print(f"--save_steps {args.save_steps} has no effect: an epoch has {len(train_loader)} steps")
        saver = CheckpointSaver(folder, {"arch": args.arch, "config": vars(args), "data": data}, resumed)
        saver.prepare_folder(state)
        train(args, state, saver, train_loader, val_loader)
        print(f"best validation IoU {state.best_iou:.4f}; the run is in {folder}")


def train(
    args: Namespace, state: TrainingState, saver: CheckpointSaver, train_loader: DataLoader, val_loader: DataLoader
) -> None:
    """Train and validate epoch after epoch; save after each, and every `--save_steps` steps."""
    runtime, criterion = state.runtime, engine.build_criterion(args.loss)

    def save_within_epoch() -> None:
        if state.logger.is_save_step:
            saver.save(state)

    with interruptible(args, state, saver, val_loader.dataset.view) as (stop, profile_step, board):
        callbacks = (profile_step, save_within_epoch)
        while state.epoch < args.epochs:
            train_loader.batch_sampler.set_epoch(state.epoch, state.step)
            trained = engine.train_one_epoch(state, train_loader, criterion, stop, callbacks)
            state.before_validation()
            validated = engine.evaluate(state.eval_model, val_loader, criterion, runtime, board.on_batch, stop)
            row = {"epoch": state.epoch, "lr": state.learning_rate, "loss": trained["loss"], "iou": trained["iou"]}
            row |= {f"val_{key}": validated[key] for key in ("loss", "iou", "dice")}
            is_best = state.finish_epoch(row | {"images_per_s": trained["fps"]})
            board.write_epoch(state.history[-1])
            saver.save(state, is_best)
            if state.stopped_early(args.early_stopping):
                print(f"early stopping: no better IoU for {state.stale_epochs} epochs")
                break


def evaluate_checkpoint(args: Namespace, runtime: Runtime) -> None:
    """Score the checkpoint of `--resume` in fp32, on the validation split and with the settings of its training."""
    path = Path(args.resume)
    model, checkpoint = engine.load_model(path, runtime, trust=args.trust_checkpoint)
    engine.check_architecture(checkpoint, path, {name: vars(args)[name] for name in args.given})
    settings = recorded_settings(checkpoint, path, options.RECORDED_FLAGS)
    apply_recorded_settings(args, settings, options.EVALUATION_FLAGS, runtime.world_size)
    if not args.given & {"data_path", "dataset"}:
        args.data_path = str(utils.find_data(None, settings))
    args.num_classes = model.num_classes
    _, val_loader = build_loaders(args, runtime, checkpoint.get("data"))
    print(f"evaluating {path}, {checkpoint['epoch']} epochs trained, on {args.data_path}")
    engine.evaluate(model, val_loader, engine.build_criterion(args.loss), runtime)


def open_checkpoint(args: Namespace, folder: Path, runtime: Runtime) -> tuple[dict | None, Path | None]:
    """Load the checkpoint of `--resume`, if any, and prepare images as it records; returns it and its path."""
    checkpoint, path = None, find_checkpoint(args.resume, folder)
    if path:
        checkpoint, path = load_latest_checkpoint(path, args.trust_checkpoint)
        settings = recorded_settings(checkpoint, path, options.INPUT_FLAGS)
        apply_recorded_settings(args, settings, options.INPUT_FLAGS)
    elif args.resume:
        print(f"{folder} holds no checkpoint yet: starting a new run")
    check_same_checkpoint(checkpoint, path, runtime)
    return checkpoint, path


def build_loaders(args: Namespace, runtime: Runtime, recorded: object = None) -> tuple[DataLoader | None, DataLoader]:
    """Return the loaders for training (None to evaluate only) and validation; recorded: see dataset.open_dataset."""
    # a single pass over the validation images needs no cache and draws nothing
    settings = vars(args) | ({"cache_mb": 0, "balance": False} if args.evaluate else {})
    train, val = dataset.open_dataset(
        Path(args.data_path), args.num_classes, settings, settings["cache_mb"], args.augmentation, recorded
    )
    flags = {name: value for name, value in vars(args).items() if name not in options.LOCAL_FLAGS}
    images = {"the validation images": val.ids, "the training images": train.ids, "the draws": train.shares}
    runtime.check_ranks_agree(flags | images)
    workers = dataset.choose_num_workers(vars(args), args.num_classes, runtime.world_size, runtime.local_size)
    loading = args.batch_size, workers, runtime.is_accelerator, runtime.rank, runtime.world_size
    if args.evaluate:
        return None, dataset.val_loader(val, *loading)
    print(train.cache, flush=True)
    return dataset.train_loader(train, *loading), dataset.val_loader(val, *loading)


def build_state(args: Namespace, runtime: Runtime, steps_per_epoch: int) -> TrainingState:
    """Build the model, its EMA, the optimizer with its precision, and the scheduler."""
    model = engine.build_model(args, runtime)
    ema = ModelEma(model, args.ema) if args.ema else None  # of the fp32 weights, before they become half
    level = precision.choose_opt_level(args.amp, args.opt_level, args.precision_mode, runtime)
    optimizer = OPTIMIZERS[args.optimizer](model, args, runtime, level)
    prepared = precision.prepare(model, optimizer, runtime, level, args.loss_scale)
    scheduler = SCHEDULERS[args.scheduler](prepared.optimizer, args, steps_per_epoch)
    net = engine.wrap_ddp(prepared.model, runtime)
    logger = utils.MetricLogger(runtime, args.save_steps, args.performance)
    state = TrainingState(net, prepared, ema, scheduler, logger, args.epochs, steps_per_epoch)
    state.use_graph(args.cuda_graph, args.profiling != "False")
    return state


def has_finished(state: TrainingState, args: Namespace, path: Path) -> bool:
    """Is nothing left to train? If so, print which flag to raise."""
    if state.epoch >= args.epochs:
        another_schedule = args.scheduler in options.WITH_EPOCHS[1]
        remedy = f"; raise --epochs{' and pass --resume_anyway' if another_schedule else ''}"
    elif state.stopped_early(args.early_stopping):
        remedy = ", stopped early; raise --early_stopping"
    else:
        return False
    print(f"{path} has finished its {state.epoch} epochs{remedy} to train on")
    return True


if __name__ == "__main__":
    startup.run(main, ARGS)
