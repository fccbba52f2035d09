#!/usr/bin/env bash
# Make the environment, check the code, run the tests.
#
#   bash ci/test.sh [ARGUMENTS for pytest, paths relative to the checkout]
#
# Checks: ruff check, ruff format --check, mypy on the package; whether what is made from other files
# is up to date (stubs and reference of public names, README's table of GPU results, lower bounds of
# dependencies); and beside these, each in one process, a wheel and an sdist, installed and used; the
# documentation, without a warning or a dead link; a dry run that resolves both CUDA extras. If all
# are well, pytest in three processes, whole files each: one of three waits for clusters, servers
# and browsers. The last line printed is pytest's own.
#
#   SKIP_CHECKS=1      pytest only
#   RESOLVE_STRICT=1   fail when the package index cannot be reached (default: say so and go on,
#                      because that tells nothing about the extras)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# Where it is set, each of the hundreds of processes that are started compiles the package anew.
unset PYTHONDONTWRITEBYTECODE

step() {   # step NAME COMMAND...: run it, show how long it took (to the second)
    local name=$1 start=$SECONDS status=0
    shift
    "$@" || status=$?
    if ((status)); then
        echo "== $name: FAILED (exit status $status) after $((SECONDS - start)) s" >&2
        exit "$status"
    fi
    echo "== $name: ok, $((SECONDS - start)) s"
}

begun=()   # "PROCESS LOG" of the steps that run beside others
begin() {  # begin NAME COMMAND...: a step beside those that follow
    local log
    log=$(mktemp)
    step "$@" >"$log" 2>&1 &
    begun+=("$! $log")
}

await_begun() {   # show what these steps printed; stop at the first that failed
    local one process log status
    for one in "${begun[@]}"; do
        read -r process log <<<"$one"
        status=0
        wait "$process" || status=$?
        cat "$log"
        rm "$log"
        ((status == 0)) || exit "$status"
    done
}

resolve() {
    local status=0
    .venv/bin/python ci/resolve_cuda.py || status=$?
    if ((status == 3)) && [[ -z ${RESOLVE_STRICT:-} ]]; then
        echo "== CUDA extras: NOT CHECKED, the package index could not be reached" >&2
        return 0
    fi
    return "$status"
}

step "environment" bash ci/env.sh test
if [[ -z ${SKIP_CHECKS:-} ]]; then
    trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
    begin "CUDA extras" resolve
    begin "documentation" .venv/bin/python ci/docs.py --check
    begin "wheel and sdist" .venv/bin/python ci/wheel.py
    step "ruff check" .venv/bin/python -m ruff check --quiet .
    step "ruff format" .venv/bin/python -m ruff format --quiet --check .
    step "mypy" .venv/bin/python -m mypy --num-workers=2 --no-error-summary
    step "public names" .venv/bin/python ci/public_names.py --check
    step "README's GPU table" .venv/bin/python ci/gpu/results.py --check
    step "lower bounds" .venv/bin/python ci/lower_bounds.py
    await_begun
fi

export HF_HUB_OFFLINE=1
exec .venv/bin/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder \
    --durations=20 "$@"
