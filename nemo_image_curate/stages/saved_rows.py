"""What was saved of the rows of a partition, to be taken over where it is still right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.shards import sidecars
from nemo_image_curate.shards.names import ShardFiles


@dataclass(frozen=True)
class SavedRows:
    """What was saved of the n rows of a partition.

    Attributes
    ----------
    table : pyarrow.Table, n rows
        Nulls where nothing was saved.
    is_there : numpy.ndarray of bool, shape (n,)
        Whether a row was saved.
    """

    table: pa.Table
    is_there: np.ndarray

    def column(self, name: str, kind: pa.DataType) -> pa.Array:
        """One column, in one piece."""
        values = self.table[name].cast(kind).combine_chunks()
        return values if isinstance(values, pa.Array) else values.chunk(0)


def saved_rows(folder: str, frame: Any, id_col: str, columns: Sequence[str]) -> SavedRows | None:
    """What a folder of metadata has of the rows of a computed partition.

    Parameters
    ----------
    folder : str
    frame : pandas.DataFrame or cudf.DataFrame, n rows
    id_col : str
    columns : sequence of str

    Returns
    -------
    SavedRows or None
        None when the rows are not of one shard, and when there is no file of that shard, or it
        lacks a column or has a key twice.
    """
    shards = frames.column_to_arrow(frame[SHARD_COLUMN]).unique().to_pylist()
    if len(shards) != 1 or shards[0] is None:
        return None
    location = storage.join(folder, ShardFiles.beside(shards[0]).sidecar)
    if storage.stat(location) is None:
        return None
    table = sidecars.read_sidecar(location, [id_col, *columns], shards[0])
    place_of = {key: place for place, key in enumerate(table[id_col].to_pylist())}
    if len(place_of) < len(table) or not {*columns} <= {*table.column_names}:
        return None
    keys = frames.column_to_arrow(frame[id_col]).to_pylist()
    places = pa.array([place_of.get(key) for key in keys], pa.int64())
    return SavedRows(table.take(places), np.asarray(places.is_valid()))
