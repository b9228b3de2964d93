#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# Checks and measures training on a CUDA GPU. It needs python3 with the packages of requirements.txt, and this repository.
#
#   bash benchmarks/gpu_check.sh                     all parts
#   bash benchmarks/gpu_check.sh equality table      some parts
#
# equality: with --deterministic, 50 steps with and without a CUDA graph give the same numbers and weights, bit for bit
# tolerance: without it, they differ at most three times as much as two runs without a graph
# repeat:   two equal runs with --deterministic, and one that was interrupted and resumed, give the same weights
# table:    images per second of training steps, see benchmarks/gpu.py
# loader:   images per second of whole runs, and the time between two epochs
# runs:     the launchers, as a user starts them
#
# Variables: DATA, prepared data (default: inputs/dsb2018_96, else from the zip DSB2018_ZIP, else synthetic images);
# OUT, a folder for logs and gpu.csv (default: outputs/gpu_check); DEVICE (default: cuda); AGAINST, an earlier gpu.csv.
set -u
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 1
out=${OUT:-outputs/gpu_check}
device=${DEVICE:-cuda}
failed=()
mkdir -p -- "$out" || exit 1

# part NAME COMMAND…: runs the command, and prints how long it took.
part() {
    local name=$1 start=$SECONDS
    shift
    printf '\n=== %s\n' "$name"
    "$@" || failed+=("$name")
    printf '=== %s took %s s\n' "$name" $((SECONDS - start))
}

find_data() {
    data=${DATA:-inputs/dsb2018_96}
    [[ ! -d $data/images ]] || return 0
    if [[ -f ${DSB2018_ZIP:-} ]]; then
        data=inputs/dsb2018_96
        python3 preprocess_dsb2018.py --input "$DSB2018_ZIP" --output "$data" --workers 8 >"$out/data.log" 2>&1
    else
        data=inputs/synthetic_96
        [[ -d $data/images ]] || python3 preprocess_dsb2018.py --synthetic 600 --workers 8 >"$out/data.log" 2>&1
    fi
}

equality() { python3 benchmarks/gpu_equality.py --data "$data" --device "$device" --deterministic; }

tolerance() { python3 benchmarks/gpu_equality.py --data "$data" --device "$device"; }

# same NAME NAME: do two runs have the same weights and moments?
same() {
    python3 - "$@" <<'EOT'
import sys
import torch

some, others = (torch.load(f"models/gpu_check_{name}/checkpoint.pth.tar", "cpu") for name in sys.argv[1:])
moments = [run["optimizer"]["state"] for run in (some, others)]
unequal = [name for name, value in some["state_dict"].items() if not torch.equal(value, others["state_dict"][name])]
unequal += [f"moment {index}" for index in moments[0] for key, value in moments[0][index].items()
            if not torch.equal(torch.as_tensor(value), torch.as_tensor(moments[1][index][key]))]
print(*sys.argv[1:], "are equal" if not unequal else f"DIFFER in {len(unequal)} tensors, such as {unequal[0]}")
sys.exit(bool(unequal))
EOT
}

repeat() {
    local run status=0 process
    local flags=("$data" --device "$device" --deterministic --epochs "${EPOCHS:-8}" --num_workers 2)
    rm -rf models/gpu_check_{first,second,resumed} "$out"/{first,second,resumed}.log
    for run in first second; do
        python3 train.py "${flags[@]}" --name "gpu_check_$run" >"$out/$run.log" 2>&1 || return 1
    done
    run=resumed
    python3 train.py "${flags[@]}" --name "gpu_check_$run" >>"$out/$run.log" 2>&1 &
    process=$!
    until grep -q '^Epoch: \[2\]' "$out/resumed.log" 2>/dev/null; do
        kill -0 "$process" 2>/dev/null || break
        sleep 0.02
    done
    kill -TERM "$process"
    wait "$process"
    grep '^\[Stopped\]' "$out/resumed.log" || { echo 'the run was not interrupted in time' && status=1; }
    python3 train.py "${flags[@]}" --name "gpu_check_$run" --resume auto >>"$out/$run.log" 2>&1 || return 1
    same first second || status=1
    same first resumed || status=1
    return $status
}

table() {
    python3 benchmarks/gpu.py --parts "$1" --data "$data" --device "$device" --csv "$out/$2" \
        ${AGAINST:+--against "$AGAINST"}
}

# launch LOG COMMAND…: runs a launcher, and prints its results and the time.
launch() {
    local log=$out/$1 begin=$SECONDS
    shift
    bash "$@" "--data_path=$data" "--device=$device" >"$log" 2>&1 || { tail -n 5 "$log" && return 1; }
    printf '%s: %s s\n' "$*" $((SECONDS - begin))
    grep '^Final' "$log"
}

runs() {
    launch perf16.log test/train_performance_1p.sh --epochs=4 &&
        launch perf128.log test/train_performance_1p.sh --epochs=4 --batch_size=128 --num_workers=12 &&
        launch fast.log test/train_full_1p.sh --recipe=fast --name=gpu_check_fast &&
        launch full.log test/train_full_1p.sh --name=gpu_check_full
}

find_data || exit 1
[[ $# -gt 0 ]] || set -- equality tolerance repeat table loader runs
for name in "$@"; do
    case $name in
        equality | tolerance | repeat | runs) part "$name" "$name" ;;
        table) part table table peak,steps gpu.csv ;;
        loader) part loader table loader loader.csv ;;
        *) echo "there is no part \"$name\"; see the head of this file" >&2 && exit 2 ;;
    esac
done
if ((${#failed[@]})); then
    echo "FAILED: ${failed[*]}"
    exit 1
fi
echo 'all parts are good'
