#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# 1p accuracy run. Flags: --help
set -u
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

summary='Accuracy run on one device: batch 16, 100 epochs, lr 1e-3.'
network=UNet_for_PyTorch
kind=acc
time_unit=ms

parse_flags "$@"
prepare
run_logged "$python" train.py "${train_args[@]}"
write_results
