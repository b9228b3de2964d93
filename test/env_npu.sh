# shellcheck shell=bash
# The environment of an Ascend host: CANN's own, and settings for training. For bash to source; the launchers do it by
# themselves. What is set already stays as it is.

# Sources the first set_env.sh there is: of the CANN that the environment names, else where CANN is usually installed.
_source_cann() {
    local folder options=$-
    for folder in "${ASCEND_TOOLKIT_HOME:-}" "${ASCEND_TOOLKIT_HOME:-}"/.. \
        {/usr/local,"${HOME:-}"}/Ascend/{ascend-toolkit,cann,nnae}; do
        if [[ $folder == /*/* && -f $folder/set_env.sh ]]; then
            set +eu # it reads variables that may be unset, and tests that may fail
            # shellcheck source=/dev/null
            source "$folder/set_env.sh"
            [[ $options != *e* ]] || set -e
            [[ $options != *u* ]] || set -u
            return 0
        fi
    done
    return 1
}
if ! _source_cann && [[ -z ${ASCEND_HOME_PATH:-} ]] &&
    declare -F on_ascend >/dev/null && on_ascend; then # only the launchers know whether this host needs it
    printf '[Warning] %s\n' "CANN's set_env.sh is not in its usual places: source it yourself for runs on the NPU." >&2
fi
unset -f _source_cann

# Operators are put into a queue, which another thread empties; 2 is faster, but needs precompiled operators.
export TASK_QUEUE_ENABLE="${TASK_QUEUE_ENABLE-1}"
# A chain of views whose result is not contiguous costs one copy, not one a view.
export COMBINED_ENABLE="${COMBINED_ENABLE-1}"
# CANN's own log goes to its files, not to the terminal, …
export ASCEND_SLOG_PRINT_TO_STDOUT="${ASCEND_SLOG_PRINT_TO_STDOUT-0}"
# … holds errors only (0 debug, 1 info, 2 warning, 3 error) …
export ASCEND_GLOBAL_LOG_LEVEL="${ASCEND_GLOBAL_LOG_LEVEL-3}"
# … and no events.
export ASCEND_GLOBAL_EVENT_ENABLE="${ASCEND_GLOBAL_EVENT_ENABLE-0}"
# Each process keeps to the cores of its own NPU.
export CPU_AFFINITY_CONF="${CPU_AFFINITY_CONF-1}"
