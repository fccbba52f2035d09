"""Every private name of Dask that this package touches; the test of this module names them again.

They are needed because Dask tells nobody what a lazy frame will compute: fingerprints of finished
work are made from its expressions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd


def own_cluster(client: Any) -> None:
    """Have a client close its cluster, as `Client()` does with one of its own making."""
    client._start_arg = None


def is_expression(value: Any) -> bool:
    """Whether a value is a node of a lazy collection's expression."""
    from dask._expr import Expr

    return isinstance(value, Expr)


def is_blockwise(node: Any) -> bool:
    """Whether each partition of an expression is made from one partition of its inputs."""
    from dask.dataframe.dask_expr._expr import Blockwise

    return isinstance(node, Blockwise)


def is_projection(node: Any) -> bool:
    """Whether an expression is some columns of another, as they are."""
    from dask.dataframe.dask_expr._expr import Projection

    return isinstance(node, Projection)


def is_assignment(node: Any) -> bool:
    """Whether an expression is another with columns added or replaced."""
    from dask.dataframe.dask_expr._expr import Assign

    return isinstance(node, Assign)


def is_filter(node: Any) -> bool:
    """Whether an expression is some rows of another, as they are."""
    from dask.dataframe.dask_expr._expr import Filter

    return isinstance(node, Filter)


def name(node: Any) -> str:
    """What an expression is called: the same for two that compute the same."""
    called: str = node._name
    return called


def is_relabelled(node: Any) -> bool:
    """Whether an expression is another under new labels of its rows."""
    from dask.dataframe.dask_expr._expr import AssignIndex, ResetIndex

    return isinstance(node, (AssignIndex, ResetIndex))


def is_row_by_row(node: Any) -> bool:
    """Whether an expression has a row for each row of its first input, in their order."""
    from dask.dataframe.dask_expr._expr import Elemwise

    return isinstance(node, Elemwise)


def is_running(node: Any) -> bool:
    """Whether each row of an expression is made of those above it, such as a running sum."""
    from dask.dataframe.dask_expr._cumulative import CumulativeAggregations

    return isinstance(node, CumulativeAggregations)


def collection(expression: Any) -> Any:
    """The lazy frame of an expression."""
    from dask.dataframe.dask_expr._collection import new_collection

    return new_collection(expression)


def operands(node: Any) -> Iterator[tuple[str | None, Any]]:
    """The parameters of an expression with their values; further values have no name."""
    names = node._parameters
    yield from zip(names, node.operands, strict=False)
    yield from ((None, value) for value in node.operands[len(names) :])


def chosen_partitions(node: Any) -> Any:
    """Which partitions are read of an expression made by `from_map`; None for all."""
    return node.operand("_partitions")


def teach_quantiles() -> None:
    """Have `quantile` and `describe` take the numbers of pandas that can be null.

    Dask 2026.7 makes arrays of NumPy of Arrow's numbers first, and forgets these. Workers need not
    be told: its table of functions goes to them as a part of each task.
    """
    from dask.array.dispatch import percentile_lookup

    percentile_lookup.register((pd.Series, pd.Index), _percentile)


def _percentile(values: Any, q: Any, interpolation: str = "linear") -> Any:
    from dask.dataframe.backends import percentile

    kind = values.dtype
    if isinstance(kind, pd.api.extensions.ExtensionDtype) and hasattr(kind, "numpy_dtype"):
        # Dask has left out the nulls.
        values = values.to_numpy(dtype=kind.numpy_dtype)
    return percentile(values, q, interpolation)


def run(
    client: Any, function: Any, *arguments: Any, workers: list[str], seconds: float
) -> dict[str, Any] | None:
    """What a function returns, or raises, on each of some workers; None when some do not answer."""
    import asyncio

    async def ask() -> Any:
        call = client._run(function, *arguments, workers=workers, on_error="return")
        return await asyncio.wait_for(call, seconds)

    try:
        answers: dict[str, Any] = client.sync(ask)
    except TimeoutError:
        return None
    return answers


def wrap(task: Any, wrapper: Any) -> Any:
    """A delayed call of the same function with the same arguments, by way of a wrapper.

    What is no call stays as it is.
    """
    from dask._task_spec import Task
    from dask.delayed import Delayed
    from dask.highlevelgraph import HighLevelGraph

    graph = task.__dask_graph__()
    (layer,) = task.__dask_layers__()
    last = graph.layers[layer][task.key]
    if not isinstance(last, Task):
        return task
    wrapped = Task(task.key, wrapper(last.func), *last.args, **last.kwargs)
    layers = {**graph.layers, layer: {**graph.layers[layer], task.key: wrapped}}
    return Delayed(task.key, HighLevelGraph(layers, graph.dependencies), layer=layer)
