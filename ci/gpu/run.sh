#!/usr/bin/env bash
# On a machine with a GPU: the GPU-marked tests, then the benchmarks in order of worth.
#
#   ci/gpu/run.sh              everything
#   ci/gpu/run.sh decode ...   only these steps of bench.py
#
# Each step writes its result into ci/gpu/RESULTS.json as it ends, so that a run that is cut off
# still tells something. PYTHON names the interpreter that has the GPU stack (default: .venv, else
# python3); nothing is installed here.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" NEMO_IMAGE_CURATE_BACKEND=gpu
if ! "$python" -c 'from nemo_image_curate.frames import gpu_problem; import sys; sys.exit(gpu_problem() or 0)'; then
    echo "no working GPU here: the cuda12 or cuda13 extra and an NVIDIA device are needed" >&2
    exit 1
fi
failed=0
"$python" ci/gpu/bench.py "$@" || failed=1
if [ $# -eq 0 ]; then
    "$python" -m pytest -q -m gpu --junitxml=/tmp/gpu-tests.xml || failed=1
    "$python" ci/gpu/bench.py --tests /tmp/gpu-tests.xml || failed=1
fi
exit $failed
