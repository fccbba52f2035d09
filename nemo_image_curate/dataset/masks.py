"""Whether a mask says of the rows of a frame which to keep, and not of others in their places."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nemo_image_curate.compute import _dask
from nemo_image_curate.dataset.partitions import AddColumns
from nemo_image_curate.errors import ConfigError


def require_mask_of(frame: Any, mask: Any) -> None:
    """Refuse a mask that is not made from a frame, or from one whose rows this still has.

    Dask aligns masks of other frames by the rows' numbers in their partitions, which say nothing
    there: other rows would stay, in silence.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    mask : dask.dataframe.Series

    Raises
    ------
    ConfigError
    """
    if not _dask.is_expression(getattr(mask, "expr", None)) or mask.ndim != 1:
        raise ConfigError(
            f"filter takes an expression or a Dask series of bool, not {type(mask).__name__}. "
            "Make the mask from ds.metadata of this very dataset: ds.filter(ds.metadata.width > 9)."
        )
    if not _is_made_of(mask.expr, set(map(_dask.name, _same_rows(frame.expr)))):
        raise ConfigError(
            "the mask was made from another frame, whose rows may lie elsewhere than those of this "
            "dataset: it would keep wrong ones. Make the mask from ds.metadata of this very "
            "dataset."
        )


def _same_rows(node: Any) -> Iterator[Any]:
    """An expression and those before it whose rows, or some of them, it has under their labels."""
    yield node
    while _keeps_rows(node):
        node = node.dependencies()[0]
        yield node


def _keeps_rows(node: Any) -> bool:
    if _dask.is_relabelled(node):
        return False
    function = dict(_dask.operands(node)).get("func")
    return _dask.is_row_by_row(node) or _dask.is_filter(node) or isinstance(function, AddColumns)


def _is_made_of(node: Any, names: set[str]) -> bool:
    # Dask hands single values, such as a mean to compare with, to every partition.
    if node.ndim == 0 or _dask.name(node) in names:
        return True
    if _dask.is_relabelled(node) or _dask.is_filter(node):
        return False
    inputs = node.dependencies()
    by_row = _dask.is_blockwise(node) or _dask.is_running(node)
    return by_row and bool(inputs) and all(_is_made_of(each, names) for each in inputs)
