"""Filter expressions as Milvus' boolean expressions, over columns that are dynamic fields."""

from __future__ import annotations

import re
from typing import Any

from nemo_image_curate.search.live.conditions import Translator

_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
# What a text in quotes may not hold; all else goes as it is (Milvus' grammar, Plan.g4, and
# milvus-lite 3.2, which knows no further escapes).
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def milvus_condition(expression: str) -> str:
    """A Milvus ``filter`` of the same meaning as an expression; see `Translator`."""
    condition: str = MilvusTranslator(expression).condition()
    return condition


def field_of(column: str) -> str:
    """The dynamic field that holds a column.

    Milvus takes names in expressions apart at brackets and quotes, so those that are no plain
    identifiers are written as the hexadecimal digits of their bytes. What they begin with keeps
    them from being words of the language.
    """
    return f"c_{column}" if _PLAIN_NAME.fullmatch(column) else f"x_{column.encode().hex()}"


def column_of(field: str) -> str:
    """The column that a dynamic field holds."""
    return field[2:] if field.startswith("c_") else bytes.fromhex(field[2:]).decode()


def literal(value: str | bool | float) -> str:
    """A value as it is written in an expression: nothing in a text can end it."""
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


class MilvusTranslator(Translator):
    """Conditions as texts, each in parentheses where it is joined."""

    def join(self, word: str, conditions: list[Any]) -> str:
        return "(" + f" {word} ".join(conditions) + ")"

    def present(self, column: str, is_there: bool = True) -> str:
        return f"{'' if is_there else 'not '}(exists {field_of(column)})"

    def compared(self, column: str, operator: str, value: Any) -> str:
        return f"{field_of(column)} {operator} {literal(value)}"
