# shellcheck shell=bash
# To be sourced. setup_venv FILE… makes a Python environment that has what the requirements files FILE… list: the active
# virtual environment (VIRTUAL_ENV, CONDA_PREFIX), else .venv in the repository root, made here if need be. It sets
# python to that environment's interpreter, puts its commands on PATH, and returns non-zero, having said why, on failure.

venv_root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || return 1
venv_root=${venv_root%/*} # not by "..", as $(…) drops a line break that a folder's name ends with

venv_say() { printf '[setup] %s\n' "$*"; }
venv_error() { printf '[Error] %s\n' "$*" >&2; }

# python_version PYTHON: e.g. 3.11; fails if it doesn't run.
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

# find_system_python: prints the first Python on PATH that is new enough.
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

# make_venv FOLDER: a new virtual environment there; one that doesn't run (moved, half made) is replaced.
make_venv() {
    local system_python
    system_python=$(find_system_python) || return 1
    if ! "$system_python" -c 'import ensurepip, venv' 2>/dev/null; then
        venv_error "$system_python cannot make virtual environments: install its venv module (Debian, Ubuntu:" \
            "apt install python3-venv)."
        return 1
    fi
    venv_say "making $1 with Python $(python_version "$system_python")"
    "$system_python" -m venv --clear "$1" || {
        venv_error "Making the virtual environment \"$1\" failed."
        return 1
    }
}

# install_requirements FOLDER FILE…: what the stamps in the environment FOLDER don't vouch for.
# A stamp holds the checksum of a requirements file that pip has installed, and the Python it was for.
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
        venv_say "$folder has everything already"
        return 0
    fi

    venv_say "installing$changed into $folder (log: $log)"
    rm -f -- "${stamps[@]}"
    if ! { "$python" -m pip --version || "$python" -m ensurepip; } >"$log" 2>&1; then
        venv_error "\"$folder\" has no pip and none could be added; remove the folder, or add pip to it, and run again."
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
