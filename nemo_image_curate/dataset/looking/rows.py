"""Rows of a dataset that people are told of: by key or place, in bounds, by hashes at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.looking.origin import projection
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.tables import free_name
from nemo_image_curate.vectors.sampling import hash_bits, hash_bits_of_few

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Characters of a text that the client is told: pages show less, and no name of a file has more.
MAX_TEXT = 4096


def rows_of(
    dataset: ImageTextPairDataset,
    keys: Sequence[str],
    columns: Sequence[str] = (),
    progress: bool | None = None,
) -> pa.Table:
    """The rows with some keys.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    keys : sequence of str
    columns : sequence of str

    Returns
    -------
    pyarrow.Table
        The id column, ``shard`` and `columns`, in the order of `keys`, and of shards where
        several have the same key. Keys that no row has are left out.

    Raises
    ------
    ColumnNotFoundError
    """
    id_col = dataset.id_col
    names = list(dict.fromkeys([id_col, SHARD_COLUMN, *columns]))
    frames.require_columns(dataset.metadata, *names)
    wanted = pa.array(list(dict.fromkeys(keys)), pa.string())
    parts = partitions.run(
        projection(dataset.metadata, names),
        _with_keys,
        [(id_col, wanted)] * dataset.metadata.npartitions,
        what="look",
        progress=progress,
    )
    table = concatenated(parts)
    place = free_name("place", names)
    ordered = table.append_column(place, pc.index_in(table[id_col], wanted)).sort_by(
        [(place, "ascending"), (SHARD_COLUMN, "ascending")]
    )
    return ordered.select(names)


def concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of partitions as one; a column without any value in some takes the type of others."""
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def told_rows(frame: Any, row_numbers: np.ndarray) -> pa.Table:
    """Some rows of a computed partition, for people.

    Parameters
    ----------
    frame : pandas.DataFrame or cudf.DataFrame
    row_numbers : numpy.ndarray of int64, shape (n,)

    Returns
    -------
    pyarrow.Table, length n
        Texts of more than `MAX_TEXT` characters end there with an ellipsis.
    """
    table = frames.to_arrow(frame.iloc[row_numbers])
    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_binary(field.type):
            table = table.set_column(number, field, _cut(table.column(number)))
    return table


def _cut(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if (pc.max(pc.binary_length(values)).as_py() or 0) <= MAX_TEXT:
        return values
    if pa.types.is_binary(values.type):
        return pc.binary_slice(values, 0, MAX_TEXT)
    cut = pc.binary_join_element_wise(pc.utf8_slice_codeunits(values, 0, MAX_TEXT), "…", "")
    return pc.if_else(pc.greater(pc.utf8_length(values), MAX_TEXT), cut, values)


def sample_bits(table: pa.Table, id_col: str, seed: int) -> np.ndarray:
    """A number for each row of a table that depends on shard, key and seed alone.

    Returns
    -------
    numpy.ndarray of uint64, shape (n,)
        Evenly distributed: rows with the lowest are a random sample.
    """
    bits: np.ndarray = hash_bits(table[id_col], seed)
    # From another seed: a shard and a key of the same name would always give 0.
    bits ^= hash_bits_of_few(table[SHARD_COLUMN], seed + 1)
    return bits


def _with_keys(frame: Any, id_col: str, wanted: pa.Array) -> pa.Table:
    """The rows of a partition with some keys; runs on a worker."""
    is_wanted = pc.is_in(frames.column_to_arrow(frame[id_col]), value_set=wanted)
    return told_rows(frame, np.flatnonzero(is_wanted.to_numpy(zero_copy_only=False)))
