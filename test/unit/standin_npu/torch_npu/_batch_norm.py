# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The kernels of torch's SyncBatchNorm, which torch does not have for the CPU."""

import torch
from torch import Tensor

_library = torch.library.Library("aten", "IMPL")


def _kernel(function):
    _library.impl(function.__name__, function, "PrivateUse1")
    return function


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _sum(x: Tensor) -> Tensor:
    """Sum over all dimensions but the channels."""
    return x.transpose(0, 1).flatten(1).sum(1)


def _spread(per_channel: Tensor, like: Tensor) -> Tensor:
    return per_channel.view(-1, *[1] * (like.dim() - 2))


def _normalized(x: Tensor, mean: Tensor, invstd: Tensor) -> Tensor:
    return (_wide(x) - _spread(mean, x)) * _spread(invstd, x)


@_kernel
def batch_norm_stats(input: Tensor, eps: float):
    """Return this process's mean and 1 / standard deviation, by channel."""
    variance, mean = torch.var_mean(_wide(input).transpose(0, 1).flatten(1), 1, correction=0)
    return mean, (variance + eps).rsqrt()


@_kernel
def batch_norm_gather_stats_with_counts(input, mean, invstd, running_mean, running_var, momentum, eps, counts):
    """Combine the statistics of all processes (rows), weighted by their counts; updates the running statistics."""
    count = _wide(counts)
    total, share = count.sum(), (count / count.sum()).view(-1, 1)
    all_mean = (mean * share).sum(0)
    variance = ((invstd.pow(-2) - eps + (mean - all_mean) ** 2) * share).sum(0)
    if running_mean is not None:
        running_mean.lerp_(all_mean.to(running_mean.dtype), momentum)
        running_var.lerp_((variance * total / (total - 1)).to(running_var.dtype), momentum)
    return all_mean, (variance + eps).rsqrt()


@_kernel
def batch_norm_elemt(input, weight, bias, mean, invstd, eps):
    """Compute the forward pass."""
    output = _normalized(input, mean, invstd)
    if weight is not None:
        output = output * _spread(weight, input)
    if bias is not None:
        output = output + _spread(bias, input)
    return output.to(input.dtype)


@_kernel
def batch_norm_backward_reduce(grad_out, input, mean, invstd, weight, input_g, weight_g, bias_g):
    """Return this process's sums for the backward pass, and the gradients of weight and bias."""
    grad_out = _wide(grad_out)
    sum_dy = _sum(grad_out)
    grad_weight = _sum(grad_out * _normalized(input, mean, invstd))
    return sum_dy, grad_weight / invstd, grad_weight, sum_dy.clone()


@_kernel
def batch_norm_backward_elemt(grad_out, input, mean, invstd, weight, sum_dy, sum_dy_xmu, count):
    """Return the gradient of the input, from the sums over all processes."""
    total = count.sum()
    projected = _normalized(input, mean, invstd) * _spread(sum_dy_xmu * invstd / total, input)
    gradient = (_wide(grad_out) - _spread(sum_dy / total, input) - projected) * _spread(invstd, input)
    if weight is not None:
        gradient = gradient * _spread(weight, input)
    return gradient.to(input.dtype)
