# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The losses of the recipe. Targets have soft edges: they are not rounded to 0 and 1."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _check(logits: Tensor, target: Tensor) -> None:
    if logits.ndim != 4 or logits.shape != target.shape:
        raise ValueError(
            f"logits and target must both be (N, C, H, W), not {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    if not (logits.is_floating_point() and target.is_floating_point()):
        raise ValueError(f"logits and target must be floating point, not {logits.dtype} and {target.dtype}")


def _at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32: it is too coarse for sums over 9216 pixels and more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class BCEWithLogitsLoss(nn.Module):
    """Binary cross entropy of logits and targets in [0, 1], both (N, C, H, W); returns the mean, a scalar."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        _check(logits, target)
        return F.binary_cross_entropy_with_logits(_at_least_float32(logits), _at_least_float32(target))


class BCEDiceLoss(nn.Module):
    """0.5 · BCE + 1 − mean soft Dice of the images; logits and targets in [0, 1] are (N, C, H, W); returns a scalar."""

    smooth = 1e-5

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        _check(logits, target)
        logits, target = _at_least_float32(logits), _at_least_float32(target)
        bce = F.binary_cross_entropy_with_logits(logits, target)
        probability, target = torch.sigmoid(logits).flatten(1), target.flatten(1)  # all classes of an image together
        intersection = (probability * target).sum(1)
        dice = (2 * intersection + self.smooth) / (probability.sum(1) + target.sum(1) + self.smooth)
        return 0.5 * bce + 1 - dice.mean()


class BorderLoss(nn.Module):
    """BCE whose pixels weigh more at borders, plus 1 − Dice of each class: for nuclei and the borders between them.

    logits and targets in [0, 1] are (N, C, H, W), and the last class are the borders; returns a scalar. A pixel on a
    border weighs 1 + border_weight times as much as others, in all classes. Dice is taken over the whole batch, because
    many images have no borders.
    """

    border_weight, smooth = 5, 1e-5

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        _check(logits, target)
        logits, target = _at_least_float32(logits), _at_least_float32(target)
        weight = 1 + self.border_weight * target[:, -1:]
        bce = F.binary_cross_entropy_with_logits(logits, target, weight.expand_as(target))
        probability = torch.sigmoid(logits)
        intersection, total = (x.sum((0, 2, 3)) for x in (probability * target, probability + target))
        dice = (2 * intersection + self.smooth) / (total + self.smooth)
        return bce + 1 - dice.mean()


class LovaszHingeLoss(nn.Module):
    """Binary Lovász hinge (Berman et al. 2018, arXiv:1705.08790), averaged over images and classes; returns a scalar.

    Logits and targets in [0, 1] are (N, C, H, W). The whole batch is sorted at once: the number of operators does not
    depend on N or C, and nothing is copied to the host.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        _check(logits, target)
        logits = _at_least_float32(logits).flatten(0, 1).flatten(1)  # one row for each image and class
        target = target.to(logits.dtype).flatten(0, 1).flatten(1)
        # The hinge is applied before the sort. The errors of correct pixels are then all 0, and equal values sort
        # faster; these pixels come last, and their order does not change the loss.
        errors = F.relu(1 - logits * (2 * target - 1))
        # the gradient of the Lovász extension depends on the sorted order alone and counts as a constant
        if torch.are_deterministic_algorithms_enabled():
            return (errors * self._deterministic_weight(errors.detach(), target)).sum(1).mean()
        errors, order = errors.sort(dim=1, descending=True)
        weight = self._jaccard_steps(target.gather(1, order).detach())
        return (errors * weight).sum(1).mean()

    @torch.no_grad()
    def _deterministic_weight(self, errors: Tensor, target: Tensor) -> Tensor:
        """Return the weight of each pixel, in the order of the pixels.

        Sorting the weights back avoids the gradient of a sort, for which torch's deterministic operator on GPUs waits
        for the device. Sums of whole numbers are the same in any order: torch has no deterministic cumsum of floats
        for GPUs. Targets are rounded to multiples of 2⁻³².
        """
        order = errors.argsort(dim=1, descending=True, stable=True)
        whole = (target.gather(1, order).double() * 2**32).round().long()
        seen = (whole.cumsum(1).double() / 2**32).to(target.dtype)
        return self._jaccard_steps(target.gather(1, order), seen).gather(1, order.argsort(dim=1))

    @staticmethod
    def _jaccard_steps(target: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return by how much each pixel of rows (R, P), sorted by error, raises the Jaccard loss if it is wrong too.

        seen: the cumulative sums of the target, if they are known.
        """
        total = target.sum(1, keepdim=True)
        seen = target.cumsum(1) if seen is None else seen
        rank = torch.arange(1, target.shape[1] + 1, device=target.device, dtype=target.dtype)
        jaccard = 1 - (total - seen) / (total + rank - seen)
        return torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], 1)


class DeepSupervisionLoss(nn.Module):
    """The mean of a loss over the heads of a model; a single tensor of logits is one head."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        heads = [logits] if isinstance(logits, Tensor) else list(logits)
        if not heads:
            raise ValueError("logits must hold the output of at least one head, not an empty sequence")
        return torch.stack([self.loss(head, target) for head in heads]).mean()


LOSSES = {loss.__name__: loss for loss in (LovaszHingeLoss, BCEDiceLoss, BCEWithLogitsLoss, BorderLoss)}
