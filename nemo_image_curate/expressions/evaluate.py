"""The values of expressions that were checked, computed by pandas on Arrow's types.

A null is neither true nor false, and what is compared with one is null.
"""

from __future__ import annotations

import ast
import datetime
import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
from pandas.api.types import is_numeric_dtype

from nemo_image_curate import frames

_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    # Arrow has none of its own.
    ast.Mod: lambda left, right: left - left // right * right,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.And: operator.and_,
    ast.Or: operator.or_,
}


class Evaluation:
    """Computes the values of an expression's parts.

    Parameters
    ----------
    frame : pandas.DataFrame
    quoted : dict of str to str
        Columns by the names that stand for them in the tree.
    """

    def __init__(self, frame: Any, quoted: dict[str, str]):
        self.frame = frame
        self.quoted = quoted

    def value(self, node: ast.expr) -> Any:
        """A series, or a plain value."""
        if isinstance(node, ast.Name):
            # Whatever made the frame: in Arrow's types a comparison with a null gives null.
            table = frames.to_arrow(self.frame[[self.quoted.get(node.id, node.id)]])
            if kind := _plain(table.schema.field(0).type):
                table = table.cast(table.schema.set(0, table.field(0).with_type(kind)))
            return frames.from_arrow(table, "cpu").iloc[:, 0]
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self.value(one) for one in node.elts]
        if isinstance(node, ast.UnaryOp):
            return self._unary(node.op, self.value(node.operand))
        if isinstance(node, ast.BinOp):
            return _calculate(node.op, self.value(node.left), self.value(node.right))
        if isinstance(node, ast.BoolOp):
            return functools.reduce(_OPERATORS[type(node.op)], map(self.value, node.values))
        if isinstance(node, ast.Compare):
            sides = [self.value(one) for one in (node.left, *node.comparators)]
            pairs = zip(node.ops, itertools.pairwise(sides), strict=True)
            return functools.reduce(operator.and_, [_compare(op, *both) for op, both in pairs])
        if isinstance(node, ast.Attribute):
            return getattr(self.value(node.value), node.attr)
        assert isinstance(node, ast.Call), "check refuses all else"
        arguments = [self.value(one) for one in node.args]
        named = {str(one.arg): self.value(one.value) for one in node.keywords}
        method = self.value(node.func)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name == "isin":
            return _compare(ast.In(), method.__self__, *arguments, **named)
        if name == "between" and len(arguments) == 2 and not named:
            ends = zip((ast.GtE(), ast.LtE()), arguments, strict=True)
            return operator.and_(*[_compare(op, method.__self__, one) for op, one in ends])
        return method(*arguments, **named)

    def _unary(self, op: ast.unaryop, value: Any) -> Any:
        if isinstance(op, ast.USub):
            return -value
        if isinstance(op, ast.UAdd):
            return +value
        return ~value if hasattr(value, "dtype") else not value


def _calculate(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(op, (ast.Mult, ast.Mod)):
        # A text or list of any length could be made of a short one.
        for side in (left, right):
            plain = isinstance(side, (int, float))
            if not (is_numeric_dtype(side.dtype) if hasattr(side, "dtype") else plain):
                raise TypeError("only numbers can be multiplied")
    return _OPERATORS[type(op)](left, right)


def _compare(op: ast.cmpop, left: Any, right: Any) -> Any:
    left, right = _dated(left, right), _dated(right, left)
    # To pandas, what cannot be compared is merely not equal.
    kinds = {_kind(one) for side in (left, right) for one in _each(side)} - {"null"}
    if len(kinds) > 1:
        raise TypeError(f"{' and '.join(sorted(kinds))} cannot be compared")
    # A list beside == or != means one of its values, as in pandas.
    same = isinstance(op, (ast.Eq, ast.NotEq)) and isinstance(right, list)
    if isinstance(op, (ast.In, ast.NotIn)) or same:
        if not isinstance(right, list) or not hasattr(left, "isin"):
            raise TypeError("'in' needs a column before it and a list behind it")
        found = left.isin(right)
        found = ~found if isinstance(op, (ast.NotIn, ast.NotEq)) else found
    elif isinstance(left, list) or isinstance(right, list):
        raise TypeError("a list goes with in, not in, == and !=")
    else:
        found = _OPERATORS[type(op)](left, right)
    for side in (left, right):
        # Not all of pandas' comparisons give null for null.
        if hasattr(side, "isna") and side.isna().any():
            found = found.astype("bool[pyarrow]").where(side.notna())
    return found


def _plain(kind: pa.DataType) -> pa.DataType | None:
    """The type to calculate with instead, where pandas or Arrow lack what others have."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return pa.float32() if pa.types.is_float16(kind) else None


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _kind(value: Any) -> str:
    """What a column or plain value holds, as far as that decides with what it is compared."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, pd.Timestamp):
        return "a time with zone" if value.tz else "a time"
    if not hasattr(value, "dtype"):
        return "a date" if isinstance(value, datetime.date) else "a number"
    kind = getattr(value.dtype, "pyarrow_dtype", pa.bool_())
    types = pa.types
    if types.is_timestamp(kind):
        return "a time with zone" if kind.tz else "a time"
    numbers = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean)
    if any(is_kind(kind) for is_kind in numbers):
        return "a number"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_date(kind) or types.is_null(kind):
        return "a date" if types.is_date(kind) else "null"
    raise TypeError(f"{kind} cannot be compared")


def _dated(value: Any, other: Any) -> Any:
    """A text, or a list of them, as the dates that the column beside it holds."""
    kind = getattr(getattr(other, "dtype", None), "pyarrow_dtype", pa.null())
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return value
    if isinstance(value, list):
        return [_dated(one, other) for one in value]
    if not isinstance(value, str):
        return value
    # Words such as "now" mean something else each time.
    if not value[:1].isdigit():
        raise ValueError(f"{value!r} is no date")
    date = pd.Timestamp(value)
    if pa.types.is_date(kind):
        if date != date.normalize():
            raise ValueError(f"{value!r} has a time, and the column has dates only")
        return date.date()
    if kind.unit == "ns":
        date = date.as_unit("ns")  # which refuses what would overflow
    return date.tz_localize(kind.tz) if kind.tz and date.tz is None else date
