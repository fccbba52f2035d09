"""The greedy rule where only the first neighbours of a row are looked up: in rounds.

A round decides what the listed pairs tell, and looks those rows up again that had more neighbours
than were listed, and none of the listed is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate.compute import jobs
from nemo_image_curate.dedup.components import by_component
from nemo_image_curate.dedup.equals import send_partners
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.pairs import ranked_pairs
from nemo_image_curate.dedup.rules import GreedyState, first_of_each
from nemo_image_curate.dedup.staged import Block, RowArrays, StagedRows, owners

# What is known of a row: see `PairSearch`.
_REMOVED, _KEPT, _OPEN = 0, 1, 2
# The pairs of open rows: at most so many of each, and of which the lists are cut off.
Search = Callable[[int, "RowArrays | None"], tuple[Exchange, Exchange]]


def settle_rounds(
    search: Search, limit: int, staged: StagedRows, progress: bool | None
) -> Exchange:
    """Apply the greedy rule.

    Memory: a worker holds the largest connected component, or a bucket of small ones.

    Parameters
    ----------
    search : callable
        `PairSearch`.
    limit : int
        Neighbours to list.
    staged : StagedRows
    progress : bool or None

    Returns
    -------
    Exchange
        To the blocks of the rows that stand for others: ``row``, ``partner``, ``similarity``.
    """
    count = len(staged.blocks)
    rounds: list[Exchange] = []
    roles: RowArrays | None = None
    is_open = True
    while is_open:
        pairs, ends = search(limit, roles)
        folder, number = pairs.folder, len(rounds)
        listed = Exchange(folder, f"listed-{number}", count, count)
        listed.fill(_trim, [(pairs, ends)] * count, "decide", progress)
        rounds.append(listed)
        grouped = by_component(listed, progress) if count > 1 else listed
        settled = Exchange(folder, f"told-{number}", count, count)
        settled.fill(_settle, [(grouped, roles, staged.starts)] * count, "decide", progress)
        roles, before = RowArrays(folder, f"roles-{number}", staged.starts), roles
        call = dask.delayed(_note, pure=False)
        tasks = [call(roles, settled, block, before) for block in staged.blocks]
        labels = [f"block {block.number}" for block in staged.blocks]
        is_open = any(jobs.compute_all(tasks, labels, "decide", progress))
    partners = Exchange(folder, "partners", count, count)
    partners.fill(_choose, [(rounds, roles, staged.starts)] * count, "decide", progress)
    return partners


def _trim(listed: Exchange, sender: int, pairs: Exchange, ends: Exchange) -> None:
    """Leave out pairs after the end of a list that was cut off; runs on a worker.

    So what is there of each row is a complete beginning. A column ``cut`` tells whether there may
    be more.
    """
    table, cut = pairs.read(sender), ends.read(sender)
    rows, ranks = cut["row"].to_numpy(), cut["rank"].to_numpy()
    order = np.lexsort((ranks, rows))
    rows, place = np.unique(rows[order], return_index=True)
    horizon = ranks[order][place]
    later = table["later"].to_numpy()
    place = np.searchsorted(rows, later)
    is_cut = np.append(rows, -1)[place] == later
    inside = ~is_cut | (table["earlier_rank"].to_numpy() <= np.append(horizon, 0)[place])
    table = table.append_column("cut", pa.array(is_cut)).filter(pa.array(inside))
    listed.write(sender, table, np.full(len(table), sender))


def _settle(
    settled: Exchange, sender: int, grouped: Exchange, roles: RowArrays | None, starts: np.ndarray
) -> None:
    """Tell blocks which of their rows are kept, removed, or still open; runs on a worker."""
    table = grouped.read(sender)
    rows, pairs = ranked_pairs(table)
    state = GreedyState(len(rows))
    if roles is not None:
        known = roles.take(rows)
        state.kept, state.removed = known == _KEPT, known == _REMOVED
    cut = np.unique(pairs.later[table["cut"].to_numpy(zero_copy_only=False)])
    state.settle(pairs, cut)
    role = np.where(state.open, _OPEN, np.where(state.kept, _KEPT, _REMOVED)).astype(np.int8)
    settled.write(sender, pa.table({"row": rows, "role": role}), owners(starts, rows))


def _note(roles: RowArrays, settled: Exchange, block: Block, before: RowArrays | None) -> bool:
    """Note what became of a block's rows; runs on a worker.

    Returns
    -------
    bool
        Whether any of them is open.
    """
    role = np.full(len(block), _KEPT, np.int8) if before is None else before.read(block.number)
    # Those that have no pair any more are kept.
    role[role == _OPEN] = _KEPT
    table = settled.read(block.number)
    role[table["row"].to_numpy() - block.start] = table["role"].to_numpy()
    roles.write(block.number, role)
    return bool((role == _OPEN).any())


def _choose(
    partners: Exchange,
    sender: int,
    rounds: list[Exchange],
    roles: RowArrays,
    starts: np.ndarray,
) -> None:
    """Find the first kept row that is near, of each row that goes; runs on a worker."""
    table = pa.concat_tables([listed.read(sender) for listed in rounds])
    table = table.filter(pa.array(roles.take(table["earlier"].to_numpy()) == _KEPT))
    rows, pairs = ranked_pairs(table)
    decisions = first_of_each(pairs.sorted(), len(rows))
    gone = np.flatnonzero(decisions.duplicate_of >= 0)
    stand = rows[decisions.duplicate_of[gone]]
    send_partners(partners, sender, rows[gone], stand, decisions.similarity[gone], starts)
