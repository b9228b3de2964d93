# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The backend for collectives `hccl`: gloo, on copies of the tensors in host memory.

Each call waits for gloo, so that it raises gloo's errors itself.
"""

import torch
import torch.distributed as dist
from torch._C import _distributed_c10d as c10d

REDUCIBLE = (torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device.type != "npu":
        raise RuntimeError(f"No backend type associated with device type {tensor.device.type}")
    if not tensor.is_contiguous():
        raise RuntimeError("Tensors must be contiguous")
    return tensor.detach().cpu()


def _reducible(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    for tensor in tensors:
        if tensor.dtype not in REDUCIBLE:
            raise TypeError(f"Unsupported data type for HCCL process group: {tensor.dtype}")
    return [_to_host(tensor) for tensor in tensors]


def _copy_back(tensors: list[torch.Tensor], host: list[torch.Tensor]) -> None:
    for tensor, result in zip(tensors, host, strict=True):
        tensor.detach().copy_(result)


def _done(result: object = None) -> dist.Work:
    future = torch.futures.Future()
    future.set_result(result)
    return c10d._create_work_from_future(future)


class ProcessGroupHCCL(dist.ProcessGroup):
    """The collectives that DDP, SyncBatchNorm and this repository call."""

    def __init__(self, options, _):
        super().__init__(options.group_rank, options.group_size)
        self._gloo = dist.ProcessGroupGloo(options.store, options.group_rank, options.group_size, options.timeout)

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("npu")]  # objects are sent as tensors on this device

    def getBackendName(self) -> str:
        """Return the name; C++ calls this method."""
        return "hccl"

    def _get_backend_name(self) -> str:
        return "hccl"

    def allreduce(self, tensors, opts=None) -> dist.Work:
        """Reduce tensors over all processes; the average is computed here, because gloo has none."""
        opts = opts or c10d.AllreduceOptions()
        host = _reducible(tensors)
        average = opts.reduceOp == dist.ReduceOp.AVG
        if average:
            opts.reduceOp = dist.ReduceOp.SUM
        self._gloo.allreduce(host, opts).wait()
        _copy_back(tensors, [result / self.size() for result in host] if average else host)
        return _done(tensors)

    def reduce(self, tensors, opts=None) -> dist.Work:
        """Reduce tensors to one process."""
        opts = opts or c10d.ReduceOptions()
        host = _reducible(tensors)
        self._gloo.reduce(host, opts).wait()
        if self.rank() == opts.rootRank:
            _copy_back(tensors, host)
        return _done(tensors)

    def broadcast(self, tensors, opts=None) -> dist.Work:
        """Send the tensors of one process to all."""
        host = [_to_host(tensor) for tensor in tensors]
        self._gloo.broadcast(host, opts or c10d.BroadcastOptions()).wait()
        _copy_back(tensors, host)
        return _done(tensors)

    def allgather(self, output_tensors, input_tensors, opts=None) -> dist.Work:
        """Send the tensors of each process to all."""
        host = [[_to_host(tensor) for tensor in tensors] for tensors in output_tensors]
        inputs = [_to_host(tensor) for tensor in input_tensors]
        self._gloo.allgather(host, inputs, opts or c10d.AllgatherOptions()).wait()
        for tensors, results in zip(output_tensors, host, strict=True):
            _copy_back(tensors, results)
        return _done(output_tensors)

    def all_gather_single(self, output, input, opts=None) -> dist.Work:
        """Send the tensor of each process to all, into one tensor."""
        parts = list(output.view(-1).chunk(self.size()))
        self.allgather([parts], [input.reshape(-1)], opts)
        return _done(output)

    _allgather_base = all_gather_single

    def barrier(self, opts=None) -> dist.Work:
        """Wait for all processes."""
        own = c10d.BarrierOptions()  # not `opts`, which name a device that gloo does not know
        if opts is not None:
            own.timeout = opts.timeout
        self._gloo.barrier(own).wait()
        return _done()


dist.Backend.register_backend("hccl", ProcessGroupHCCL, extended_api=True, devices=["npu"])
