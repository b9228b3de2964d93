# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Checks of the stand-ins for torch_npu and apex: do they behave like the real ones, as far as our code depends on it?

Usage: standin_checks.py NAME…. A process can name its device only once, so the tests run the checks in processes.
"""

import copy
import io
import math
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import archs
from losses import LOSSES


def example() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a net, images and masks."""
    torch.manual_seed(0)
    return archs.UNet(1, 3), torch.randn(2, 3, 32, 32), (torch.rand(2, 1, 32, 32) > 0.5).float()


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    """Return the largest difference between the gradients of two nets."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a.grad.cpu() - b.grad.cpu()).abs().max().item() for a, b in pairs)


def check_training() -> None:
    """A net, its losses, Adam and half precision give the results of the CPU."""
    import torch_npu  # noqa: F401

    assert str(torch.accelerator.current_accelerator()) == "npu"
    model, images, masks = example()
    twin = copy.deepcopy(model).to("npu:0")
    for loss in LOSSES.values():
        loss()(model(images), masks).backward()
        loss()(twin(images.npu()), masks.to("npu")).backward()
        assert largest_difference(model, twin) == 0
    for settings in ({"foreach": False}, {"foreach": True}, {"fused": True}):
        torch.optim.Adam(model.parameters(), **settings).step()
        torch.optim.Adam(twin.parameters(), **settings).step()
    assert all(torch.equal(a, b.cpu()) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    with torch.inference_mode():
        expected = model.eval()(images)
        assert torch.equal(expected, twin.eval()(images.npu()).cpu())
        for half in (torch.float16, torch.bfloat16):
            with torch.autocast("npu", dtype=half):
                output = twin(images.npu())
            assert output.dtype == half
            assert (output.cpu() - expected).abs().max() < 0.05 * expected.abs().max()
    start = time.perf_counter()
    twin.train().half()(images.npu().half()).float().mean().backward()
    assert time.perf_counter() - start < 5, "the CPU's own half-precision convolutions are slow"


def check_device() -> None:
    """Device numbers, mixing of devices, random numbers, files, pinned memory, forks."""
    import torch_npu

    model, images, _ = example()
    assert torch.npu is torch_npu.npu and torch.npu.device_count() == 3 and torch.npu.is_available()
    assert not torch.npu.is_initialized(), "neither a seed nor a question may initialize the device"
    torch.npu.set_device(1)
    assert torch.npu.current_device() == 1 and torch.zeros(1, device="npu").device.index == 1
    with pytest.raises(RuntimeError, match="Invalid device ID"):
        torch.npu.set_device(3)
    with pytest.raises(RuntimeError, match="Invalid device ID"):
        torch.zeros(1, device="npu:3")
    for other in (torch.ones(2), torch.ones(2, device="npu:0")):
        with pytest.raises(RuntimeError, match="on the same device"):
            torch.zeros(2, device="npu:1") + other
    assert (torch.zeros(2, device="npu") + torch.tensor(1.0)).tolist() == [1, 1]

    torch.manual_seed(7)
    expected = torch.rand(3)
    assert torch.equal(torch.rand(3, device="npu").cpu(), expected)
    state = torch.npu.get_rng_state()
    order = torch.randperm(9, device="npu")
    torch.npu.set_rng_state(state)
    assert torch.equal(torch.randperm(9, device="npu"), order)

    file = io.BytesIO()
    torch.save(model.npu().state_dict(), file)
    for location, device in ((None, "npu:1"), ("cpu", "cpu")):
        file.seek(0)
        assert str(torch.load(file, map_location=location)["final.weight"].device) == device
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), num_workers=1, pin_memory=True)
    assert all(batch.is_pinned() and batch.to("npu", non_blocking=True).shape == (1, 3, 32, 32) for (batch,) in loader)
    assert not images.is_pinned()

    read, write = os.pipe()
    if os.fork() == 0:
        try:
            torch.zeros(1, device="npu")
            os.write(write, b"no error")
        except RuntimeError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    assert b"Cannot re-initialize NPU in forked subprocess" in os.read(read, 100)


def check_settings() -> None:
    """Settings can be read back; values that the real torch_npu refuses are refused; the profiler writes its folder."""
    import torch_npu

    assert torch.npu.compile_mode.jit_compile
    torch.npu.set_compile_mode(jit_compile=False)
    assert not torch.npu.compile_mode.jit_compile and torch.npu.is_jit_compile_false()
    torch.npu.conv.allow_hf32 = False
    torch.npu.matmul.allow_hf32 = True
    assert (torch.npu.conv.allow_hf32, torch.npu.matmul.allow_hf32) == (False, True)
    with pytest.raises(TypeError):
        torch.npu.conv.allow_hf32 = 1
    with pytest.raises(AttributeError):
        torch.npu.conv.allow_tf32 = True
    torch.npu.set_option({"ACL_PRECISION_MODE": "must_keep_origin_dtype"})
    assert torch.npu.options == {"ACL_PRECISION_MODE": "must_keep_origin_dtype"}
    with pytest.raises(ValueError):
        torch.npu.set_option({"ACL_PRECISION_MODE": "allow_mix_precision"})

    tool, folder = torch_npu.profiler, Path(os.environ["FOLDER"])
    settings = {"schedule": tool.schedule(wait=1, warmup=1, active=2, repeat=1)}
    settings["on_trace_ready"] = tool.tensorboard_trace_handler(str(folder))
    with tool.profile(activities=[tool.ProfilerActivity.CPU, tool.ProfilerActivity.NPU], **settings) as profile:
        for _ in range(5):
            torch.ones(3, device="npu").sum()
            profile.step()
    assert len(list(folder.glob("*_ascend_pt/ASCEND_PROFILER_OUTPUT/trace_view.json"))) == 1
    with pytest.raises(TypeError):
        tool.profile(activities=[torch.profiler.ProfilerActivity.CPU])


def check_no_device() -> None:
    """There is no device, and none can be used."""
    import torch_npu

    assert not torch_npu.npu.is_available() and torch.npu.device_count() == 0
    with pytest.raises(RuntimeError):
        torch.npu.set_device(0)


def check_scaler() -> None:
    """Loss scales: static, dynamic, after an overflow, saved and loaded."""
    import torch_npu

    def step(factor: float) -> None:
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()

    weight = nn.Parameter(torch.ones(2, device="npu"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch_npu.npu.amp.GradScaler(init_scale=8.0, growth_interval=2)
    step(1.0)
    step(1.0)
    assert (scaler.get_scale(), weight.tolist()) == (16, [-1, -1])
    step(math.inf)
    assert (scaler.get_scale(), weight.tolist()) == (8, [-1, -1])
    state = scaler.state_dict()
    assert state["dynamic"] is True
    scaler = torch_npu.npu.amp.GradScaler()
    scaler.load_state_dict(state)
    assert scaler.get_scale() == 8
    with pytest.raises(KeyError):
        scaler.load_state_dict(torch.amp.GradScaler("npu").state_dict())
    scaler = torch_npu.npu.amp.GradScaler(init_scale=128.0, dynamic=False)
    step(1.0)
    assert (scaler.get_scale(), weight.tolist()) == (128, [-2, -2])
    step(math.inf)  # a static scale is not checked for overflows
    assert scaler.get_scale() == 128 and not weight.isfinite().any()


def check_fused_adam() -> None:
    """The fused Adam steps like torch's Adam, and raises errors if it is used as the real one must not be."""
    import torch_npu

    def steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, count: int = 3) -> None:
        for step in range(count):
            optimizer.zero_grad(**({} if fused(optimizer) else {"set_to_none": False}))
            (weight**2 * (step + 1)).sum().backward()
            optimizer.step()

    def fused(optimizer: torch.optim.Optimizer) -> bool:
        return getattr(optimizer, "is_fused_optimizer", False)

    def fresh(**settings) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        weight = nn.Parameter(torch.arange(1.0, 4.0, device="npu"))
        return weight, torch_npu.optim.NpuFusedAdam([weight], lr=0.1, weight_decay=0.01, **settings)

    for amsgrad in (False, True):
        weight, optimizer = fresh(amsgrad=amsgrad)
        twin = nn.Parameter(torch.arange(1.0, 4.0))
        steps(optimizer, weight)
        steps(torch.optim.Adam([twin], lr=0.1, weight_decay=0.01, amsgrad=amsgrad), twin)
        assert torch.allclose(weight.cpu(), twin)
    weight, optimizer = fresh()
    steps(optimizer, weight)
    state = copy.deepcopy(optimizer.state_dict())
    assert state["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"} and state["state"][0]["step"] == 3
    other, resumed = fresh()
    other.data.copy_(weight)
    resumed.load_state_dict(state)
    steps(optimizer, weight)
    steps(resumed, other)
    assert torch.equal(weight, other)

    with pytest.raises(ValueError, match="set_to_none"):
        optimizer.zero_grad(set_to_none=True)
    with pytest.raises(RuntimeError, match="after the first step"):
        optimizer.load_state_dict(state)
    weight.grad = weight.grad.clone()
    with pytest.raises(RuntimeError, match="another tensor"):
        optimizer.step()
    weight, optimizer = fresh()
    state["state"][0]["step"] = torch.tensor(3.0)
    optimizer.load_state_dict(state)
    with pytest.raises(RuntimeError, match="count each step twice"):
        steps(optimizer, weight)
    wide = nn.Parameter(torch.ones(2, device="npu", dtype=torch.bfloat16))
    with pytest.raises(TypeError, match="float32 or float16"):
        steps(torch_npu.optim.NpuFusedAdam([wide]), wide)


