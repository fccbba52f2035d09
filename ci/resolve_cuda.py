#!/usr/bin/env python3
"""Prove that the extras cuda12 and cuda13 can be installed, without installing them.

    .venv/bin/python ci/resolve_cuda.py            (uv, from the extra `test`, does the resolving)

For each extra, `uv pip compile` resolves the requirements in pyproject.toml from the index's
metadata, for CPython 3.12 on x86-64 Linux, wheels only. Then the libraries that the CPU and the
GPU environment share must be the very versions pinned in ci/constraints-cpu.txt. Should newer
ones have come out meanwhile, RAPIDS must still accept the pinned ones: that is resolved too.

cuda13 takes torch from PyPI. cuda12 cannot: RAPIDS 26.10 needs CUDA 12.9 and PyPI's last torch
for CUDA 12 pins 12.8. Its torch is PyTorch's own build (https://download.pytorch.org/whl/cu129),
which need not be reachable here: torch itself is left out and what that build pins goes in.

Exit status: 0 both resolve; 1 one does not, or a shared version differs; 3 the index could not
be reached, which says nothing about the extras; 2 anything else (no uv, a broken file).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "ci" / "constraints-cpu.txt"
SHARED = ("dask", "distributed", "numpy", "pandas", "pyarrow")

# What the wheel torch 2.13.0+cu129 requires on Linux.
TORCH_CU129 = """
cuda-bindings>=12.9.4,<13
cuda-toolkit==12.9.1
filelock
fsspec>=0.8.5
jinja2
networkx>=2.5.1
nvidia-cublas-cu12==12.9.1.4
nvidia-cuda-cupti-cu12==12.9.79
nvidia-cuda-nvrtc-cu12==12.9.86
nvidia-cuda-runtime-cu12==12.9.79
nvidia-cudnn-cu12==9.20.0.48
nvidia-cufft-cu12==11.4.1.4
nvidia-cufile-cu12==1.14.1.1
nvidia-curand-cu12==10.3.10.19
nvidia-cusolver-cu12==11.7.5.82
nvidia-cusparse-cu12==12.5.10.65
nvidia-cusparselt-cu12==0.8.1
nvidia-nccl-cu12==2.29.7
nvidia-nvjitlink-cu12==12.9.86
nvidia-nvshmem-cu12==3.4.5
nvidia-nvtx-cu12==12.9.79
setuptools
sympy>=1.13.3
triton==3.7.1
typing-extensions>=4.10.0
"""

UNREACHABLE = re.compile(
    r"network was disabled|failed to fetch|error sending request|dns error"
    r"|connect(ion)? (error|refused|reset)|timed out|operation was canceled"
    r"|client error|HTTP status (server|client) error",
    re.IGNORECASE,
)


class Unresolvable(Exception):
    """The requirements contradict each other, or the index lacks one of them."""


class Unreachable(Exception):
    """The index could not be asked."""


def find_uv() -> str:
    """Return the path of uv: the one beside this interpreter, or the one on the PATH."""
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        sys.exit("resolve_cuda: uv is missing; it comes with the extra `test` (bash ci/env.sh)")
    return uv


def resolve(uv: str, extra: str, constraints: str) -> dict[str, str]:
    """Resolve one extra, trying twice if the index does not answer.

    Returns
    -------
    dict
        Version by normalised name.
    """
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "constraints.txt"
        command = [
            *(uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
            *("--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_28"),
            *(
                "--only-binary",
                ":all:",
                "--prerelease",
                "disallow",
                "--extra",
                extra,
                "--constraint",
                str(pins),
            ),
            str(ROOT / "pyproject.toml"),
        ]
        if extra == "cuda12":
            torch = Path(folder) / "torch-cu129.txt"
            torch.write_text(TORCH_CU129)
            without = Path(folder) / "without.txt"
            without.write_text("torch\ntorchvision\n")
            command += [str(torch), "--excludes", str(without)]
        pins.write_text(constraints)
        for attempt in (1, 2):
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=40)
            except subprocess.TimeoutExpired:
                raise Unreachable(f"{extra}: no answer in 40 s") from None
            if done.returncode == 0:
                return dict(re.findall(r"^([a-z0-9-]+)==([^ \n;]+)", done.stdout, re.MULTILINE))
            message = done.stderr.strip()
            if "No solution found" in message and "network was disabled" not in message:
                raise Unresolvable(message)
            if not UNREACHABLE.search(message):
                sys.exit(f"resolve_cuda: uv failed on {extra}:\n{message}")
            if attempt == 1:
                time.sleep(3)
    raise Unreachable(message)


def read_pins() -> dict[str, str]:
    """Return the pins of the shared libraries."""
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ \n;]+)", CONSTRAINTS.read_text(), re.MULTILINE))
    missing = [name for name in SHARED if name not in pins]
    if missing:
        sys.exit(f"resolve_cuda: {CONSTRAINTS} has no pin for {', '.join(missing)}")
    return {name: pins[name] for name in SHARED}


def check(uv: str, extra: str, pins: dict[str, str]) -> str:
    """Resolve `extra`, compare the shared libraries, and say in one line what came out."""
    resolved = resolve(uv, extra, constraints="")
    newer = [f"{name} {resolved.get(name)}" for name in SHARED if resolved.get(name) != pins[name]]
    if newer:
        # A newer release is no fault, unless RAPIDS refuses the one we pin.
        exact = "".join(f"{name}=={version}\n" for name, version in pins.items())
        try:
            resolved = resolve(uv, extra, constraints=exact)
        except Unresolvable as error:
            raise Unresolvable(
                f"RAPIDS refuses a version pinned in {CONSTRAINTS.relative_to(ROOT)}; "
                f"unpinned, pip would take {', '.join(newer)}.\n{error}"
            ) from None
    wrong = [n for n in SHARED if resolved.get(n) != pins[n]]
    mixed = [n for n in resolved if n.endswith("-cu12" if extra == "cuda13" else "-cu13")]
    if wrong or mixed:
        raise Unresolvable(
            f"not the pinned versions: {wrong}; packages for the other CUDA: {mixed}"
        )
    major = extra.removeprefix("cuda")
    names = (f"cudf-cu{major}", f"cuml-cu{major}", "dask-cuda", f"nvidia-dali-cuda{major}0")
    versions = [f"{name} {resolved[name]}" for name in names]
    versions.append(f"torch {resolved['torch']}" if "torch" in resolved else "torch 2.13.0+cu129")
    versions += [f"{name} {resolved[name]}" for name in SHARED]
    note = f" (unpinned it would take {', '.join(newer)})" if newer else ""
    return f"{extra}: {len(resolved)} distributions resolve{note}: {', '.join(versions)}"


def main() -> int:
    """Check both extras; return the exit status."""
    uv, pins, status = find_uv(), read_pins(), 0
    with ThreadPoolExecutor() as pool:
        checks = {extra: pool.submit(check, uv, extra, pins) for extra in ("cuda12", "cuda13")}
        for extra, outcome in checks.items():
            try:
                print(outcome.result())
            except Unresolvable as error:
                print(f"{extra} DOES NOT RESOLVE:\n{error}", file=sys.stderr)
                status = 1
            except Unreachable as error:
                print(f"{extra} not checked, index unreachable:\n{error}", file=sys.stderr)
                status = status or 3
    return status


if __name__ == "__main__":
    sys.exit(main())
