"""What a lazy Dask frame will compute, as a fingerprint that tells finished work from missing work.

A partition's fingerprint is a hash of its inputs and of everything done to them. The second part
is the Dask expression itself, with the reading of the shards taken out: so it covers a user's own
filters and column assignments as well as our stages, and does not change when shards are added.
"""

from __future__ import annotations

import hashlib
from typing import Any

from nemo_image_curate.dataset.opening import MetadataReader

# Operands that only repeat the schema; in-place runs see it grow while they are under way.
_SCHEMA_OPERANDS = frozenset({"meta", "user_meta", "parent_meta", "_meta"})


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
                if name not in _SCHEMA_OPERANDS
            ),
            *(_describe(operand) for operand in value.operands[len(value._parameters) :]),
        ]
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    if isinstance(value, dict):
        return [[str(name), _describe(item)] for name, item in value.items()]
    return tokenize(value)


def fingerprint(*parts: Any) -> str:
    """A hash of plain values: strings, numbers, None, and lists of them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