def check_distributed() -> None:
    """DDP, SyncBatchNorm and collectives in two processes give the results of one process with the whole batch."""
    import torch_npu  # noqa: F401

    rank = int(os.environ["LOCAL_RANK"])
    torch.npu.set_device(rank)
    dist.init_process_group("hccl", timeout=timedelta(seconds=60))
    assert dist.get_backend() == "hccl"

    model, images, _ = example()
    half_batch = images[rank : rank + 1]
    model.eval()  # BatchNorm over half a batch would give other results
    ddp = DistributedDataParallel(copy.deepcopy(model).npu(), device_ids=[rank])
    model(images).pow(2).mean().backward()
    ddp(half_batch.npu()).pow(2).mean().backward()
    assert largest_difference(model, ddp) < 1e-4

    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 3))
    dist.broadcast_object_list(states := [net.state_dict()])
    net.load_state_dict(states[0])
    ddp = DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net)).npu(), device_ids=[rank])
    net(images).pow(2).mean().backward()
    ddp(half_batch.npu()).pow(2).mean().backward()
    assert largest_difference(net, ddp) < 1e-5
    for one, other in zip(net.buffers(), ddp.module.buffers(), strict=True):
        assert torch.allclose(one.double(), other.cpu().double(), atol=1e-6)

    value = torch.tensor([rank + 1.0], device="npu")
    dist.all_reduce(value, op=dist.ReduceOp.AVG)
    assert value.item() == 1.5
    with torch.inference_mode():
        value = torch.tensor([rank + 1.0], device="npu")
        dist.all_reduce(value, async_op=True).wait()
        assert value.item() == 3
    gathered = [None, None]
    dist.all_gather_object(gathered, {"rank": rank})
    assert gathered == [{"rank": 0}, {"rank": 1}]
    dist.barrier()
    with pytest.raises(TypeError, match="float64"):
        dist.all_reduce(value.double())
    with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
        dist.all_reduce(torch.ones(1))
    dist.destroy_process_group()


