"""How many lists to look at: measured on vectors of the index itself, against brute force."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np

from nemo_image_curate.compute import jobs
from nemo_image_curate.index.kinds.engines import VectorFile
from nemo_image_curate.index.rows import RowTable, sample_scores

# Queries, and neighbours of each that should be found: the standard deviation of the recall is
# about 0.003.
_QUERIES, _NEIGHBOURS = 1000, 10
# Rows that are compared with all queries by one task, at once, and as one candidate.
_ROWS, _BLOCK, _GROUP = 65_536, 8192, 16
# Cosines from the file differ by less in the order of their sums.
_SAME = 1e-5
# What more lists must bring at least, where the target is out of reach.
_GAIN = 0.002

# How many candidates for each hit are tried.
_CANDIDATES = (5, 10, 20, 40)

# Queries (q, d), k, lists to look at, candidates for each hit, to rows (q, k), -1 for none.
Search = Callable[["np.ndarray", int, int, int], "np.ndarray"]


class Recall:
    """Measures recall@10 of an index, each query left out of its own neighbours.

    Parameters
    ----------
    path : str
        The file of vectors.
    dim : int
    rows : RowTable
        Queries are chosen by shard and key, as far as can be from the training sample.
    folder : Path
        Where workers find the queries.
    progress : bool or None
    """

    def __init__(self, path: str, dim: int, rows: RowTable, folder: Path, progress: bool | None):
        self._vectors = VectorFile(path, dim)
        self.queries = _chosen(rows)
        self._asked = self._vectors.read(self.queries)
        place = folder / "queries.npy"
        np.save(place, self._asked)
        starts = range(0, len(self._vectors), _ROWS)
        compare = dask.delayed(_compare, pure=False)
        found = jobs.compute_all(
            [compare(path, dim, start, place) for start in starts],
            [f"rows from {start:,}" for start in starts],
            "measure recall",
            progress,
        )
        # The first of them is the query itself, or a copy of it.
        nearest = -np.sort(-np.concatenate(found, axis=1), axis=1)
        self._neighbours = min(_NEIGHBOURS, len(self._vectors) - 1)
        self._enough = nearest[:, self._neighbours] - _SAME

    def of(self, search: Search, probe: int, candidates: int) -> float:
        """The share of the neighbours that a search finds."""
        if not self._neighbours:
            return 1.0
        found = search(self._asked, self._neighbours + 1, probe, candidates)
        hits = 0
        for query, rows, own, enough in zip(
            self._asked, found, self.queries, self._enough, strict=True
        ):
            others = rows[(rows >= 0) & (rows != own)]
            near = np.einsum("ij,j->i", self._vectors.read(others), query) >= enough
            hits += min(int(near.sum()), self._neighbours)
        return hits / (self._neighbours * len(self.queries))

    def settings(self, search: Search, lists: int, target: float) -> tuple[int, int, float]:
        """What to search with, to reach a recall or to come as near to it as is worth while.

        Returns
        -------
        probe : int
            Lists to look at.
        candidates : int
            For each hit: so many that what codes hide is at most half of what may be missed.
        recall : float
        """
        many = min(lists, max(64, lists // 8))
        candidates = _CANDIDATES[0]
        for candidates in _CANDIDATES:
            if self.of(search, many, candidates) >= (1 + target) / 2:
                break
        low, high, best = 0, 1, self.of(search, 1, candidates)
        while best < target and high < lists:
            following = min(2 * high, lists)
            recall = self.of(search, following, candidates)
            if recall < target and recall - best < _GAIN and high >= many:
                break
            low, high, best = high, following, recall
        while best >= target and high - low > max(1, low // 50):
            middle = (low + high) // 2
            recall = self.of(search, middle, candidates)
            if recall >= target:
                high, best = middle, recall
            else:
                low = middle
        return high, candidates, best


def _chosen(rows: RowTable) -> np.ndarray:
    """The rows that score highest; the training sample is of those that score lowest."""
    scores = [sample_scores(batch, rows.id_col) for batch in rows.batches()]
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return np.sort(order[:_QUERIES])


def _compare(path: str, dim: int, start: int, queries: Path) -> np.ndarray:
    """The highest similarities of queries with some rows of a file."""
    import torch

    asked = torch.from_numpy(np.load(queries))
    found = torch.full((len(asked), _NEIGHBOURS + 1), -2.0)
    end = min(start + _ROWS, os.stat(path).st_size // (2 * dim))
    for first in range(start, end, _BLOCK):
        count = min(_BLOCK, end - first) * dim
        some = np.fromfile(path, np.float16, count, offset=2 * dim * first).reshape(-1, dim)
        products = torch.full((len(asked), _BLOCK), -2.0)
        products[:, : len(some)] = asked @ torch.from_numpy(some).float().T
        # The best are in the groups with the best: to sort those alone is five times as fast.
        groups = products.view(len(asked), -1, _GROUP)
        best = groups.amax(dim=2).topk(_NEIGHBOURS + 1, dim=1).indices
        near = groups.gather(1, best[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
        found = torch.cat([found, near], dim=1).topk(_NEIGHBOURS + 1, dim=1).values
    result: np.ndarray = found.numpy()
    return result
