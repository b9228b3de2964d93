#!/usr/bin/env bash
# 8p evaluation of what train_full_8p.sh trained. Flags: --help
set -u
# shellcheck source-path=SCRIPTDIR source=common_8p.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common_8p.sh" || exit 1

summary='Evaluation of a trained model on several devices; flags that are about training have no effect.'
network=UNet_for_PyTorch
kind='eval'
log_kind='eval'
# shellcheck disable=SC2034  # run_ranks' failures are shown with it
rank_log_prefix=eval_
num_workers=16
resume_usage="FILE           checkpoint, relative to where you stand (default: model_best.pth.tar below models/<name>)"
no_checkpoint='run train_full_8p.sh first'

parse_flags_8p "$@"
resume=${resume:-$root/models/$run_name/model_best.pth.tar}
prepare
# shellcheck disable=SC2034  # run_logged says it
doing="evaluating $resume"
run_ranks --evaluate
write_results
