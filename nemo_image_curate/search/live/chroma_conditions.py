"""Filter expressions as the conditions that Chroma understands."""

from __future__ import annotations

import math
from typing import Any

from nemo_image_curate.search.live.conditions import Translator

# A row's list of the columns it has a value for.
PRESENT = "_columns"
_WORDS = {"==": "$eq", "!=": "$ne", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}


def chroma_condition(expression: str) -> dict[str, Any]:
    """A Chroma ``where`` of the same meaning as an expression; see `Translator`."""
    condition: dict[str, Any] = ChromaTranslator(expression).condition()
    return condition


class ChromaTranslator(Translator):
    """Conditions as Chroma's nested mappings."""

    def join(self, word: str, conditions: list[Any]) -> dict[str, Any]:
        return {f"${word}": conditions}

    def present(self, column: str, is_there: bool = True) -> dict[str, Any]:
        return {PRESENT: {"$contains" if is_there else "$not_contains": column}}

    def compared(self, column: str, operator: str, value: Any) -> dict[str, Any]:
        """One comparison; Chroma cuts off the fraction of a number beside a whole one."""
        word = _WORDS[operator]
        if not isinstance(value, float) or value.is_integer():
            return {column: {word: value}}
        low = math.floor(value)
        below, above = {column: {"$lte": low}}, {column: {"$gte": low + 1}}
        between = [{column: {"$gt": low}}, {column: {"$lt": low + 1}}]
        comparison = {column: {word: value}}
        if operator == "==":
            return self.join("and", [comparison, *between])
        if operator == "!=":
            return self.join("or", [comparison, below, above])
        nearer, guard = (above, between[0]) if operator[0] == ">" else (below, between[1])
        return self.join("or", [nearer, self.join("and", [comparison, guard])])
