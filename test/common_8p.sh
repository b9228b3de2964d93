# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# shellcheck shell=bash
# Functions for the launchers of several processes: --num_gpus, torchrun, and the report on a failed rank. Such a
# launcher sources this file instead of common.sh. It calls parse_flags_8p and run_ranks instead of parse_flags and
# run_logged.
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

world_size=8
batch_size=128
num_workers=8
# shellcheck disable=SC2034  # common.sh uses it
device_id_help='ignored: each process uses its own device, and the results are in output/0'
rank_log_prefix=
grace=15 # seconds in which the other ranks can end by themselves after torchrun has reported a failed rank
# After a signal, torchrun waits this long for its ranks, which finish their step and save a checkpoint. Older versions
# of torchrun do not know the variable.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"
signal_sent=no
interrupts=0

unset ASCEND_DEVICE_ID # it would put all ranks on one device

set_num_gpus() { world_size=$1; }
launcher_help() { say "  --num_gpus=N            processes, one per device (default: $world_size)"; }

parse_flags_8p() {
    parse_flags "$@"
    require_number --num_gpus "$world_size" positive
    ((batch_size % world_size == 0)) ||
        die "--batch_size=$batch_size is split over all processes: use a multiple of --num_gpus, $world_size."
    if [[ $device_id != 0 ]]; then
        warn '--device_id has no effect with several devices and is ignored.'
        device_id=0
    fi
}

# Kills all remaining processes of this run's ranks, also those that are not children of torchrun.
kill_ranks() {
    local pid
    grep -lszFx "TORCHELASTIC_RUN_ID=$run_id" /proc/[0-9]*/environ | while IFS=/ read -r _ _ pid _; do
        kill -s KILL "$pid" 2>/dev/null
    done
}

# Sends torchrun only one signal: it forwards a second one as another signal, and abandons its ranks at a third.
forward_signal() {
    [[ $1 != INT ]] || interrupts=$((interrupts + 1))
    if ((interrupts > 1)); then
        kill -s KILL "$child" # after_run kills the ranks
    elif [[ $signal_sent == no ]]; then
        signal_sent=yes
        kill -s "$1" "$child"
    fi
}

# Runs in the background. If a rank dies, the others may wait for it in a collective and not react to torchrun's signal.
# torchrun would wait 30 s for them; this function kills them earlier, after the grace period. It does not kill ranks
# after a signal from outside, because they are saving their checkpoint.
end_stuck_ranks() {
    until grep -qs ' closing signal SIG' "$log"; do
        kill -0 "$$" || return # the launcher itself was killed
        sleep 1
    done
    ! grep -qs ' death signal, shutting down workers' "$log" || return
    sleep "$grace"
    kill_ranks
}

# Runs train.py in world_size processes with train_args.
run_ranks() {
    local cores
    "$python" -c 'import importlib.util as i, sys; sys.exit(not i.find_spec("torch"))' ||
        die "PyTorch is not installed for $python: run \"pip install -r requirements.txt\" with it."
    if [[ -z ${OMP_NUM_THREADS:-} ]]; then # by default, each rank would start one thread per core
        cores=$(nproc)
        export OMP_NUM_THREADS=$((cores > world_size ? cores / world_size : 1))
    fi
    # torchrun's --signals_to_handle. Older versions do not know the flag, but ignore the variable.
    export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
    run_id=unet_$$_$RANDOM
    started=$(date +%s)
    set -m # the watcher gets its own process group, so that its sleep can be killed with it
    end_stuck_ranks </dev/null >/dev/null 2>&1 &
    watcher=$!
    set +m
    # The same as --standalone, but with our own run id, by which kill_ranks finds the processes. Port 0 is a free port.
    # Without --local_addr, torchrun would look up the host's name, which hangs if it cannot be resolved.
    run_logged "$python" -m torch.distributed.run --rdzv_backend=c10d --rdzv_endpoint=127.0.0.1:0 \
        "--rdzv_id=$run_id" --local_addr=127.0.0.1 "--nproc_per_node=$world_size" train.py "${train_args[@]}"
}

after_run() {
    kill -- "-$watcher" 2>/dev/null
    ((status != 0)) || return 0
    kill_ranks # torchrun misses the children of a dead rank, and ranks that it was starting when a signal came
    [[ -z $caught ]] || status=$((128 + $(kill -l "$caught"))) # torchrun itself exits with 1
}

# Prints the log without torchrun's own lines and its final traceback, which would hide the messages of the ranks.
rank_messages() {
    awk '
        /^[EWI][0-9]+ .*[ \/]torch\/distributed\// { next } # torchrun; a full path if .venv is a link
        /^\[rank [0-9]+\] / { next } # the last message of another rank; show_failure shows its own log
        /^Traceback / { printf "%s", held; held = ""; holding = 1 }
        /^torch\.distributed\.elastic\..*(ChildFailedError|SignalException)/ && holding { held = ""; exit }
        holding { held = held $0 "\n"; next }
        { print }
        END { printf "%s", held }' "$log"
}

# Prints "RANK EXITCODE" of the rank that failed first, or nothing if torchrun reports none. If several ranks failed in
# the same second, torchrun reports the lowest. A rank that was killed is then the more likely cause.
first_failed_rank() {
    awk '
        /ChildFailedError/ { n = 0; reported = 1 }
        $2 != ":" { next }
        $1 == "time" { time[++n] = $3 }
        $1 == "rank" { rank[n] = $3 }
        $1 == "exitcode" { code[n] = $3 }
        END {
            first = n # "Root Cause" comes last
            for (i = 1; i < n; i++) if (code[i] == -9 && time[i] == time[n]) first = i
            if (reported && n) print rank[first], code[first]
        }' "$log"
}

show_failure() {
    local rank code cause rank_log
    rank_messages | tail -n 20
    read -r rank code < <(first_failed_rank) || return 0
    cause="it ended with exit code $code"
    [[ $code != -* ]] || cause="killed by signal ${code#-} (SIG$(kill -l "${code#-}"))"
    rank_log=models/$run_name/${rank_log_prefix}rank$rank.log # relative to the root, the current folder
    # an older file belongs to an earlier run
    if [[ $rank != 0 && -s $rank_log ]] && (($(stat -c %Y -- "$rank_log") >= started)); then
        say "[Error] Rank $rank died first: $cause. The last lines of its log, $rank_log:"
        tail -n 20 -- "$rank_log"
    else
        say "[Error] Rank $rank died first: $cause."
    fi
}
