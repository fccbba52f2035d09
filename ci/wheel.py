#!/usr/bin/env python3
"""Build the sdist and, from it, the wheel; install the wheel alone and use it.

    .venv/bin/python ci/wheel.py

The wheel goes into an empty environment that sees the other packages of this one, but not the
checkout that is installed here. Both archives must hold every file of the package and no other;
the command must start, read its data files, and pack and inspect a few pictures.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "nemo_image_curate"
# What is run with the installed wheel, in one process. It prints where it was imported from.
USE = f"""
import {PACKAGE}
from {PACKAGE}.classifiers.prompts import template_sets
assert len(template_sets()["openai-80"]) == 80
from {PACKAGE}.recipe import shipped
assert "photo-library" in shipped.names()
print({PACKAGE}.__version__, {PACKAGE}.__file__)
"""


def run(*command: object, cwd: Path) -> str:
    """What a command prints; this process ends with its errors if it fails."""
    # Nothing may come from the checkout by the environment.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"wheel: {command} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def copy_sources(target: Path) -> set[str]:
    """Copy what a build needs, away from leftovers of other builds.

    Returns
    -------
    set of str
        The package's files, relative to `target`.
    """
    target.mkdir()
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, target)
    for folder in (PACKAGE, "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, target / folder, ignore=ignored)
    files = (target / PACKAGE).rglob("*")
    return {str(path.relative_to(target)) for path in files if path.is_file()}


def build(sources: Path, dist: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel built from it."""
    run(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, sources),
        cwd=dist.parent,
    )
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return sdist, wheel


def check_files(kind: str, files: set[str], expected: set[str]) -> None:
    """Refuse an archive that lacks a file, or holds one too many."""
    if lacking := sorted(expected - files):
        sys.exit(f"wheel: the {kind} lacks {', '.join(lacking)}: see package_data in setup.cfg")
    if surplus := sorted(files - expected):
        sys.exit(f"wheel: the {kind} holds {', '.join(surplus)}, too")


def install(wheel: Path, environment: Path) -> Path:
    """An environment with the wheel, which sees this one's packages; returns its Python."""
    venv.create(environment, symlinks=True, with_pip=False)
    python = environment / "bin" / "python"
    # Before it sees the others: pip would find the checkout among them, and replace it.
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
        *("--no-deps", "--no-index", wheel),
        cwd=environment,
    )
    variables = {"base": str(environment), "platbase": str(environment)}
    packages = Path(sysconfig.get_path("purelib", vars=variables))
    # A path in a .pth file brings packages, but not their own .pth files, of which one is what
    # makes the checkout importable.
    others = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (packages / "others.pth").write_text("".join(f"{path}\n" for path in others))
    return python


def use(python: Path, folder: Path) -> str:
    """Use the installed wheel; returns its version."""
    version, place = run(python, "-I", "-c", USE, cwd=folder).split()
    if not Path(place).is_relative_to(python.parent.parent):
        sys.exit(f"wheel: {place} was imported, not the wheel")
    command = python.with_name("nemo-image-curate")
    if "pack" not in run(command, "--help", cwd=folder):
        sys.exit("wheel: --help names no commands")
    if run(command, "--version", cwd=folder).split()[-1] != version:
        sys.exit("wheel: --version prints another version")
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(3):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 24), (80 * number, 100, 50)).save(buffer, "JPEG")
        (pictures / f"{number}.jpg").write_bytes(buffer.getvalue())
    run(command, "pack", pictures, "--output", folder / "shards", cwd=folder)
    words = ("inspect", folder / "shards", "--workers", 1, "--json")
    report = json.loads(run(command, *words, cwd=folder))
    if (report["samples"], report["faults"]) != (3, []):
        sys.exit(f"wheel: of 3 pictures packed, inspect says {report}")
    return version


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        scratch = Path(folder).resolve()
        files = copy_sources(scratch / "sources")
        sdist, wheel = build(scratch / "sources", scratch / "dist")
        with zipfile.ZipFile(wheel) as archive:
            paths = {path for path in archive.namelist() if ".dist-info/" not in path}
        check_files("wheel", paths, files)
        with tarfile.open(sdist) as archive:
            paths = {info.name.partition("/")[2] for info in archive.getmembers() if info.isfile()}
        check_files("sdist", {path for path in paths if path.startswith(f"{PACKAGE}/")}, files)
        version = use(install(wheel, scratch / "environment"), scratch)
    print(f"wheel: {PACKAGE} {version}, {len(files)} files, works from wheel and sdist")


if __name__ == "__main__":
    main()
