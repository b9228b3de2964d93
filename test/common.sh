# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# shellcheck shell=bash
# Functions that all launchers share. A launcher sources this file, sets those variables of the first block that differ
# for it, and then calls parse_flags, prepare, run_logged and write_results in this order (see train_full_1p.sh).

test_dir=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || exit 1
root=${test_dir%/*} # $(dirname …) would drop a newline at the end of the folder's name

# Variables that a launcher may set.
summary=            # one line for --help
network=            # Network in the result file
kind=               # last part of CaseName: acc, perf, eval, finetune
activity=training   # what the run does, for the terminal
time_unit=s         # unit of TrainingTime: s or ms
compile_time=       # CompileTime in the result file, in seconds; empty: the file has no such line
world_size=1        # number of processes
log_kind=train      # the log is test/output/<id>/<log_kind>_<id>.log
name_suffix=        # is appended to train.py's default for the run name
train_defaults=()   # more flags for train.py; the user's flags override them
mode_flag=          # --evaluate or --pretrained: what train.py does with the checkpoint of --resume
device_id_help='device, and folder below test/output; ASCEND_DEVICE_ID has priority (default: 0)'
resume_help="auto|FILE      continue from the run's latest checkpoint, if there is one, or from FILE"
checkpoint_hint="use --resume=auto for the run's latest checkpoint"

# Flags that the launchers interpret, with their common defaults. All other flags go to train.py unchanged.
data_path=
device_id=0
epochs=
default_epochs=100
batch_size=16
lr=
default_lr=1e-3
optimizer=
default_optimizer=Adam
num_workers=4
name=
resume=             # auto, or a file
precision=          # --hf32 or --fp32
precision_mode=
other_flags=()

# Prints one line, even if a value in it contains newlines or other control characters.
say() { printf '%s\n' "${*//[[:cntrl:]]/?}"; }
warn() { say "[Warning] $*" >&2; }
die() {
    say "[Error] $*" >&2
    exit 1
}

# Functions that a launcher may replace.
set_num_gpus() { die 'Unknown flag: --num_gpus belongs to the launchers of several processes, train_*_8p.sh.'; }
launcher_help() { :; }                     # prints more lines for --help
forward_signal() { kill -s "$1" "$child"; } # sends signal $1 to the run; child is its process
after_run() { :; }                         # is called after the run; status is its exit code, and may be changed
show_failure() { tail -n 20 -- "$log"; }   # prints the useful lines of a failed run's log

