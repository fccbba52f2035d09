#!/usr/bin/env python3
"""Lower bounds of dependencies are no lower than what is tested: the pins in constraints-cpu.txt.

    .venv/bin/python ci/lower_bounds.py            fail when one is lower
    .venv/bin/python ci/lower_bounds.py --write    raise those in pyproject.toml (`env.sh --lock`
                                                   does), say which are left

Compared are major and minor release (0.0.x: all of it). environment.yml is looked at, too.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = ROOT / "pyproject.toml"
CONSTRAINTS = ROOT / "ci" / "constraints-cpu.txt"
CONDA = ROOT / "environment.yml"

# Compared by major release alone. Their minor ones come often and change nothing that is used
# here, and a bound that follows them shuts out packages that people have beside this one (Hugging
# Face's datasets takes fsspec up to some months ago). So do the tools of the extra `test-tools`.
BY_MAJOR = {"click", "filelock", "fsspec", "s3fs", "threadpoolctl", "tqdm"}
# Compared whole: the third number counts releases that add models, or RAPIDS names it.
WHOLE = {"braceexpand", "dask", "distributed", "timm"}
# conda's names of what PyPI calls otherwise.
CONDA_NAMES = {"pytorch-gpu": "torch"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def lowest(name: str, pin: str, by_major: bool = False) -> str:
    """The part of a pinned version that a lower bound must not be below."""
    parts = pin.split(".")
    first = next((place for place, part in enumerate(parts) if part != "0"), 0)
    if name in WHOLE:
        count = len(parts)
    elif by_major or name in BY_MAJOR:
        count = first + 1
    else:
        count = max(2, first + 1)
    return ".".join(parts[:count])


def faults(text: str, pins: dict[str, str]) -> dict[str, str]:
    """The requirements in a pyproject.toml that are too low, each with what it should be."""
    project = tomllib.loads(text)
    groups = {
        "build-system": project["build-system"]["requires"],
        "dependencies": project["project"]["dependencies"],
        **project["project"]["optional-dependencies"],
    }
    raised = {}
    for group, requirements in groups.items():
        for requirement in requirements:
            name = normal(re.split(r"[^\w.-]", requirement)[0])
            lower = re.search(r">=([0-9.]+)", requirement)
            if name not in pins or "==" in requirement:
                continue
            lower_bound = lowest(name, pins[name], by_major=group == "test-tools")
            if lower and numbers(lower[1]) < numbers(lower_bound):
                raised[requirement] = requirement.replace(lower[0], f">={lower_bound}")
            elif not lower and "<" not in requirement:
                raised[requirement] = f"{requirement}>={lower_bound}"
    return raised


def conda_faults(text: str, pins: dict[str, str]) -> list[str]:
    """What environment.yml asks for that is lower than tested."""
    low = []
    for name, version in re.findall(r"^  - ([a-z-]+)(?:[>=]=?([0-9.]+)[^\s]*)?$", text, re.M):
        pin = pins.get(CONDA_NAMES.get(name, name))
        if pin and numbers(version) < numbers(lowest(name, pin)):
            low.append(f"environment.yml: {name} should be at least {lowest(name, pin)}")
    return low


def main() -> None:
    pins = {
        normal(name): version
        for name, version in re.findall(r"^([\w.-]+)==([^ \n;]+)", CONSTRAINTS.read_text(), re.M)
    }
    text = PYPROJECT.read_text()
    low = faults(text, pins)
    messages = []
    if "--write" in sys.argv:
        for old, new in low.items():
            text = text.replace(f'"{old}"', f'"{new}"')
        PYPROJECT.write_text(text)
    else:
        messages = [f"pyproject.toml: {old} should be {new}" for old, new in low.items()]
    messages += conda_faults(CONDA.read_text(), pins)
    if messages:
        sys.exit(
            "\n".join([*messages, "lower_bounds: below what is tested (ci/constraints-cpu.txt)"])
        )


if __name__ == "__main__":
    main()
