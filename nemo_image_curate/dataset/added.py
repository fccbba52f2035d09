"""What is done to the files that a frame reads, told from its expression: nothing is computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nemo_image_curate.compute import _dask
from nemo_image_curate.dataset.fingerprints import is_reader
from nemo_image_curate.dataset.partitions import AddColumns


def steps_of(frame: Any) -> Iterator[tuple[Any, frozenset[str] | None]]:
    """The nodes of an expression, the last one first, each with the columns that it makes.

    Followed are choices of columns and rows, assignments, and what stages add, down to the reading
    of the shards. Any other node ends it; what that makes is not known.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame

    Yields
    ------
    tuple of node and (frozenset of str or None)
        None for a node that is not followed.
    """
    node = frame.expr
    while not is_reader(node):
        operands = list(_dask.operands(node))
        function = dict(operands).get("func")
        if isinstance(function, AddColumns):
            yield node, frozenset(function.names)
        elif _dask.is_assignment(node):
            # Names and values stand one after the other.
            yield node, frozenset([value for name, value in operands if name is None][::2])
        elif _dask.is_projection(node) or _dask.is_filter(node):
            yield node, frozenset()
        else:
            yield node, None
            return
        node = dict(operands)["frame"]
    yield node, frozenset()


def added_columns(frame: Any) -> frozenset[str] | None:
    """The columns that are made of what a frame reads, where all its rows stay; else None.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    """
    added: frozenset[str] = frozenset()
    for node, names in steps_of(frame):
        if names is None or _dask.is_filter(node):
            return None
        added |= names
    return added
