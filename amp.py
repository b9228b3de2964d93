"""Mixed precision O0–O3 behind one interface: apex where a real one is installed, its native twin elsewhere.

O0 computes in fp32. O1 casts around the operators that gain by it. O2 keeps half weights with fp32 BatchNorm, and the
optimiser steps on fp32 master weights. O3 is half throughout. Semantics after NVIDIA's apex.
"""

import functools
import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from runtime import Runtime

# of a dynamic loss scale, as in apex: where it begins and ends, and after how many clean steps it doubles
FIRST_SCALE, HIGHEST_SCALE, CLEAN_STEPS_TO_GROW = 2.0**16, 2.0**24, 2000
NORMS = nn.modules.batchnorm._BatchNorm  # SyncBatchNorm as well


def choose_level(wanted: bool | None, opt_level: str, precision_mode: str, runtime: Runtime) -> str:
    """The run's O-level: `opt_level` where mixed precision is `wanted` (None: on any device but the CPU), else O0."""
    if precision_mode == "must_keep_origin_dtype" or not (runtime.accelerated if wanted is None else wanted):
        return "O0"
    return opt_level


def tell_if_slow(runtime: Runtime) -> None:
    """Warn where mixed precision takes longer than fp32."""
    if not runtime.half_is_fast:
        print("warning: this CPU multiplies no bfloat16; mixed precision is slower than fp32 here")


def find_apex(runtime: Runtime):
    """The apex package where a real one is installed and the device is not the CPU, else None; warns of a wrong one."""
    return _real_apex() if runtime.accelerated else None


@functools.cache  # the warning once
def _real_apex():
    try:
        apex = importlib.import_module("apex")
        if callable(importlib.import_module("apex.amp").initialize):
            return apex
        reason = "its amp has no initialize"
    except Exception as error:  # whatever a package that happens to have this name does
        if isinstance(error, ModuleNotFoundError) and error.name == "apex":
            return None
        reason = str(error)
    print(
        f"warning: the installed `apex` is ignored ({reason}); PyPI's package of that name is unrelated: "
        "uninstall it, or build Ascend's or NVIDIA's from source",
        file=sys.stderr,
    )
    return None


def adam(
    parameters: Iterable[nn.Parameter] | list[dict], runtime: Runtime, level: str, decoupled: bool = False, **settings
) -> torch.optim.Optimizer:
    """Adam, or with `decoupled` weight decay AdamW, fused where there is such a one; settings: `lr`, `weight_decay`."""
    if level != "O0" and find_apex(runtime):
        fused = getattr(
            importlib.import_module("apex.optimizers"), "NpuFusedAdamW" if decoupled else "NpuFusedAdam", None
        )
        if level == "O3":  # Ascend's apex takes no fused one with it
            return (torch.optim.AdamW if decoupled else torch.optim.Adam)(parameters, **settings)
        if fused:
            return fused(parameters, **settings)
    return runtime.adam(parameters, decoupled=decoupled, **settings)


