"""`Translator`: filter expressions over columns as the conditions that a database understands."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NoReturn

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.expressions.check import parse
from nemo_image_curate.search.live.rows import is_text

_OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


class Translator(ABC):
    """Writes an expression for a database, which says how single comparisons are written.

    Allowed are comparisons of a column with values, ``in``, ``isin``, ``between``, joined by
    ``and``, ``or`` (or ``&``, ``|``), such as ``"width >= 256 and source in ['a', 'b']"``.

    Parameters
    ----------
    expression : str
    """

    def __init__(self, expression: str):
        self.expression = expression
        self._quoted: dict[str, str] = {}

    @abstractmethod
    def join(self, word: str, conditions: list[Any]) -> Any:
        """Two or more conditions that are joined by "and" or "or"."""

    @abstractmethod
    def compared(self, column: str, operator: str, value: Any) -> Any:
        """One comparison; what a row that lacks the column is to ``!=`` does not matter."""

    @abstractmethod
    def present(self, column: str, is_there: bool = True) -> Any:
        """Whether a row has the column, or lacks it."""

    def condition(self) -> Any:
        """The condition of the same meaning as the expression.

        Raises
        ------
        ConfigError
            Naming the part that a live store cannot evaluate.
        """
        if not is_text(self.expression):
            raise ConfigError(
                f"the live store cannot answer {self.expression!r}, which has half a character."
            )
        tree, self._quoted = parse(self.expression)
        try:
            return self._of(tree.body)
        except RecursionError as error:
            raise ConfigError(f"cannot use the expression {self.expression!r}: {error}.") from error

    def _of(self, node: ast.expr) -> Any:
        if isinstance(node, ast.BoolOp):
            word = "and" if isinstance(node.op, ast.And) else "or"
            return self._joined(word, [self._of(value) for value in node.values])
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
            word = "and" if isinstance(node.op, ast.BitAnd) else "or"
            return self._joined(word, [self._of(node.left), self._of(node.right)])
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            pairs = zip(sides, node.ops, sides[1:], strict=False)
            return self._joined("and", [self._comparison(*pair) for pair in pairs])
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Name):
            return self.compared(self._column(node), "==", True)
        return self._refuse(node)

    def _joined(self, word: str, conditions: list[Any]) -> Any:
        return conditions[0] if len(conditions) == 1 else self.join(word, conditions)

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        word = _OPERATORS.get(type(op)) or self._refuse(right)
        if isinstance(right, ast.Name) and word in _MIRRORED:
            left, right, word = right, left, _MIRRORED[word]
        column = self._column(left)
        if word in ("in", "not in"):
            return self._members(column, word, self._values(right))
        return self._compare(column, word, self._value(right), right)

    def _call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Attribute) or node.keywords:
            return self._refuse(node)
        column = self._column(node.func.value)
        if node.func.attr == "isin" and len(node.args) == 1:
            return self._members(column, "in", self._values(node.args[0]))
        if node.func.attr == "between" and len(node.args) == 2:
            low, high = (self._value(limit) for limit in node.args)
            ends = [
                self._compare(column, ">=", low, node),
                self._compare(column, "<=", high, node),
            ]
            return self._joined("and", ends)
        return self._refuse(node)

    def _compare(self, column: str, word: str, value: Any, node: ast.expr) -> Any:
        if word == "==":
            return self._members(column, "in", [value])
        if word == "!=":
            return self._members(column, "not in", [value])
        if isinstance(value, (str, bool)):
            self._refuse(node, "which is no number to be smaller or larger than")
        return self.compared(column, word, value)

    def _members(self, column: str, word: str, values: Sequence[Any]) -> Any:
        if not values and word == "in":
            # Nothing is never true everywhere, but a pair of opposites is.
            return self.join("and", [self.present(column), self.present(column, False)])
        # One by one: lists are of one type in Chroma, and milvus-lite knows none of columns.
        operator, joint = ("==", "or") if word == "in" else ("!=", "and")
        forms = [
            self.compared(column, operator, form) for value in values for form in _forms(value)
        ]
        # What is missing differs from everything in a database, and from nothing here.
        return self._joined(joint, forms if word == "in" else [self.present(column), *forms])

    def _column(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            return self._refuse(node, "where the name of a column should be")
        name = self._quoted.get(node.id, node.id)
        # What the store and the database keep for themselves.
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
        # Half a character may be written as an escape.
        if isinstance(value, str) and not is_text(value):
            raise ConfigError(
                f"the live store cannot answer {self.expression!r}, which has half a character."
            )
        # Whole numbers have 64 bits.
        if not isinstance(value, str) and not abs(value) < 2**63:
            return self._refuse(node, "which is too large")
        return value

    def _refuse(self, node: ast.expr, why: str = "which a live store cannot evaluate") -> NoReturn:
        try:
            text = ast.unparse(node)
        except ValueError:  # a number of thousands of digits
            text = "a number"
        for name, column in self._quoted.items():
            text = text.replace(name, f"`{column}`")
        raise ConfigError(
            f"the expression {self.expression!r} has {text}, {why}. Allowed over a live store are "
            "comparisons of a column with values, in, isin, between, and, or."
        )


def _forms(value: Any) -> list[Any]:
    """A value in all types that are one to a frame: databases tell True from 1 (not 1 from 1.0)."""
    both = not isinstance(value, str) and value in (0, 1)
    return [bool(value), int(value)] if both else [value]
