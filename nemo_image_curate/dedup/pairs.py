"""Near-duplicate rows as tables that tasks hand to each other, by the rows that come later.

Rows are named by their numbers. Each pair has the ranks of both, too, which tell which of them
comes first in the keep order.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.rules import Pairs


def pair_table(
    rows: np.ndarray,
    ranks: np.ndarray,
    other_rows: np.ndarray,
    other_ranks: np.ndarray,
    similarity: np.ndarray,
) -> pa.Table:
    """A table of pairs, whichever row of each comes first.

    Parameters
    ----------
    rows, ranks, other_rows, other_ranks : numpy.ndarray of int64, shape (p,)
    similarity : numpy.ndarray of float32, shape (p,)

    Returns
    -------
    pyarrow.Table
        Columns ``later``, ``earlier``: rows; ``later_rank``, ``earlier_rank``; ``similarity``.
    """
    swap = ranks < other_ranks
    return pa.table(
        {
            "later": np.where(swap, other_rows, rows),
            "earlier": np.where(swap, rows, other_rows),
            "later_rank": np.where(swap, other_ranks, ranks),
            "earlier_rank": np.where(swap, ranks, other_ranks),
            "similarity": similarity,
        }
    )


def no_pairs() -> pa.Table:
    """A `pair_table` of no pairs."""
    nothing = np.empty(0, dtype=np.int64)
    return pair_table(nothing, nothing, nothing, nothing, np.empty(0, dtype=np.float32))


def bucket_of(rows: np.ndarray, count: int) -> np.ndarray:
    """One of so many buckets for each row, evenly."""
    buckets: np.ndarray = (pd.util.hash_array(rows) % count).astype(np.int64)
    return buckets


def send_pairs(pairs: Exchange, sender: int, table: pa.Table) -> None:
    """Send pairs to the buckets of their later rows."""
    pairs.write(sender, table, bucket_of(table["later"].to_numpy(), pairs.receivers))


def ranked_pairs(table: pa.Table) -> tuple[np.ndarray, Pairs]:
    """The rows of a `pair_table` in keep order, and its pairs by their places there.

    Returns
    -------
    rows : numpy.ndarray of int64, shape (m,)
    pairs : Pairs
    """
    later_ranks, earlier_ranks = (table[f"{name}_rank"].to_numpy() for name in ("later", "earlier"))
    ranks, place = np.unique(np.concatenate([later_ranks, earlier_ranks]), return_index=True)
    rows = np.concatenate([table["later"].to_numpy(), table["earlier"].to_numpy()])[place]
    later, earlier = np.searchsorted(ranks, later_ranks), np.searchsorted(ranks, earlier_ranks)
    return rows, Pairs(later, earlier, table["similarity"].to_numpy())
