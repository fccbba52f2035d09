"""Near-duplicates inside a cluster, block by block: candidates in bfloat16, decided in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nemo_image_curate.vectors.nearest import COARSE_MARGIN, GRAIN, coarse

if TYPE_CHECKING:
    import torch

# Vectors compared with as many others at once, by device. On a CPU the products should stay in its
# cache; a GPU gets most clusters whole, in one copy.
BLOCK = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class NeighbourPairs:
    """Pairs inside one list of vectors, by position in it.

    Attributes
    ----------
    later, earlier : numpy.ndarray of int64, shape (p,)
    similarity : numpy.ndarray of float32, shape (p,)
    truncated : numpy.ndarray of int64
        Positions that may have more earlier neighbours than were listed, all of them after the
        last one listed.
    """

    later: np.ndarray
    earlier: np.ndarray
    similarity: np.ndarray
    truncated: np.ndarray


# The vectors from one position to another, shape (b, d), float32.
Take = Callable[[int, int], "torch.Tensor"]


def earliest(
    take: Take, query: np.ndarray, target: np.ndarray, eps: float, limit: int, block: int
) -> NeighbourPairs:
    """For each query the first `limit` targets before it that are within eps.

    Once a query has found so many it is compared no more, so that thousands of copies of one
    picture do not cost the square of their number.

    Parameters
    ----------
    take : callable
    query, target : numpy.ndarray of bool, shape (n,)
        Which of the vectors, in keep order, are looked up, and which may be found.
    eps : float
    limit : int
    block : int
        Vectors compared with as many others at once.
    """
    n = len(query)
    listed: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    truncated: list[np.ndarray] = []
    for start in range(0, n, block):
        end = min(start + block, n)
        rows = np.flatnonzero(query[start:end])
        if not len(rows):
            continue
        queries = _QueryBlock(take(start, end), rows)
        counts = np.zeros(end - start, dtype=np.int64)
        for first in range(0, end, block):
            last = min(first + block, n)
            if not target[first:last].any():
                continue
            hits = queries.compare(
                take(first, last) if first < start else queries.block, eps, first == start
            )
            if hits is None:
                continue
            rows, columns, hit_mask, similarity = hits
            hit_mask &= target[first + columns]
            numbers = hit_mask.cumsum(axis=1) + counts[rows, None]
            row, column = (hit_mask & (numbers <= limit)).nonzero()
            listed.append((start + rows[row], first + columns[column], similarity[row, column]))
            counts[rows] = numbers[:, -1]
            # A full list may lack later ones, also of the blocks that come.
            full = rows[counts[rows] > limit if first == start else counts[rows] >= limit]
            truncated.append(start + full)
            queries = queries.without(full)
            if not len(queries.rows):
                break
    listed = listed or [_nothing()]
    later, earlier, similarity = (np.concatenate(parts) for parts in zip(*listed, strict=True))
    gone = np.concatenate(truncated) if truncated else np.empty(0, dtype=np.int64)
    return NeighbourPairs(later, earlier, similarity, gone)


def forest(take: Take, n: int, eps: float, block: int) -> NeighbourPairs:
    """Pairs within eps that connect all that is connected: at most n - 1 of them.

    Blocks whose vectors are all known to be connected are not compared.

    Parameters
    ----------
    take : callable
    n : int
        Number of vectors.
    eps : float
    block : int
        Vectors compared with as many others at once.
    """
    from nemo_image_curate.dedup.rules import component_firsts

    first_of = np.arange(n)
    later, earlier = _nothing()[:2]
    for start in range(0, n, block):
        end = min(start + block, n)
        queries = _QueryBlock(take(start, end), np.arange(end - start))
        for first in range(0, end, block):
            last = min(first + block, n)
            labels = np.union1d(first_of[start:end], first_of[first:last])
            if len(labels) == 1:
                continue
            hits = queries.compare(
                take(first, last) if first < start else queries.block, eps, first == start
            )
            if hits is None:
                continue
            rows, columns, hit_mask, _ = hits
            row, column = hit_mask.nonzero()
            later = np.concatenate([later, start + rows[row]])
            earlier = np.concatenate([earlier, first + columns[column]])
            # Keep a star for each component: as few pairs as tell the same.
            first_of = component_firsts(later, earlier, n)
            later = np.flatnonzero(first_of != np.arange(n))
            earlier = first_of[later]
    nothing = np.empty(0, dtype=np.int64)
    return NeighbourPairs(later, earlier, np.full(len(later), np.nan, dtype=np.float32), nothing)


def _nothing() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    empty = np.empty(0, dtype=np.int64)
    return empty, empty, np.empty(0, dtype=np.float32)


class _QueryBlock:
    """Some rows of a block of vectors, to be compared with other blocks.

    Parameters
    ----------
    block : torch.Tensor, shape (b, d), float32
    rows : numpy.ndarray of int64
        Which rows are still of interest.
    """

    def __init__(self, block: torch.Tensor, rows: np.ndarray):
        self.block = block
        self.rows = rows
        self._fine = block[rows] if len(rows) < len(block) else block
        self._coarse = coarse(self._fine)

    def without(self, gone: np.ndarray) -> _QueryBlock:
        """The same without some of the block's rows."""
        return _QueryBlock(self.block, np.setdiff1d(self.rows, gone)) if len(gone) else self

    def compare(
        self, others: torch.Tensor, eps: float, diagonal: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
        """Which of the other vectors are within eps of which rows; only earlier ones.

        Returns
        -------
        rows : numpy.ndarray of int64, shape (r,)
            Of the block.
        columns : numpy.ndarray of int64, shape (c,)
            Of the others.
        hit_mask : numpy.ndarray of bool, shape (r, c)
        similarity : numpy.ndarray of float32, shape (r, c)
            Of these rows and columns. None instead of all four when nothing is near.
        """
        candidates, columns = self._candidates(others, 1 - eps, diagonal)
        if not len(candidates):
            return None
        exact = self._fine[candidates] @ others[columns].T
        exact = ((exact / GRAIN).round() * GRAIN).clamp_max(1.0)
        hit_mask = (exact >= 1 - eps - GRAIN).cpu().numpy()
        rows, places = self.rows[candidates.cpu().numpy()], columns.cpu().numpy()
        if diagonal:
            hit_mask &= places < rows[:, None]
        return (rows, places, hit_mask, exact.cpu().numpy()) if hit_mask.any() else None

    def _candidates(
        self, others: torch.Tensor, threshold: float, diagonal: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns that may hold a similarity of at least `threshold`."""
        import torch

        lowest = threshold - COARSE_MARGIN - GRAIN
        if lowest <= 0:
            return torch.arange(len(self._fine)), torch.arange(len(others))
        products = self._coarse @ coarse(others).T
        if diagonal:
            # A vector is no duplicate of itself, and each pair is looked at once.
            products[torch.arange(len(self.rows)), self.rows] = 0
        if products.dtype == torch.bfloat16:
            # As integers, positive floats have the same order, and the maxima of integers are
            # found many times as fast on a CPU (measured).
            bound = torch.tensor(lowest).bfloat16().view(torch.int16).item() - 1
            products = products.view(torch.int16)
        else:
            bound = lowest
        rows = (products.amax(1) >= bound).nonzero().squeeze(1)
        columns = (products.amax(0) >= bound).nonzero().squeeze(1)
        return rows, columns
