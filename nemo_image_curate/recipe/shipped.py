"""Recipes that come with this package, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import PurePath

_ENDING = ".yaml"


def names() -> list[str]:
    """Their names."""
    files = (resources.files(__package__) / "shipped").iterdir()
    return sorted(PurePath(file.name).stem for file in files if file.name.endswith(_ENDING))


def text(name: str) -> str:
    """The YAML text of one."""
    return (resources.files(__package__) / "shipped" / f"{name}{_ENDING}").read_text("utf-8")