def check_lost_peer() -> None:
    """A collective raises an error if another process is late, or has ended."""
    import torch_npu  # noqa: F401

    rank = int(os.environ["LOCAL_RANK"])
    dist.init_process_group("hccl", timeout=timedelta(seconds=60))
    dist.barrier()
    impatient, value = dist.new_group(timeout=timedelta(seconds=2)), torch.ones(1, device="npu")
    dist.barrier()
    if rank == 1:
        time.sleep(4)
        os._exit(0)
    for group, shortest, longest in ((impatient, 1.5, 3.5), (None, 0, 10)):
        start = time.monotonic()
        with pytest.raises(RuntimeError, match="gloo"):
            dist.all_reduce(value, group=group)
        assert shortest < time.monotonic() - start < longest


def check_apex() -> None:
    """The four levels train like fp32; wrong use raises errors; the state is saved in apex's format."""
    import torch_npu  # noqa: F401
    from apex import amp, optimizers

    def train(level: str, device: str, steps: int) -> list[float]:
        model, images, masks = (value.to(device) for value in example())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        if level in ("O1", "O2"):
            optimizer = optimizers.NpuFusedAdam(model.parameters(), lr=1e-3, weight_decay=1e-4)
        more = {"combine_grad": True} if level == "O2" else {}
        model, optimizer = amp.initialize(model, optimizer, opt_level=level, loss_scale=128.0, **more)
        found = []
        for _ in range(steps):
            loss = LOSSES["LovaszHingeLoss"]()(model(images), masks)
            optimizer.zero_grad()
            with amp.scale_loss(loss, optimizer) as scaled:
                scaled.backward()
            optimizer.step()
            found.append(loss.item())
        torch.set_autocast_enabled(device, False)
        halves = {"O0": (False, False), "O1": (False, False), "O2": (True, False), "O3": (True, True)}[level]
        half = torch.float16
        assert (model.final.weight.dtype == half, model.conv0_0.bn1.weight.dtype == half) == halves
        assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}
        assert (half in {master.dtype for master in amp.master_params(optimizer)}) == (level == "O3")
        assert amp.state_dict() == {"loss_scaler0": {"loss_scale": 128.0, "unskipped": steps}}
        return found

    losses = {level: train(level, "npu", 3) for level in ("O0", "O1", "O2", "O3")}
    assert losses["O0"] == pytest.approx(losses["O3"], abs=0.02)
    assert losses["O1"] == pytest.approx(losses["O2"], abs=0.02)
    assert all(found[0] > found[-1] for found in losses.values())
    # half precision is slow on the CPU
    assert train("O1", "cpu", 1) == pytest.approx(train("O2", "cpu", 1), abs=0.02)

    model = nn.Linear(2, 1).npu()
    model, optimizer = amp.initialize(model, torch.optim.SGD(model.parameters(), lr=0.1), opt_level="O2")
    for factor, moves, scale in ((math.inf, False, 2.0**15), (1e-3, True, 2.0**15)):
        before = model.weight.clone()
        optimizer.zero_grad()
        with amp.scale_loss(model(torch.ones(1, 2, device="npu")).sum() * factor, optimizer) as scaled:
            scaled.backward()
        optimizer.step()
        assert torch.equal(before, model.weight) != moves
        assert amp.state_dict()["loss_scaler0"] == {"loss_scale": scale, "unskipped": int(moves)}
    amp.load_state_dict({"loss_scaler0": {"loss_scale": 4.0, "unskipped": 7}})
    assert amp.state_dict() == {"loss_scaler0": {"loss_scale": 4.0, "unskipped": 7}}
    with pytest.raises(TypeError, match="set_to_none"):
        optimizer.zero_grad(set_to_none=True)
    with pytest.raises(RuntimeError, match="once"):
        amp.initialize(nn.Linear(2, 1), optimizer, opt_level="O0")


