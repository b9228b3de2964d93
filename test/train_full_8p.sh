#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# 8p accuracy run. Flags: --help
set -u
# shellcheck source-path=SCRIPTDIR source=common_8p.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common_8p.sh" || exit 1

summary='Accuracy run on several devices: global batch 128, 100 epochs, lr 1e-3.'
network=UNet_ID3752_for_PyTorch
kind=acc
time_unit=s

parse_flags_8p "$@"
prepare
run_ranks
write_results
