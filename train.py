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
import sys
import zlib
from argparse import Namespace
from pathlib import Path

import pandas as pd
from torch import nn, optim

import amp
import archs
import averaging
import checkpoints
import compiling
import dataset
import engine
import files
import locks
import pictures
import resuming
import stopping
import utils

OPTIMIZERS = {
    "Adam": lambda model, args, runtime, level: amp.adam(
        model.parameters(), runtime, level, lr=args.lr, weight_decay=args.weight_decay
    ),
    "AdamW": lambda model, args, runtime, level: amp.adam(
        amp.decay_weights_alone(model, args.weight_decay), runtime, level, decoupled=True, lr=args.lr, weight_decay=0.0
    ),
    "SGD": lambda model, args, *_: optim.SGD(
        model.parameters(), lr=args.lr, momentum=args.momentum, nesterov=args.nesterov, weight_decay=args.weight_decay
    ),
}
SCHEDULERS = {
    "CosineAnnealingLR": lambda optimizer, args, steps: optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=args.epochs, eta_min=args.min_lr
    ),
    "ReduceLROnPlateau": lambda optimizer, args, steps: optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=args.factor, patience=args.patience, min_lr=args.min_lr
    ),
    "MultiStepLR": lambda optimizer, args, steps: optim.lr_scheduler.MultiStepLR(
        optimizer, milestones=args.milestones, gamma=args.gamma
    ),
    "ConstantLR": lambda optimizer, args, steps: optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0),
    # up from a 25th of the rate, then down to min_lr along a cosine; not Adam's momentum with it
    "OneCycleLR": lambda optimizer, args, steps: optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=args.lr,
        total_steps=args.epochs * steps,
        pct_start=args.warmup,
        cycle_momentum=False,
        final_div_factor=args.lr / 25 / args.min_lr,
    ),
}
EACH_RANKS_OWN = ("rank_id", "device_id", "addr", "data_path", "resume")


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
    own_log = folder / f"{'eval_' if args.evaluate else ''}rank{joined.rank}.log"
    own_output = ranks.own_output(joined.rank, own_log, append=bool(args.resume))
    with joined as runtime, owned(folder, args, runtime), own_output:
        run(args, runtime, folder)


@contextlib.contextmanager
def owned(folder: Path, args: Namespace, runtime: rt.Runtime):
    """Lock the run's folder for all its processes; an evaluation writes nothing that another run could harm."""
    with contextlib.nullcontext() if args.evaluate or not runtime.is_main else locks.locked(folder):
        runtime.from_main(None)  # nobody writes before the main process has the lock
        yield


