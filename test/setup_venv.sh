# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# shellcheck shell=bash
# To be sourced. setup_venv FILE… installs the requirements files FILE… into the active virtual environment
# (VIRTUAL_ENV, CONDA_PREFIX), else into .venv in the repository root, which it creates if needed. It sets python to the
# interpreter of the environment and adds its commands to PATH. If it fails, it prints the reason and returns non-zero.

venv_root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || return 1
venv_root=${venv_root%/*} # $(cd ..; pwd) would drop a newline at the end of the folder's name

venv_say() { printf '[setup] %s\n' "$*"; }
venv_error() { printf '[Error] %s\n' "$*" >&2; }

# python_version PYTHON: prints the version, e.g. 3.11; fails if PYTHON does not run.
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

# Prints the first Python on PATH that is new enough.
find_system_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    venv_error "Python 3.10 or newer is needed; python3 here is $(python_version python3 || echo missing)."
    return 1
}

# make_venv FOLDER: creates a virtual environment. Replaces one that does not run, e.g. because it was moved.
make_venv() {
    local system_python
    system_python=$(find_system_python) || return 1
    if ! "$system_python" -c 'import ensurepip, venv' 2>/dev/null; then
        venv_error "$system_python cannot create virtual environments: install its venv module (Debian, Ubuntu:" \
            "apt install python3-venv)."
        return 1
    fi
    venv_say "creating $1 with Python $(python_version "$system_python")"
    "$system_python" -m venv --clear "$1" || {
        venv_error "Creating the virtual environment \"$1\" failed."
        return 1
    }
}

# install_requirements FOLDER FILE…: installs the files into the environment FOLDER, unless its stamps show that pip
# has already done so. A stamp holds the checksum of a requirements file, and the Python version.
install_requirements() {
    local folder=$1 file stamp sum changed='' log=$1/setup_venv.log
    local arguments=() stamps=() sums=()
    shift
    for file in "$@"; do
        if [[ ! -f $file ]]; then
            venv_error "There is no \"$file\"."
            return 1
        fi
        stamp=$folder/.installed-$(basename -- "$file")
        sum="$(cksum <"$file") $(python_version "$python")"
        arguments+=(-r "$file")
        stamps+=("$stamp")
        sums+=("$sum")
        [[ -f $stamp && $(<"$stamp") == "$sum" ]] || changed="$changed $(basename -- "$file")"
    done
    if [[ -z $changed ]]; then
        venv_say "$folder already has all requirements"
        return 0
    fi

    venv_say "installing$changed into $folder (log: $log)"
    rm -f -- "${stamps[@]}"
    if ! { "$python" -m pip --version || "$python" -m ensurepip; } >"$log" 2>&1; then
        venv_error "\"$folder\" has no pip, and installing pip failed: remove the folder, or add pip, and run again."
        return 1
    fi
    if ! "$python" -m pip install "${arguments[@]}" >"$log" 2>&1 </dev/null; then
        venv_error "pip failed; the last lines of $log:"
        tail -n 15 -- "$log" >&2
        return 1
    fi
    for file in "${!stamps[@]}"; do
        printf '%s\n' "${sums[$file]}" >"${stamps[$file]}" || return 1
    done
}

setup_venv() {
    local folder=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
    if [[ -n $folder ]]; then
        python=$folder/bin/python
        venv_say "using the active environment $folder"
    else
        folder=$venv_root/.venv
        python=$folder/bin/python
        [[ -n $(python_version "$python") ]] || make_venv "$folder" || return 1
    fi
    if ! new_enough "$python"; then
        venv_error "Python 3.10 or newer is needed, and \"$folder\" has $(python_version "$python" || echo none):" \
            'deactivate or remove it, and run again.'
        return 1
    fi
    install_requirements "$folder" "$@" || return 1
    export PATH="$folder/bin:$PATH"
}
