#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# 1p evaluation of the model that train_full_1p.sh has trained. Flags: --help
# shellcheck disable=SC2034  # common.sh uses the variables
set -u
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

summary='Evaluates a trained model on one device. Flags that concern only training have no effect.'
network=UNet_for_PyTorch
kind='eval'
log_kind='eval'
num_workers=16
mode_flag=--evaluate
resume_help='FILE           checkpoint (default: model_best.pth.tar of the run below models/)'
checkpoint_hint='run train_full_1p.sh first'

parse_flags "$@"
prepare
activity="evaluating $resume"
run_logged "$python" train.py "${train_args[@]}"
write_results
