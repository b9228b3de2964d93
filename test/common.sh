# shellcheck shell=bash
# What the launchers share. A launcher sources this file, sets the variables of the first block that its row of the
# table needs (see train_full_1p.sh), and then calls parse_flags, prepare, run_logged and write_results in turn.
# The functions below "What a launcher may define anew" do nothing much here; common_8p.sh has its own.

test_dir=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || exit 1
root=${test_dir%/*} # not by dirname: $(…) drops a line break that a folder's name ends with

# A launcher's own: its row of the table.
summary=            # one line for --help
network=            # Network in the result file
kind=               # last part of CaseName: acc, perf, eval
doing=training      # what the run does, for the terminal
time_unit=s         # unit of TrainingTime: s or ms
compile_time=       # seconds, where the result file is to tell them
rank_size=1         # number of processes
log_kind=train      # the log is test/output/<id>/<log_kind>_<id>.log
resume_usage="auto|FILE      go on with the run's latest checkpoint, if there is one, or with FILE, relative to where you stand"
no_checkpoint='give --resume=auto for the latest of the run'

# Flags, with the defaults the launchers have in common; empty means that train.py's own default holds.
data_path=
device_id=0
device=auto
epochs=100
batch_size=16
lr=1e-3
optimizer=
num_workers=4
name=
resume=             # auto, or a file
save_steps=
cache_mb=
switches=()         # flags that train.py gets as they are
precision=          # --hf32 or --fp32
precision_mode=
bin_mode=
profiling=
start_step=
stop_step=
device_id_usage='device, and the folder below test/output; ASCEND_DEVICE_ID beats it (default: 0)'

# One line, whatever a name or a value in it contains.
say() { printf '%s\n' "${*//[[:cntrl:]]/?}"; }
warn() { say "[Warning] $*" >&2; }
die() {
    say "[Error] $*" >&2
    exit 1
}

# What a launcher may define anew.
launcher_flag() { return 1; }            # "$1" is a flag that parse_flags doesn't know: 0 if the launcher does
launcher_usage() { :; }                  # its lines in --help
pass_on() { kill -s "$1" "$child"; }     # tell the run's process, child, of the signal that came
after_run() { :; }                       # the run is over; its exit code, in status, may be changed
show_failure() { tail -n 20 -- "$log"; } # what is worth reading after a failed run

usage() {
    cat <<EOT
usage: bash test/$(basename -- "$0") [--data_path=DIR] [flags]
$summary

  --data_path=DIR         prepared data set, relative to where you stand (default: inputs/dsb2018_96 of the repository)
  --device=NAME           auto, npu, gpu, cuda or cpu (default: $device)
  --device_id=N           $device_id_usage
  --epochs=N              (default: $epochs)
  --batch_size=N          over all processes (default: $batch_size)
  --lr=X                  (default: $lr)
  --optimizer=NAME        Adam or SGD (default: Adam; SGD with must_keep_origin_dtype)
  --num_workers=N         data loading processes (default: $num_workers)
  --cache_mb=N            MB that decoded images may take in each process, 0: none (default: 1024)
  --name=NAME             run name, the folder below models/ (default: $(default_name))
  --resume=$resume_usage
  --save_steps=N          save within epochs too, every N steps (default: only after each epoch)
  --resume_anyway, --trust_checkpoint, --skip_bad
                          as in train.py, whose messages tell when they are needed
  --precision_mode=MODE   allow_mix_precision or must_keep_origin_dtype: no AMP (default: allow_mix_precision)
  --fp32, --hf32          switch HF32/TF32 off, or leave it on
  --bin_mode              precompiled operators (NPU)
  --profiling=TOOL        CANN, GE or False (default: False)
  --start_step=N          first step that is profiled (default: ${start_step:-0})
  --stop_step=N           step before which profiling stops (default: ${stop_step:-20})
EOT
    launcher_usage
    say '  --help                  this text'
    [[ $kind != eval ]] || return 0
    say
    say 'SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGHUP end the run after its step, with a checkpoint, and exit code 143, 130, 138'
    say 'or 129; a second SIGINT ends it at once.'
}

