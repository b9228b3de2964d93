# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The training state: everything that changes during a run, saved and restored as one object."""

import math
import warnings

import torch
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from runtime.errors import DivergedError, InputError
from runtime.graph import StepGraph, graph_obstacle
from runtime.precision import Precision
from runtime.random_states import get_random_states, set_random_states
from runtime.run_files import check_history

PLATEAU_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


class ModelEma(AveragedModel):
    """The EMA of a net's fp32 weights and BatchNorm statistics: `module`. decay: share that remains, in (0, 1)."""

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model)
        self.module.eval().requires_grad_(False)
        self.decay = decay
        self.followed: dict[str, Tensor] = {}  # the weights whose lists are kept

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor]) -> None:
        """Take in the weights after a step: tensors by the names of the net's state_dict.

        If the same dict comes each time, a call only launches a few operators.
        """
        # AveragedModel.update_parameters takes a model, whose weights are half under O2, and waits for the device
        if weights is not self.followed:
            self._follow(weights)
        steps = int(self.n_averaged)  # a tensor on the CPU
        decay = min(self.decay, (1 + steps) / (10 + steps))  # the random initial weights are soon forgotten
        if self.halves:
            torch._foreach_copy_(self.from_halves, self.halves)  # private, as get_ema_multi_avg_fn's operator is
        get_ema_multi_avg_fn(decay)(*self.averaged, None)
        if self.copied[0]:
            torch._foreach_copy_(*self.copied)
        self.n_averaged += 1

    def _follow(self, weights: dict[str, Tensor]) -> None:
        """Sort the tensors by what an update does with them, always in pairs of this net's and the trained net's."""
        own = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        floating = [name for name, value in own.items() if value.is_floating_point()]
        self.halves = [weights[name] for name in floating if weights[name].dtype != own[name].dtype]  # only at O3
        exact = {id(half): torch.empty_like(half, dtype=torch.float32) for half in self.halves}
        self.from_halves = list(exact.values())
        trained = [exact.get(id(weights[name]), weights[name]) for name in floating]
        self.averaged = [own[name] for name in floating], trained
        counts = own.keys() - set(floating)
        self.copied = [own[name] for name in counts], [weights[name] for name in counts]
        self.followed = weights


