#!/usr/bin/env bash
# The whole job in one command: environment, data, training, evaluation, pictures, ONNX. See --help.
set -u
here=${BASH_SOURCE[0]%quickstart.sh} # not by dirname: $(…) drops a line break that a folder's name ends with
# shellcheck source-path=SCRIPTDIR source=test/common.sh
source "${here:-./}test/common.sh" || exit 1
# shellcheck source-path=SCRIPTDIR source=test/setup_venv.sh
source "$test_dir/setup_venv.sh" || exit 1

run_name=quickstart # all that is written lies under folders of this name, save for the prepared data
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
Prepares data, trains a small UNet run, evaluates it, draws pictures and exports it to ONNX, on whatever device is here.

  --data=PATH   DSB2018 as a folder (stage1_train) or zip, or a prepared data set (default: $prepared_folder, else
                $raw_folder, else $raw_zip, else a download, else synthetic)
  --synthetic   draw synthetic nuclei instead of looking for data
  --epochs=N    epochs to train (default: 5, synthetic 10)
  --help        this text
EOT
}

wrong_flag() {
    say "[Error] $*" >&2
    exit 2
}

notice() {
    cat <<EOT

NOTICE: this run uses SYNTHETIC images that the program drew itself.
        Its numbers only show that everything works here. THEY ARE NOT DSB2018 RESULTS.
        For those: bash quickstart.sh --data=PATH, the stage1_train folder or zip.

EOT
}

step_number=0
step() {
    step_number=$((step_number + 1))
    say "[$step_number/6] $*"
}

# fail LOG STATUS: a command that logged to LOG has failed or was stopped.
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

# run LOG COMMAND…: the command's output goes to LOG; a failure ends the quickstart.
run() {
    local log=$1 status=0
    shift
    run_forwarding "$log" "$@" || status=$?
    [[ $status == 0 && -z $caught ]] || fail "$log" "$status"
}

# show_epochs LOG: from stdin to LOG, with a line on the terminal for each epoch.
show_epochs() {
    trap '' HUP INT TERM USR1 # the training is told, and its last words belong into the log
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
        say "      $data is there already"
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
    # only a download that did not come about is made up for
    [[ -z $caught && $status -lt 128 && ! -f $raw_zip ]] || fail "$logs/download.log" "$status"
    reason=$(tail -n 1 -- "$logs/download.log")
    say "      no download: ${reason#"[Error] "}"
    prepare_synthetic
}

# Sets data to a prepared data set, kind to what it is.
get_data() {
    kind=DSB2018
    if [[ $synthetic == yes ]]; then
        step 'Data: synthetic, as asked for'
        prepare_synthetic
    elif [[ -n $data ]] && is_prepared "$data"; then
        step "Data: $data, prepared already"
        kind="your own, $data"
    elif [[ -n $data ]]; then
        step "Data: preparing $data"
        # a folder of its own: nobody knows that these are the images of DSB2018
        kind="your own, $data"
        run "$logs/data.log" "$python" preprocess_dsb2018.py "--input=$data" --output "$own_folder" --overwrite
        data=$own_folder
    elif is_prepared "$prepared_folder"; then
        step "Data: $prepared_folder, prepared already"
        data=$prepared_folder
    elif [[ -d $raw_folder || -f $raw_zip ]]; then
        data=$raw_folder
        [[ -d $data ]] || data=$raw_zip
        step "Data: preparing $data"
        run "$logs/data.log" "$python" preprocess_dsb2018.py --input "$data" --output "$prepared_folder"
        data=$prepared_folder
    else
        step 'Data: none here, trying to download DSB2018 (about 80 MB)'
        download_or_draw
    fi
}

train() {
    local log=$logs/train.log status=0 shower
    exec 4> >(show_epochs "$log")
    shower=$!
    # smaller batches than the recipe's: BatchNorm's statistics need some 150 steps to settle, however few the images
    run_forwarding /dev/fd/4 "$python" train.py "$data" --name "$run_name" --epochs "$epochs" --batch_size 8 ||
        status=$?
    exec 4>&-
    wait "$shower" # until the log is whole
    [[ $status == 0 && -z $caught ]] || fail "$log" "$status"
}

row() { say "  $(printf %-9s "$1") $2"; }

results() {
    local log iou dice mask_dice fps images at=$root/
    [[ $started_in != "$root" ]] || at=
    log=$logs/train.log
    fps=$(field FPS@all ' FPS@all ' | tail -n 1)
    log=$logs/val.log
    iou=$(field IoU: 'IoU: ' | tail -n 1)
    mask_dice=$(field Dice: 'Mask Dice: ' | tail -n 1)
    dice=$(field Dice: 'Dice: ' | tail -n 1)
    images=$(find "$data/images" -type f | wc -l)
    [[ $kind != SYNTHETIC* ]] || notice
    say 'Results:'
    row data "$kind, $((images)) images"
    row IoU "$iou (validation split, $epochs epochs)"
    row Dice "$mask_dice (masks), $dice (probabilities)"
    row images/s "$fps (training)"
    row time "$((SECONDS / 60)) min $((SECONDS % 60)) s"
    row pictures "$at$pictures/overview.png and beside it"
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
            [[ $epochs =~ ^[1-9][0-9]*$ ]] || wrong_flag "--epochs takes a positive number, not \"$epochs\"."
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
[[ ! -d $data ]] || set_folder data "$data" || die "The folder that --data names cannot be entered."

started_in=$PWD
cd -- "$root" || exit 1
mkdir -p -- "$logs" || exit 1

step 'Environment'
requirements=(requirements.txt)
# an environment of the user's own on an Ascend host has the torch_npu that fits its CANN
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

rm -rf -- "$masks" "$pictures" # an earlier quickstart's, perhaps of other data
step 'Evaluation'
run "$logs/val.log" "$python" val.py --name "$run_name"

step 'Pictures of the validation images'
run "$logs/demo.log" "$python" demo.py --name "$run_name" --output "$pictures"

step 'ONNX export'
run "$logs/onnx.log" "$python" pthtar2onnx.py --checkpoint "$models/model_best.pth.tar" --output "$models/UNet.onnx"

results
