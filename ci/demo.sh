#!/usr/bin/env bash
# Make the environment and run the whole job on real photographs, offline.
#
#   bash ci/demo.sh [DIR] [OPTIONS of `nemo-image-curate demo`]
#
# DIR holds pictures of your own; without it the photographs that PyPI packages carry are used.
# The result goes to demo-output/ in the checkout unless --output says otherwise.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/ci/env.sh" demo,cpu
export HF_HUB_OFFLINE=1   # nothing is fetched once the packages are installed
exec "$root/.venv/bin/nemo-image-curate" demo --output "$root/demo-output" "$@"
