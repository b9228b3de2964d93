#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# 1p training that starts from the weights of a checkpoint. Flags: --help
# shellcheck disable=SC2034  # common.sh uses the variables
set -u
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

summary='Fine-tuning on one device, from a checkpoint, also with another --num_classes: batch 16, 100 epochs, lr 1e-3.'
network=UNet_for_PyTorch
kind=finetune
name_suffix=_finetune # the new run does not replace the one that it starts from
time_unit=ms
mode_flag=--pretrained
resume_help='FILE           checkpoint to start from (default: model_best.pth.tar of train_full_1p.sh)'
checkpoint_hint='run train_full_1p.sh first'

parse_flags "$@"
prepare
activity="fine-tuning $resume"
run_logged "$python" train.py "${train_args[@]}"
write_results
