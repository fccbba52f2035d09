"""The keep order of all rows: sorted by blocks on the workers, in files.

A sample sort: rows are cut into ranges by splitters out of a sample, each range is sorted by one
task, and tells the blocks of rows what places their rows have (Frazer and McKellar,
"Samplesort", 1970).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate.compute import jobs
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.keep import By, keep_columns, keep_scores, keep_sorted, sort_table
from nemo_image_curate.dedup.staged import Block, RowArrays, StagedRows, owners

if TYPE_CHECKING:
    from nemo_image_curate.dedup.layout import Layout

# Rows of each block among which splitters are chosen.
_SAMPLED = 64
# More than the rows of a range.
_RANGE = 1 << 40


class Order:
    """Which of several duplicates comes first.

    Parameters
    ----------
    keep : str
    by : str, sequence of str, or None
    seed : int
    id_col : str
    layout : Layout, optional
        Tells how near embeddings are to the centroids of their clusters.
    """

    def __init__(self, keep: str, by: By, seed: int, id_col: str, layout: Layout | None = None):
        self.keep = keep
        self.by = by
        self.seed = seed
        self.id_col = id_col
        self.layout = layout

    def table(self, block: Block) -> pa.Table:
        """What the rows of a block are sorted by, in that order."""
        table = block.table(list(dict.fromkeys([self.id_col, *keep_columns(self.by)])))
        homes = self.layout.homes(block.parts)["similarity"] if self.layout else None
        scores = keep_scores(self.keep, self.by, self.seed, table, self.id_col, homes)
        sortable = sort_table(scores, table[self.id_col], block.rows())
        return sortable.take(keep_sorted(sortable))


class Ranks:
    """A number for each row that is lower for those that come before it in the keep order.

    Parameters
    ----------
    ranks : RowArrays or None
        None when it is the order of the dataset.
    """

    def __init__(self, ranks: RowArrays | None):
        self.ranks = ranks

    def of(self, block: Block) -> np.ndarray:
        """The ranks of a block's rows, int64."""
        return block.rows() if self.ranks is None else self.ranks.read(block.number)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The ranks of some rows, int64."""
        return rows if self.ranks is None else self.ranks.take(rows)


def rank_rows(staged: StagedRows, order: Order, folder: Path, progress: bool | None) -> Ranks:
    """Rank all rows.

    Memory: a worker holds a block, the client 64 keys of each block.

    Parameters
    ----------
    staged : StagedRows
    order : Order
    folder : Path
        For files, which `Ranks` reads.
    progress : bool or None
    """
    if order.keep == "first":
        return Ranks(None)
    blocks = staged.blocks
    sortable = Exchange(folder, "sortable", len(blocks), len(blocks))
    ranked = Exchange(folder, "ranked", len(blocks), len(blocks))
    splitters = _splitters(blocks, order, progress)
    sortable.fill(_cut, [(block, order, splitters) for block in blocks], "sort", progress)
    ranked.fill(_rank, [(sortable, staged.starts)] * len(blocks), "sort", progress)
    ranks = RowArrays(folder, "ranks", staged.starts)
    ranks.fill(_collect, [(ranked, block) for block in blocks], "sort", progress)
    return Ranks(ranks)


def _splitters(blocks: list[Block], order: Order, progress: bool | None) -> pa.Table | None:
    """Where one range ends and the next begins."""
    if len(blocks) == 1:
        return None
    call = dask.delayed(_sample, pure=False)
    labels = [f"block {block.number}" for block in blocks]
    samples = jobs.compute_all([call(block, order) for block in blocks], labels, "sort", progress)
    sample = pa.concat_tables(samples)
    places = np.linspace(0, len(sample), len(blocks) + 1, dtype=np.int64)[1:-1]
    return sample.take(keep_sorted(sample)).take(places).combine_chunks()


def _sample(block: Block, order: Order) -> pa.Table:
    """Some rows of a block, evenly; runs on a worker."""
    table = order.table(block)
    places = np.linspace(0, max(0, len(table) - 1), min(len(table), _SAMPLED), dtype=np.int64)
    # A copy: what is sent should not carry the whole block.
    return table.take(places).combine_chunks()


def _cut(
    sortable: Exchange, sender: int, block: Block, order: Order, splitters: pa.Table | None
) -> None:
    """Send the rows of a block to the ranges they belong to; runs on a worker."""
    table = order.table(block)
    ranges = np.zeros(len(table), dtype=np.int64)
    if splitters is not None:
        merged = keep_sorted(pa.concat_tables([table, splitters]))
        is_row = merged < len(table)
        ranges[merged[is_row]] = np.cumsum(~is_row)[is_row]
    sortable.write(sender, table, ranges)


def _rank(ranked: Exchange, sender: int, sortable: Exchange, starts: np.ndarray) -> None:
    """Sort a range, and tell blocks the ranks of their rows; runs on a worker."""
    table = sortable.read(sender)
    rows = table["row"].to_numpy()[keep_sorted(table)]
    ranks = sender * _RANGE + np.arange(len(rows))
    ranked.write(sender, pa.table({"row": rows, "rank": ranks}), owners(starts, rows))


def _collect(ranks: RowArrays, number: int, ranked: Exchange, block: Block) -> None:
    """Write the ranks of a block's rows; runs on a worker."""
    table = ranked.read(number)
    values = np.empty(len(block), dtype=np.int64)
    values[table["row"].to_numpy() - block.start] = table["rank"].to_numpy()
    ranks.write(number, values)
