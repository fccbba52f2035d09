"""Filter expressions over columns as the conditions that Chroma understands."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.expressions.check import parse

# A row's list of the columns it has a value for.
PRESENT = "_columns"
_OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Eq: "$eq",
    ast.NotEq: "$ne",
    ast.Lt: "$lt",
    ast.LtE: "$lte",
    ast.Gt: "$gt",
    ast.GtE: "$gte",
    ast.In: "$in",
    ast.NotIn: "$nin",
}
_MIRRORED = {"$lt": "$gt", "$lte": "$gte", "$gt": "$lt", "$gte": "$lte", "$eq": "$eq", "$ne": "$ne"}


def chroma_condition(expression: str) -> dict[str, Any]:
    """A Chroma ``where`` of the same meaning as an expression.

    Parameters
    ----------
    expression : str
        Comparisons of a column with values, ``in``, ``isin``, ``between``, joined by ``and``,
        ``or`` (or ``&``, ``|``), such as ``"width >= 256 and source in ['a', 'b']"``.

    Raises
    ------
    ConfigError
        Naming the part that a live store cannot evaluate.
    """
    tree, quoted = parse(expression)
    try:
        return _Translator(expression, quoted).condition(tree.body)
    except RecursionError as error:
        raise ConfigError(f"cannot use the expression {expression!r}: {error}.") from error


class _Translator:
    def __init__(self, expression: str, quoted: dict[str, str]):
        self.expression = expression
        self.quoted = quoted

    def condition(self, node: ast.expr) -> dict[str, Any]:
        if isinstance(node, ast.BoolOp):
            word = "$and" if isinstance(node.op, ast.And) else "$or"
            return _join(word, [self.condition(value) for value in node.values])
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
            word = "$and" if isinstance(node.op, ast.BitAnd) else "$or"
            return _join(word, [self.condition(node.left), self.condition(node.right)])
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            pairs = zip(sides, node.ops, sides[1:], strict=False)
            return _join("$and", [self._comparison(*pair) for pair in pairs])
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Name):
            return {self._column(node): {"$eq": True}}
        return self._refuse(node)

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> dict[str, Any]:
        word = _OPERATORS.get(type(op)) or self._refuse(right)
        if isinstance(right, ast.Name) and word in _MIRRORED:
            left, right, word = right, left, _MIRRORED[word]
        column = self._column(left)
        if word in ("$in", "$nin"):
            return self._members(column, word, self._values(right))
        return self._compare(column, word, self._value(right), right)

    def _call(self, node: ast.Call) -> dict[str, Any]:
        if not isinstance(node.func, ast.Attribute) or node.keywords:
            return self._refuse(node)
        column = self._column(node.func.value)
        if node.func.attr == "isin" and len(node.args) == 1:
            return self._members(column, "$in", self._values(node.args[0]))
        if node.func.attr == "between" and len(node.args) == 2:
            low, high = (self._value(limit) for limit in node.args)
            ends = [
                self._compare(column, "$gte", low, node),
                self._compare(column, "$lte", high, node),
            ]
            return _join("$and", ends)
        return self._refuse(node)

    def _compare(self, column: str, word: str, value: Any, node: ast.expr) -> dict[str, Any]:
        if word in ("$lt", "$lte", "$gt", "$gte") and isinstance(value, (str, bool)):
            self._refuse(node, "which is no number to be smaller or larger than")
        if word == "$eq":
            return self._members(column, "$in", [value])
        if word != "$ne":
            return _compared(column, word, value)
        return self._members(column, "$nin", [value])

    def _members(self, column: str, word: str, values: Sequence[Any]) -> dict[str, Any]:
        if not values and word == "$in":
            # No condition of Chroma's is never true, but a pair of opposites is not.
            return _join("$and", [_present(column), {PRESENT: {"$not_contains": column}}])
        # Chroma takes lists of one type only.
        compare, joint = ("$eq", "$or") if word == "$in" else ("$ne", "$and")
        forms = [_compared(column, compare, form) for value in values for form in _forms(value)]
        # What is missing differs from everything in Chroma, and from nothing here.
        return _join(joint, forms if word == "$in" else [*forms, _present(column)])

    def _column(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            return self._refuse(node, "where the name of a column should be")
        name = self.quoted.get(node.id, node.id)
        # What the store and Chroma keep for themselves.
        if name[:1] in ("", "_", "$", "#"):
            self._refuse(node, "which is no column: their names do not begin with _, $ or #")
        return name

    def _values(self, node: ast.expr) -> list[Any]:
        if not isinstance(node, (ast.List, ast.Tuple)):
            return self._refuse(node, "where a list should be")
        return [self._value(member) for member in node.elts]

    def _value(self, node: ast.expr) -> Any:
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError):
            return self._refuse(node)
        if not isinstance(value, (str, bool, int, float)):
            return self._refuse(node)
        # Whole numbers in Chroma have 64 bits.
        if not isinstance(value, str) and not abs(value) < 2**63:
            return self._refuse(node, "which is too large")
        return value

    def _refuse(self, node: ast.expr, why: str = "which a live store cannot evaluate") -> NoReturn:
        try:
            text = ast.unparse(node)
        except ValueError:  # a number of thousands of digits
            text = "a number"
        for name, column in self.quoted.items():
            text = text.replace(name, f"`{column}`")
        raise ConfigError(
            f"the expression {self.expression!r} has {text}, {why}. Allowed over a live store are "
            "comparisons of a column with values, in, isin, between, and, or."
        )


def _join(word: str, conditions: list[dict[str, Any]]) -> dict[str, Any]:
    return conditions[0] if len(conditions) == 1 else {word: conditions}


def _compared(column: str, word: str, value: Any) -> dict[str, Any]:
    """One comparison; Chroma cuts off the fraction of a number beside a whole one."""
    if not isinstance(value, float) or value.is_integer():
        return {column: {word: value}}
    low = math.floor(value)
    below, above = {column: {"$lte": low}}, {column: {"$gte": low + 1}}
    between = [{column: {"$gt": low}}, {column: {"$lt": low + 1}}]
    comparison = {column: {word: value}}
    if word == "$eq":
        return _join("$and", [comparison, *between])
    if word == "$ne":
        return _join("$or", [comparison, below, above])
    nearer, guard = (above, between[0]) if word.startswith("$gt") else (below, between[1])
    return _join("$or", [nearer, _join("$and", [comparison, guard])])


def _forms(value: Any) -> list[Any]:
    """A value in all types that are one to a frame: Chroma tells True from 1 (not 1 from 1.0)."""
    both = not isinstance(value, str) and value in (0, 1)
    return [bool(value), int(value)] if both else [value]


def _present(column: str) -> dict[str, Any]:
    return {PRESENT: {"$contains": column}}
