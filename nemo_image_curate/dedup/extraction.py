"""The second step of semantic deduplication: pairs within eps, cluster by cluster."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import dask
import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dedup.layout import Layout
from nemo_image_curate.dedup.members import Members
from nemo_image_curate.dedup.neighbours import BLOCK, NeighbourPairs, earliest, forest
from nemo_image_curate.dedup.rules import Decisions, GreedyState, Pairs, decide

# Earlier neighbours listed for each row under the greedy rule. Rows that have more, all of them
# removed, are looked up again.
_LIMIT = 16
# Vectors that one task takes at once.
_TASK_BYTES = 64 * 2**20
# The least number of tasks, so that there is work for all.
_TASKS = 16


def extract(
    layout: Layout,
    rank: np.ndarray,
    rule: str,
    eps: float,
    folder: Path,
    device: str,
    progress: bool | None,
) -> Decisions:
    """Find near-duplicates and apply a rule to them.

    Parameters
    ----------
    layout : Layout
    rank : numpy.ndarray of int64, shape (n,)
        The place of each row in the keep order.
    rule : {"greedy", "reference", "components"}
    eps : float
    folder : Path
        For what the tasks find, so that a stopped run goes on where it was; emptied at the end.
    device : {"cpu", "cuda"}
    progress : bool or None
    """
    n = len(rank)
    if not layout.dim:
        return decide(rule, _join([]), n)
    folder.mkdir(parents=True, exist_ok=True)
    search = _PairSearch(layout, folder, rank, eps, device, progress)
    if rule == "components":
        pairs, _ = search(None)
        decisions = _with_similarities(layout, rank, decide(rule, pairs, n))
    elif rule == "reference":
        pairs, _ = search(1)
        decisions = decide(rule, pairs, n)
    else:
        decisions = _greedy(search, n)
    shutil.rmtree(folder)
    return decisions


def _greedy(search: _PairSearch, n: int) -> Decisions:
    state = GreedyState(n)
    every: list[Pairs] = []
    while state.open.any():
        pairs, truncated = search(_LIMIT, state if every else None)
        every.append(pairs)
        state.settle(pairs, truncated)
    return state.decisions(_join(every))


class _PairSearch:
    """Runs the search for pairs as Dask tasks, each over some clusters."""

    def __init__(
        self,
        layout: Layout,
        folder: Path,
        rank: np.ndarray,
        eps: float,
        device: str,
        progress: bool | None,
    ):
        self.layout = layout
        self.folder = folder
        self.eps = eps
        self.device = device
        self.progress = progress
        self.ranges = _ranges(layout)
        self.rounds = 0
        self._save("rank.npy", rank)

    def _save(self, name: str, array: np.ndarray) -> Path:
        with storage.atomic_write(str(self.folder / name)) as file:
            np.save(file, array)
        return self.folder / name

    def __call__(
        self, limit: int | None, state: GreedyState | None = None
    ) -> tuple[Pairs, np.ndarray]:
        """Pairs of the rows that are open, and the rows of which there may be more.

        Pairs that follow the end of a truncated list are left out, so that what is there of each
        row is a complete beginning.
        """
        role = None
        if state is not None:
            # 0: of no interest; 1: may be found; 2: is looked up, too.
            roles = state.kept + 2 * state.open.astype(np.int8)
            role = self._save(f"role-{self.rounds}.npy", roles)
        files = [self.folder / f"found-{self.rounds}-{first}.npz" for first, _ in self.ranges]
        todo = [number for number, file in enumerate(files) if not file.exists()]
        work = dask.delayed(_search_clusters, pure=False)
        jobs.compute_all(
            [
                work(
                    self.layout,
                    self.ranges[number],
                    role,
                    self.eps,
                    limit,
                    self.device,
                    files[number],
                )
                for number in todo
            ],
            ["clusters {} to {}".format(*self.ranges[number]) for number in todo],
            "compare",
            self.progress,
        )
        self.rounds += 1
        loaded = [np.load(file) for file in files]
        pairs = _join(
            [Pairs(file["later"], file["earlier"], file["similarity"]) for file in loaded]
        )
        pairs = pairs.sorted()
        rows = np.concatenate([file["rows"] for file in loaded])
        ends = np.concatenate([file["ends"] for file in loaded])
        if not len(rows):
            return pairs, rows
        horizon: np.ndarray = np.full(sum(self.layout.counts), 2**62)
        np.minimum.at(horizon, rows, ends)
        inside = pairs.earlier <= horizon[pairs.later]
        return pairs.where(inside), np.unique(rows)


def _join(parts: Sequence[Pairs]) -> Pairs:
    return Pairs(
        np.concatenate([np.empty(0, np.int64), *(one.later for one in parts)]),
        np.concatenate([np.empty(0, np.int64), *(one.earlier for one in parts)]),
        np.concatenate([np.empty(0, np.float32), *(one.similarity for one in parts)]),
    )


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
    layout: Layout,
    clusters: tuple[int, int],
    role: Path | None,
    eps: float,
    limit: int | None,
    device: str,
    output: Path,
) -> None:
    """Write the pairs of some clusters, by rank, and where lists were cut; runs on a worker."""
    import torch

    members = Members(layout, *clusters, output.parent / "rank.npy", role)
    parts, rows, ends = [], [], []
    for start, end in members.clusters():
        ranks = members.ranks[start:end]
        query, target = members.roles[start:end] == 2, members.roles[start:end] >= 1
        if end - start < 2 or not query.any():
            continue

        def take(a: int, b: int, base: int = start) -> torch.Tensor:
            return torch.from_numpy(members.vectors[base + a : base + b]).to(device)

        neighbours: NeighbourPairs
        if limit is None:
            neighbours = forest(take, end - start, eps, BLOCK[device])
        else:
            neighbours = earliest(take, query, target, eps, limit, BLOCK[device])
        parts.append(
            Pairs(ranks[neighbours.later], ranks[neighbours.earlier], neighbours.similarity)
        )
        if len(neighbours.truncated):
            end_of = np.zeros(end - start, dtype=np.int64)
            np.maximum.at(end_of, neighbours.later, ranks[neighbours.earlier])
            rows.append(ranks[neighbours.truncated])
            ends.append(end_of[neighbours.truncated])
    pairs = _join(parts)
    nothing = np.empty(0, dtype=np.int64)
    with storage.atomic_write(str(output)) as file:
        np.savez(
            file,
            later=pairs.later,
            earlier=pairs.earlier,
            similarity=pairs.similarity,
            rows=np.concatenate([nothing, *rows]),
            ends=np.concatenate([nothing, *ends]),
        )


def _with_similarities(layout: Layout, rank: np.ndarray, decisions: Decisions) -> Decisions:
    """The decisions with the similarities that no comparison gave."""
    row_of = np.empty(len(rank), dtype=np.int64)
    row_of[rank] = np.arange(len(rank))
    wanting = np.flatnonzero((decisions.duplicate_of >= 0) & np.isnan(decisions.similarity))
    similarity = decisions.similarity.copy()
    for start in range(0, len(wanting), 65536):
        ranks = wanting[start : start + 65536]
        ours = layout.lookup(row_of[ranks])
        theirs = layout.lookup(row_of[decisions.duplicate_of[ranks]])
        similarity[ranks] = np.minimum(1, np.einsum("ij,ij->i", ours, theirs))
    return Decisions(decisions.duplicate_of, similarity)
