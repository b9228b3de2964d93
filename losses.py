"""The losses of the recipe; targets keep their soft edges in all of them."""

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
    """Sums over 9216 pixels and more do not survive half precision; float64 stays what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class BCEWithLogitsLoss(nn.Module):
    """Mean binary cross entropy of logits (N, C, H, W) against targets in [0, 1] of the same shape; a scalar."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        _check(logits, target)
        return F.binary_cross_entropy_with_logits(_at_least_float32(logits), _at_least_float32(target))


class BCEDiceLoss(nn.Module):
    """0.5·BCE + (1 − mean over images of soft Dice); logits and targets (N, C, H, W), targets in [0, 1]; a scalar.

    Dice is taken over all classes' pixels of an image together, smoothed with 1e-5.
    """

    smooth = 1e-5

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        _check(logits, target)
        logits, target = _at_least_float32(logits), _at_least_float32(target)
        bce = F.binary_cross_entropy_with_logits(logits, target)
        probability, target = torch.sigmoid(logits).flatten(1), target.flatten(1)
        intersection = (probability * target).sum(1)
        dice = (2 * intersection + self.smooth) / (probability.sum(1) + target.sum(1) + self.smooth)
        return 0.5 * bce + 1 - dice.mean()


class LovaszHingeLoss(nn.Module):
    """Binary Lovász hinge (Berman et al. 2018, arXiv:1705.08790), per image and class, then averaged; a scalar.

    Logits and targets are (N, C, H, W), targets in [0, 1]. The whole batch is sorted at once: the number of
    operators does not depend on N or C, and nothing is copied to the host.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        _check(logits, target)
        logits = _at_least_float32(logits).flatten(0, 1).flatten(1)  # one row for each image and class
        target = target.to(logits.dtype).flatten(0, 1).flatten(1)
        # the hinge ahead of the sort, which is faster where many pixels are right and so alike: they come last, where
        # their order does not count
        errors, order = F.relu(1 - logits * (2 * target - 1)).sort(dim=1, descending=True)
        # the extension's gradient is a constant of the sorted order: no gradient flows through the targets
        weight = self._jaccard_steps(target.gather(1, order).detach())
        return (errors * weight).sum(1).mean()

    @staticmethod
    def _jaccard_steps(target: Tensor) -> Tensor:
        """Growth of the Jaccard loss as each pixel of a row (R, P), worst error first, is counted as wrong."""
        total = target.sum(1, keepdim=True)
        seen = target.cumsum(1)
        rank = torch.arange(1, target.shape[1] + 1, device=target.device, dtype=target.dtype)
        jaccard = 1 - (total - seen) / (total + rank - seen)
        return torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], 1)


class DeepSupervisionLoss(nn.Module):
    """The mean of a loss over a net's heads; a single tensor of logits counts as one head."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        heads = [logits] if isinstance(logits, Tensor) else list(logits)
        if not heads:
            raise ValueError("logits must hold the output of at least one head, not an empty sequence")
        return torch.stack([self.loss(head, target) for head in heads]).mean()


LOSSES = {
    "LovaszHingeLoss": LovaszHingeLoss,
    "BCEDiceLoss": BCEDiceLoss,
    "BCEWithLogitsLoss": BCEWithLogitsLoss,
}
