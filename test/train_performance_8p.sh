#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# 8p speed run. Flags: --help
set -u
# shellcheck source-path=SCRIPTDIR source=common_8p.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common_8p.sh" || exit 1

summary='Speed run on several devices: global batch 128, 1 epoch.'
network=UNet_for_PyTorch
kind=perf
time_unit=ms
name_suffix=_perf # a speed run never replaces a trained model
default_epochs=1

parse_flags_8p "$@"
prepare
run_ranks
write_results