# The run name without --name, as train.py makes it; speed runs have their own, so that they never replace a model.
default_name() {
    case $kind in
        perf) say dsb2018_96_UNet_woDS_perf ;;
        *) say dsb2018_96_UNet_woDS ;;
    esac
}

# need FLAG VALUE whole|positive|real: stop unless the value is such a number.
need() {
    local pattern
    case $3 in
        whole) pattern='^(0|[1-9][0-9]*)$' ;;
        positive) pattern='^[1-9][0-9]*$' ;;
        real) pattern='^([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$' ;;
    esac
    [[ $2 =~ $pattern ]] || die "$1 takes a $3 number, not \"$2\"."
}

parse_flags() {
    local arg value
    for arg in "$@"; do
        value=${arg#*=}
        case $arg in
            --data_path=*) data_path=$value ;;
            --device_id=*) device_id=$value ;;
            --device=*) device=$value ;;
            --epochs=*) epochs=$value ;;
            --batch_size=*) batch_size=$value ;;
            --lr=*) lr=$value ;;
            --optimizer=*) optimizer=$value ;;
            --num_workers=*) num_workers=$value ;;
            --name=*) name=$value ;;
            --resume=*)
                [[ -n $value ]] || die '--resume= lacks its value: name a checkpoint, or leave the flag out.'
                resume=$value
                ;;
            --save_steps=*) save_steps=$value ;;
            --cache_mb=*) cache_mb=$value ;;
            --resume_anyway | --trust_checkpoint | --skip_bad) switches+=("$arg") ;;
            --hf32 | --fp32)
                [[ -z $precision || $precision == "$arg" ]] || die 'Give one of --hf32 and --fp32, not both.'
                precision=$arg
                ;;
            --precision_mode=*) precision_mode=$value ;;
            --bin_mode | --bin_mode=1 | --bin_mode=[Tt]rue) bin_mode=1 ;;
            --bin_mode=0 | --bin_mode=[Ff]alse) bin_mode=0 ;;
            --profiling=*) profiling=$value ;;
            --start_step=*) start_step=$value ;;
            --stop_step=*) stop_step=$value ;;
            --more_path1=* | --rank_id=*) warn "${arg%%=*} is of no use here and is ignored." ;;
            --help | -h)
                usage
                exit 0
                ;;
            *) launcher_flag "$arg" || die "Unknown flag \"$arg\" (flags are written --flag=value; see --help)." ;;
        esac
    done
    device_id=${ASCEND_DEVICE_ID:-$device_id} # schedulers set it
    need 'The device id' "$device_id" whole
    need --epochs "$epochs" positive
    need --batch_size "$batch_size" positive
    need --lr "$lr" real
    need --num_workers "$num_workers" whole
    [[ -z $save_steps ]] || need --save_steps "$save_steps" positive
    [[ -z $cache_mb ]] || need --cache_mb "$cache_mb" whole
    [[ -z $start_step ]] || need --start_step "$start_step" whole
    [[ -z $stop_step ]] || need --stop_step "$stop_step" whole
    run_name=${name:-$(default_name)}
}

# set_folder NAME FOLDER: the variable NAME becomes FOLDER's absolute path; fails if it cannot be entered. FOLDER has a
# slash, as "-" alone is something else to cd.
set_folder() {
    local path
    path=$(CDPATH='' cd -- "$2" 2>/dev/null && printf '%s/' "$PWD") || return 1
    printf -v "$1" %s "${path%/}" # only now, since $(…) drops line breaks at the end
}

