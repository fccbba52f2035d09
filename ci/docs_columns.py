"""The section "Columns" of stages' docstrings, as a list.

An extension of griffe, which mkdocs.yml names: it knows numpydoc's own sections only, and would run
the lines of others together.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"(?<=^Columns\n-------\n)(?:.+\n?)+", re.M)


def listed(text: str) -> str:
    """Lines such as ``width : int32`` and what is said below them, as Markdown."""
    lines = []
    for line in text.splitlines():
        name, colon, kind = line.partition(" : ")
        if colon and not line.startswith(" "):
            names = ", ".join(f"`{part}`" for part in name.split(", "))
            lines.append(f"- {names} ({kind})")
        else:
            lines.append(line)
    return "\n" + "\n".join(lines) + "\n"


class Columns(griffe.Extension):
    """Writes the sections of classes anew."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Before the docstring is parsed."""
        if cls.docstring:
            cls.docstring.value = SECTION.sub(lambda match: listed(match[0]), cls.docstring.value)
