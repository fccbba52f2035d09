"""What the operations of filter expressions mean, on Arrow arrays and plain values.

What is compared or calculated with a null is null, and NaN counts as null. Types decide, not
values, so that an operation is refused for columns without rows, too.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames

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
# Of truths, in which a null is neither, and of the bits of whole numbers.
_COMBINATIONS: dict[type[ast.AST], tuple[Callable[..., pa.Array], Callable[..., pa.Array]]] = {
    ast.And: (pc.and_kleene, pc.bit_wise_and),
    ast.Or: (pc.or_kleene, pc.bit_wise_or),
    ast.BitXor: (pc.xor, pc.bit_wise_xor),
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


def is_column(value: Value) -> bool:
    """Whether a value is that of each row."""
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


def unary(op: ast.unaryop, value: Value) -> Value:
    """``not``, ``~``, ``-`` or ``+`` of a value."""
    if isinstance(op, (ast.Not, ast.Invert)):
        if isinstance(value, bool):
            return not value
        if not is_column(value):
            raise TypeError(f"not {value!r} says nothing about the rows")
        return pc.invert(value)
    if not is_column(value):
        return -value if isinstance(op, ast.USub) else +value
    if (kind := _kind(value)) not in ("a number", "null"):
        raise TypeError(f"{kind} has no sign")
    value = _number(value, None)
    return pc.negate_checked(value) if isinstance(op, ast.USub) else value


def combine(op: ast.boolop | ast.BitXor, left: Value, right: Value) -> Value:
    """``and``, ``or`` or ``^`` of two values: of truths, or of the bits of whole numbers."""
    of_truths, of_bits = _COMBINATIONS[type(op)]
    if _is_whole(left) and _is_whole(right):
        return of_bits(*_numbers(left, right))
    return of_truths(left, right)


def _is_whole(value: Value) -> bool:
    if is_column(value):
        return bool(pa.types.is_integer(value.type))
    return isinstance(value, int) and not isinstance(value, bool)


def calculate(op: ast.operator, left: Value, right: Value) -> Value:
    """What an arithmetic operator makes of two values."""
    if isinstance(left, list) or isinstance(right, list):
        raise TypeError("lists cannot be calculated with")
    if isinstance(op, ast.BitXor):
        return combine(op, left, right)
    kinds = {_kind(left), _kind(right)}
    if isinstance(op, ast.Add) and kinds == {"text"}:
        joined = pc.binary_join_element_wise(left, right, "")
        return joined if is_column(joined) else joined.as_py()
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
    return frames.nan_to_null(values) if is_column(values) else values.as_py()


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
    if not is_column(value):
        if is_column(other) and pa.types.is_floating(other.type):
            # As in pandas: 0.1 equals what a column of float32 holds of 0.1.
            return pa.scalar(float(value), other.type)
        whole = not isinstance(value, float)
        kinds = [pa.int64(), pa.uint64()] if whole else []
        if whole and is_column(other) and pa.types.is_integer(other.type):
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
    if pa.types.is_decimal(left.type) or pa.types.is_decimal(right.type):
        left, right = (pc.cast(side, pa.float64(), safe=False) for side in (left, right))
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


def compare(op: ast.cmpop, left: Value, right: Value) -> Value:
    """Where a comparison of two values is true, false or null."""
    left, right = _dated(left, right), _dated(right, left)
    # A list beside == or != means one of its values, as in pandas.
    is_membership = isinstance(op, (ast.In, ast.NotIn)) or (
        isinstance(op, (ast.Eq, ast.NotEq)) and isinstance(right, list)
    )
    if is_membership:
        if not isinstance(right, list) or not is_column(left):
            raise TypeError("'in' needs a column before it and a list behind it")
        is_in = _is_in(left, right)
        return pc.invert(is_in) if isinstance(op, (ast.NotIn, ast.NotEq)) else is_in
    if isinstance(left, list) or isinstance(right, list):
        raise TypeError("a list goes with in, not in, == and !=")
    kinds = {_kind(left), _kind(right)} - {"null"}
    if len(kinds) > 1:
        raise TypeError(f"{' and '.join(sorted(kinds))} cannot be compared")
    if kinds == {"a number"}:
        left, right = _numbers(left, right)
    elif kinds == {"a time with zone"}:
        left, right = (pc.cast(side, pa.timestamp(side.type.unit, "UTC")) for side in (left, right))
    return _COMPARISONS[type(op)](left, right)


def _is_in(column: pa.Array, values: list[Value]) -> pa.Array:
    """Where a column holds one of some values; null where it holds none."""
    unknown = pa.scalar(None, pa.bool_())
    if pa.types.is_string(column.type) and all(isinstance(value, str) for value in values):
        is_there = pc.is_in(column, pa.array(values, column.type))
        return pc.if_else(pc.is_valid(column), is_there, unknown)
    hits = [compare(ast.Eq(), column, value) for value in values]
    return functools.reduce(pc.or_kleene, hits, pc.if_else(pc.is_valid(column), False, unknown))


def _dated(value: Value, other: Value) -> Value:
    """A text, or a list of them, as the dates that the column beside it holds."""
    if isinstance(value, list):
        return [_dated(item, other) for item in value]
    if not isinstance(value, str) or not is_column(other):
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


def _between(values: Value, left: Value, right: Value, inclusive: str = "both") -> Value:
    ends = {"both": (1, 1), "left": (1, 0), "right": (0, 1), "neither": (0, 0)}
    if inclusive not in ends:
        raise ValueError(f"inclusive={inclusive!r} should be one of {', '.join(ends)}")
    with_low, with_high = ends[inclusive]
    return pc.and_kleene(
        compare(ast.GtE() if with_low else ast.Gt(), values, left),
        compare(ast.LtE() if with_high else ast.Lt(), values, right),
    )


def _contains(values: Value, pat: str, case: bool = True, regex: bool = True) -> Value:
    search = pc.match_substring_regex if regex else pc.match_substring
    # Arrow reads a pattern when there is a text to look at; a wrong one should be told before.
    search(pa.array([""]), pat)
    return search(values, pat, ignore_case=not case)


def _any_of(test: Callable[[Value, str], Value]) -> Callable[..., Value]:
    """A test for one text, or for one of several; `na` is what it says of a null."""

    def method(values: Value, pat: str | list[str], na: bool | None = None) -> Value:
        ends = pat if isinstance(pat, list) else [pat]
        none = pc.if_else(pc.is_valid(values), False, pa.scalar(None, pa.bool_()))
        result = functools.reduce(pc.or_kleene, [test(values, end) for end in ends], none)
        return result if na is None else pc.fill_null(result, na)

    return method


# Methods that compare a column with others.
TAKE_COLUMNS = frozenset({"between", "isin"})
# Methods by what is written behind a column.
METHODS: dict[str, Callable[..., pa.Array]] = {
    "isna": pc.is_null,
    "isnull": pc.is_null,
    "notna": pc.is_valid,
    "notnull": pc.is_valid,
    "isin": lambda values, choices: compare(ast.In(), values, choices),
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