def check_combined_gradients() -> None:
    """With combine_grad, the gradients must stay in the tensors of the first step."""
    from apex import amp

    model = nn.Linear(2, 1)
    model, optimizer = amp.initialize(
        model, torch.optim.SGD(model.parameters(), lr=0.1), opt_level="O2", loss_scale=1.0, combine_grad=True
    )
    for clear in (optimizer.zero_grad, optimizer.zero_grad, lambda: model.zero_grad(set_to_none=True)):
        clear()
        loss = model(torch.ones(1, 2)).sum()
        if clear == optimizer.zero_grad:
            with amp.scale_loss(loss, optimizer) as scaled:
                scaled.backward()
            optimizer.step()
        else:
            with pytest.raises(RuntimeError, match="another tensor"), amp.scale_loss(loss, optimizer):
                pass


def check_nvidia_apex() -> None:
    """NVIDIA's apex does not accept combine_grad."""
    from apex import amp

    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="combine_grad"):
        amp.initialize(model, optimizer, opt_level="O2", combine_grad=True)
    amp.initialize(model, optimizer, opt_level="O2", loss_scale="dynamic")


def check_pypi_apex() -> None:
    """The package of this name on PyPI has no amp."""
    import apex

    assert not hasattr(apex, "amp")
    with pytest.raises(ModuleNotFoundError):
        import apex.amp


if __name__ == "__main__":
    for name in sys.argv[1:]:
        globals()[name]()
