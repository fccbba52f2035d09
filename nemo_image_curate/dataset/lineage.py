"""What a lazy Dask frame will compute, as a fingerprint that tells finished work from missing work.

A partition's fingerprint is a hash of its inputs and of everything done to them. The second part
is the Dask expression itself, with the reading of the shards taken out: so it covers a user's own
filters and column assignments as well as our stages, and does not change when shards are added.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from typing import Any

from nemo_image_curate.dataset.opening import MetadataReader

# Operands that only repeat the schema, which in-place runs see grow while they are under way, and
# Dask's way to shuffle, which it chooses by whether there is a client.
_IGNORED_OPERANDS = frozenset({"meta", "user_meta", "parent_meta", "_meta", "shuffle_method"})


class Lineage:
    """The expression of a frame, seen from the shards it reads.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame

    Attributes
    ----------
    aligned : bool
        Partition i holds rows of source i only, so it can be saved under that shard's name.
    independent : bool
        Partition i depends on source i and on no other.
    token : str
        Hash of all that is done after reading.
    """

    def __init__(self, frame: Any):
        expr = frame.expr
        leaves = [node for node in expr.walk() if _is_reader(node)]
        inputs = {tuple(node.operand("iterables")[0]) for node in leaves}
        same_count = [len(sources) for sources in inputs] == [expr.npartitions]
        self.aligned = same_count and _row_aligned(expr)
        self.independent = self.aligned and _blockwise_only(expr)
        self.token = fingerprint(_describe(expr))


def _is_reader(node: Any) -> bool:
    return "func" in node._parameters and isinstance(node.operand("func"), MetadataReader)


def _row_aligned(node: Any) -> bool:
    from dask.dataframe.dask_expr._expr import Blockwise

    if _is_reader(node):
        return node.operand("_partitions") is None
    if not isinstance(node, Blockwise):
        return False
    # Dask broadcasts single values, such as a quantile to compare with, to every partition.
    return all(_row_aligned(child) or child.ndim == 0 for child in node.dependencies())


def _blockwise_only(node: Any) -> bool:
    from dask.dataframe.dask_expr._expr import Blockwise

    if _is_reader(node):
        return True
    return isinstance(node, Blockwise) and all(map(_blockwise_only, node.dependencies()))


def _describe(value: Any) -> Any:
    from dask._expr import Expr
    from dask.base import tokenize

    if isinstance(value, Expr):
        if _is_reader(value):
            return ["read", value.operand("func").id_col]
        return [
            type(value).__name__,
            *(
                [name, _describe(operand)]
                for name, operand in zip(value._parameters, value.operands, strict=False)
                if name not in _IGNORED_OPERANDS
            ),
            *(_describe(operand) for operand in value.operands[len(value._parameters) :]),
        ]
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, map(_describe, value)))
    if isinstance(value, dict):
        return [[str(name), _describe(item)] for name, item in value.items()]
    if isinstance(value, functools.partial):
        return ["partial", *map(_describe, (value.func, value.args, value.keywords))]
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if isinstance(value, types.FunctionType) and not _importable(value):
        return _describe_function(value, ())
    return tokenize(value)


def _importable(function: types.FunctionType) -> bool:
    """Whether other processes find a function by its name; else what counts is what it does."""
    module = sys.modules.get(function.__module__)
    found = getattr(module, function.__qualname__, None)
    return function.__module__ != "__main__" and found is function


def _describe_function(
    function: types.FunctionType, callers: tuple[types.FunctionType, ...]
) -> Any:
    """A function as its code and the values that it uses.

    Dask would also hash the file name and line, which are others in every run of a notebook.
    """

    def describe(value: Any) -> Any:
        if any(value is one for one in (*callers, function)):
            return "recursion"
        if isinstance(value, types.FunctionType) and not _importable(value):
            return _describe_function(value, (*callers, function))
        return _describe(value)

    code = function.__code__
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    names = sorted(_names(code) & function.__globals__.keys())
    return [
        "function",
        _describe_code(code),
        _describe(function.__defaults__),
        _describe(function.__kwdefaults__),
        [describe(value) for value in cells],
        [[name, describe(function.__globals__[name])] for name in names],
    ]


def _describe_code(code: types.CodeType) -> Any:
    constants = [
        _describe_code(one) if isinstance(one, types.CodeType) else _describe(one)
        for one in code.co_consts
    ]
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return [code.co_code.hex(), constants, *shape, *names, code.co_exceptiontable.hex()]


def _names(code: types.CodeType) -> set[str]:
    """The global names that a function's code, or a function inside it, may look up."""
    inner = [_names(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    return set(code.co_names).union(*inner)


def fingerprint(*parts: Any) -> str:
    """A hash of plain values: strings, numbers, None, and lists of them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
