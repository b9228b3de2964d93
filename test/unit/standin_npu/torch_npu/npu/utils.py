# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What the device can do."""

import os


def is_support_inf_nan() -> bool:
    """Do overflows give infinities? Not on the first Ascend 910; STANDIN_NPU_SATURATES=1 imitates it."""
    return os.environ.get("STANDIN_NPU_SATURATES") != "1"
