# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""How a run runs, whatever it trains: devices, processes, precision, checkpoints, signals, files."""
