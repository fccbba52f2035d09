"""The rows that subsets are compared by: a sample by key that fits into memory, with its counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.looking.rows import concatenated
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.selection.subsets.membership import Membership
from nemo_image_curate.selection.subsets.taken import (
    BETWEEN,
    SCORE,
    TIE,
    Columns,
    Rows,
    Shares,
    count_members,
    take_rows,
)
from nemo_image_curate.vectors.sampling import hash_bits


def count_rows(masks: Membership, key: str, progress: bool | None) -> dict[str, int]:
    """How many rows each subset has, all (""), and any subset but `HELD_OUT` and its rows."""
    parts = partitions.run(
        masks.frame[[key, *masks.columns.values()]],
        count_members,
        [(masks.columns, arrays) for arrays in masks.arrays],
        what="count",
        progress=progress,
    )
    return _sums(parts)


def sample_rows(masks: Membership, columns: Columns, shares: Shares, progress: bool | None) -> Rows:
    """Take a sample of the rows that are trained on and held out.

    Raises
    ------
    DatasetError
        When embeddings of a column differ in length.
    """
    needed = columns.needed(masks.frame.columns)
    parts = partitions.run(
        masks.frame[[*needed, *masks.columns.values()]],
        take_rows,
        [(masks.columns, arrays, columns, shares) for arrays in masks.arrays],
        what="sample",
        progress=progress,
    )
    table = concatenated([part.table for part in parts])
    by = [(name, "ascending") for name in (SCORE, columns.key, SHARD_COLUMN)]
    order = pc.sort_indices(table, sort_keys=by).to_numpy()
    names = parts[0].members
    return Rows(
        images=_joined([part.images for part in parts], columns.images)[order],
        texts=_joined([part.texts for part in parts], columns.texts)[order],
        table=table.drop_columns([SCORE]).take(pa.array(order)),
        is_held_out=np.concatenate([part.is_held_out for part in parts])[order],
        members={
            name: np.concatenate([part.members[name] for part in parts])[order] for name in names
        },
        counts={name: _sums([part.counts[name] for part in parts]) for name in parts[0].counts},
    )


def account(rows: Rows, subset: str, is_member: np.ndarray, is_leak: np.ndarray) -> dict[str, int]:
    """Where the rows of a subset went; all but ``rows`` add up to that.

    ``leaks`` are those of the sample; ``not_sampled`` were not looked at for them.
    """
    counts = dict(rows.counts[subset])
    counts["leaks"] = int((rows.members[subset] & ~rows.is_held_out & is_leak).sum())
    trained_on = int(is_member.sum())
    rest = counts["rows"] - sum(counts[name] for name in counts if name != "rows") - trained_on
    return counts | {"not_sampled": rest, "trained_on": trained_on}


def _sums(parts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def _joined(parts: Sequence[np.ndarray], column: str) -> np.ndarray:
    """Vectors of all partitions; one without any does not know how long they would be."""
    dims = sorted({part.shape[1] for part in parts if len(part)})
    if len(dims) > 1:
        raise DatasetError(
            f"column {column!r}: embeddings of different lengths ({dims[0]} and {dims[-1]}) in "
            "different partitions: they are of different models."
        )
    filled = [part for part in parts if len(part)]
    return np.concatenate(filled) if filled else np.empty((0, 0), np.float32)


def leaks_of(rows: Rows) -> tuple[np.ndarray, dict[str, int]]:
    """Which rows are copies of held-out ones, and how many are by which column."""
    is_leak, counts = np.zeros(len(rows.table), dtype=bool), {}
    for name in rows.table.column_names:
        if name.startswith(TIE):
            values = rows.table[name]
            known = values.filter(pa.array(rows.is_held_out)).drop_null()
            is_copy = pc.is_in(values, value_set=known, skip_nulls=True).to_numpy()
            is_copy &= ~rows.is_held_out
            counts[name.removeprefix(TIE)] = int(is_copy.sum())
            is_leak |= is_copy
    return is_leak, counts


def units(rows: Rows, key: str) -> pa.ChunkedArray:
    """A name for each row, which copies share by the first column that tells them."""
    names = [rows.table[name].cast(pa.large_string()) for name in (SHARD_COLUMN, key)]
    ties = [rows.table[name] for name in rows.table.column_names if name.startswith(TIE)]
    return pc.coalesce(*ties[:1], pc.binary_join_element_wise(*names, BETWEEN))


def halves(
    is_member: np.ndarray, units: pa.ChunkedArray, seeds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows of a subset in halves, for each seed; rows of two subsets go to the same ones."""
    rows = np.flatnonzero(is_member)
    row_units = units.take(pa.array(rows))
    splits = []
    for number in range(seeds):
        in_order = rows[np.argsort(hash_bits(row_units, seed + number), kind="stable")]
        splits.append((in_order[: len(rows) // 2], in_order[len(rows) // 2 :]))
    return splits
