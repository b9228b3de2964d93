#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# Does everything in one command: environment, data, training, evaluation, pictures, ONNX export. Flags: --help
set -u
here=${BASH_SOURCE[0]%quickstart.sh} # $(dirname …) would drop a newline at the end of the folder's name
# shellcheck source-path=SCRIPTDIR source=test/common.sh
source "${here:-./}test/common.sh" || exit 1
# shellcheck source-path=SCRIPTDIR source=test/setup_venv.sh
source "$test_dir/setup_venv.sh" || exit 1

run_name=quickstart # all files except the prepared data are written to folders of this name
prepared_folder=inputs/dsb2018_96
raw_folder=inputs/data-science-bowl-2018/stage1_train
raw_zip=inputs/stage1_train.zip
own_folder=inputs/quickstart_96
synthetic_folder=inputs/synthetic_96
logs=outputs/${run_name}_logs
pictures=outputs/${run_name}_demo
masks=outputs/$run_name
models=models/$run_name

help_text() {
    cat <<EOT
usage: bash quickstart.sh [--data=PATH] [--synthetic] [--epochs=N]
Prepares data, trains a UNet for a few epochs, evaluates it, draws pictures and exports it to ONNX.
Uses an NPU or a CUDA GPU if there is one, else the CPU.

  --data=PATH   DSB2018 as a folder (stage1_train) or zip, or a prepared data set (default: $prepared_folder, else
                $raw_folder, else $raw_zip, else a download, else synthetic)
  --synthetic   use synthetic images of nuclei instead of DSB2018
  --epochs=N    epochs to train (default: 5; for synthetic images 10)
  --help        show this text
EOT
}

wrong_flag() {
    say "[Error] $*" >&2
    exit 2
}

notice() {
    cat <<EOT

NOTICE: this run uses SYNTHETIC images that the program has drawn itself.
        Its numbers only show that everything works here. THEY ARE NOT DSB2018 RESULTS.
        For DSB2018 results: bash quickstart.sh --data=PATH, with the stage1_train folder or zip as PATH.

EOT
}

step_number=0
step() {
    step_number=$((step_number + 1))
    say "[$step_number/6] $*"
}

# fail LOG STATUS: ends the quickstart after a command with this log and exit code failed or was stopped by a signal.
fail() {
    local status=$2
    ((status != 0)) || status=$((128 + $(kill -l "$caught")))
    if [[ -n $caught ]]; then
        say "[Stopped] by SIG$caught" >&2
    else
        say "[Error] This step failed with exit code $status. The last lines of $1:" >&2
        tail -n 15 -- "$1" >&2
    fi
    exit "$status"
}

# run LOG COMMAND…: runs the command with its output in LOG. If it fails, the quickstart ends.
run() {
    local log=$1 status=0
    shift
    run_forwarding "$log" "$@" || status=$?
    [[ $status == 0 && -z $caught ]] || fail "$log" "$status"
}

# show_epochs LOG: copies stdin to LOG, and prints one line on the terminal for each epoch.
show_epochs() {
    trap '' HUP INT TERM USR1 # go on until the training has ended, so that the log has its last lines
    local line epoch='' fps=''
    while IFS= read -r line || [[ -n $line ]]; do
        printf '%s\n' "$line" >&3
        case $line in
            'Epoch: ['*)
                epoch=${line#*\[}
                epoch=${epoch%%\]*}
                ;;
            *' FPS@all '*) fps=${line##* } ;;
            *'[AVG-IOU]'*) say "      epoch $epoch of $epochs: IoU ${line##* }, $fps images/s" ;;
        esac
    done 3>"$1"
}

is_prepared() { [[ -d $1/masks && -n $(find "$1/images" -type f -print -quit 2>/dev/null) ]]; }

prepare_synthetic() {
    kind='SYNTHETIC, not DSB2018'
    data=$synthetic_folder
    notice
    if is_prepared "$data"; then
        say "      $data already exists"
    else
        run "$logs/data.log" "$python" preprocess_dsb2018.py --synthetic 200
    fi
}

download_or_draw() {
    local status=0 reason
    run_forwarding "$logs/download.log" "$python" preprocess_dsb2018.py --download --output "$prepared_folder" ||
        status=$?
    data=$prepared_folder
    ((status != 0)) || [[ -n $caught ]] || return 0
    # synthetic images only replace a failed download: after a signal, or if the zip is there, the quickstart ends
    [[ -z $caught && $status -lt 128 && ! -f $raw_zip ]] || fail "$logs/download.log" "$status"
    reason=$(tail -n 1 -- "$logs/download.log")
    say "      no download: ${reason#"[Error] "}"
    prepare_synthetic
}

