# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A stand-in for the package of this name on PyPI, a web toolkit without `amp`."""

__version__ = "0.9.10.dev0"
