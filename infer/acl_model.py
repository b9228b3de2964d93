# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A converted model on an Ascend card, through pyACL: CANN's Python package `acl`."""

from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from runtime.errors import InputError

HUGE_PAGES_FIRST = 0  # ACL_MEM_MALLOC_HUGE_FIRST
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2  # ACL_MEMCPY_HOST_TO_DEVICE, ACL_MEMCPY_DEVICE_TO_HOST


class Buffer(NamedTuple):
    """Memory of the card: its address, and its size in bytes."""

    address: int
    size: int


class AclModel:
    """An .om file on a card, until the end of its context.

    Raises InputError if pyACL is missing, or one of its calls fails. Source: CANN's documentation of pyACL. It has not
    run on hardware.
    """

    def __init__(self, path: Path, device_id: int):
        self.path, self.acl, self.cleanup = path, import_acl(), ExitStack()
        with self.cleanup:  # frees what was opened if an error follows
            self._load(device_id)
            self.cleanup = self.cleanup.pop_all()

    def __enter__(self) -> "AclModel":
        return self

    def __exit__(self, *_) -> None:
        self.cleanup.close()

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Compute a batch; returns the bytes of each output, uint8 (batch size, bytes for an image)."""
        content, sizes = batch.tobytes(), [buffer.size for buffer in self.input_buffers]
        # the number too: one image of 192×192 has as many bytes as four of 96×96
        if (self.batch_size, sizes) != (len(batch), [len(content)]):
            raise InputError(
                f"{self.path}: takes {' + '.join(map(str, sizes))} bytes for a batch of {self.batch_size}, but gets "
                f"{len(content)} for one of {len(batch)}; give the --batch_size and the input size of the model, and "
                "use infer/preprocess.py --uint8 only if it has AIPP"
            )
        if any(buffer.size % len(batch) for buffer in self.output_buffers):
            raise InputError(f"{self.path}: has no output for each image; give an .om file of infer/atc.sh")
        self._call("rt.memcpy", *self.input_buffers[0], self.acl.util.bytes_to_ptr(content), sizes[0], HOST_TO_DEVICE)
        self._call("mdl.execute", self.model, self.inputs, self.outputs)
        return [np.frombuffer(self._read(buffer), np.uint8).reshape(len(batch), -1) for buffer in self.output_buffers]

    def _load(self, device_id: int) -> None:
        mdl, free = self.acl.mdl, self.cleanup.callback
        self._call("init")
        free(self.acl.finalize)
        self._call("rt.set_device", device_id)
        free(self.acl.rt.reset_device, device_id)
        self.model = self._call("mdl.load_from_file", str(self.path))
        free(mdl.unload, self.model)
        description = mdl.create_desc()
        free(mdl.destroy_desc, description)
        self._call("mdl.get_desc", description, self.model)
        self.batch_size = self._call("mdl.get_input_dims", description, 0)["dims"][0]
        sizes = [mdl.get_input_size_by_index(description, k) for k in range(mdl.get_num_inputs(description))]
        self.inputs, self.input_buffers = self._allocate(sizes)
        sizes = [mdl.get_output_size_by_index(description, k) for k in range(mdl.get_num_outputs(description))]
        self.outputs, self.output_buffers = self._allocate(sizes)

    def _allocate(self, sizes: list[int]) -> tuple[object, list[Buffer]]:
        """Return a data set of pyACL with memory on the card, and this memory."""
        acl, free, buffers = self.acl, self.cleanup.callback, []
        dataset = acl.mdl.create_dataset()
        free(acl.mdl.destroy_dataset, dataset)
        for size in sizes:
            buffers.append(Buffer(self._call("rt.malloc", size, HUGE_PAGES_FIRST), size))
            free(acl.rt.free, buffers[-1].address)
            data = acl.create_data_buffer(*buffers[-1])
            free(acl.destroy_data_buffer, data)
            self._call("mdl.add_dataset_buffer", dataset, data)
        return dataset, buffers

    def _read(self, buffer: Buffer) -> bytes:
        """Copy memory of the card."""
        address = self._call("rt.malloc_host", buffer.size)
        try:
            self._call("rt.memcpy", address, buffer.size, *buffer, DEVICE_TO_HOST)
            return self.acl.util.ptr_to_bytes(address, buffer.size)
        finally:
            self.acl.rt.free_host(address)

    def _call(self, name: str, *arguments):
        """Call a function of pyACL that returns a code, or a value and a code; returns the value."""
        result = attrgetter(name)(self.acl)(*arguments)
        value, code = result if isinstance(result, tuple) else (None, result)
        if code:
            raise InputError(
                f"{self.path}: acl.{name} failed with code {code}; see CANN's log, by default ~/ascend/log"
            )
        return value


def import_acl() -> ModuleType:
    """Return CANN's package; raises InputError if it cannot be imported."""
    try:
        import acl

        return acl
    except ImportError as error:
        raise InputError(f"pyACL cannot be imported ({error}); run `source <CANN>/set_env.sh` first") from error
