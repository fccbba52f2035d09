#!/usr/bin/env bash
# Make or bring up to date the virtual environment .venv of this checkout.
#
#   bash ci/env.sh [EXTRA[,EXTRA...]]      extras of pyproject.toml; default: test
#   bash ci/env.sh --lock                  rewrite ci/constraints-cpu.txt (see there), and raise
#                                          pyproject.toml's lower bounds to it
#
# Every version comes from ci/constraints-cpu.txt. torch goes first and is PyTorch's CPU build:
# the one on PyPI for Linux is the CUDA build, gigabytes that these environments never use.
# It is looked for, in this order:
#   1. where pip looks anyway (a find-links directory or a mirror of your own), as X.Y.Z+cpu;
#   2. $TORCH_INDEX_URL, default https://download.pytorch.org/whl/cpu;
#   3. PyPI, saying so.
# Set TORCH_INDEX_URL to a mirror of PyTorch's index, or to nothing (TORCH_INDEX_URL=) to skip 2.
#
# Nothing is done (0.2 s) when .venv is as the files named below ask for. A .venv that does not
# start, or whose last installation was cut off, is made anew. Two runs at once wait for each
# other. PYTHON=/path/to/python3.12 chooses the interpreter for a new .venv.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
constraints=$root/ci/constraints-cpu.txt
inputs=("$root/pyproject.toml" "$root/setup.cfg" "$constraints" "$root/ci/env.sh")
marker="# --- resolved"   # in constraints: chosen by hand above this line, generated below

say() { echo "env: $*" >&2; }
die() { say "$*"; exit 1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer is needed; python3 here is $(python3 --version 2>&1 || true)." \
        "Install one (Debian and Ubuntu: apt-get install python3 python3-venv)" \
        "or name one: PYTHON=/path/to/python3.12 bash $0"
}

make_venv() {   # make_venv DIRECTORY PYTHON
    local python=$2
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python cannot make virtual environments (its modules venv and ensurepip are" \
            "missing). Debian and Ubuntu: apt-get install python3-venv"
    "$python" -m venv --clear "$1"
}

pip() {   # pip PYTHON ARGUMENTS...: errors are shown, nothing else
    local python=$1
    shift
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$python" -m pip --no-input "$@"
}

pin() { sed -n "s/^$1==\([^ ;]*\).*/\1/p" "$constraints"; }

install_torch() {   # install_torch PYTHON CONSTRAINTS
    local python=$1 constraints_used=$2 torch torchvision index
    torch=$(pin torch)
    torchvision=$(pin torchvision)
    "$python" - "$torch" <<'PY' && return
import sys
from importlib import metadata
try:
    installed = metadata.version("torch")
except metadata.PackageNotFoundError:
    sys.exit(1)
sys.exit(installed.partition("+")[0] != sys.argv[1])
PY
    if [[ $(uname -s) == Linux ]]; then
        pip "$python" install -qq -c "$constraints_used" "torch==$torch+cpu" 2>/dev/null && return
        index=${TORCH_INDEX_URL-https://download.pytorch.org/whl/cpu}
        if [[ -n $index ]]; then
            pip "$python" install -qq --retries 1 --timeout 20 --no-deps --index-url "$index" \
                "torch==$torch" "torchvision==$torchvision" 2>/dev/null && return
            say "no torch $torch at $index"
        fi
        say "taking torch $torch from PyPI; on x86-64 Linux that is the CUDA build (gigabytes)." \
            "See TORCH_INDEX_URL in ci/env.sh"
    fi
    pip "$python" install -qq -c "$constraints_used" "torch==$torch"
}

install_all() {   # install_all PYTHON EXTRAS CONSTRAINTS
    local python=$1 project=(-c "$3" --no-build-isolation -e "${root}[$2]")
    # The build backend is pinned too: installed here, so that no other is fetched.
    pip "$python" install -qq -c "$3" setuptools uv && install_torch "$python" "$3" || return
    # uv takes a third of pip's time; but it does not read pip's configuration, which may name the
    # index to use. It compiles, since where PYTHONDONTWRITEBYTECODE is set each process would do so
    # anew.
    "$python" -m uv pip install --python "$python" -qq --compile-bytecode "${project[@]}" \
        2>/dev/null ||
        pip "$python" install -qq "${project[@]}"
}

fingerprint() {   # of everything that decides what .venv holds, but for the extras
    "$venv/bin/python" -I - "$root" "${inputs[@]}" <<'PY'
import hashlib, sys
h = hashlib.sha256(f"{sys.version}\0{sys.argv[1]}\0".encode())
for path in sys.argv[2:]:
    with open(path, "rb") as f:
        h.update(hashlib.sha256(f.read()).digest())
print(h.hexdigest()[:32])
PY
}

lock() {
    local work python chosen
    work=$(mktemp -d)
    # shellcheck disable=SC2064  # the directory of now
    trap "rm -rf '$work'" EXIT
    python=$(find_python)
    make_venv "$work/venv" "$python"
    chosen=$work/chosen.txt
    sed "/^$marker/,\$d" "$constraints" >"$chosen"
    install_all "$work/venv/bin/python" test "$chosen"
    {
        cat "$chosen"
        echo "$marker by \`bash ci/env.sh --lock\`, $("$python" --version), $(uname -sm)"
        # Not the project, not pip, nothing chosen above; and the CPU build is told by where
        # torch comes from, not by its version.
        pip "$work/venv/bin/python" freeze --all --exclude-editable | sed 's/+cpu$//' |
            grep -v -e '^pip==' -f <(sed -n 's/^\([a-z0-9-]*==\).*/^\1/p' "$chosen")
    } >"$work/new.txt"
    cat "$work/new.txt" >"$constraints"
    say "$(grep -c '==' "$constraints") pins in $constraints"
    "$python" "$root/ci/lower_bounds.py" --write
}

if [[ ${1:-} == --lock ]]; then
    lock
    exit
fi
extras=${1:-test}
[[ $extras =~ ^[a-z0-9,-]+$ ]] || die "extras are names with commas between: '$extras'"

# One at a time in this checkout. (macOS has no flock; there two at once are the user's risk.)
if command -v flock >/dev/null; then
    exec 9<"$root/pyproject.toml"
    flock -n 9 || { say "waiting for another run in $root"; flock 9; }
fi

state=$venv/.nemo-image-curate   # holds one empty file per fingerprint and extras; and `unfinished`
if [[ -e $state/unfinished ]]; then
    say "the last installation into .venv was cut off; making it anew"
    rm -rf "$venv"
elif [[ -e $venv ]] && ! "$venv/bin/python" -I -c \
    'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "the Python in .venv does not start, is too old or has no pip; making it anew"
    rm -rf "$venv"
fi
if [[ ! -e $venv ]]; then
    python=$(find_python)
    make_venv "$venv" "$python"
fi

wanted=$(fingerprint)
stamp=$state/$wanted-$extras
if [[ ! -e $state/unfinished && -e $stamp ]]; then
    exit 0
fi
say "installing [$extras] into .venv (the first time: some minutes)"
start=$SECONDS
mkdir -p "$state"
touch "$state/unfinished"
status=0
trap 'exit 130' INT TERM   # killed: `unfinished` stays
install_all "$venv/bin/python" "$extras" "$constraints" || status=$?
if ((status)); then
    rm "$state/unfinished"
    die "installing [$extras] failed (above)"
fi
find "$state" -type f ! -name "$wanted-*" ! -name unfinished -delete
touch "$stamp"
rm "$state/unfinished"
say "done in $((SECONDS - start)) s"
