#!/usr/bin/env bash
# On the machine without a registry: take in one part; install a stage when its last part is there.
#
#   unpack.sh FOLDER      FOLDER holds one part that pack.py made
#
# Parts are kept in /tmp/gpu-parts (PARTS) and packages go to /tmp/gpu-site (SITE), not among those
# of the machine: afterwards export PYTHONPATH=/tmp/gpu-site
set -euo pipefail
parts=${PARTS:-/tmp/gpu-parts}
site=${SITE:-/tmp/gpu-site}
python=${PYTHON:-python3}
mkdir -p "$parts" "$site"
cp "${1:?folder}"/*-of-* "$1"/*.sha256 "$parts/"
for digest in "$parts"/*.sha256; do
    stage=$(basename "$digest" .sha256)
    found=("$parts/$stage".*-of-*)
    total=$((10#${found[0]##*-of-}))
    echo "$stage: ${#found[@]} of $total parts"
    [ ${#found[@]} -eq $total ] || continue
    cat "$parts/$stage".*-of-* >"$parts/$stage.tar"
    (cd "$parts" && sha256sum --quiet -c "$stage.sha256" && tar xf "$stage.tar")
    # Not --target, which replaces folders that several wheels share, such as nvidia/.
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
        --ignore-installed --prefix "$site" "$parts/$stage"/*.whl
    rm -r "$parts/$stage"*
    echo "$stage: installed in $site"
done
cat >"$site/sitecustomize.py" <<'PY'
import ctypes
import glob
import os
import site
import sys
import sysconfig

here = os.path.dirname(__file__)
packages = sysconfig.get_path("purelib", vars={"base": here, "platbase": here})
# Also runs the .pth files, of which cuDF needs numba-cuda's.
site.addsitedir(packages)
# Before the machine's own packages.
sys.path.insert(1, packages)
# RAPIDS wants a newer one than torch brings; the one that is loaded first serves both.
for library in glob.glob(packages + "/nvidia/cu13/lib/libnvJitLink.so.*"):
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
PY
