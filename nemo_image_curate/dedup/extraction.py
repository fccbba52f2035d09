"""The second step of semantic deduplication: pairs within eps, cluster by cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from nemo_image_curate.dedup import greedy
from nemo_image_curate.dedup.equals import send_partners
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.layout import Layout
from nemo_image_curate.dedup.members import Members
from nemo_image_curate.dedup.neighbours import BLOCK, NeighbourPairs, earliest, forest
from nemo_image_curate.dedup.pairs import bucket_of, no_pairs, pair_table, send_pairs
from nemo_image_curate.dedup.ranks import Ranks
from nemo_image_curate.dedup.settle import settle
from nemo_image_curate.dedup.staged import RowArrays, StagedRows

# Earlier neighbours listed for each row under the greedy rule. Rows that have more, all of them
# removed, are looked up again.
_LIMIT = 16
# Vectors that one task takes at once.
_TASK_BYTES = 64 * 2**20
# The least number of tasks, so that there is work for all.
_TASKS = 16
# Vectors looked up at once.
_LOOKED_UP = 65536


def extract(
    layout: Layout,
    staged: StagedRows,
    ranks: Ranks,
    rule: str,
    eps: float,
    folder: Path,
    device: str,
    progress: bool | None,
) -> Exchange:
    """Find near-duplicates and apply a rule to them.

    Parameters
    ----------
    layout : Layout
    staged : StagedRows
    ranks : Ranks
    rule : {"greedy", "reference", "components"}
    eps : float
    folder : Path
        For what tasks find, so that a stopped run goes on where it was.
    device : {"cpu", "cuda"}
    progress : bool or None

    Returns
    -------
    Exchange
        As `deciding.write` takes it.
    """
    blocks = len(staged.blocks)
    if not layout.dim:
        partners = Exchange(folder, "partners", 1, blocks)
        nothing = np.empty(0, dtype=np.int64)
        send_partners(partners, 0, nothing, nothing, nothing.astype(np.float32), staged.starts)
        return partners
    search = PairSearch(layout, folder, ranks, staged, eps, device, progress)
    if rule == "greedy":
        return greedy.settle_rounds(search, _LIMIT, staged, progress)
    pairs, _ = search(1 if rule == "reference" else None)
    decided = settle(rule, pairs, staged, progress)
    partners = Exchange(folder, "partners", blocks, blocks)
    arguments = [(decided, layout, staged.starts)] * blocks
    partners.fill(_with_similarities, arguments, "decide", progress)
    return partners


class PairSearch:
    """Runs the search for pairs as Dask tasks, each over some clusters."""

    def __init__(
        self,
        layout: Layout,
        folder: Path,
        ranks: Ranks,
        staged: StagedRows,
        eps: float,
        device: str,
        progress: bool | None,
    ):
        self.layout = layout
        self.folder = folder
        self.ranks = ranks
        self.buckets = len(staged.blocks)
        self.eps = eps
        self.device = device
        self.progress = progress
        self.ranges = _ranges(layout)
        self.rounds = 0

    def __call__(
        self, limit: int | None, roles: RowArrays | None = None
    ) -> tuple[Exchange, Exchange]:
        """Find pairs of the rows that are open.

        Parameters
        ----------
        limit : int or None
            Earlier neighbours listed for each row of a cluster. None: as few pairs as tell what
            is connected.
        roles : RowArrays, optional
            0: of no interest; 1: may be found; 2: is looked up, too, which is the default.

        Returns
        -------
        pairs : Exchange
            To buckets of later rows.
        ends : Exchange
            To the same buckets: ``row`` and ``rank``. Of rows whose list was cut off after its
            neighbour of that rank, so that there may be more.
        """
        pairs, ends = (
            Exchange(self.folder, f"{name}-{self.rounds}", len(self.ranges), self.buckets)
            for name in ("pairs", "ends")
        )
        options = (self.layout, self.ranks, roles, self.eps, limit, self.device, ends)
        pairs.fill(
            _search_clusters,
            [(*clusters, *options) for clusters in self.ranges],
            "compare",
            self.progress,
        )
        self.rounds += 1
        return pairs, ends


def _ranges(layout: Layout) -> list[tuple[int, int]]:
    """Consecutive clusters for one task each: by memory, and by the number of comparisons."""
    sizes = np.zeros(layout.n_clusters, dtype=np.int64)
    for part in range(len(layout.counts)):
        sizes += np.diff(np.load(layout.file(part, "offsets.npy")))
    load = sizes * layout.dim * 4 / _TASK_BYTES
    work = sizes.astype(float) ** 2
    share = np.maximum(load, work * _TASKS / max(1.0, work.sum()))
    ranges, start, total = [], 0, 0.0
    for number in range(layout.n_clusters):
        if number > start and total + share[number] > 1:
            ranges.append((start, number))
            start, total = number, 0.0
        total += share[number]
    return [*ranges, (start, layout.n_clusters)]


def _search_clusters(
    pairs: Exchange,
    sender: int,
    first: int,
    last: int,
    layout: Layout,
    ranks: Ranks,
    roles: RowArrays | None,
    eps: float,
    limit: int | None,
    device: str,
    ends: Exchange,
) -> None:
    """Write the pairs of some clusters, and where lists were cut; runs on a worker."""
    import torch

    members = Members(layout, first, last, ranks, roles)
    nothing = np.empty(0, dtype=np.int64)
    tables, cut_rows, cut_ranks = [no_pairs()], [nothing], [nothing]
    for start, end in members.clusters():
        own_rows, own_ranks = members.rows[start:end], members.ranks[start:end]
        query, target = members.roles[start:end] == 2, members.roles[start:end] >= 1
        if end - start < 2 or not query.any():
            continue

        def take(a: int, b: int, base: int = start) -> torch.Tensor:
            return torch.from_numpy(members.vectors[base + a : base + b]).to(device)

        near: NeighbourPairs
        if limit is None:
            near = forest(take, end - start, eps, BLOCK[device])
        else:
            near = earliest(take, query, target, eps, limit, BLOCK[device])
        later, earlier = near.later, near.earlier
        tables.append(
            pair_table(
                own_rows[later],
                own_ranks[later],
                own_rows[earlier],
                own_ranks[earlier],
                near.similarity,
            )
        )
        if len(near.truncated):
            end_of = np.zeros(end - start, dtype=np.int64)
            np.maximum.at(end_of, later, own_ranks[earlier])
            cut_rows.append(own_rows[near.truncated])
            cut_ranks.append(end_of[near.truncated])
    rows = np.concatenate(cut_rows)
    table = pa.table({"row": rows, "rank": np.concatenate(cut_ranks)})
    ends.write(sender, table, bucket_of(rows, ends.receivers))
    send_pairs(pairs, sender, pa.concat_tables(tables))


def _with_similarities(
    partners: Exchange, sender: int, decided: Exchange, layout: Layout, starts: np.ndarray
) -> None:
    """Add the similarities that no comparison gave; runs on a worker."""
    table = decided.read(sender)
    rows, partner_rows = table["row"].to_numpy(), table["partner"].to_numpy()
    similarity = table["similarity"].to_numpy().copy()
    wanting = np.flatnonzero(np.isnan(similarity))
    for start in range(0, len(wanting), _LOOKED_UP):
        places = wanting[start : start + _LOOKED_UP]
        ours, theirs = (layout.lookup(of[places]) for of in (rows, partner_rows))
        similarity[places] = np.minimum(1, np.einsum("ij,ij->i", ours, theirs))
    send_partners(partners, sender, rows, partner_rows, similarity, starts)
