"""How many lists to look at: measured on vectors of the index itself, against brute force."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import dask
import numpy as np

from nemo_image_curate.compute import jobs
from nemo_image_curate.index.kinds.base import Engine
from nemo_image_curate.index.rescoring import approximate
from nemo_image_curate.index.rows import RowTable, sample_scores
from nemo_image_curate.index.staging import StagedPartitions
from nemo_image_curate.index.vector_file import VectorFile

logger = logging.getLogger(__name__)

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


class Recall:
    """Measures recall@10 of an index, each query left out of its own neighbours.

    Parameters
    ----------
    engine : Engine
    path : Path
        A file for `VectorFile`.
    dim : int
    rows : RowTable
        Queries are chosen by shard and key, as far as can be from the training sample.
    staged : StagedPartitions
        Of the same dataset: where workers find the queries, and on which device they compare.
    """

    def __init__(
        self,
        engine: Engine,
        path: Path,
        dim: int,
        rows: RowTable,
        staged: StagedPartitions,
    ):
        self._engine = engine
        self._vectors = VectorFile(path, dim)
        self._query_rows = _query_rows(rows)
        self._queries = self._vectors.read(self._query_rows)
        queries_path = staged.folder / "queries.npy"
        np.save(queries_path, self._queries)
        starts = range(0, len(self._vectors), _ROWS)
        compare = dask.delayed(_highest, pure=False)
        cosines = jobs.compute_all(
            [compare(path, dim, start, queries_path, staged.device) for start in starts],
            [f"rows from {start:,}" for start in starts],
            "measure recall",
            staged.progress,
        )
        # The first of them is the query itself, or a copy of it.
        nearest = -np.sort(-np.concatenate(cosines, axis=1), axis=1)
        self._neighbours = min(_NEIGHBOURS, len(self._vectors) - 1)
        self._enough = nearest[:, self._neighbours] - _SAME

    def at(self, nprobe: int, candidates: int) -> float:
        """The share of the neighbours that a search finds."""
        if not self._neighbours:
            return 1.0
        k, count = self._neighbours + 1, len(self._vectors)
        _, answers = approximate(self._engine, self._queries, k, count, nprobe, candidates)
        hits = 0
        for query, rows, query_row, enough in zip(
            self._queries, answers, self._query_rows, self._enough, strict=True
        ):
            others = rows[(rows >= 0) & (rows != query_row)]
            cosines = np.einsum("ij,j->i", self._vectors.read(others), query)
            hits += min(int((cosines >= enough).sum()), self._neighbours)
        return hits / (self._neighbours * len(self._queries))

    def tune(self, target: float) -> dict[str, Any]:
        """What to search with, to reach a recall or to come as near to it as is worth while.

        Returns
        -------
        dict
            ``nprobe``, lists to look at; ``candidates`` for each hit, so many that what codes
            hide is at most half of what may be missed; ``recall``.
        """
        lists = self._engine.lists
        many = min(lists, max(64, lists // 8))
        candidates = _CANDIDATES[0]
        for candidates in _CANDIDATES:
            if self.at(many, candidates) >= (1 + target) / 2:
                break
        # `recall` is that of `high` lists; `low` are too few.
        low, high, recall = 0, 1, self.at(1, candidates)
        while recall < target and high < lists:
            doubled = min(2 * high, lists)
            recall_doubled = self.at(doubled, candidates)
            if recall_doubled < target and recall_doubled - recall < _GAIN and high >= many:
                break
            low, high, recall = high, doubled, recall_doubled
        while recall >= target and high - low > max(1, low // 50):
            middle = (low + high) // 2
            recall_middle = self.at(middle, candidates)
            if recall_middle >= target:
                high, recall = middle, recall_middle
            else:
                low = middle
        if recall < target:
            logger.warning(
                "recall@10 of the index is %.3f, below target_recall=%s; kind='flat' is exact",
                recall,
                target,
            )
        return {"nprobe": high, "candidates": candidates, "recall": round(recall, 4)}


def _query_rows(rows: RowTable) -> np.ndarray:
    """The rows that score highest; the training sample is of those that score lowest."""
    scores, row_numbers, start = np.empty(0), np.empty(0, dtype=np.int64), 0
    for batch in rows.batches():
        scores = np.concatenate([scores, sample_scores(batch, rows.id_col)])
        row_numbers = np.concatenate([row_numbers, np.arange(start, start + len(batch))])
        best = np.argsort(-scores, kind="stable")[:_QUERIES]
        scores, row_numbers = scores[best], row_numbers[best]
        start += len(batch)
    return np.sort(row_numbers)


def _highest(path: Path, dim: int, start: int, queries_path: Path, device: str) -> np.ndarray:
    """The highest cosines of queries with some rows of a file; runs on a worker."""
    import torch

    queries = torch.from_numpy(np.load(queries_path)).to(device)
    highest = torch.full((len(queries), _NEIGHBOURS + 1), -2.0, device=device)
    end = min(start + _ROWS, os.stat(path).st_size // (2 * dim))
    for first in range(start, end, _BLOCK):
        count = min(_BLOCK, end - first) * dim
        block = np.fromfile(path, np.float16, count, offset=2 * dim * first).reshape(-1, dim)
        products = torch.full((len(queries), _BLOCK), -2.0, device=device)
        products[:, : len(block)] = queries @ torch.from_numpy(block).to(device).float().T
        # The best are in the groups with the best: to sort those alone is five times as fast.
        groups = products.view(len(queries), -1, _GROUP)
        best_groups = groups.amax(dim=2).topk(_NEIGHBOURS + 1, dim=1).indices
        in_groups = groups.gather(1, best_groups[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
        highest = torch.cat([highest, in_groups], dim=1).topk(_NEIGHBOURS + 1, dim=1).values
    cosines: np.ndarray = highest.cpu().numpy()
    return cosines
