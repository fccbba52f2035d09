"""Filter expressions over columns: what is allowed in them, told before anything is computed.

pandas' own ``query`` runs any method and reaches variables of its callers. An expression here may
come from a command line, a file or a request, so only comparisons, arithmetic and methods that
look at one value at a time pass: their result does not depend on how rows lie in partitions.

The syntax is that of pandas' ``query``, and pandas computes each step, on both backends, since
cuDF's own ``eval`` knows numbers only. Unlike in ``query`` a null is always neither true nor false,
as in SQL: ``caption != 'x'`` and ``caption not in ['x']`` do not choose rows without a caption.
"""

from __future__ import annotations

import ast
import functools
import io
import itertools
import operator
import re
import tokenize
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from nemo_image_curate import frames
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError

if TYPE_CHECKING:
    import numpy as np

_METHODS = frozenset(
    "isna notna isnull notnull isin between abs round".split()
    + "contains startswith endswith match fullmatch len lower upper strip".split()
)
# Those that give texts.
_TEXT_METHODS = frozenset("lower upper strip".split())
_ACCESSORS = frozenset({"str", "list"})
_NODES = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.USub),
    *(ast.UAdd, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.BitAnd, ast.BitOr, ast.BitXor, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE),
    *(ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple),
    *(ast.Call, ast.keyword, ast.Attribute),
)
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
_EXAMPLE = "Compare columns with values, for example: aesthetic_score > 5 and width >= 256"


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
    import pyarrow as pa

    used = frame[_checked(frames.to_cpu(frame._meta), expression)]
    empty = frames.empty_column(frame, pa.bool_())
    return used.map_partitions(_Choose(expression), meta=empty)


class _Choose:
    """The mask of one computed partition; the function that Dask maps."""

    # What Dask's dashboard calls these tasks.
    __name__ = "choose"

    def __init__(self, expression: str):
        self.expression = expression

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("Choose", self.expression)

    def __call__(self, frame: Any) -> Any:
        import pyarrow as pa

        chosen = pa.array(_chosen(frames.to_cpu(frame), self.expression))
        return frames.with_columns(frame, {"chosen": chosen})["chosen"]


def rows(frame: Any, expression: str) -> np.ndarray:
    """The rows of a computed pandas frame for which an expression is true; null counts as false.

    Returns
    -------
    numpy.ndarray of bool, shape (n,)

    Raises
    ------
    ColumnNotFoundError, ConfigError
        As by `mask`.
    """
    _checked(frame.iloc[:0], expression)
    return _chosen(frame, expression)


def _chosen(frame: Any, expression: str) -> np.ndarray:
    chosen = frames.column_to_arrow(_evaluate(frame, expression))
    found: np.ndarray = chosen.fill_null(False).to_numpy(zero_copy_only=False)
    return found


def _checked(empty: Any, expression: str) -> list[str]:
    """The columns that an expression looks at, when it is one for frames like this empty one."""
    used = check(expression, [str(name) for name in empty.columns], _texts(empty))
    # A frame without rows would let a text be compared with a number.
    result = _evaluate(_one_row(empty), expression)
    kind = str(getattr(result, "dtype", type(result).__name__))
    if not kind.startswith("bool") or getattr(result, "ndim", 0) != 1:
        raise ConfigError(
            f"the expression {expression!r} gives {kind}, not true or false for each row. "
            f"{_EXAMPLE}"
        )
    return used


def _evaluate(frame: Any, expression: str) -> Any:
    tree, quoted = parse(expression)
    try:
        return _Evaluation(frame, quoted).value(tree.body)
    except Exception as error:
        raise ConfigError(
            f"cannot use the expression {expression!r}: {error}. {_EXAMPLE}"
        ) from error


class _Evaluation:
    """Computes the values of a checked expression's parts."""

    def __init__(self, frame: Any, quoted: dict[str, str]):
        self.frame = frame
        self.quoted = quoted

    def value(self, node: ast.expr) -> Any:
        """A series, or a plain value."""
        if isinstance(node, ast.Name):
            # Whatever made the frame: in Arrow's types a comparison with a null gives null.
            column = self.frame[[self.quoted.get(node.id, node.id)]]
            return frames.from_arrow(frames.to_arrow(column), "cpu").iloc[:, 0]
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self.value(one) for one in node.elts]
        if isinstance(node, ast.UnaryOp):
            return self._unary(node.op, self.value(node.operand))
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](self.value(node.left), self.value(node.right))
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
        if isinstance(node.func, ast.Attribute) and node.func.attr == "isin":
            return _compare(ast.In(), method.__self__, *arguments, **named)
        return method(*arguments, **named)

    def _unary(self, op: ast.unaryop, value: Any) -> Any:
        if isinstance(op, ast.USub):
            return -value
        if isinstance(op, ast.UAdd):
            return +value
        return ~value if hasattr(value, "dtype") else not value


def _compare(op: ast.cmpop, left: Any, right: Any) -> Any:
    left, right = _dated(left, right), _dated(right, left)
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


