# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Measurements of speed and accuracy: run.py and scaling.py time, accuracy.sh trains and evaluates."""
