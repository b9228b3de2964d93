#!/usr/bin/env bash
# 1p speed run. Flags: --help
set -u
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

summary='Speed run on one device: batch 16, 1 epoch.'
network=UNet_ID3752_for_PyTorch
kind=perf
time_unit=s
epochs=1
start_step=20
stop_step=30

parse_flags "$@"
prepare
run_logged "$python" train.py "${train_args[@]}"
# operators are compiled in the first two steps
compile_time=$(field Time 'Epoch: [' | LC_ALL=C awk 'NR <= 2 { sum += $1 } END { printf "%.3f", sum }')
write_results
