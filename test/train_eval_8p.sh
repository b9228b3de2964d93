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
resume=

launcher_flag() {
    case $1 in
        --resume=*) resume=${1#*=} ;;
        *) num_gpus_flag "$1" ;;
    esac
}
launcher_usage() {
    num_gpus_usage
    say "  --resume=FILE           checkpoint, relative to where you stand (default: model_best.pth.tar below models/<name>)"
}

parse_flags_8p "$@"
resume=${resume:-$root/models/$run_name/model_best.pth.tar}
[[ $resume == /* ]] || resume=$PWD/$resume
[[ -f $resume ]] || die "There is no checkpoint \"$resume\": run train_full_8p.sh first, or name one with --resume=FILE."
# shellcheck disable=SC2034  # run_logged says it
doing="evaluating $resume"
prepare
run_ranks --evaluate "--resume=$resume"
write_results
