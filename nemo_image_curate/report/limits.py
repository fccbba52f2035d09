"""The thresholds of single columns that conditions draw."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable
from dataclasses import dataclass

from nemo_image_curate.expressions.check import parse
from nemo_image_curate.expressions.names import quoted_name

_OPERATORS = {ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<="}
_TURNED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}


@dataclass(frozen=True)
class Limit:
    """A column compared with a number.

    Attributes
    ----------
    operator : {">", ">=", "<", "<="}
        Of the rows that stay.
    value : float or int
    """

    operator: str
    value: float

    def expression(self, column: str) -> str:
        """What `dataset.filter` takes."""
        return f"{quoted_name(column)} {self.operator} {self.value!r}"


def limits(conditions: Iterable[str]) -> dict[str, list[Limit]]:
    """What each column is compared with by the parts of conditions that must all be true."""
    by_column: dict[str, list[Limit]] = {}
    for expression in conditions:
        tree, quoted = parse(expression)
        for column, limit in _limits_of(tree.body):
            by_column.setdefault(quoted.get(column, column), []).append(limit)
    return by_column


def _limits_of(node: ast.expr) -> list[tuple[str, Limit]]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return [limit for part in node.values for limit in _limits_of(part)]
    if not isinstance(node, ast.Compare):
        return []
    sides = [node.left, *node.comparators]
    pairs = []
    for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
        name = _OPERATORS.get(type(operator))
        if name and isinstance(left, ast.Name) and (value := _number(right)) is not None:
            pairs.append((left.id, Limit(name, value)))
        elif name and isinstance(right, ast.Name) and (value := _number(left)) is not None:
            pairs.append((right.id, Limit(_TURNED[name], value)))
    return pairs


def _number(node: ast.expr) -> float | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # What is beyond all numbers is on no axis.
    return value if is_number and abs(value) < math.inf else None