def _dated(value: Any, other: Any) -> Any:
    """A text, or a list of them, as the dates that the column beside it holds."""
    import pandas as pd
    import pyarrow as pa

    kind = getattr(getattr(other, "dtype", None), "pyarrow_dtype", pa.null())
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return value
    if isinstance(value, list):
        return [_dated(one, other) for one in value]
    if not isinstance(value, str):
        return value
    date = pd.Timestamp(value)
    if pa.types.is_date(kind):
        return date.date()
    return date.tz_localize(kind.tz) if kind.tz and date.tz is None else date


def check(expression: str, columns: Sequence[str], texts: Collection[str] = ()) -> list[str]:
    """Refuse an expression with something in it that is not allowed.

    Parameters
    ----------
    expression : str
    columns : sequence of str
    texts : collection of str
        Which of them hold texts.

    Returns
    -------
    list of str
        The columns that it looks at, in the order of `columns`.

    Raises
    ------
    ColumnNotFoundError, ConfigError
    """
    used: set[str] = set()
    tree, quoted = parse(expression)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    long = {name for name, column in quoted.items() if column in texts}.union(texts)
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise _refused(expression, type(node).__name__)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Mod)):
            # A text or list of any length could be made of a short one.
            if _is_long(node.left, long) or _is_long(node.right, long):
                raise _refused(expression, "multiplying or formatting a text or list")
        elif isinstance(node, ast.Name):
            name = quoted.get(node.id, node.id)
            if name not in columns:
                raise ColumnNotFoundError(name, columns)
            used.add(name)
        elif isinstance(node, ast.Attribute):
            allowed = _METHODS if id(node) in called else _ACCESSORS
            if node.attr not in allowed:
                raise _refused(expression, f".{node.attr}")
        elif isinstance(node, ast.Call) and not isinstance(node.func, ast.Attribute):
            raise _refused(expression, "calling a function")
    return [name for name in columns if name in used]


def parse(expression: str) -> tuple[ast.Expression, dict[str, str]]:
    """The tree of an expression, and which of its names stand for `` `quoted columns` ``.

    Raises
    ------
    ConfigError
        When it is no expression.
    """
    quoted, plain = _unquoted(expression)
    try:
        tree = ast.parse(_booleans(plain), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ConfigError(
            f"cannot use the expression {expression!r}: {error}. {_EXAMPLE}"
        ) from error
    # Two backticks inside texts look like quotes of all that is between them.
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if "`" in plain or quoted.keys() - names:
        raise _refused(expression, "a backtick inside a text")
    return tree, quoted


def _unquoted(expression: str) -> tuple[dict[str, str], str]:
    """Quoted columns by the names put in their places, and the expression with those."""
    quoted: dict[str, str] = {}

    def placeholder(match: re.Match[str]) -> str:
        name = next((one for one, column in quoted.items() if column == match[1]), None)
        name = name or f"_quoted{len(quoted)}_"
        quoted[name] = match[1]
        return name

    return quoted, re.sub(r"`([^`]*)`", placeholder, expression.strip())


def _booleans(text: str) -> str:
    """With ``and`` and ``or`` for & and |, which in ``query``, too, bind less than comparisons."""
    words = {"&": (tokenize.NAME, "and"), "|": (tokenize.NAME, "or")}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return tokenize.untokenize(words.get(one.string, one[:2]) for one in tokens)


def _is_long(node: ast.expr, texts: Collection[str]) -> bool:
    """Whether a value is a text or a list."""
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, (int, float))
    if isinstance(node, ast.Name):
        return node.id in texts
    if isinstance(node, ast.BinOp):
        return _is_long(node.left, texts) or _is_long(node.right, texts)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr in _TEXT_METHODS
    return isinstance(node, (ast.List, ast.Tuple))


def _texts(empty: Any) -> list[str]:
    import pyarrow as pa

    kinds = (pa.types.is_string, pa.types.is_large_string)
    schema = frames.to_arrow(empty).schema
    return [field.name for field in schema if any(is_kind(field.type) for is_kind in kinds)]


def _refused(expression: str, what: str) -> ConfigError:
    return ConfigError(
        f"{what} is not allowed in the expression {expression!r}. Allowed are comparisons, "
        f"arithmetic, and the methods {', '.join(sorted(_METHODS))} (of texts after .str). For "
        "anything else filter in Python: ds.metadata[...]"
    )


def _one_row(empty: Any) -> Any:
    """A frame of one row with a plain value of each type that an empty frame's columns have."""
    import pyarrow as pa

    schema = frames.to_arrow(empty).schema
    arrays = [pa.array([_sample(field.type)], field.type) for field in schema]
    return frames.from_arrow(pa.table(arrays, schema=schema), "cpu")


def _sample(kind: Any) -> Any:
    import pyarrow as pa

    types = pa.types
    if types.is_boolean(kind):
        return True
    if types.is_integer(kind) or types.is_floating(kind):
        return 1
    if types.is_string(kind) or types.is_large_string(kind):
        return "a"
    return [] if types.is_list(kind) else None
