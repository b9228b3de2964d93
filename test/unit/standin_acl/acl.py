# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""pyACL as far as infer/acl_model.py uses it: an ".om" file is an ONNX file, and the card's memory is the host's.

finalize() fails the process if anything is still open or allocated. ACL_FAILS names a function that returns an error.
"""

import ctypes
import itertools
import os
from types import SimpleNamespace

import numpy as np
import onnxruntime

FAILED = 507011
numbers = itertools.count(100)
device, loaded = [], {}
memory: dict[int, ctypes.Array] = {}  # by address
data_buffers: dict[int, tuple[int, int]] = {}
datasets: dict[int, list[int]] = {}
descriptions: dict[int, int | None] = {}  # the model of each


def code(name):
    return FAILED if os.environ.get("ACL_FAILS") == name else 0


def init():
    return code("init")


def finalize():
    left = [*device, *loaded, *memory, *data_buffers, *datasets, *descriptions]
    print(f"acl: {len(left)} objects are left", flush=True)
    return 0


def _set_device(number):
    if failed := code("rt.set_device"):
        return failed
    device.append(number)
    print(f"acl: device {number}", flush=True)
    return 0


def _reset_device(number):
    device.remove(number)
    return 0


def _malloc(size, policy=0):
    if failed := code("rt.malloc"):
        return 0, failed
    assert device and size > 0 and policy in (0, 1, 2)
    block = ctypes.create_string_buffer(size)
    memory[ctypes.addressof(block)] = block
    return ctypes.addressof(block), 0


def _free(address):
    del memory[address]
    return 0


def _memcpy(target, target_size, source, size, kind):
    if failed := code("rt.memcpy"):
        return failed
    assert kind in (1, 2) and size <= target_size == len(memory[target])
    assert kind == 1 or size <= len(memory[source])
    ctypes.memmove(target, source, size)
    return 0


def _load(path):
    if failed := code("mdl.load_from_file"):
        return 0, failed
    loaded[number := next(numbers)] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return number, 0


def _unload(model):
    del loaded[model]
    return 0


def _create_desc():
    descriptions[number := next(numbers)] = None
    return number


def _get_desc(description, model):
    assert description in descriptions and model in loaded
    descriptions[description] = model
    return 0


def _destroy_desc(description):
    del descriptions[description]
    return 0


def _get_input_dims(description, k):
    value = loaded[descriptions[description]].get_inputs()[k]
    return {"name": value.name, "dimCount": len(value.shape), "dims": value.shape}, code("mdl.get_input_dims")


def _bytes_of(value):
    return (1 if value.type == "tensor(uint8)" else 4) * int(np.prod(value.shape))


def _create_dataset():
    datasets[number := next(numbers)] = []
    return number


def _add_dataset_buffer(dataset, buffer):
    assert buffer in data_buffers
    datasets[dataset].append(buffer)
    return dataset, 0


def _destroy_dataset(dataset):
    del datasets[dataset]
    return 0


def create_data_buffer(address, size):
    assert size <= len(memory[address])
    data_buffers[number := next(numbers)] = (address, size)
    return number


def destroy_data_buffer(number):
    del data_buffers[number]
    return 0


def _execute(model, inputs, outputs):
    if failed := code("mdl.execute"):
        return failed
    session = loaded[model]
    feed = {}
    for value, buffer in zip(session.get_inputs(), datasets[inputs], strict=True):
        address, size = data_buffers[buffer]
        feed[value.name] = np.frombuffer(ctypes.string_at(address, size), "<f4").reshape(value.shape)
    for values, buffer in zip(session.run(None, feed), datasets[outputs], strict=True):
        address, size = data_buffers[buffer]
        content = values.tobytes()
        assert len(content) == size
        ctypes.memmove(address, content, size)
    return 0


rt = SimpleNamespace(
    set_device=_set_device,
    reset_device=_reset_device,
    malloc=_malloc,
    free=_free,
    malloc_host=_malloc,
    free_host=_free,
    memcpy=_memcpy,
)
mdl = SimpleNamespace(
    load_from_file=_load,
    unload=_unload,
    create_desc=_create_desc,
    get_desc=_get_desc,
    destroy_desc=_destroy_desc,
    get_num_inputs=lambda description: len(loaded[descriptions[description]].get_inputs()),
    get_num_outputs=lambda description: len(loaded[descriptions[description]].get_outputs()),
    get_input_dims=_get_input_dims,
    get_input_size_by_index=lambda description, k: _bytes_of(loaded[descriptions[description]].get_inputs()[k]),
    get_output_size_by_index=lambda description, k: _bytes_of(loaded[descriptions[description]].get_outputs()[k]),
    create_dataset=_create_dataset,
    add_dataset_buffer=_add_dataset_buffer,
    destroy_dataset=_destroy_dataset,
    execute=_execute,
)
util = SimpleNamespace(
    # the caller must keep the bytes, as with pyACL
    bytes_to_ptr=lambda content: ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p).value,
    ptr_to_bytes=lambda address, size: ctypes.string_at(address, size),
)
