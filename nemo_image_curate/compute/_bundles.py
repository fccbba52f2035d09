"""Many small partitions in one Dask task: expressions that Dask's optimiser makes of ours.

Dask does this itself for `read_parquet` (its `FusedIO`), where what follows sees the rows of many
files as one partition. Here each partition goes by itself through all that is done to it, so that
no result depends on what was put together, and only what comes out is put together.

Like `_dask`, this module uses private names of Dask, and its test names them again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from dask._task_spec import List, Task
from dask.base import tokenize
from dask.dataframe import methods
from dask.dataframe.dask_expr._collection import new_collection
from dask.dataframe.dask_expr._describe import DescribeNumeric
from dask.dataframe.dask_expr._expr import (
    Blockwise,
    Index,
    Literal,
    Projection,
    optimize_blockwise_fusion,
)
from dask.dataframe.dask_expr._reductions import ApplyConcatApply, CustomReduction, Len
from dask.dataframe.dask_expr._repartition import Repartition
from dask.dataframe.dask_expr.io.io import BlockwiseIO, FromMapProjectable
from dask.utils import is_dataframe_like, is_index_like, is_series_like


class Parts(Sequence[Any]):
    """What partitions are read from: not printed whole, and hashed once, not with each expression.

    Parameters
    ----------
    parts : iterable
        Each with ``rows``, how many it has, or None where nobody knows yet.
    bundles : sequence of int
        How many of them, in order, one task of Dask may compute.
    """

    def __init__(self, parts: Iterable[Any], bundles: Sequence[int]):
        self._parts = tuple(parts)
        self._token = ""
        self.bundles = bundles

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: Any) -> Any:
        return self._parts[number]

    def __repr__(self) -> str:
        return f"<{len(self)} parts>"

    def __dask_tokenize__(self) -> str:
        self._token = self._token or tokenize(self._parts, self.bundles)
        return self._token


class ReadParts(FromMapProjectable):
    """`from_map` over `Parts`, several of which may be read in one task.

    The one parameter more, `bundled`, says whether they are.
    """

    _parameters = [*FromMapProjectable._parameters, "bundled"]  # noqa: RUF012
    _defaults = {**FromMapProjectable._defaults, "bundled": True}  # noqa: RUF012

    def _simplify_up(self, parent: Any, dependents: Any) -> Any:
        """Called by the optimiser with each expression that this one is an operand of."""
        parts = self.operand("iterables")[0]
        if isinstance(parent, Len):
            rows = [parts[number].rows for number in self._partitions]
            return None if None in rows else Literal(sum(rows))
        if isinstance(parent, Index):
            # To count the rows that a mask chooses Dask takes the index: of what else is read.
            users = [user for ref in dependents[self._name] if (user := ref()) is not None]
            if not all(isinstance(user, (Index, Projection)) for user in users):
                return None
            used = {name for user in users for name in user._projection_columns}
            names = [name for name in self.columns if name in (used or {self.func.id_col})]
            if set(names) == set(self.columns):
                return None
            return Index(self.substitute_parameters({"columns": names, "_series": False}))
        return super()._simplify_up(parent, dependents)

    def _tune_up(self, parent: Any) -> Any:
        """The same, in a later pass."""
        if not self.can_be_bundled or not _is_blind(parent):
            return None
        return parent.substitute(self, Bundled(_Hidden(self), self._boundaries()))

    @functools.cached_property
    def can_be_bundled(self) -> bool:
        """Whether there are fewer bundles than partitions."""
        return bool(self.operand("bundled")) and len(self._boundaries()) <= self.npartitions

    def _boundaries(self) -> tuple[int, ...]:
        """Where each bundle begins, and the end, among the partitions that were chosen."""
        sizes = self.operand("iterables")[0].bundles
        bundle_of = np.repeat(np.arange(len(sizes)), sizes)[list(self._partitions)]
        starts = np.flatnonzero(np.diff(bundle_of, prepend=-1)).tolist()
        return (*starts, len(bundle_of))


def _is_blind(parent: Any) -> bool:
    """Whether an expression gives the same, however many partitions its operands come in.

    Others rely on their number, which was known before the optimiser changed it: what is
    persisted, has an index set, becomes an array, is joined with other frames, is reduced by users'
    functions, or described by quantiles.
    """
    if isinstance(parent, Repartition):
        return bool(parent.operand("new_partitions") == 1)
    if isinstance(parent, ApplyConcatApply):
        return not isinstance(parent, (CustomReduction, DescribeNumeric))
    if not isinstance(parent, Blockwise) or isinstance(parent, Bundled):
        return False
    meta = parent._meta
    return bool(is_dataframe_like(meta) or is_series_like(meta) or is_index_like(meta))


def _will_change(expr: Any) -> bool:
    """Whether the optimiser has yet to make a bundle of an operand, or to take one apart."""
    if isinstance(expr, ReadParts):
        return expr.can_be_bundled
    if isinstance(expr, Bundled) or not _is_blind(expr) or not isinstance(expr, Blockwise):
        return False
    return any(isinstance(child, Bundled) or _will_change(child) for child in expr.dependencies())


class _Hidden:
    """An expression that the optimiser does not look into.

    Not in an attribute called ``expr``, where Dask would find it.
    """

    def __init__(self, content: Any):
        self.content = content

    def __dask_tokenize__(self) -> Any:
        return self.content._name


class Bundled(BlockwiseIO):
    """Partitions of a blockwise expression, several computed one after the other in each task."""

    _parameters = ["hidden", "boundaries"]  # noqa: RUF012

    @functools.cached_property
    def _inner(self) -> Any:
        return self.operand("hidden").content

    @functools.cached_property
    def _name(self) -> str:
        return f"bundled-{self._inner._name.rpartition('-')[0]}-{self.deterministic_token}"

    @functools.cached_property
    def _meta(self) -> Any:
        return self._inner._meta

    def _divisions(self) -> tuple[None, ...]:
        return (None,) * len(self.operand("boundaries"))

    def _tune_up(self, parent: Any) -> Any:
        """Take in what is done to each partition; be no bundle below what is made otherwise."""
        if not _is_blind(parent):
            return self._taken_apart(parent)
        boundaries = self.operand("boundaries")
        inner: Any = parent
        children = parent.dependencies()
        if any(map(_will_change, children)):
            # Its turn comes when they are bundles, too.
            return None
        for child in children:
            if not isinstance(child, Bundled) or child.operand("boundaries") != boundaries:
                return self._taken_apart(parent)
            inner = inner.substitute(child, child._inner)
        if not isinstance(parent, Blockwise):
            return None
        if not is_by_partition(inner):
            return self._taken_apart(parent)
        return Bundled(_Hidden(inner), boundaries)

    def _taken_apart(self, parent: Any) -> Any:
        return parent.substitute(self, _without_bundles(self._inner))

    @functools.cached_property
    def _tasks(self) -> Callable[[Any, int], Any]:
        return partition_tasks(self._inner)

    def _task(self, name: Any, index: int) -> Any:
        start, stop = self.operand("boundaries")[index : index + 2]
        tasks = [self._tasks((name, number), number) for number in range(start, stop)]
        return Task(name, methods.concat, List(*tasks))


def read_parts(reader: Callable[..., Any], parts: Parts, meta: Any, label: str) -> Any:
    """A lazy frame of one partition for each part.

    Dask's own computations take bundles of them together; the frame has a partition for each.

    Parameters
    ----------
    reader : callable
        Gives the frame of a part, or of some of its ``columns``. Its ``id_col`` is one that costs
        little.
    parts : Parts
    meta : pandas.DataFrame or cudf.DataFrame
        Without rows.
    label : str
        What Dask's dashboard calls the tasks.
    """
    import dask.dataframe as dd

    plain = dd.from_map(reader, [None], meta=meta, label=label).expr
    return new_collection(
        ReadParts(*plain.operands, True).substitute_parameters({"iterables": [parts]})
    )


def _without_bundles(expr: Any) -> Any:
    for node in list(expr.find_operations(ReadParts)):
        expr = expr.substitute(node, node.substitute_parameters({"bundled": False}))
    return expr


def is_by_partition(expr: Any) -> bool:
    """Whether each partition is computed from one partition of what is read, and nothing else."""
    nodes = list(expr.lower_completely().walk())
    return all(isinstance(n, Blockwise) and n.npartitions == expr.npartitions for n in nodes)


def partition_tasks(expr: Any) -> Callable[[Any, int], Any]:
    """A function of a key and a number that gives the task which computes that partition.

    Parameters
    ----------
    expr : dask expression
        Of which each partition is made of one partition of what is read.
    """
    lowered = _without_bundles(expr).simplify().lower_completely()
    if not is_by_partition(lowered):
        raise ValueError(f"{expr} is not made partition by partition")
    task: Callable[[Any, int], Any] = optimize_blockwise_fusion(lowered)._task
    return task
