"""Rows along the axis of each column: one for each part of it, chosen at random."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.looking.rows import concatenated, sample_bits, told_rows
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.tables import free_name

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


def along(
    dataset: ImageTextPairDataset,
    edges: Mapping[str, np.ndarray],
    columns: Sequence[str],
    seed: int,
    progress: bool | None = None,
) -> dict[str, pa.Table]:
    """A row of each part between edges that has one, in one pass for all columns.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    edges : mapping of str to numpy.ndarray of float64, shape (p + 1,)
        Of columns of numbers. The last part holds its upper edge, too.
    columns : sequence of str
        What to tell of each row, beside the id column and ``shard``.
    seed : int
        Of the hash of shard and key that chooses.

    Returns
    -------
    dict of str to pyarrow.Table, at most p rows
        The rows in the order of the axis: the same however rows lie in partitions.
    """
    names = list(dict.fromkeys([dataset.id_col, SHARD_COLUMN, *edges, *columns]))
    frame = dataset.metadata[names]
    candidates = partitions.run(
        frame,
        _candidates,
        [(dataset.id_col, dict(edges), seed)] * frame.npartitions,
        what="look",
        progress=progress,
    )
    rows = {}
    for column in edges:
        table = concatenated([tables[column] for tables in candidates])
        part, bits = _own_names(names)
        order = [(name, "ascending") for name in (part, bits, dataset.id_col, SHARD_COLUMN)]
        table = table.sort_by(order)
        rows[column] = table.take(_firsts(table[part].to_numpy())).select(names)
    return rows


def _candidates(
    frame: Any, id_col: str, edges: dict[str, np.ndarray], seed: int
) -> dict[str, pa.Table]:
    """The row of each part that comes first in a partition, by column; runs on a worker."""
    table = frames.to_arrow(frame[[id_col, SHARD_COLUMN, *edges]])
    bits = sample_bits(table, id_col, seed)
    part_name, bits_name = _own_names(frame.columns)
    picked = {}
    for column, bounds in edges.items():
        values = table[column].cast(pa.float64(), safe=False).to_numpy()
        # NaN where there is none; what is infinite is on no axis.
        rows = np.flatnonzero((values >= bounds[0]) & (values <= bounds[-1]))
        parts = np.searchsorted(bounds[1:-1], values[rows], side="right")
        order = np.lexsort((bits[rows], parts))
        order = order[_firsts(parts[order])]
        picked[column] = rows[order], parts[order]
    # Once for all columns: frames take long to take rows.
    row_numbers = np.unique(np.concatenate([rows for rows, _ in picked.values()]))
    content = told_rows(frame, row_numbers)
    return {
        column: content.take(np.searchsorted(row_numbers, rows))
        .append_column(part_name, pa.array(parts))
        .append_column(bits_name, pa.array(bits[rows]))
        for column, (rows, parts) in picked.items()
    }


def _own_names(names: Collection[str]) -> tuple[str, str]:
    """What the part of an axis, and the hash of a row, are called beside other columns."""
    return free_name("part", names), free_name("bits", names)


def _firsts(values: np.ndarray) -> np.ndarray:
    """Where each different value of a sorted array stands first."""
    return np.flatnonzero(np.diff(values, prepend=-1))
