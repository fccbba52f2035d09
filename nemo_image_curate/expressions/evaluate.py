"""The values of filter expressions, computed by Arrow from the columns of a table.

What each operation means is what it means in Arrow: a null is neither true nor false, and what is
compared or calculated with one is null; NaN counts as null. Types decide before there are rows, so
that an expression is refused on a table without any.
"""

from __future__ import annotations

import ast
import functools
import itertools
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.expressions.check import EXAMPLE, INFINITY, check, parse
from nemo_image_curate.expressions.operations import (
    METHODS,
    TAKE_COLUMNS,
    Value,
    calculate,
    combine,
    compare,
    is_column,
    unary,
)
from nemo_image_curate.tables import conform, storage_schema

# What a column may be of which nothing but nulls is known: a partition without any value, or an
# object column before it is computed. Which of them it is makes no difference to the result.
_TYPES_OF_NULLS = (
    *(pa.null(), pa.float64(), pa.string(), pa.bool_(), pa.int64(), pa.timestamp("us")),
    pa.list_(pa.float64()),
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
        _Choose(expression),
        meta=frames.column(pa.array([], pa.bool_()), empty),
        enforce_metadata=False,
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
        return frames.column(chosen, frame)


def matching_rows(table: pa.Table, expression: str) -> np.ndarray:
    """Which rows of a table an expression is true for; null counts as false.

    Returns
    -------
    numpy.ndarray of bool, shape (n,)

    Raises
    ------
    ConfigError
        As `condition` does.
    """
    mask: np.ndarray = pc.fill_null(condition(table, expression), False).to_numpy(
        zero_copy_only=False
    )
    return mask


def condition(table: pa.Table, expression: str) -> pa.BooleanArray:
    """Whether an expression is true for each row of a table; null where that is not known.

    Returns
    -------
    pyarrow.BooleanArray, shape (n,)

    Raises
    ------
    ConfigError
        When it compares or calculates what does not go together, or is not true or false.
    """
    values = _value(table, expression)
    if not (is_column(values) and pa.types.is_boolean(values.type)):
        kind = values.type if is_column(values) else type(values).__name__
        raise ConfigError(
            f"the expression {expression!r} gives {kind}, not true or false for each row. {EXAMPLE}"
        )
    return values


def _value(table: pa.Table, expression: str) -> Value:
    tree, quoted = parse(expression)
    types = _TYPES_OF_NULLS if any(map(pa.types.is_null, table.schema.types)) else (pa.null(),)
    problem: Exception | None = None
    for null_type in types:
        try:
            return _Evaluation(table, quoted, null_type).value(tree.body)
        except (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError) as error:
            problem = problem or error
    raise ConfigError(
        f"cannot use the expression {expression!r}: {problem}. {EXAMPLE}"
    ) from problem


class _Evaluation:
    """Computes the values of an expression's parts, which `check` has looked at.

    Parameters
    ----------
    table : pyarrow.Table
    quoted : dict of str to str
        Columns by the names that stand for them in the tree.
    null_type : pyarrow.DataType
        What columns are taken for that hold nothing but nulls.
    """

    def __init__(self, table: pa.Table, quoted: dict[str, str], null_type: pa.DataType):
        self.table = table
        self.quoted = quoted
        self.null_type = null_type

    def value(self, node: ast.expr) -> Value:
        """An Arrow array, a plain value, or a list of them."""
        if isinstance(node, ast.Name):
            if node.id == INFINITY and INFINITY not in self.table.column_names:
                return math.inf
            return self._column(self.quoted.get(node.id, node.id))
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self.value(item) for item in node.elts]
        if isinstance(node, ast.UnaryOp):
            return unary(node.op, self.value(node.operand))
        if isinstance(node, ast.BinOp):
            return calculate(node.op, self.value(node.left), self.value(node.right))
        if isinstance(node, ast.BoolOp):
            return functools.reduce(
                functools.partial(combine, node.op), map(self.value, node.values)
            )
        if isinstance(node, ast.Compare):
            sides = [self.value(side) for side in (node.left, *node.comparators)]
            pairs = zip(node.ops, itertools.pairwise(sides), strict=True)
            return functools.reduce(pc.and_kleene, [compare(op, *pair) for op, pair in pairs])
        assert isinstance(node, ast.Call), "check refuses all else"
        assert isinstance(node.func, ast.Attribute), "check refuses calls of functions"
        arguments = [self.value(argument) for argument in node.args]
        options = {str(option.arg): self.value(option.value) for option in node.keywords}
        return self._method(node.func, arguments, options)

    def _column(self, name: str) -> pa.Array:
        column = self.table.select([name]).combine_chunks()
        array = conform(column, storage_schema(column.schema)).column(0)
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
        if pa.types.is_null(array.type):
            return pa.nulls(len(array), self.null_type)
        return frames.nan_to_null(array)

    def _method(self, method: ast.Attribute, arguments: list[Value], options: Any) -> pa.Array:
        owner, accessor = method.value, ""
        if isinstance(owner, ast.Attribute):
            accessor, owner = f"{owner.attr}.", owner.value
        values = self.value(owner)
        name = accessor + method.attr
        if not is_column(values) or name not in METHODS:
            raise TypeError(f".{name} is no method of {ast.unparse(owner)}")
        if name not in TAKE_COLUMNS and any(map(is_column, (*arguments, *options.values()))):
            raise TypeError(f".{name} takes the same for all rows, no column")
        return METHODS[name](values, *arguments, **options)
