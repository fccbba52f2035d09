"""Rows that are the same to a comparison: told by buckets of values, which tasks take alone.

A block of rows first looks for equal ones among its own, and sends only the first of each value.
So thousands of copies of one picture do not meet in one bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.ranks import Ranks
from nemo_image_curate.dedup.staged import Block, RowArrays, StagedRows, owners

# Characters of a text that choose its bucket.
_PREFIX = 4


def first_of_equals(columns: Sequence[np.ndarray], rank: np.ndarray) -> np.ndarray:
    """For each row the place of the first row, in keep order, that agrees in all columns.

    Parameters
    ----------
    columns : sequence of numpy.ndarray, shape (n,)
    rank : numpy.ndarray of int64, shape (n,)

    Returns
    -------
    numpy.ndarray of int64, shape (n,)
    """
    order = np.lexsort([rank, *columns])
    new = np.ones(len(order), dtype=bool)
    if len(order):
        same = [column[order][1:] == column[order][:-1] for column in columns]
        new[1:] = ~np.logical_and.reduce(same)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    return first


def codes(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers that are equal where values of a column are; of texts only within the column."""
    array = column.combine_chunks()
    if pa.types.is_large_string(array.type):
        array = array.dictionary_encode().indices
    numbers: np.ndarray = array.fill_null(0).to_numpy(zero_copy_only=False)
    return numbers


def buckets(column: pa.ChunkedArray, count: int) -> np.ndarray:
    """The bucket of each value, the same for equal ones wherever they are."""
    if not pa.types.is_large_string(column.type):
        hashed = pd.util.hash_array(codes(column))
        return np.asarray(hashed % count, dtype=np.int64)
    # Digests differ from their first digits on.
    prefixes = pc.utf8_slice_codeunits(column.combine_chunks(), 0, _PREFIX).dictionary_encode()
    hashed = pd.util.hash_array(np.array(prefixes.dictionary.to_pylist(), dtype=object))
    numbers: np.ndarray = (hashed % count).astype(np.int64)[prefixes.indices.to_numpy()]
    return numbers


def send_values(
    staged: StagedRows, ranks: Ranks, columns: list[str], folder: Path, progress: bool | None
) -> tuple[Exchange, RowArrays]:
    """Send the first row of each value to the value's bucket.

    Parameters
    ----------
    staged : StagedRows
    ranks : Ranks
    columns : list of str
        Rows are equal when they agree in all of them, and compared when the first is not null.
    folder : Path
    progress : bool or None

    Returns
    -------
    Exchange
        From blocks to buckets: ``row``, ``rank`` and the columns.
    RowArrays
        For each row the place in its block of the first that is equal to it; -1 where nothing is
        compared.
    """
    values = Exchange(folder, "values", len(staged.blocks), len(staged.blocks))
    equal = RowArrays(folder, "equal", staged.starts)
    arguments = [(block, ranks, columns, equal) for block in staged.blocks]
    values.fill(_send_values, arguments, "group", progress)
    return values, equal


def _send_values(
    values: Exchange,
    sender: int,
    block: Block,
    ranks: Ranks,
    columns: list[str],
    equal: RowArrays,
) -> None:
    """Write what `send_values` says, of a block; runs on a worker."""
    table = block.table(columns)
    compared = np.flatnonzero(table[columns[0]].is_valid().to_numpy())
    table, rank = table.take(compared), ranks.of(block)[compared]
    first = first_of_equals([codes(table[name]) for name in columns], rank)
    places = np.full(len(block), -1, dtype=np.int64)
    places[compared] = compared[first]
    equal.write(sender, places)
    sent = np.flatnonzero(first == np.arange(len(first)))
    table = table.take(sent).append_column("row", [block.start + compared[sent]])
    table = table.append_column("rank", [rank[sent]])
    values.write(sender, table, buckets(table[columns[0]], values.receivers))


def point_to_first(
    values: Exchange, staged: StagedRows, columns: list[str], progress: bool | None
) -> Exchange:
    """Tell equal rows which row comes first.

    Returns
    -------
    Exchange
        From buckets to the blocks of these first rows, as `partners`: ``row``, ``partner``,
        ``similarity``.
    """
    partners = Exchange(values.folder, "partners", values.receivers, len(staged.blocks))
    arguments = [(values, columns, staged.starts)] * partners.senders
    partners.fill(_point_to_first, arguments, "compare", progress)
    return partners


def _point_to_first(
    partners: Exchange, sender: int, values: Exchange, columns: list[str], starts: np.ndarray
) -> None:
    """Tell the rows of a bucket; runs on a worker."""
    table = values.read(sender)
    rows = table["row"].to_numpy()
    first = first_of_equals([codes(table[name]) for name in columns], table["rank"].to_numpy())
    later = np.flatnonzero(first != np.arange(len(first)))
    similarity = np.ones(len(later), dtype=np.float32)
    send_partners(partners, sender, rows[later], rows[first[later]], similarity, starts)


def send_partners(
    partners: Exchange,
    sender: int,
    rows: np.ndarray,
    partner_rows: np.ndarray,
    similarity: np.ndarray,
    starts: np.ndarray,
    to: np.ndarray | None = None,
) -> None:
    """Write which rows stand for others, for the blocks of these, or of the rows in `to`."""
    table = pa.table({"row": rows, "partner": partner_rows, "similarity": similarity})
    partners.write(sender, table, owners(starts, partner_rows if to is None else to))


def follow(
    decided: Exchange, followers: Exchange, staged: StagedRows, progress: bool | None
) -> Exchange:
    """From decisions about the first of equal rows to decisions about all of them.

    Equal rows have the same neighbours and are near each other. So under each rule the later ones
    go: for the same row as the first, or where that one stays, for that one.

    Parameters
    ----------
    decided : Exchange
        To the blocks of the first rows that go.
    followers : Exchange
        From equal rows to the blocks of the first of them, as ``partner``.
    staged : StagedRows
    progress : bool or None

    Returns
    -------
    Exchange
        To the blocks of the rows that stand for others.
    """
    count = len(staged.blocks)
    partners = Exchange(decided.folder, "partners", count, count)
    partners.fill(_follow, [(decided, followers, staged.starts)] * count, "decide", progress)
    return partners


def _follow(
    partners: Exchange, sender: int, decided: Exchange, followers: Exchange, starts: np.ndarray
) -> None:
    """Decide about those who follow the rows of a block; runs on a worker."""
    removed, following = decided.read(sender), followers.read(sender)
    order = np.argsort(removed["row"].to_numpy())
    gone = removed.take(order)
    firsts = following["partner"].to_numpy()
    place = np.searchsorted(gone["row"].to_numpy(), firsts)
    padded = np.append(gone["row"].to_numpy(), -1)
    with_first = padded[place] == firsts
    standing = np.where(with_first, np.append(gone["partner"].to_numpy(), -1)[place], firsts)
    similarity = np.append(gone["similarity"].to_numpy(), np.float32(np.nan))[place]
    similarity = np.where(with_first, similarity, np.float32(1))
    send_partners(
        partners,
        sender,
        np.concatenate([removed["row"].to_numpy(), following["row"].to_numpy()]),
        np.concatenate([removed["partner"].to_numpy(), standing]),
        np.concatenate([removed["similarity"].to_numpy(), similarity]),
        starts,
    )
