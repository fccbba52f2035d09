"""The values of filter expressions, computed by Arrow from the columns of a table.

What each operation means is what it means in Arrow: a null is neither true nor false, and what is
compared or calculated with one is null; NaN counts as null. Types decide before there are rows, so
that an expression is refused on a table without any.
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.expressions.check import EXAMPLE, check, parse
from nemo_image_curate.shards.columns import conform, storage_schema

# A column while it is computed, or a plain value of the expression's text.
Value = Any
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], pa.Array]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], pa.Array]] = {
    # Checked: a sum that overflows would choose wrong rows without a word.
    ast.Add: pc.add_checked,
    ast.Sub: pc.subtract_checked,
    ast.Mult: pc.multiply_checked,
}
# By the kinds that values are compared by; others are compared with nothing.
_KINDS: tuple[tuple[str, Callable[[pa.DataType], bool]], ...] = (
    ("a number", pa.types.is_integer),
    ("a number", pa.types.is_floating),
    ("a number", pa.types.is_decimal),
    ("a number", pa.types.is_boolean),
    ("text", pa.types.is_string),
    ("a date", pa.types.is_date),
)


def mask(frame: Any, expression: str) -> Any:
    """The rows of a Dask frame for which an expression is true, as a lazy bool series.

    Raises
    ------
    ColumnNotFoundError
        When it names a column that does not exist.
    ConfigError
        When it is no expression, has something in it that is not allowed, compares what cannot
        be compared, or is neither true nor false.
    """
    empty = frames.empty(frame)
    used = check(expression, [name for name in empty.columns if isinstance(name, str)])
    matching_rows(frames.to_arrow(empty[used]), expression)
    return frame[used].map_partitions(
        _Choose(expression), meta=frames.empty_column(frame, pa.bool_())
    )


class _Choose:
    """The mask of one computed partition; the function that Dask maps."""

    # What Dask's dashboard calls these tasks.
    __name__ = "choose"

    def __init__(self, expression: str):
        self.expression = expression

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("Choose", self.expression)

    def __call__(self, frame: Any) -> Any:
        chosen = pa.array(matching_rows(frames.to_arrow(frame), self.expression))
        return frames.with_columns(frame, {"chosen": chosen})["chosen"]


def matching_rows(table: pa.Table, expression: str) -> np.ndarray:
    """Which rows of a table an expression is true for; null counts as false.

    Returns
    -------
    numpy.ndarray of bool, shape (n,)

    Raises
    ------
    ConfigError
        When it compares or calculates what does not go together, or is not true or false.
    """
    tree, quoted = parse(expression)
    try:
        chosen = _Evaluation(table, quoted).value(tree.body)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"cannot use the expression {expression!r}: {error}. {EXAMPLE}"
        ) from error
    if not (_is_column(chosen) and pa.types.is_boolean(chosen.type)):
        kind = chosen.type if _is_column(chosen) else type(chosen).__name__
        raise ConfigError(
            f"the expression {expression!r} gives {kind}, not true or false for each row. {EXAMPLE}"
        )
    mask: np.ndarray = pc.fill_null(chosen, False).to_numpy(zero_copy_only=False)
    return mask


class _Evaluation:
    """Computes the values of an expression's parts, which `check` has looked at.

    Parameters
    ----------
    table : pyarrow.Table
    quoted : dict of str to str
        Columns by the names that stand for them in the tree.
    """

    def __init__(self, table: pa.Table, quoted: dict[str, str]):
        self.table = table
        self.quoted = quoted

    def value(self, node: ast.expr) -> Value:
        """An Arrow array, a plain value, or a list of them."""
        if isinstance(node, ast.Name):
            return self._column(self.quoted.get(node.id, node.id))
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self.value(item) for item in node.elts]
        if isinstance(node, ast.UnaryOp):
            return _unary(node.op, self.value(node.operand))
        if isinstance(node, ast.BinOp):
            return _calculate(node.op, self.value(node.left), self.value(node.right))
        if isinstance(node, ast.BoolOp):
            join = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            return functools.reduce(join, map(self.value, node.values))
        if isinstance(node, ast.Compare):
            sides = [self.value(side) for side in (node.left, *node.comparators)]
            pairs = zip(node.ops, itertools.pairwise(sides), strict=True)
            return functools.reduce(pc.and_kleene, [_compare(op, *pair) for op, pair in pairs])
        assert isinstance(node, ast.Call), "check refuses all else"
        assert isinstance(node.func, ast.Attribute), "check refuses calls of functions"
        arguments = [self.value(argument) for argument in node.args]
        options = {str(option.arg): self.value(option.value) for option in node.keywords}
        return self._method(node.func, arguments, options)

    def _column(self, name: str) -> pa.Array:
        column = self.table.select([name]).combine_chunks()
        array = conform(column, storage_schema(column.schema)).column(0)
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
        return frames.nan_to_null(array)

    def _method(self, method: ast.Attribute, arguments: list[Value], options: Any) -> pa.Array:
        owner, accessor = method.value, ""
        if isinstance(owner, ast.Attribute):
            accessor, owner = f"{owner.attr}.", owner.value
        values = self.value(owner)
        name = accessor + method.attr
        if not _is_column(values) or name not in _METHODS:
            raise TypeError(f".{name} is no method of {ast.unparse(owner)}")
        return _METHODS[name](values, *arguments, **options)


def _is_column(value: Value) -> bool:
    return isinstance(value, pa.Array)


def _kind(value: Value) -> str:
    """What a column or plain value holds, as far as that decides what it goes with."""
    if not hasattr(value, "type"):
        return "text" if isinstance(value, str) else "a number"
    if pa.types.is_null(value.type):
        return "null"
    if pa.types.is_timestamp(value.type):
        return "a time with zone" if value.type.tz else "a time"
    for kind, is_one in _KINDS:
        if is_one(value.type):
            return kind
    raise TypeError(f"{value.type} cannot be compared")


def _unary(op: ast.unaryop, value: Value) -> Value:
    if isinstance(op, (ast.Not, ast.Invert)):
        if not _is_column(value):
            raise TypeError(f"not {value!r} says nothing about the rows")
        return pc.invert(value)
    if not _is_column(value):
        return -value if isinstance(op, ast.USub) else +value
    # Also for the plus: a text has no sign.
    negative = pc.negate_checked(value)
    return negative if isinstance(op, ast.USub) else value


def _calculate(op: ast.operator, left: Value, right: Value) -> Value:
    if isinstance(left, list) or isinstance(right, list):
        raise TypeError("lists cannot be calculated with")
    if isinstance(op, ast.BitXor):
        return pc.xor(left, right)
    kinds = {_kind(left), _kind(right)}
    if isinstance(op, ast.Add) and kinds == {"text"}:
        joined = pc.binary_join_element_wise(left, right, "")
        return joined if _is_column(joined) else joined.as_py()
    if kinds != {"a number"}:
        raise TypeError(f"{' and '.join(sorted(kinds))} cannot be calculated with")
    left, right = _numbers(left, right)
    if type(op) in _ARITHMETIC:
        values = _ARITHMETIC[type(op)](left, right)
    elif isinstance(op, ast.Div):
        values = pc.divide(*(pc.cast(side, pa.float64(), safe=False) for side in (left, right)))
    else:
        floor, remainder = _divided(left, right)
        values = floor if isinstance(op, ast.FloorDiv) else remainder
    return frames.nan_to_null(values) if _is_column(values) else values.as_py()


def _numbers(left: Value, right: Value) -> tuple[Value, Value]:
    """Two sides as numbers that Arrow compares and calculates with without loss, or as float64."""
    sides = [_number(left, right), _number(right, left)]
    if any(pa.types.is_floating(side.type) for side in sides):
        # Safe casts refuse whole numbers beyond 2^53, as ids are.
        sides = [
            side if pa.types.is_floating(side.type) else pc.cast(side, pa.float64(), safe=False)
            for side in sides
        ]
    return sides[0], sides[1]


def _number(value: Value, other: Value) -> Value:
    if not _is_column(value):
        whole = not isinstance(value, float)
        kinds = [pa.int64(), pa.uint64()] if whole else []
        if whole and _is_column(other) and pa.types.is_integer(other.type):
            kinds.insert(0, other.type)
        for kind in kinds:
            try:
                return pa.scalar(int(value), kind)
            except (pa.ArrowInvalid, OverflowError):
                continue
        return pa.scalar(float(value))
    return pc.cast(value, pa.int8()) if pa.types.is_boolean(value.type) else value


def _divided(left: Value, right: Value) -> tuple[Value, Value]:
    """Quotients rounded down and remainders, as in Python; null where a whole number is divided
    by 0.
    """
    if pa.types.is_floating(left.type):
        floor = pc.floor(pc.divide(left, right))
        return floor, pc.subtract(left, pc.multiply(floor, right))
    right = pc.if_else(pc.equal(right, 0), pa.scalar(None, right.type), right)
    quotient = pc.divide(left, right)
    remainder = pc.subtract(left, pc.multiply(quotient, right))
    # Arrow rounds towards 0.
    above = pc.and_(
        pc.not_equal(remainder, 0), pc.not_equal(pc.less(remainder, 0), pc.less(right, 0))
    )
    floor = pc.subtract(quotient, pc.cast(above, quotient.type))
    return floor, pc.subtract(left, pc.multiply(floor, right))


def _compare(op: ast.cmpop, left: Value, right: Value) -> Value:
    left, right = _dated(left, right), _dated(right, left)
    # A list beside == or != means one of its values, as in pandas.
    is_membership = isinstance(op, (ast.In, ast.NotIn)) or (
        isinstance(op, (ast.Eq, ast.NotEq)) and isinstance(right, list)
    )
    if is_membership:
        if not isinstance(right, list) or not _is_column(left):
            raise TypeError("'in' needs a column before it and a list behind it")
        nowhere = pc.if_else(pc.is_valid(left), False, pa.scalar(None, pa.bool_()))
        hits = [_compare(ast.Eq(), left, value) for value in right]
        is_in = functools.reduce(pc.or_kleene, hits, nowhere)
        return pc.invert(is_in) if isinstance(op, (ast.NotIn, ast.NotEq)) else is_in
    if isinstance(left, list) or isinstance(right, list):
        raise TypeError("a list goes with in, not in, == and !=")
    kinds = {_kind(left), _kind(right)} - {"null"}
    if len(kinds) > 1:
        raise TypeError(f"{' and '.join(sorted(kinds))} cannot be compared")
    if kinds == {"a number"}:
        left, right = _numbers(left, right)
    return _COMPARISONS[type(op)](left, right)


def _dated(value: Value, other: Value) -> Value:
    """A text, or a list of them, as the dates that the column beside it holds."""
    if isinstance(value, list):
        return [_dated(item, other) for item in value]
    if not isinstance(value, str) or not _is_column(other):
        return value
    kind = other.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return value
    # Words such as "now" mean something else each time.
    if not value[:1].isdigit():
        raise ValueError(f"{value!r} is no date")
    moment = pd.Timestamp(value)
    if pa.types.is_date(kind):
        if moment != moment.normalize():
            raise ValueError(f"{value!r} has a time, and the column has dates only")
        return pa.scalar(moment.date(), kind)
    if kind.tz and moment.tz is None:
        moment = moment.tz_localize(kind.tz)
    # As finely as both can be told; nanoseconds end in 2262, which pandas says.
    unit = "ns" if kind.unit == "ns" else "us"
    zone = kind.tz if moment.tz else None
    return pa.scalar(moment.as_unit(unit), pa.timestamp(unit, zone or (moment.tz and "UTC")))


def _between(values: Value, low: Value, high: Value, inclusive: str = "both") -> Value:
    ends = {"both": (1, 1), "left": (1, 0), "right": (0, 1), "neither": (0, 0)}
    if inclusive not in ends:
        raise ValueError(f"inclusive={inclusive!r} should be one of {', '.join(ends)}")
    with_low, with_high = ends[inclusive]
    return pc.and_kleene(
        _compare(ast.GtE() if with_low else ast.Gt(), values, low),
        _compare(ast.LtE() if with_high else ast.Lt(), values, high),
    )


def _contains(values: Value, pat: str, case: bool = True, regex: bool = True) -> Value:
    search = pc.match_substring_regex if regex else pc.match_substring
    return search(values, pat, ignore_case=not case)


def _any_of(test: Callable[[Value, str], Value]) -> Callable[[Value, Any], Value]:
    """A test for one text, or for one of several."""
    return lambda values, pat: functools.reduce(
        pc.or_kleene, [test(values, end) for end in (pat if isinstance(pat, list) else [pat])]
    )


_METHODS: dict[str, Callable[..., pa.Array]] = {
    "isna": pc.is_null,
    "isnull": pc.is_null,
    "notna": pc.is_valid,
    "notnull": pc.is_valid,
    "isin": lambda values, choices: _compare(ast.In(), values, choices),
    "between": _between,
    "abs": pc.abs_checked,
    "round": lambda values, decimals=0: pc.round(values, decimals),
    "str.contains": _contains,
    "str.match": lambda values, pat, case=True: _contains(values, f"^(?:{pat})", case),
    "str.fullmatch": lambda values, pat, case=True: _contains(values, f"^(?:{pat})$", case),
    "str.startswith": _any_of(pc.starts_with),
    "str.endswith": _any_of(pc.ends_with),
    "str.len": pc.utf8_length,
    "str.lower": pc.utf8_lower,
    "str.upper": pc.utf8_upper,
    "str.strip": lambda values, to_strip=None: (
        pc.utf8_trim_whitespace(values) if to_strip is None else pc.utf8_trim(values, to_strip)
    ),
    "list.len": pc.list_value_length,
}
