#!/usr/bin/env bash
# On a machine with a GPU: its tests and benchmarks, in order of worth (see README.md beside this).
#
#   ci/gpu/run.sh [ARGUMENTS for bench.py]
#
# PYTHON names the interpreter that has the GPU stack (default: .venv, else python3); nothing is
# installed here.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no working GPU here: torch.cuda.is_available() is False" >&2
    exit 1
fi
exec "$python" ci/gpu/bench.py "$@"