def run(args: Namespace, runtime: rt.Runtime, folder: Path) -> None:
    """The recipe, in order."""
    rt.configure(runtime, hf32=args.hf32, fp32=args.fp32, bin_mode=args.bin_mode, precision_mode=args.precision_mode)
    utils.seed_everything(args.seed)
    if args.evaluate:
        evaluate(args, runtime)
        return
    train_loader, val_loader = build_loaders(args, runtime)
    see_that_all_agree(args, runtime, val_loader.dataset.ids)
    criterion = engine.build_criterion(args.loss)
    model = archs.ARCHS[args.arch](args.num_classes, args.input_channels, args.deep_supervision).to(runtime.device)
    if args.sync_bn:
        model = engine.share_batch_norm(model, runtime)
    if args.channels_last:
        model = engine.lay_out_channels_last(model, runtime)
    config, data = vars(args), dataset.describe(train_loader.dataset, val_loader.dataset)
    average = averaging.WeightAverage(model, args.ema) if args.ema else None
    checkpoint, path = load_weights(args, folder, model, average, data)
    resuming.see_that_all_have_the_same(path, checkpoint, runtime)
    level = amp.choose_level(args.amp, args.opt_level, args.precision_mode, runtime)
    optimizer = OPTIMIZERS[args.optimizer](model, args, runtime, level)
    precision = amp.prepare(model, optimizer, runtime, level, args.loss_scale)
    scheduler = SCHEDULERS[args.scheduler](precision.optimizer, args, len(train_loader))
    progress = resuming.Progress()
    if checkpoint:
        progress = resuming.restore(checkpoint, path, config, precision, average, scheduler, len(train_loader), runtime)
        if finished := has_finished(progress, args):
            print(f"{path} has finished its {progress.epoch} epochs{finished} to train on")
            return

    net = engine.distribute(precision.model, runtime)
    if args.compile:
        net = compiling.compiled(net, runtime)
    images = f"{data['train_images']} images to train, {data['val_images']} to validate"
    processes = f", {runtime.world_size} processes" if runtime.world_size > 1 else ""
    print(f"{args.arch} on {runtime.device}{processes}, {precision.name}: {images}", flush=True)
    if args.compile:
        print("the net is compiled in the first step, which takes half a minute or more", flush=True)
    if args.save_steps > len(train_loader):
        print(f"--save_steps {args.save_steps} has no effect: an epoch has {len(train_loader)} steps")
    saver = Saver(folder, config, data, precision, average, scheduler, runtime, path)
    if runtime.is_main:
        if not saver.previous_is_own and (folder / checkpoints.BEST).exists():
            print(f"{folder} holds an earlier run, whose files this one replaces; --name NAME would keep them")
        files.clear_partials(folder)
        utils.save_config(config, folder)
        if checkpoint:
            progress.best_iou = resuming.adopt_best(path, folder, progress.best_iou)
    progress.best_iou = runtime.from_main(progress.best_iou)
    trace = rt.profiler(runtime, args.profiling, args.start_step, args.stop_step, folder / "profile")
    with trace as trace_step, stopping.on_request() as stop:

        def after_step() -> None:
            trace_step()
            if average:
                average.update(precision.weights())
            if resuming.goes_by_steps(scheduler) and scheduler.last_epoch + 1 < scheduler.total_steps:
                scheduler.step()  # the last step's rate stays, and is logged

        steps = {"after_step": after_step, "stop": stop}
        steps |= {"save": lambda: saver.save(progress), "save_steps": args.save_steps}
        try:
            while progress.epoch < args.epochs:
                epoch, after_training = progress.epoch, None
                train_loader.batch_sampler.set_epoch(epoch, progress.so_far.step)
                trained = engine.train_epoch(
                    net, train_loader, criterion, precision, runtime, epoch, progress.so_far, **steps
                )
                after_training = resuming.get_random_states(runtime)
                if average:
                    runtime.average_(buffer for buffer in average.model.buffers() if buffer.is_floating_point())
                model = average.model if average else precision.model
                validated = engine.evaluate(model, val_loader, criterion, runtime, stop=stop)
                if not math.isfinite(validated["loss"]):  # an epoch's last step can spoil the weights unseen
                    raise InputError(
                        f"the validation loss is {validated['loss']} after epoch {epoch + 1}; {engine.DIVERGED}"
                    )
                lr = precision.optimizer.param_groups[0]["lr"]
                step_scheduler(scheduler, validated["loss"])
                row = {"epoch": epoch, "lr": lr, "loss": trained["loss"], "iou": trained["iou"]}
                row |= {f"val_{key}": validated[key] for key in ("loss", "iou", "dice")}
                is_best = progress.finish_epoch(row | {"images_per_s": trained["fps"]})
                saver.save(progress, is_best)
                if 0 <= args.early_stopping <= progress.stale_epochs:
                    print(f"early stopping: no better IoU for {progress.stale_epochs} epochs")
                    break
        except stopping.Interrupted:
            saver.save(progress, random_states=after_training)
            runtime.from_main(None)  # until the main process has saved
            done = f"{progress.epoch} epochs and {progress.so_far.step} steps"
            print(f"[Stopped] after {done}, which are saved; --resume auto goes on from there", flush=True)
            sys.exit(stop.exit_code)
    print(f"best validation IoU {progress.best_iou:.4f}; the run is in {folder}")


def evaluate(args: Namespace, runtime: rt.Runtime) -> None:
    """Score the checkpoint of `--resume`: on what its training validated on, prepared as it was there."""
    model, checkpoint = engine.load_model(args.resume, runtime, trust=args.trust_checkpoint)
    settings = utils.settings_of(checkpoint, Path(args.resume))
    for flag in (*utils.PREPARATION, "inner_split"):
        if vars(args)[flag] != settings[flag]:
            print(f"{flag} {settings[flag]}, as in training")
            vars(args)[flag] = settings[flag]
    _, val_loader = build_loaders(args, runtime)
    see_that_all_agree(args, runtime, val_loader.dataset.ids)
    if model.num_classes != args.num_classes:
        raise InputError(f"{args.resume} has {model.num_classes} classes; pass --num_classes {model.num_classes}")
    print(f"evaluating {args.resume}, {checkpoint['epoch']} epochs trained")
    engine.evaluate(model, val_loader, engine.build_criterion(args.loss), runtime)


