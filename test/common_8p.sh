# shellcheck shell=bash
# What the launchers of several processes share: --num_gpus, torchrun, and a word on the process that died. Such a
# launcher sources this file in place of common.sh, and calls parse_flags_8p and run_ranks where one of a single
# process calls parse_flags and run_logged.
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh" || exit 1

rank_size=8
batch_size=128
num_workers=8
device_id_usage='of no use here: each process takes a device of its own, and output/0 has the results'
rank_log_prefix=
grace=15 # seconds that the other ranks have for their last words once torchrun has told them that one died
# … and torchrun's own limit: what a step and a checkpoint may take after a signal. Older ones don't know the variable.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"
told=
interrupts=0

unset ASCEND_DEVICE_ID # it would give all ranks one device

num_gpus_flag() {
    [[ $1 == --num_gpus=* ]] && rank_size=${1#*=}
}
launcher_flag() { num_gpus_flag "$1"; }

num_gpus_usage() { say "  --num_gpus=N            processes, one a device (default: $rank_size)"; }
launcher_usage() { num_gpus_usage; }

parse_flags_8p() {
    parse_flags "$@"
    need --num_gpus "$rank_size" positive
    ((batch_size % rank_size == 0)) ||
        die "--batch_size $batch_size is over all processes: take a multiple of --num_gpus, $rank_size."
    if [[ $device_id != 0 ]]; then
        warn '--device_id is of no use with several devices and is ignored.'
        device_id=0
    fi
}

# kill_ranks: ends what is left of this run's ranks and of their data loading processes, torchrun's own children or not.
kill_ranks() {
    local pid
    grep -lszFx "TORCHELASTIC_RUN_ID=$run_id" /proc/[0-9]*/environ | while IFS=/ read -r _ _ pid _; do
        kill -s KILL "$pid" 2>/dev/null
    done
}

# To torchrun, which hands on only the first signal as it is, and leaves its ranks alone at the third.
pass_on() {
    [[ $1 != INT ]] || interrupts=$((interrupts + 1))
    if ((interrupts > 1)); then
        kill -s KILL "$child" # after_run ends the ranks
    elif [[ -z $told ]]; then
        told=$1
        kill -s "$1" "$child"
    fi
}

# A rank that waits for a dead one inside a collective hears no signal, and torchrun would let it wait for 30 s. After
# a signal from outside, the ranks are not stuck but at work on their checkpoint.
end_stuck_ranks() {
    until grep -qs ' closing signal SIG' "$log"; do
        kill -0 "$$" || return # the launcher itself was killed
        sleep 1
    done
    ! grep -qs ' death signal, shutting down workers' "$log" || return
    sleep "$grace"
    kill_ranks
}

# run_ranks FLAG…: train.py in rank_size processes, with these flags besides the usual ones.
run_ranks() {
    local cores
    "$python" -c 'import importlib.util as i, sys; sys.exit(not i.find_spec("torch"))' ||
        die "PyTorch is not installed for $python: run \"pip install -r requirements.txt\" with it."
    if [[ -z ${OMP_NUM_THREADS:-} ]]; then # else each rank would start a thread on every core
        cores=$(nproc)
        export OMP_NUM_THREADS=$((cores > rank_size ? cores / rank_size : 1))
    fi
    # torchrun's --signals_to_handle, as a variable since older ones don't know it
    export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
    run_id=unet_$$_$RANDOM
    started=$(date +%s)
    set -m # a process group of its own, to be ended with its sleep
    end_stuck_ranks </dev/null >/dev/null 2>&1 &
    watcher=$!
    set +m
    # what --standalone stands for, but with a run_id to know the ranks by. Port 0 is a free one; the address spares
    # torchrun looking up the host's name, which hangs where it cannot be resolved.
    run_logged "$python" -m torch.distributed.run --rdzv_backend=c10d --rdzv_endpoint=127.0.0.1:0 \
        "--rdzv_id=$run_id" --local_addr=127.0.0.1 "--nproc_per_node=$rank_size" train.py "${train_args[@]}" "$@"
}

after_run() {
    kill -- "-$watcher" 2>/dev/null
    ((status != 0)) || return 0
    kill_ranks # torchrun knows nothing of a dead rank's children, nor of ranks it was starting when a signal came
    [[ -z $caught ]] || status=$((128 + $(kill -l "$caught"))) # torchrun's own is 1
}

# The log without torchrun's lines and the traceback that it ends with, which would drown what a rank had to say.
ranks_words() {
    awk '
        /^[EWI][0-9]+ .*[ \/]torch\/distributed\// { next } # a full path where .venv is a link
        /^\[rank [0-9]+\] / { next } # what a rank said last, told from its own log below
        /^Traceback / { printf "%s", held; held = ""; holding = 1 }
        /^torch\.distributed\.elastic\..*(ChildFailedError|SignalException)/ && holding { held = ""; exit }
        holding { held = held $0 "\n"; next }
        { print }
        END { printf "%s", held }' "$log"
}

# first_dead: "RANK EXITCODE" of the rank that died first, or nothing where torchrun reports none. torchrun takes the
# lowest rank for it when several died at once: one that was killed is then the cause of the others' end.
first_dead() {
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
    local rank code how rank_log
    ranks_words | tail -n 20
    read -r rank code < <(first_dead) || return 0
    how="it ended with exit code $code"
    [[ $code != -* ]] || how="killed by signal ${code#-} (SIG$(kill -l "${code#-}"))"
    rank_log=models/$run_name/${rank_log_prefix}rank$rank.log # in the root, where the run was; it may be an earlier run's
    if [[ $rank != 0 && -s $rank_log ]] && (($(stat -c %Y -- "$rank_log") >= started)); then
        say "[Error] Rank $rank died first: $how. The last lines of its log, $rank_log:"
        tail -n 20 -- "$rank_log"
    else
        say "[Error] Rank $rank died first: $how."
    fi
}
