#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# 1p speed run. Flags: --help
# shellcheck disable=SC2034  # common.sh uses the variables
set -u
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

summary='Speed run on one device: batch 16, 1 epoch.'
network=UNet_ID3752_for_PyTorch
kind=perf
name_suffix=_perf # a speed run never replaces a trained model
time_unit=s
default_epochs=1
train_defaults=(--start_step=20 --stop_step=30)
launcher_help() {
    say '  --start_step=N          first step to profile with --profiling=CANN or GE (default: 20)'
    say '  --stop_step=N           step before which profiling stops (default: 30)'
    say '                          --performance on DSB2018 has 5 steps: profile --start_step=1 --stop_step=4'
}

parse_flags "$@"
prepare
run_logged "$python" train.py "${train_args[@]}"
# operators are compiled in the first two steps
compile_time=$(log_values Time 'Epoch: [' | LC_ALL=C awk 'NR <= 2 { sum += $1 } END { printf "%.3f", sum }')
write_results