# Sets data to a prepared data set, and kind to its description.
get_data() {
    kind=DSB2018
    if [[ $synthetic == yes ]]; then
        step 'Data: synthetic (--synthetic)'
        prepare_synthetic
    elif [[ -n $data ]] && is_prepared "$data"; then
        step "Data: $data, already prepared"
        kind="your own, $data"
    elif [[ -n $data ]]; then
        step "Data: preparing $data"
        # not into prepared_folder: these may be other images than DSB2018
        kind="your own, $data"
        run "$logs/data.log" "$python" preprocess_dsb2018.py "--input=$data" --output "$own_folder" --overwrite
        data=$own_folder
    elif is_prepared "$prepared_folder"; then
        step "Data: $prepared_folder, already prepared"
        data=$prepared_folder
    elif [[ -d $raw_folder || -f $raw_zip ]]; then
        data=$raw_folder
        [[ -d $data ]] || data=$raw_zip
        step "Data: preparing $data"
        run "$logs/data.log" "$python" preprocess_dsb2018.py --input "$data" --output "$prepared_folder"
        data=$prepared_folder
    else
        step 'Data: none found, trying to download DSB2018 (about 80 MB)'
        download_or_draw
    fi
}

# Does the CPU multiply bfloat16? Then mixed precision takes half the time there; NPUs and GPUs use it anyway.
cpu_has_bfloat16() {
    "$python" -c '
import sys, torch
from runtime.device import Device
sys.exit(not Device(torch.device("cpu")).half_is_fast)' >/dev/null 2>&1
}

train() {
    local log=$logs/train.log status=0 reader amp=()
    ! cpu_has_bfloat16 || amp=(--amp)
    exec 4> >(show_epochs "$log")
    reader=$!
    # Batch 8 instead of 16 doubles the number of steps. The running statistics of BatchNorm need about 150 to settle.
    run_forwarding /dev/fd/4 "$python" train.py "$data" --name "$run_name" --epochs "$epochs" --batch_size 8 \
        "${amp[@]}" || status=$?
    exec 4>&-
    wait "$reader" # until the log is complete
    [[ $status == 0 && -z $caught ]] || fail "$log" "$status"
}

row() { say "  $(printf %-9s "$1") $2"; }

results() {
    local log iou dice mask_dice fps images at=$root/
    [[ $started_in != "$root" ]] || at= # relative paths are shorter
    log=$logs/train.log
    fps=$(log_values FPS@all ' FPS@all ' | tail -n 1)
    log=$logs/val.log
    iou=$(log_values IoU: 'IoU: ' | tail -n 1)
    mask_dice=$(log_values Dice: 'Mask Dice: ' | tail -n 1)
    dice=$(log_values Dice: 'Dice: ' | tail -n 1)
    images=$(find "$data/images" -type f | wc -l)
    [[ $kind != SYNTHETIC* ]] || notice
    say 'Results:'
    row data "$kind, $((images)) images"
    row IoU "$iou (validation split, $epochs epochs)"
    row Dice "$mask_dice (masks), $dice (probabilities)"
    row images/s "$fps (training)"
    row time "$((SECONDS / 60)) min $((SECONDS % 60)) s"
    row pictures "$at$pictures (start with overview.png)"
    row masks "$at$masks"
    row models "$at$models/model_best.pth.tar, $at$models/UNet.onnx"
    row logs "$at$logs"
}

data=''
epochs=''
synthetic=no
for arg in "$@"; do
    case $arg in
        --data=?*) data=${arg#*=} ;;
        --epochs=*)
            epochs=${arg#*=}
            [[ $epochs =~ ^[1-9][0-9]*$ ]] || wrong_flag "--epochs needs a positive number, not \"$epochs\"."
            ;;
        --synthetic) synthetic=yes ;;
        --help | -h)
            help_text
            exit 0
            ;;
        *) wrong_flag "Unknown flag \"$arg\": the flags are --data=PATH, --synthetic, --epochs=N and --help." ;;
    esac
done
[[ $synthetic == no || -z $data ]] || wrong_flag 'Give one of --data and --synthetic, not both.'
[[ -z $data || $data == /* ]] || data=$PWD/$data
[[ -z $data || -e $data ]] || die "There is nothing at \"$data\" (from --data)."
[[ ! -d $data ]] || set_folder data "$data" || die "Cannot open the folder \"$data\" (from --data)."

started_in=$PWD
cd -- "$root" || exit 1
mkdir -p -- "$logs" || exit 1

step 'Environment'
requirements=(requirements.txt)
# on an Ascend host, the user's own environment already has the torch_npu that matches its CANN
if on_ascend && [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]]; then requirements+=(requirements-npu.txt); fi
setup_venv "${requirements[@]}" || exit 1
load_ascend_environment

get_data
if [[ -z $epochs ]]; then
    epochs=5
    [[ $kind != SYNTHETIC* ]] || epochs=10
fi

step "Training for $epochs epochs (log: $logs/train.log)"
train

rm -rf -- "$masks" "$pictures" # from an earlier quickstart, perhaps with other data
step 'Evaluation'
run "$logs/val.log" "$python" val.py --name "$run_name"

step 'Pictures of the validation images'
run "$logs/demo.log" "$python" demo.py --name "$run_name" --output "$pictures"

step 'ONNX export'
run "$logs/onnx.log" "$python" pthtar2onnx.py --checkpoint "$models/model_best.pth.tar" --output "$models/UNet.onnx"

results
