"""Which rows belong to which subset, however the subsets are given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.expressions import evaluate
from nemo_image_curate.selection.listed import SelectionFile

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Rows as users name them: all (None), those for which an expression is true, those that a file of
# `to_selection` lists, a Dask series of bool, or an array of a bool for each row.
Subset: TypeAlias = "str | os.PathLike[str] | SelectionFile | np.ndarray | Any | None"

_SELECTION_FILES = (".parquet", ".pq")


@dataclass(frozen=True)
class Membership:
    """A frame with a bool column for each subset.

    Attributes
    ----------
    frame : dask.dataframe.DataFrame
    columns : dict of str to str
        The column of each subset that the frame has.
    arrays : list of dict of str to numpy.ndarray of bool
        For each partition, what subsets hold that were given as arrays.
    listed : dict of str to int
        How many rows the files of selections list.
    """

    frame: Any
    columns: dict[str, str]
    arrays: list[dict[str, np.ndarray]]
    listed: dict[str, int]


def membership(dataset: ImageTextPairDataset, subsets: Mapping[str, Subset]) -> Membership:
    """Find the rows of subsets, lazily.

    Raises
    ------
    ColumnNotFoundError, ConfigError, SchemaError, DatasetError
        When a subset is not given in one of the ways that there are.
    """
    masks: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    listed: dict[str, int] = {}
    for name, subset in subsets.items():
        if _is_file(subset):
            subset = SelectionFile(cast("str | os.PathLike[str]", subset))
        if subset is None:
            masks[name] = True
        elif isinstance(subset, str):
            masks[name] = evaluate.mask(dataset.metadata, subset)
        elif isinstance(subset, SelectionFile):
            masks[name] = subset(dataset).metadata["selected"]
            listed[name] = subset.listed()
        elif hasattr(subset, "map_partitions"):
            masks[name] = _checked_series(name, subset, dataset.metadata)
        else:
            arrays[name] = _checked_array(name, subset)
    columns = {name: f"__subset_{number}" for number, name in enumerate(masks)}
    frame = dataset.metadata.assign(**{columns[name]: mask for name, mask in masks.items()})
    return Membership(frame, columns, _split(dataset, arrays), listed)


def _is_file(subset: Any) -> bool:
    """Whether a subset is given as the file of a selection: a path, or a text that ends as one."""
    if isinstance(subset, str):
        return subset.lower().endswith(_SELECTION_FILES)
    return isinstance(subset, os.PathLike)


def _checked_series(name: str, series: Any, frame: Any) -> Any:
    whole = series if series.ndim > 1 else series.to_frame(name="mask")
    kind = frames.schema(whole).field(0).type
    if series.ndim > 1 or not pa.types.is_boolean(kind) or series.npartitions != frame.npartitions:
        raise ConfigError(
            f"subset {name!r} is a Dask series of {kind} in {series.npartitions} partitions; give "
            f"one of bool made from the dataset's metadata, which has {frame.npartitions}."
        )
    return series


def _checked_array(name: str, subset: Any) -> np.ndarray:
    values = subset
    if isinstance(subset, (pa.Array, pa.ChunkedArray)):
        values = pd.Series(subset, dtype=pd.ArrowDtype(subset.type))
    array = np.asarray(values.to_numpy(na_value=False) if hasattr(values, "to_numpy") else values)
    if array.ndim != 1 or array.dtype != bool:
        raise ConfigError(
            f"subset {name!r} is {type(subset).__name__} of {array.dtype} with shape "
            f"{array.shape}. Give an expression, the file of a selection, a Dask series of bool "
            "made from the dataset's metadata, or an array of a bool for each row."
        )
    return array


def _split(
    dataset: ImageTextPairDataset, arrays: Mapping[str, np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """Arrays of all rows by partition."""
    if not arrays:
        return [{} for _ in range(dataset.metadata.npartitions)]
    lengths = partitions.run(dataset.metadata[[dataset.id_col]], _length, what="count")
    for name, array in arrays.items():
        if len(array) != sum(lengths):
            raise ConfigError(
                f"subset {name!r} has {len(array):,} values, the dataset {sum(lengths):,} rows."
            )
    ends = np.cumsum(lengths)[:-1]
    parts = {name: np.split(array, ends) for name, array in arrays.items()}
    return [{name: cuts[number] for name, cuts in parts.items()} for number in range(len(lengths))]


def _length(frame: Any) -> int:
    """How many rows a partition has; runs on a worker."""
    return len(frame)