usage() {
    cat <<EOT
usage: bash test/$(basename -- "$0") [--data_path=DIR] [flags]
$summary

  --data_path=DIR         prepared data set (default: inputs/dsb2018_96 of the repository)
  --device_id=N           $device_id_help
  --epochs=N              epochs to train (default: ${default_epochs:-that of the recipe})
  --batch_size=N          images per step, over all processes (default: $batch_size)
  --lr=X                  initial learning rate (default: ${default_lr:-that of the recipe})
  --optimizer=NAME        Adam, AdamW or SGD (default: ${default_optimizer:-that of the recipe}; with
                          must_keep_origin_dtype: SGD)
  --num_workers=N         data loading processes, over all processes of the run (default: $num_workers)
  --name=NAME             folder of the run below models/ (default: dsb2018_96_UNet_woDS$name_suffix; --dataset, --arch,
                          --deep_supervision and --recipe change the default)
  --resume=$resume_help
  --precision_mode=MODE   allow_mix_precision, or must_keep_origin_dtype: no AMP (default: allow_mix_precision)
  --hf32, --fp32          switch HF32 (NPU) or TF32 (CUDA) on, or off (default: the device's own setting)
  --bin_mode              use precompiled operators on the NPU (default: off)
EOT
    launcher_help
    [[ $kind != perf ]] || cat <<'EOT'
  --performance           measure as the Ascend edition since October 2024: batch 512, 5 epochs, no color shifts, and
                          the speed counts from the first step; with DSB2018, an epoch is then a single step
EOT
    cat <<'EOT'
  --help                  show this text

Write flags as --flag=value. Relative paths start at your current folder. Every other flag of train.py is passed on to
it unchanged, e.g. --device=cpu --recipe=fast --save_steps=100 --skip_bad; python train.py --help explains them.
EOT
    [[ $kind == eval ]] || cat <<'EOT'

SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGHUP end the run after its current step. The run then saves a checkpoint, and
the exit code is 143, 130, 138 or 129. A second SIGINT ends the run at once.
EOT
}

# require_number FLAG VALUE whole|positive: ends the launcher unless VALUE is such a number.
require_number() {
    local pattern='^(0|[1-9][0-9]*)$'
    [[ $3 == whole ]] || pattern='^[1-9][0-9]*$'
    [[ $2 =~ $pattern ]] || die "$1 needs a $3 number, not \"$2\"."
}

parse_flags() {
    local arg flag value given_batch_size
    for arg in "$@"; do
        [[ $arg != -h ]] || arg=--help
        [[ $arg == --?* ]] || die "Unknown flag: \"$arg\". Write flags as --flag=value; see --help."
        flag=${arg%%=*}
        flag=${flag#--}
        value=${arg#*=}
        case --${flag//-/_}${arg#"--$flag"} in # like train.py, accept hyphens for underscores
            --data_path=*) data_path=$value ;;
            --device_id=*) device_id=$value ;;
            --epochs=*)
                require_number --epochs "$value" positive
                epochs=$value
                ;;
            --batch_size=*) given_batch_size=$value ;;
            --performance)
                [[ $kind != perf ]] || batch_size=512 default_epochs=5
                other_flags+=("$arg")
                ;;
            --lr=* | --learning_rate=*) lr=$value ;;
            --optimizer=*) optimizer=$value ;;
            --num_workers=*) num_workers=$value ;;
            --num_gpus=*) set_num_gpus "$value" ;;
            --name=*) name=$value ;;
            --recipe=*)
                default_lr='' default_optimizer='' # the recipe has its own defaults
                [[ $kind == perf ]] || default_epochs=
                other_flags+=("$arg")
                ;;
            --resume=*)
                [[ -n $value ]] || die '--resume= lacks its value: name a checkpoint, or leave the flag out.'
                resume=$value
                ;;
            --train_ids=* | --val_ids=*) # files
                [[ -z $value || $value == /* ]] || value=$PWD/$value
                other_flags+=("${arg%%=*}=$value")
                ;;
            --evaluate) [[ $kind == eval ]] || die '--evaluate is not for training: use test/train_eval_1p.sh or _8p.sh.' ;;
            --hf32 | --fp32)
                [[ -z $precision || $precision == "$arg" ]] || die 'Give one of --hf32 and --fp32, not both.'
                precision=$arg
                ;;
            --precision_mode=*)
                precision_mode=$value
                other_flags+=("$arg")
                ;;
            --bin_mode | --bin_mode=[Tt]rue) other_flags+=(--bin_mode=1) ;;
            --bin_mode=[Ff]alse) other_flags+=(--bin_mode=0) ;;
            --more_path1=* | --rank_id=*) warn "${arg%%=*} has no effect here and is ignored." ;;
            --help)
                usage
                exit 0
                ;;
            *) other_flags+=("$arg") ;;
        esac
    done
    batch_size=${given_batch_size-$batch_size} # it may stand before --performance
    device_id=${ASCEND_DEVICE_ID:-$device_id} # schedulers set the variable
    require_number 'The device id' "$device_id" whole
    require_number --batch_size "$batch_size" positive
    epochs=${epochs:-$default_epochs}
    lr=${lr:-$default_lr}
}

on_ascend() { command -v npu-smi >/dev/null || [[ -d /usr/local/Ascend ]]; }

load_ascend_environment() {
    on_ascend && [[ -f $test_dir/env_npu.sh && ${etp_running_flag:-} != true ]] || return 0
    # shellcheck source-path=SCRIPTDIR source=env_npu.sh
    source "$test_dir/env_npu.sh"
}

# Sets python: that of the active virtual environment, else that of .venv, else the system's.
find_python() {
    local folder
    for folder in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}" "$root/.venv"; do
        if [[ -n $folder && -x $folder/bin/python ]]; then
            python=$folder/bin/python
            return
        fi
    done
    python=$(command -v python3) || die 'There is no python3: install Python 3.10 or newer.'
}

# check_flags FLAG…: ends the launcher if train.py does not accept the flags. Its parser is quick: it imports no torch.
# Sets dataset, and default_name to the run name that train.py uses without --name.
check_flags() {
    local output code='
import sys
sys.stderr = sys.stdout  # for the message of an error
import options
args = options.parse_train(allow_abbrev=False)
print(args.dataset, args.name, sep="\n")'
    # Without the placeholder DATA_PATH, argparse would take an unknown flag with a space in its value for the data path.
    if output=$(cd -- "$root" && "$python" -c "$code" DATA_PATH "$@"); then
        dataset=${output%%$'\n'*}
        default_name=${output#*$'\n'}
        return
    fi
    case $output in
        *': error: '*) output=${output#*: error: } ;; # without the usage text before it
        *) output=${output##*$'\n'} ;;                # the last line of a traceback
    esac
    die "${output/#unrecognized arguments:/Unknown flag:} (see --help)"
}

# set_folder VARIABLE FOLDER: sets the variable to the folder's absolute path; fails if cd cannot enter the folder.
# FOLDER must contain a slash, because cd takes "-" for the previous folder.
set_folder() {
    local path
    path=$(CDPATH='' cd -- "$2" 2>/dev/null && printf '%s/' "$PWD") || return 1
    printf -v "$1" %s "${path%/}" # the slash protected newlines at the end of the name, which $(…) drops
}

# Makes data_path absolute. A relative path with a leading dash would also look like a flag.
resolve_data_path() {
    local given=$data_path
    if [[ -z $given ]]; then
        given=$root/inputs/$dataset
        [[ -d $given/images && -d $given/masks ]] || die 'para "data_path" must be configured'
    fi
    [[ $given == /* ]] || given=$PWD/$given
    set_folder data_path "$given" || die "There is no folder \"$given\" (from --data_path)."
}

# Makes the path of the checkpoint absolute.
resolve_resume() {
    if [[ $kind == eval ]]; then
        resume=${resume:-$root/models/$run_name/model_best.pth.tar}
    elif [[ $kind == finetune ]]; then
        resume=${resume:-$root/models/$default_name/model_best.pth.tar}
    elif [[ -z $resume || $resume == auto ]]; then
        return
    fi
    [[ $resume == /* ]] || resume=$PWD/$resume
    [[ -f $resume ]] || die "There is no checkpoint \"$resume\": name one with --resume=FILE, or $checkpoint_hint."
    [[ $kind != finetune || ! ${resume%/*} -ef $root/models/$run_name ]] ||
        die "The run \"$run_name\" would replace its own checkpoint \"$resume\": choose another --name."
}

# Does this run continue an earlier one?
continues_run() { [[ -n $resume && -z $mode_flag && " ${other_flags[*]} " != *' --pretrained '* ]]; }

# Sets python, train_args, run_name, case_name and the names of the output files; removes old files of these names.
prepare() {
    local checkpoint=$resume
    load_ascend_environment
    find_python
    train_args=(
        ${mode_flag:+"$mode_flag"} "${train_defaults[@]}" "--device_id=$device_id" ${epochs:+"--epochs=$epochs"}
        "--batch_size=$batch_size" ${lr:+"--lr=$lr"} "--num_workers=$num_workers"
    )
    if [[ $precision_mode == must_keep_origin_dtype ]]; then
        default_optimizer=SGD
        train_args+=(--no-amp)
    fi
    optimizer=${optimizer:-$default_optimizer}
    train_args+=(${optimizer:+"--optimizer=$optimizer"} ${precision:+"$precision"} "${other_flags[@]}")
    [[ -z $mode_flag ]] || checkpoint=${resume:-FILE} # both modes need a name; resolve_resume looks for the file
    check_flags "${train_args[@]}" ${checkpoint:+"--resume=$checkpoint"}
    run_name=${name:-$default_name$name_suffix}
    resolve_data_path
    resolve_resume
    train_args=("$data_path" "${train_args[@]}" "--name=$run_name" ${resume:+"--resume=$resume"})

    case_name=${network}_bs${batch_size}_${world_size}p${precision/#--/_}_$kind
    output=$test_dir/output/$device_id
    log=$output/${log_kind}_$device_id.log
    result_file=$output/$case_name.log
    loss_file=$output/train_${case_name}_loss.txt
    mkdir -p -- "$output" || die "Cannot create the folder \"$output\"."
    # The launcher locks the folder. Its training processes inherit the lock.
    exec {lock}<"$output"
    ! command -v flock >/dev/null || flock -n "$lock" ||
        die "Another launcher is running in \"$output\": wait for it, or on one device use another --device_id."
    if continues_run; then # keep the results: if the run has already finished, they are still its results
        [[ ! -f $log ]] || cat -- "$log" >>"$log.before" || die "Cannot write \"$log.before\"."
    else
        remove_results
        rm -f -- "$log.before"
    fi
    rm -f -- "$log"
}

remove_results() { rm -f -- "$result_file" "$loss_file"; } # the results of other cases stay

handle_signal() {
    if [[ -z $caught ]]; then
        caught=$1
        say "[Stopping] SIG$1: waiting for a clean end. SIGINT (Ctrl-C), twice in total, ends it at once." >&2
    fi
    [[ -z $child ]] || forward_signal "$1" 2>/dev/null
}

# run_forwarding FILE COMMAND…: runs the command with its output in FILE, and returns its exit code. Forwards SIGHUP,
# SIGINT, SIGTERM and SIGUSR1 to it. Sets caught to the name of the first such signal, without SIG, or to nothing.
run_forwarding() {
    local signal child='' status=0 file=$1
    shift
    caught=
    for signal in HUP INT TERM USR1; do
        # shellcheck disable=SC2064  # the name is meant to be expanded now
        trap "handle_signal $signal" "$signal"
    done
    # Job control (set -m) does two things: background processes do not ignore SIGINT, and the command gets its own
    # process group. A Ctrl-C on the terminal then reaches it only once, through forward_signal.
    set -m
    "$@" </dev/null >"$file" 2>&1 &
    child=$!
    set +m
    [[ -z $caught ]] || forward_signal "$caught"
    while kill -0 "$child" 2>/dev/null; do # a signal makes wait return early
        wait "$child" 2>/dev/null
    done
    wait "$child" 2>/dev/null || status=$?
    trap - HUP INT TERM USR1
    return "$status"
}

# run_logged COMMAND…: runs the command in the root with its output in the log. If it fails, the launcher ends with the
# same exit code. Sets seconds to the duration, and nothing_left to train.py's message if the run was already finished.
run_logged() {
    local status=0 start=$SECONDS
    say "$case_name: $activity on $data_path"
    say "Log: $log"
    cd -- "$root" || exit 1
    run_forwarding "$log" "$@" || status=$?
    seconds=$((SECONDS - start))
    after_run
    if ((status != 0)); then
        remove_results
        {
            say "[Error] The run failed with exit code $status${caught:+ after SIG$caught}. The last lines of its log:"
            show_failure
        } >&2
        join_logs
        exit "$status"
    fi
    nothing_left=$(grep ' has finished its ' "$log")
    join_logs
}

# Puts the logs of the run's earlier parts before that of this part.
join_logs() { [[ ! -f $log.before ]] || { cat -- "$log" >>"$log.before" && mv -f -- "$log.before" "$log"; }; }

# log_values LABEL MARK: prints the value after LABEL from each line of the log that contains MARK.
log_values() {
    LC_ALL=C awk -v label="$1" -v mark="$2" \
        'index($0, mark) { for (i = 1; i < NF; i++) if ($i == label) { print $(i + 1); next } }' "$log"
}

# Prints the loss of each training step in order. A step that was repeated after an interruption counts once, with its
# last loss.
step_losses() {
    LC_ALL=C awk '
        /^Epoch: \[/ {
            step = substr($0, 1, index($0, "\t"))
            if (!(step in loss)) order[++n] = step
            for (i = 1; i < NF; i++) if ($i == "Loss") { loss[step] = $(i + 1); break }
        }
        END { for (i = 1; i <= n; i++) print loss[order[i]] }' "$log"
}

# calculate FORMAT EXPRESSION A B: prints an awk expression of the numbers a and b.
calculate() { LC_ALL=C awk -v a="$3" -v b="$4" "BEGIN { printf \"$1\", ($2) }"; }

# Writes the loss file, the result file and the closing lines after a successful run. An evaluation has no training
# steps, so it has no loss file and no FPS.
write_results() {
    local fps='' accuracy loss lines='FPS, AVG-IOU or Epoch' factor=1
    if continues_run && [[ -n $nothing_left ]]; then
        say "$nothing_left"
        say 'No step was left to train, so there are no new results.'
        [[ ! -f $result_file ]] || say "The earlier results: $result_file"
        return
    fi
    accuracy=$(log_values Iou '[AVG-IOU]' | tail -n 1)
    if [[ $kind == eval ]]; then
        lines='Test or AVG-IOU'
        loss=$(log_values Loss 'Test: [' | tail -n 1)
    else
        fps=$(log_values FPS@all '* FPS@all' | tail -n 1)
        step_losses >"$loss_file" || die "Cannot write \"$loss_file\"."
        loss=$(tail -n 1 -- "$loss_file")
    fi
    if [[ -z $accuracy || -z $loss || ($kind != eval && $(calculate %d 'a > 0' "$fps" 0) != 1) ]]; then
        remove_results
        die "The run succeeded, but its log lacks an $lines line: $log"
    fi
    [[ $time_unit == s ]] || factor=1000
    if ! {
        say "Network = $network"
        say "RankSize = $world_size"
        say "BatchSize = $batch_size"
        say "DeviceType = $(uname -m)"
        say "CaseName = $case_name"
        [[ -z $fps ]] || say "ActualFPS = $fps"
        [[ -z $fps ]] || say "TrainingTime = $(calculate %.2f "$factor * a / b" "$batch_size" "$fps")"
        say "TrainAccuracy = $accuracy"
        say "ActualLoss = $loss"
        say "E2ETrainingTime = $seconds"
        [[ -z $compile_time ]] || say "CompileTime = $compile_time"
    } >"$result_file"; then
        remove_results
        die "Cannot write \"$result_file\"."
    fi
    say '------------------ Final result ------------------'
    [[ -z $fps ]] || say "Final Performance images/sec : $fps"
    say "Final Train Accuracy : $accuracy"
    say "E2E Training Duration sec : $seconds"
}
