#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# 8p evaluation of the model that train_full_8p.sh has trained. Flags: --help
# shellcheck disable=SC2034  # common.sh and common_8p.sh use the variables
set -u
# shellcheck source-path=SCRIPTDIR source=common_8p.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common_8p.sh" || exit 1

summary='Evaluates a trained model on several devices. Flags that concern only training have no effect.'
network=UNet_for_PyTorch
kind='eval'
log_kind='eval'
rank_log_prefix=eval_
num_workers=16
mode_flag=--evaluate
resume_help='FILE           checkpoint (default: model_best.pth.tar of the run below models/)'
checkpoint_hint='run train_full_8p.sh first'

parse_flags_8p "$@"
prepare
activity="evaluating $resume"
run_ranks
write_results
