# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# shellcheck shell=bash
# The environment of an Ascend host: CANN's variables, and settings for training. The launchers source this file; for
# other commands, source it in bash. Settings that already have a value keep it.

# Sources the first set_env.sh that exists: that of the CANN in ASCEND_TOOLKIT_HOME, else one in CANN's usual folders.
_source_cann() {
    local folder options=$-
    for folder in "${ASCEND_TOOLKIT_HOME:-}" "${ASCEND_TOOLKIT_HOME:-}"/.. \
        {/usr/local,"${HOME:-}"}/Ascend/{ascend-toolkit,cann,nnae}; do
        if [[ $folder == /*/* && -f $folder/set_env.sh ]]; then
            set +eu # set_env.sh may read unset variables and run failing commands
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
    declare -F on_ascend >/dev/null && on_ascend; then # common.sh defines on_ascend; without it, do not warn
    printf '[Warning] %s\n' "CANN's set_env.sh is not in the usual folders: source it yourself to train on the NPU." >&2
fi
unset -f _source_cann

# Another thread launches the operators from a queue. 2 also lets this thread allocate their workspace, so that it waits
# less. torch_npu does this only for precompiled operators: they are the default on Atlas A2 and A3, and need --bin_mode on
# the first Ascend 910.
export TASK_QUEUE_ENABLE="${TASK_QUEUE_ENABLE-2}"
# A chain of views with a non-contiguous result needs one copy instead of one per view.
export COMBINED_ENABLE="${COMBINED_ENABLE-1}"
# CANN's log goes to files, not to the terminal.
export ASCEND_SLOG_PRINT_TO_STDOUT="${ASCEND_SLOG_PRINT_TO_STDOUT-0}"
# CANN logs only errors (0 debug, 1 info, 2 warning, 3 error).
export ASCEND_GLOBAL_LOG_LEVEL="${ASCEND_GLOBAL_LOG_LEVEL-3}"
# CANN does not log events.
export ASCEND_GLOBAL_EVENT_ENABLE="${ASCEND_GLOBAL_EVENT_ENABLE-0}"
# Each process is bound to its share of the CPU cores.
export CPU_AFFINITY_CONF="${CPU_AFFINITY_CONF-1}"
# Blocks of NPU memory can grow. Tensors of changing sizes, such as the last batch of the validation, then leave fewer
# unusable gaps.
export PYTORCH_NPU_ALLOC_CONF="${PYTORCH_NPU_ALLOC_CONF-expandable_segments:True}"
# HCCL waits for the other processes as long as torch does (--dist_timeout). Its default of 120 s can be too short if one
# process is still reading data or compiling operators.
export HCCL_CONNECT_TIMEOUT="${HCCL_CONNECT_TIMEOUT-600}"
