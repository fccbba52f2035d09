#!/usr/bin/env bash
# On the machine without a registry: take in one part; unpack a stage when its last part is there.
#
#   unpack.sh FOLDER      FOLDER holds one part that pack.py made
#
# Parts are kept in /tmp/gpu-parts (PARTS) and packages go to /tmp/gpu-site (SITE), not among those
# of the machine: afterwards export PYTHONPATH=/tmp/gpu-site
set -euo pipefail
parts=${PARTS:-/tmp/gpu-parts}
site=${SITE:-/tmp/gpu-site}
python=${PYTHON:-python3}
mkdir -p "$parts" "$site/packages"
cp "${1:?folder}"/*-of-* "$1"/*.sha256 "$parts/"
decompressed() {   # the machine may lack xz; Python has it, with one thread
    if command -v xz >/dev/null; then
        xz --decompress --stdout --threads=0 "$1"
    else
        "$python" -c 'import lzma, shutil, sys
shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer)' "$1"
    fi
}
for digest in "$parts"/*.sha256; do
    [ -e "$digest" ] || continue
    stage=$(basename "$digest" .sha256)
    arrived=("$parts/$stage".*-of-*)
    total=$((10#${arrived[0]##*-of-}))
    echo "$stage: ${#arrived[@]} of $total parts"
    [ ${#arrived[@]} -eq $total ] || continue
    cat "$parts/$stage".*-of-* >"$parts/$stage.tar.xz"
    (cd "$parts" && sha256sum --quiet -c "$stage.sha256")
    decompressed "$parts/$stage.tar.xz" | tar --extract --directory="$site/packages"
    rm "$parts/$stage".*
    echo "$stage: unpacked into $site"
done
# Libraries look for those of CUDA in the folder of packages where they are themselves.
"$python" - "$site/packages" <<'PY'
import importlib.util
import sys
from pathlib import Path

ours = Path(sys.argv[1])
theirs = Path(importlib.util.find_spec("torch").origin).parent.parent
for library in theirs.glob("nvidia/*/lib/lib*.so*"):
    link = ours / library.relative_to(theirs)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() and not link.exists():
        link.symlink_to(library)
PY
cat >"$site/sitecustomize.py" <<'PY'
import ctypes
import glob
import os
import site
import sys

packages = os.path.join(os.path.dirname(__file__), "packages")
# Also runs the .pth files, of which cuDF needs numba-cuda's.
site.addsitedir(packages)
# Before the machine's own packages.
sys.path.insert(1, packages)
# RAPIDS wants a newer one than torch brings; the one that is loaded first serves both.
for library in glob.glob(packages + "/nvidia/cu13/lib/libnvJitLink.so.*"):
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
PY
