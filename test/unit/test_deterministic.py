# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What replaces operators that are not deterministic on GPUs, against torch's own on the CPU."""

import os

import pytest
import torch
from test_losses import TARGETS, lovasz, sample, value_and_gradient
from torch import nn

import archs
from losses import LovaszHingeLoss
from runtime.device import Device


@pytest.fixture
def deterministic(monkeypatch):
    """Switch on what --deterministic sets on a GPU."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    Device(torch.device("cuda")).configure(deterministic=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    torch.utils.deterministic.fill_uninitialized_memory = True
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_what_the_flag_sets(deterministic):
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and not torch.backends.cudnn.benchmark


def test_the_cpu_is_deterministic_anyway():
    Device(torch.device("cpu")).configure(deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()


def upsampled(module: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a module makes of x, and the gradient of x."""
    x = x.clone().requires_grad_()
    output = module(x)
    output.backward(gradient)
    return output.detach(), x.grad


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (1, 2, 1, 1), (1, 1, 1, 5), (3, 4, 12, 7), (2, 2, 48, 48)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_upsampling_and_its_gradient(deterministic, shape, dtype, memory_format):
    torch.manual_seed(1)
    x, gradient = torch.randn(shape, dtype=dtype), torch.randn(*shape[:2], 2 * shape[2], 2 * shape[3], dtype=dtype)
    x, gradient = (tensor.contiguous(memory_format=memory_format) for tensor in (x, gradient))
    output, slope = upsampled(archs.Upsample(), x, gradient)
    plain = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    _, expected_slope = upsampled(plain, x.double(), gradient.double())
    assert torch.equal(output, upsampled(plain, x, gradient)[0]) and slope.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 5e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(slope.double(), expected_slope, rtol=tolerance, atol=tolerance)


def test_without_the_flag_the_upsampling_is_torchs():
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    assert "UpsampleBilinear2D" in archs.Upsample()(x).grad_fn.name()


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("shape", [(3, 2, 5, 7), (1, 1, 1, 1), (2, 1, 8, 8)], ids=str)
def test_the_lovasz_hinge(deterministic, kind, shape):
    """Targets that are multiples of 2⁻³² are not rounded; masks of 8 bits lose less than float32 does."""
    logits, target = sample(kind, shape)
    target = (target * 2**16).round() / 2**16
    value, gradient = value_and_gradient(LovaszHingeLoss(), logits, target)
    expected, slope = lovasz(logits, target)
    assert value == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(torch.tensor(gradient), torch.tensor(slope), rtol=1e-8, atol=1e-12)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("arch", archs.ARCHS)
def test_a_net_has_the_same_gradients(deterministic, arch):
    found = {}
    images, target = (
        torch.rand(2, 3, 32, 32, dtype=torch.float64),
        torch.rand(2, 1, 32, 32, dtype=torch.float64).round(),
    )
    for mode in (True, False):
        torch.use_deterministic_algorithms(mode)
        torch.manual_seed(2)
        net = archs.ARCHS[arch](1).double()
        LovaszHingeLoss()(net(images), target).backward()
        found[mode] = {name: parameter.grad for name, parameter in net.named_parameters()}
    torch.testing.assert_close(found[True], found[False], rtol=1e-8, atol=1e-12)