def build_loaders(args: Namespace, runtime: rt.Runtime):
    """Check the data, split it and return the loaders for training (None to evaluate only) and validation."""
    cache_mb = 0 if args.evaluate else args.cache_mb  # one pass over a fifth of the images needs none
    opened = Path(args.data_path), args.num_classes, vars(args), cache_mb, args.augmentation
    train, val = dataset.open_dataset(*opened)
    if not args.evaluate:
        print(train.decoded, flush=True)
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
    """At an epoch's end; only ReduceLROnPlateau looks at a number, the validation loss."""
    if isinstance(scheduler, optim.lr_scheduler.ReduceLROnPlateau):
        scheduler.step(val_loss)
    elif not resuming.goes_by_steps(scheduler):
        scheduler.step()


def load_weights(
    args: Namespace, folder: Path, model: nn.Module, average: averaging.WeightAverage | None, data: dict
) -> tuple[dict | None, Path | None]:
    """Load into the model, and the average, what `--resume` names.

    Returns the checkpoint to go on from, if any, and its path. Raises InputError where it is of another net or, without
    `--resume_anyway`, of another run.
    """
    if args.pretrained:
        resuming.load_pretrained(model, args.resume, args.trust_checkpoint)
        if average:
            average.model.load_state_dict(model.state_dict())
        return None, None
    path = resuming.find(args.resume, folder)
    if path is None:
        return None, None
    checkpoint, path = checkpoints.load_latest(path, args.trust_checkpoint)
    resuming.load_weights(checkpoint, path, model, average, vars(args))
    resuming.see_that_it_is_the_same_run(checkpoint, path, vars(args), data, args.resume_anyway)
    return checkpoint, path


def has_finished(progress: resuming.Progress, args: Namespace) -> str:
    """Words on what to raise where nothing is left to train, else nothing."""
    if progress.epoch >= args.epochs:
        return "; raise --epochs"
    stopped_early = progress.history and not progress.so_far.step and 0 <= args.early_stopping <= progress.stale_epochs
    return ", stopped early; raise --early_stopping" if stopped_early else ""


class Saver:
    """Writes the files of a run that change: checkpoint.pth.tar, model_best.pth.tar, log.csv, curves.png."""

    def __init__(
        self,
        folder: Path,
        config: dict,
        data: dict,
        precision: amp.Precision,
        average: averaging.WeightAverage | None,
        scheduler: optim.lr_scheduler.LRScheduler,
        runtime: rt.Runtime,
        resumed: Path | None,
    ):
        """resumed: the checkpoint that the run goes on from, in this folder or in another."""
        self.folder, self.runtime, self.saved = folder, runtime, None
        self.state = config, data, precision, average, scheduler, runtime
        # an earlier run's checkpoint, or a damaged one, is not to be kept as the previous one
        self.previous_is_own = resumed is not None and resumed.resolve().parent == folder.resolve()
        self.latest_is_own = self.previous_is_own and resumed.name == checkpoints.LATEST

    def save(self, progress: resuming.Progress, is_best: bool = False, random_states: dict | None = None) -> None:
        """Save the run as it is, for all its processes; at an epoch's end with log and curves, the checkpoint last."""
        if self.saved == (progress.epoch, progress.so_far.step):
            return
        state = resuming.snapshot(progress, *self.state, random_states)
        self.saved = progress.epoch, progress.so_far.step
        if not self.runtime.is_main:
            return
        if not progress.so_far.step:
            history = pd.DataFrame(progress.history)
            with files.replacing(self.folder / "log.csv") as path:
                history.to_csv(path, index=False)
            with files.replacing(self.folder / "curves.png") as path:
                pictures.plot_curves(history, path)
        if is_best:
            checkpoints.save(state, self.folder / checkpoints.BEST)
        previous = self.folder / checkpoints.PREVIOUS
        checkpoints.save(state, self.folder / checkpoints.LATEST, previous if self.latest_is_own else None)
        if not self.previous_is_own:
            previous.unlink(missing_ok=True)
        self.previous_is_own = self.latest_is_own = True


if __name__ == "__main__":
    with one_sentence():
        main(ARGS)
