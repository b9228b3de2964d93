#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# Lint and unit tests: bash test/run_tests.sh [--newest] [arguments for pytest; paths are relative to the repository root]
# --newest: in an environment of its own, .venv-newest, with the versions that requirements.txt has for the newest Python.
# It also compares the calls of torch_npu with the newest release whose torch is released, which it downloads (44 MB).
# All checks run, even if one fails. pytest runs last, so that its summary ends the output. It runs the tests in two
# processes; each takes one file after the other, in this order, so that the longest come first.
set -u
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 1
# shellcheck source-path=SCRIPTDIR source=setup_venv.sh
source test/setup_venv.sh || exit 1

requirements=(requirements.txt requirements-dev.txt)
if [[ ${1:-} == --newest ]]; then
    shift
    export NEWEST_TORCH_NPU=1
    VIRTUAL_ENV=$PWD/.venv-newest
    [[ -n $(python_version "$VIRTUAL_ENV/bin/python") ]] || make_venv "$VIRTUAL_ENV" || exit 1
    requirements=("$VIRTUAL_ENV/requirements-newest.txt")
    cat requirements.txt requirements-dev.txt |
        sed -e '/^-r /d' -e '/python_version < "3.14"/d' -e 's/; python_version >= "3.14"//' >"${requirements[0]}"
fi
setup_venv "${requirements[@]}" || exit 1

failed=0
check() {
    printf '[check] %s\n' "$1"
    shift
    "$@" || failed=1
}

scripts=(.ci/run)
while IFS= read -r -d '' script; do
    scripts+=("$script")
done < <(find . \( -name .git -o -name ".venv*" -o -name venv \) -prune -o -name '*.sh' -type f -print0)

check 'ruff check' "$python" -m ruff check .
check 'ruff format' "$python" -m ruff format --check .
check 'shellcheck' shellcheck -x "${scripts[@]}"
((failed == 0)) || printf '[check] FAILED, see above: the exit code will be 1 even if the tests pass\n'
"$python" -m pytest test/unit -n 2 --dist loadfile --no-loadscope-reorder "$@" || failed=1
exit "$failed"
