# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The raw DSB2018 set, one mask file per nucleus: reading, downloading, synthesizing and preparing it."""
