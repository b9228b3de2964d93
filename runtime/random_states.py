# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The random generators of a process: their states, as a checkpoint holds them."""

import random

import numpy as np
import torch

from runtime.distributed import Runtime


def get_random_states(runtime: Runtime) -> dict:
    """Return the states of the random generators of Python, NumPy, torch and the device."""
    numpy_name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (numpy_name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "device": runtime.random_state(),
    }


def set_random_states(states: dict, runtime: Runtime) -> None:
    """Restore the states of `get_random_states`."""
    random.setstate(states["python"])
    numpy_name, keys, *rest = states["numpy"]
    np.random.set_state((numpy_name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    runtime.set_random_state(states["device"])