def decay_weights_alone(model: nn.Module, weight_decay: float) -> list[dict]:
    """Groups for an optimiser: weight decay for convolutions' weights, none for biases and BatchNorm's parameters."""
    parameters = list(model.parameters())
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def prepare(model: nn.Module, optimizer: torch.optim.Optimizer, runtime: Runtime, level: str, loss_scale: float):
    """Cast the model and point the optimiser, which has not stepped yet, to the weights it is to step on.

    The model holds its fp32 weights, and is on the device. loss_scale: of O1 and O2; -1 for a dynamic one.
    Returns a Precision, by which the model is trained from then on.
    """
    if level != "O0":
        tell_if_slow(runtime)
    if level in ("O0", "O3"):
        loss_scale = 1.0
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    names = [name_of[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    if level != "O0" and find_apex(runtime):
        precision = _Apex(model, optimizer, level, loss_scale)
    else:
        kinds = {"O0": Precision, "O1": _Autocast, "O2": _MasterWeights, "O3": _Half}
        precision = kinds[level](model, optimizer, runtime, loss_scale)
    precision.names = names
    return precision


def halve(model: nn.Module, runtime: Runtime) -> nn.Module:
    """The model, to evaluate: its weights in half precision, but BatchNorm's; inputs and outputs stay fp32."""
    for parameter in _not_of_norms(model):
        parameter.data = parameter.data.to(runtime.half)
    _cast_inputs(model, runtime.half)
    return model


def _not_of_norms(model: nn.Module) -> Iterator[nn.Parameter]:
    modules = (module for module in model.modules() if not isinstance(module, NORMS))
    return (parameter for module in modules for parameter in module.parameters(recurse=False))


class Precision:
    """Plain fp32 (O0), and what the other levels have in common with it."""

    name = "fp32"

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *_):
        self.model, self.optimizer = model, optimizer
        self.names: list[str] = []  # of the weights that the optimiser steps on, in its order

    def step(self, loss: Tensor) -> Tensor | int:
        """Go backward from the loss, fp32, and let the optimiser step.

        Returns 1 where the step was skipped since its gradients overflowed, else 0; where that is not known without
        waiting for the device, as a tensor there.
        """
        self.optimizer.zero_grad()  # each by its own default: the fused ones keep their gradients' memory
        loss.backward()
        self.optimizer.step()
        return 0

    def weights(self) -> dict[str, Tensor]:
        """The model's state_dict in fp32, with the master weights where there are any."""
        state = self.model.state_dict()
        weights = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        return weights | {name: parameter.detach().float() for name, parameter in zip(self.names, self._stepped_on())}

    def _stepped_on(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def state_dict(self) -> dict:
        """The loss scale's state, as apex has it; {} where there is none."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Go on with a dynamic loss scale where a state_dict, apex's or ours, left it. A static one is the run's."""


def _fp32(output: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return output.float() if isinstance(output, Tensor) else [head.float() for head in output]


def _loss_scale_state(scale: float, clean_steps: int) -> dict:
    return {"loss_scaler0": {"loss_scale": scale, "unskipped": clean_steps}}


class _Half(Precision):
    """O3: weights, BatchNorm and inputs in half precision, and no loss scale."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, runtime: Runtime, *_):
        super().__init__(model, optimizer)
        self.half = runtime.half
        self.name = f"O3, {self.half}".replace("torch.", "")
        model.to(self.half)
        _cast_inputs(model, self.half)

    def state_dict(self) -> dict:
        return _loss_scale_state(1.0, 0)


def _cast_inputs(model: nn.Module, half: torch.dtype) -> None:
    model.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(half),))
    model.register_forward_hook(lambda _, __, output: _fp32(output))


class _Scaled(Precision):
    """With a loss scale: a step whose gradients overflow is skipped, and a dynamic scale is halved by it.

    With a static scale nothing waits for the device. A dynamic one, and any on a device that saturates, is the device's
    own scaler's, which asks after every backward pass whether anything overflowed.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, runtime: Runtime, loss_scale: float):
        super().__init__(model, optimizer)
        self.runtime, self.half = runtime, runtime.half
        self.dynamic = loss_scale == -1
        self.scale = FIRST_SCALE if self.dynamic else float(loss_scale)
        self.clean_steps = 0  # since the last overflow or growth
        self.unread = None  # whether the last step overflowed
        self.scaler = runtime.grad_scaler(self.scale) if self.dynamic or runtime.saturates else None

    def step(self, loss: Tensor) -> Tensor | int:
        self.optimizer.zero_grad()
        return self._step_by_scaler(loss) if self.scaler else self._step_by_tensor(loss)

    def _step_by_tensor(self, loss: Tensor) -> Tensor:
        (loss * self.scale).backward()
        self._hand_over_gradients()
        self._look_back()
        gradients = [parameter.grad for parameter in self._stepped_on() if parameter.grad is not None]
        overflow, inverse = torch.zeros((), device=loss.device), torch.full((), 1 / self.scale, device=loss.device)
        # as the scalers do it, with one pass over the gradients
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflow, inverse)
        self._step_unless(overflow)
        self.unread = self.runtime.fetch(overflow)
        return overflow

    def _step_unless(self, overflow: Tensor) -> None:
        """Let the optimiser step, without effect where `overflow`, 0 or 1 on the device, is 1."""
        if getattr(self.optimizer, "_step_supports_amp_scaling", False):  # torch's fused ones look for themselves
            self.optimizer.found_inf, self.optimizer.grad_scale = overflow, None
            self.optimizer.step()
            return
        before = {tensor: tensor.detach().clone() for tensor in self._changing()}
        self.optimizer.step()
        with torch.no_grad():
            for tensor in self._changing():  # averages that were made just now begin as zeros
                tensor.copy_(torch.where(overflow.to(tensor.device) > 0, before.get(tensor, 0.0), tensor))

    def _changing(self) -> list[Tensor]:
        """What a step of the optimiser changes; a fused one's own count of steps is a plain number and not in here."""
        state = [value for own in self.optimizer.state.values() for value in own.values()]
        return [tensor for tensor in (*self._stepped_on(), *state) if isinstance(tensor, Tensor)]

    def _step_by_scaler(self, loss: Tensor) -> int:
        self.scaler.scale(loss).backward()
        self._hand_over_gradients()
        self.scaler.unscale_(self.optimizer)
        overflow = any(found.item() for found in self.scaler._found_inf_per_device(self.optimizer).values())
        if not overflow:
            self.optimizer.step()
        self._adapt(overflow)
        self.scaler.update(self.scale)
        return int(overflow)

    def _hand_over_gradients(self) -> None:
        """From the weights to what the optimiser steps on, where these differ."""

    def _look_back(self) -> None:
        """Count in the last step, whose flag has arrived by the time that the next one is under way."""
        if self.unread is not None:
            self._adapt(bool(self.unread.read()))
            self.unread = None

    def _adapt(self, overflow: bool) -> None:
        self.clean_steps = 0 if overflow else self.clean_steps + 1
        if self.dynamic and overflow:
            self.scale /= 2
        elif self.dynamic and self.clean_steps == CLEAN_STEPS_TO_GROW:
            self.scale, self.clean_steps = min(self.scale * 2, HIGHEST_SCALE), 0

    def state_dict(self) -> dict:
        self._look_back()
        return _loss_scale_state(self.scale, self.clean_steps)

    def load_state_dict(self, state: dict) -> None:
        if not state:
            return
        self.clean_steps = state["loss_scaler0"]["unskipped"]
        if self.dynamic:
            self.clean_steps %= CLEAN_STEPS_TO_GROW  # a static scale's count has no end
            self.scale = float(state["loss_scaler0"]["loss_scale"])
            self.scaler = self.runtime.grad_scaler(self.scale)


class _Autocast(_Scaled):
    """O1: fp32 weights, each operator in the precision that suits it."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, runtime: Runtime, loss_scale: float):
        super().__init__(model, optimizer, runtime, loss_scale)
        self.name = f"O1, {self.half}".replace("torch.", "")
        model.forward = torch.autocast(runtime.device.type, dtype=self.half)(model.forward)
        model.register_forward_hook(lambda _, __, output: _fp32(output))


class _MasterWeights(_Scaled):
    """O2: half weights, fp32 BatchNorm; the optimiser holds fp32 masters, which the weights are rounded from."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, runtime: Runtime, loss_scale: float):
        super().__init__(model, optimizer, runtime, loss_scale)
        self.name = f"O2, {self.half}".replace("torch.", "")
        masters = {parameter: parameter.detach().clone().requires_grad_() for parameter in _not_of_norms(model)}
        halve(model, runtime)
        for group in optimizer.param_groups:
            group["params"] = [masters.get(parameter, parameter) for parameter in group["params"]]
        self.masters = masters

    def step(self, loss: Tensor) -> Tensor | int:
        for parameter in self.masters:
            parameter.grad = None
        skipped = super().step(loss)
        with torch.no_grad():
            for parameter, master in self.masters.items():
                parameter.copy_(master)
        return skipped

    def _hand_over_gradients(self) -> None:
        for parameter, master in self.masters.items():
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:  # a fused optimiser works on the memory of its first gradients
                master.grad.copy_(parameter.grad)


class _Apex(Precision):
    """Any level, by apex, called as the NPU edition of the recipe did."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, level: str, loss_scale: float):
        self.amp, self.loss_scale = importlib.import_module("apex.amp"), loss_scale
        exact = [parameter.detach().clone() for group in optimizer.param_groups for parameter in group["params"]]
        settings = {"opt_level": level, "loss_scale": "dynamic" if loss_scale == -1 else loss_scale}
        if "combine_grad" in inspect.signature(self.amp.initialize).parameters:  # Ascend's
            settings["combine_grad"] = True
        super().__init__(*self.amp.initialize(model, optimizer, **settings))
        self.name = f"{level} by apex"
        # apex makes its masters only now, and of the rounded weights; they must be there when an optimiser's state is
        # loaded, which is cast to the type of what the optimiser holds
        self.optimizer.zero_grad()
        with torch.no_grad():
            for parameter, value in zip(self._stepped_on(), exact):
                parameter.copy_(value)

    def step(self, loss: Tensor) -> int:
        self.optimizer.zero_grad()
        with self.amp.scale_loss(loss, self.optimizer) as scaled:
            scaled.backward()
        self.optimizer.step()  # apex leaves it out, and says so, where the gradients overflowed
        return 0

    def state_dict(self) -> dict:
        return self.amp.state_dict()

    def load_state_dict(self, state: dict) -> None:
        if state and self.loss_scale == -1:
            self.amp.load_state_dict(state)