class TrainingState:
    """Model, EMA, optimizer with precision, scheduler, and the run's progress."""

    def __init__(
        self,
        net: nn.Module,
        precision: Precision,
        ema: ModelEma | None,
        scheduler: optim.lr_scheduler.LRScheduler,
        logger,
        epochs: int,
        steps_per_epoch: int,
    ):
        """net: the model, with DistributedDataParallel if there are several processes. logger: a MetricLogger."""
        self.net, self.precision, self.ema, self.scheduler = net, precision, ema, scheduler
        self.trained_tensors = precision.trained_tensors()
        self.logger, self.runtime = logger, logger.runtime
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        # the finished epochs, and those since the best one
        self.epoch, self.best_iou, self.stale_epochs = 0, 0.0, 0
        self.history: list[dict] = []  # a row of log.csv per epoch
        self.step_graph = StepGraph(self.runtime)  # without a graph, see use_graph
        self.trained_random_states: dict | None = None  # those after an epoch's last step, until the epoch is finished

    def use_graph(self, choice: str, profiling: bool) -> None:
        """Let the steps run as one graph if `choice` is on, or auto and it is possible.

        Raises InputError if it is on, but not possible.
        """
        obstacle = graph_obstacle(self.precision, self.runtime, self.runtime.world_size, profiling)
        if choice == "on" and obstacle:
            raise InputError(f"--cuda_graph on: {obstacle}; use --cuda_graph auto")
        if choice != "off" and not obstacle:
            self.precision.make_capturable()
            self.step_graph = StepGraph(self.runtime, self.runtime.new_graph())

    @property
    def step(self) -> int:
        """Number of steps done in the unfinished epoch."""
        return self.logger.step

    @property
    def model(self) -> nn.Module:
        return self.precision.model

    @property
    def eval_model(self) -> nn.Module:
        return self.ema.module if self.ema else self.model

    @property
    def learning_rate(self) -> float:
        return self.precision.optimizer.param_groups[0]["lr"]

    def after_step(self) -> None:
        """Update the EMA, and step a scheduler that steps after each training step; also if the step was skipped."""
        if self.ema:
            self.ema.update(self.trained_tensors)
        # not after the very last step: OneCycleLR would raise, and the log is to show that step's learning rate
        if is_per_step(self.scheduler) and self.scheduler.last_epoch + 1 < self.scheduler.total_steps:
            self.scheduler.step()

    def before_validation(self) -> None:
        """Average the EMA's statistics over the processes; keep the random states, in case validation is repeated."""
        self.trained_random_states = get_random_states(self.runtime)
        if self.ema:
            self.runtime.mean_(statistics(self.ema.module).values())

    def finish_epoch(self, row: dict) -> bool:
        """Take in a finished epoch's row of log.csv and step the scheduler; returns whether it is the best so far."""
        if not math.isfinite(row["val_loss"]):  # an epoch's last step can ruin the weights, but not its own loss
            raise DivergedError(f"the validation loss is {row['val_loss']} after epoch {self.epoch + 1}")
        if isinstance(self.scheduler, optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(row["val_loss"])
        elif not is_per_step(self.scheduler):
            self.scheduler.step()
        self.history.append(row)
        is_best = row["val_iou"] > self.best_iou
        self.best_iou = max(row["val_iou"], self.best_iou)
        self.stale_epochs = 0 if is_best else self.stale_epochs + 1
        self.epoch += 1
        self.logger.reset()
        self.trained_random_states = None
        return is_best

    def stopped_early(self, patience: int) -> bool:
        """Has the IoU not improved for `patience` epochs, at least one? A negative patience means never."""
        return patience >= 0 and self.stale_epochs >= max(1, patience) and not self.step

    def state_dict(self) -> dict:
        """Return all that a later run needs; all processes must call this.

        With an EMA, `state_dict` in it holds the EMA's weights, and `trained` those of the model.
        Raises DivergedError if a weight is not a finite number.
        """
        weights = self.precision.weights()
        if name := find_non_finite(weights):
            raise DivergedError(f"{name} is not finite after epoch {self.epoch}, step {self.step}")
        averaged = self.ema.module.state_dict() if self.ema else {}
        # Within an epoch each process has BatchNorm statistics of its own. The saved net gets their mean.
        differ = self.step and self.runtime.world_size > 1
        own = {
            "buffers": _to_host(statistics(self.model)) if differ else {},
            "averaged": _to_host(statistics(self.ema.module)) if differ and self.ema else {},
        }
        ranks = self.runtime.all_gather(own | {"random": self.trained_random_states or get_random_states(self.runtime)})
        for kind, state in (("buffers", weights), ("averaged", averaged)):
            for name in own[kind]:
                state[name] = torch.stack([rank[kind][name] for rank in ranks]).mean(0)
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "best_iou": self.best_iou,
            "stale_epochs": self.stale_epochs,
            "history": self.history,
            "so_far": self.logger.state_dict(),
            "state_dict": averaged or weights,
            "optimizer": self.precision.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "processes": self.runtime.world_size,
            "ranks": ranks,
        }
        if self.ema:
            state["trained"] = {"state_dict": weights, "steps": int(self.ema.n_averaged)}
        if loss_scale := self.precision.state_dict():
            state["amp"] = loss_scale
        return state

    def load_state_dict(self, checkpoint: dict) -> None:
        """Restore what a checkpoint of load_checkpoint has; raises one of MISFIT_ERRORS if it does not fit."""
        trained = checkpoint.get("trained", {})
        self.init_weights(trained.get("state_dict", checkpoint["state_dict"]))
        if self.ema:
            self.ema.module.load_state_dict(checkpoint["state_dict"])
            self.ema.n_averaged.fill_(int(trained.get("steps", 0)))
        if checkpoint.get("optimizer"):
            load_optimizer(self.precision.optimizer, checkpoint["optimizer"])
        self.precision.load_state_dict(checkpoint.get("amp") or {})
        self.epoch, self.best_iou = checkpoint["epoch"], checkpoint["best_iou"] or 0.0
        self.stale_epochs = int(checkpoint.get("stale_epochs", 0))
        self.history = checkpoint.get("history") or []
        if self.history:
            check_history(self.history)
        if checkpoint["step"]:
            self.logger.load_state_dict(checkpoint["so_far"])
        self._restore_schedule(checkpoint)
        ranks = checkpoint.get("ranks", ())
        if len(ranks) == self.runtime.world_size:
            own = ranks[self.runtime.rank]
            set_random_states(own["random"], self.runtime)
            self.model.load_state_dict(own["buffers"], strict=False)
            if self.ema:
                self.ema.module.load_state_dict(own.get("averaged", {}), strict=False)

    def init_weights(self, weights: dict[str, Tensor]) -> None:
        self.precision.load_weights(weights)
        if self.ema:
            self.ema.module.load_state_dict(weights)

    def _restore_schedule(self, checkpoint: dict) -> None:
        if not isinstance(self.scheduler, optim.lr_scheduler.ReduceLROnPlateau):
            steps = min(self.epoch, self.epochs)
            if is_per_step(self.scheduler):
                steps = min(steps * self.steps_per_epoch + self.step, self.scheduler.total_steps - 1)
            fast_forward(self.scheduler, steps)
        elif checkpoint.get("scheduler"):
            # only the counters; the rest follows this run's flags; + 0 raises if one is no number
            self.scheduler.load_state_dict({key: checkpoint["scheduler"][key] + 0 for key in PLATEAU_STATE})