# Makes data_path absolute, which also keeps a leading dash from being taken for a flag.
resolve_data_path() {
    local given=$data_path
    if [[ -z $given ]]; then
        given=$root/inputs/dsb2018_96
        [[ -d $given/images && -d $given/masks ]] || die 'para "data_path" must be configured'
    fi
    [[ $given == /* ]] || given=$PWD/$given
    set_folder data_path "$given" || die "There is no folder \"$given\" (from --data_path)."
}

resuming() { [[ -n $resume && $kind != eval ]]; }

# Makes the checkpoint's path absolute.
resolve_resume() {
    [[ -n $resume ]] && ! { resuming && [[ $resume == auto ]]; } || return 0
    [[ $resume == /* ]] || resume=$PWD/$resume
    [[ -f $resume ]] || die "There is no checkpoint \"$resume\": name one with --resume=FILE, or $no_checkpoint."
}

on_ascend() { command -v npu-smi >/dev/null || [[ -d /usr/local/Ascend ]]; }

load_ascend_environment() {
    on_ascend && [[ -f $test_dir/env_npu.sh && ${etp_running_flag:-} != true ]] || return 0
    # shellcheck source-path=SCRIPTDIR source=env_npu.sh
    source "$test_dir/env_npu.sh"
}

# Sets python: the active virtual environment's, else .venv's, else the system's.
# shellcheck disable=SC2034  # it is for the launchers
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

# After parse_flags: everything that run_logged and write_results need. Sets train_args, case_name, the files' names.
prepare() {
    resolve_data_path
    resolve_resume
    load_ascend_environment
    find_python

    local default_optimizer=Adam
    train_args=(
        "$data_path" "--device=$device" "--device_id=$device_id" "--epochs=$epochs" "--batch_size=$batch_size"
        "--lr=$lr" "--num_workers=$num_workers"
    )
    if [[ $precision_mode == must_keep_origin_dtype ]]; then
        default_optimizer=SGD
        train_args+=(--no-amp)
    fi
    train_args+=("--optimizer=${optimizer:-$default_optimizer}")
    train_args+=("--name=$run_name")
    [[ -z $resume ]] || train_args+=("--resume=$resume")
    [[ -z $save_steps ]] || train_args+=("--save_steps=$save_steps")
    [[ -z $cache_mb ]] || train_args+=("--cache_mb=$cache_mb")
    train_args+=("${switches[@]}")
    [[ -z $precision_mode ]] || train_args+=("--precision_mode=$precision_mode")
    [[ -z $precision ]] || train_args+=("$precision")
    [[ -z $bin_mode ]] || train_args+=("--bin_mode=$bin_mode")
    [[ -z $profiling ]] || train_args+=("--profiling=$profiling")
    [[ -z $start_step ]] || train_args+=("--start_step=$start_step")
    [[ -z $stop_step ]] || train_args+=("--stop_step=$stop_step")

    case_name=${network}_bs${batch_size}_${rank_size}p${precision/#--/_}_$kind
    output=$test_dir/output/$device_id
    log=$output/${log_kind}_$device_id.log
    result_file=$output/$case_name.log
    loss_file=$output/train_${case_name}_loss.txt
    mkdir -p -- "$output" || die "Cannot make the folder \"$output\"."
    # a launcher that is at work there holds a lock on the folder, and so do its training processes
    exec {lock}<"$output"
    ! command -v flock >/dev/null || flock -n "$lock" ||
        die "Another launcher is at work in \"$output\": wait for it, or on one device give another --device_id."
    if resuming; then # the run may turn out to be finished, and the results of before to be its own
        [[ ! -f $log ]] || cat -- "$log" >>"$log.before" || die "Cannot write \"$log.before\"."
    else
        remove_results
        rm -f -- "$log.before"
    fi
    rm -f -- "$log"
}

remove_results() { rm -f -- "$result_file" "$loss_file"; } # only these: other cases' results stay

take_signal() {
    if [[ -z $caught ]]; then
        caught=$1
        say "[Stopping] by SIG$1, in good order; SIGINT (Ctrl-C), twice in all, ends it at once." >&2
    fi
    [[ -z $child ]] || pass_on "$1" 2>/dev/null
}

# run_forwarding FILE COMMAND…: runs it to its end, its output in FILE, and returns its exit code; SIGHUP, SIGINT,
# SIGTERM and SIGUSR1 that this shell gets meanwhile are passed on to it, and the first one's name is left in caught.
run_forwarding() {
    local signal child='' status=0 file=$1
    shift
    caught=
    for signal in HUP INT TERM USR1; do
        # shellcheck disable=SC2064  # the signal's name is to be filled in now
        trap "take_signal $signal" "$signal"
    done
    # Without job control a background process would ignore SIGINT; its own process group keeps a terminal's Ctrl-C,
    # which is forwarded too, from reaching it twice.
    set -m
    "$@" </dev/null >"$file" 2>&1 &
    child=$!
    set +m
    [[ -z $caught ]] || pass_on "$caught"
    while kill -0 "$child" 2>/dev/null; do # wait returns early at a signal
        wait "$child" 2>/dev/null
    done
    wait "$child" 2>/dev/null || status=$?
    trap - HUP INT TERM USR1
    return "$status"
}

# run_logged COMMAND…: runs it in the root, its output in the log; a failure ends the launcher with its exit code.
run_logged() {
    local status=0 start=$SECONDS
    say "$case_name: $doing on $data_path"
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

# Puts what the run's earlier parts have logged before what this one has.
join_logs() { [[ ! -f $log.before ]] || { cat -- "$log" >>"$log.before" && mv -f -- "$log.before" "$log"; }; }

# field LABEL MARK: the value after LABEL on every line of the log that contains MARK.
field() {
    LC_ALL=C awk -v label="$1" -v mark="$2" \
        'index($0, mark) { for (i = 1; i < NF; i++) if ($i == label) { print $(i + 1); next } }' "$log"
}

# step_losses: each step's, in order; of one that was done again after a crash, the last.
step_losses() {
    LC_ALL=C awk '
        /^Epoch: \[/ {
            step = substr($0, 1, index($0, "\t"))
            if (!(step in loss)) order[++n] = step
            for (i = 1; i < NF; i++) if ($i == "Loss") { loss[step] = $(i + 1); break }
        }
        END { for (i = 1; i <= n; i++) print loss[order[i]] }' "$log"
}

# calculate FORMAT EXPRESSION A B: awk's arithmetic on the numbers a and b.
calculate() { LC_ALL=C awk -v a="$3" -v b="$4" "BEGIN { printf \"$1\", ($2) }"; }

# After a run that ended well: the loss file, the result file, the closing lines. An evaluation trains no step: it has
# no loss file and no speed.
write_results() {
    local fps='' accuracy loss lines='FPS, AVG-IOU or Epoch' factor=1
    if resuming && [[ -n $nothing_left ]]; then
        say "$nothing_left"
        say 'No step was left to train, so there are no new results.'
        [[ ! -f $result_file ]] || say "Those of before: $result_file"
        return
    fi
    accuracy=$(field Iou '[AVG-IOU]' | tail -n 1)
    if [[ $kind == eval ]]; then
        lines='Test or AVG-IOU'
        loss=$(field Loss 'Test: [' | tail -n 1)
    else
        fps=$(field FPS@all '* FPS@all' | tail -n 1)
        step_losses >"$loss_file" || die "Cannot write \"$loss_file\"."
        loss=$(tail -n 1 -- "$loss_file")
    fi
    if [[ -z $accuracy || -z $loss || ($kind != eval && $(calculate %d 'a > 0' "$fps" 0) != 1) ]]; then
        remove_results
        die "The run ended well, but its log lacks an $lines line: $log"
    fi
    [[ $time_unit == s ]] || factor=1000
    if ! {
        say "Network = $network"
        say "RankSize = $rank_size"
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