def is_per_step(scheduler) -> bool:
    """Is the scheduler stepped after each training step? Others are stepped once per epoch."""
    return isinstance(scheduler, optim.lr_scheduler.OneCycleLR)


def fast_forward(scheduler, steps: int) -> None:
    """Step a new scheduler `steps` times, which gives its exact state unless its creation changes the learning rate."""
    for group in scheduler.optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects an optimizer's step before each of these
        for _ in range(steps):
            scheduler.step()


def load_optimizer(optimizer: optim.Optimizer, state: dict) -> None:
    """Load the moments of the same optimizer and net; raises ValueError if they are of another one."""
    groups = state["param_groups"]
    own_groups = [optimizer.defaults | group for group in optimizer.param_groups]
    if ("betas" in groups[0]) != ("betas" in optimizer.defaults) or len(groups) != len(own_groups):
        raise ValueError("its --optimizer was another one")
    groups = [
        own | {key: group[key] for key in ("params", "lr") if key in group} for own, group in zip(own_groups, groups)
    ]
    # the count of steps as a number, which torch accepts too: the NPU's fused optimizer would count a tensor twice
    per_weight = {
        index: own | {"step": int(own["step"])} if "step" in own else own for index, own in state["state"].items()
    }
    optimizer.load_state_dict({"state": per_weight, "param_groups": groups})
    for parameter, own in optimizer.state.items():
        averages = {key: value for key, value in own.items() if key != "step" and value is not None}
        lacking = {"exp_avg", "exp_avg_sq"} - averages.keys() if "betas" in optimizer.defaults else ()
        if lacking or own.get("step", 0) < 0 or any(value.shape != parameter.shape for value in averages.values()):
            raise ValueError("its optimizer's state is not that of these weights")
        for key, value in averages.items():  # fused optimizers need the layout of the weights, NHWC or not
            own[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def find_non_finite(tensors: dict[str, Tensor]) -> str | None:
    """Return the name of the first tensor with a number that is not finite; waits once for the device if all are."""
    sums = [value.sum() for value in tensors.values() if value.is_floating_point()]
    if torch.stack(sums).isfinite().all():  # the sum is finite only if all numbers are; this takes a tenth of the time
        return None
    # a sum of finite numbers can overflow
    return next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return BatchNorm's running statistics, which are the only floating-point buffers of the nets, as references."""
    return {name: value for name, value in model.named_buffers() if value.is_floating_point()}


def _to_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu().clone() for name, value in tensors.items()}
