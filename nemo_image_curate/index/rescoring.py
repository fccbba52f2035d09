"""Look for the nearest vectors: scores, and an order that depends on nothing else looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nemo_image_curate.index.kinds.base import Engine

# Looking further ends here by default, as far as there are enough hits.
MOST_CANDIDATES = 4096
# Rows that are compared at once.
_ROWS = 8192
# A matrix product's cosines differ by less from those of `score`.
_MARGIN = 4e-6


def score(engine: Engine, projected: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The cosine of a projected query with each of some rows, shape (m,), float32.

    Each sum is made by itself, so that its last bits are the same in any company.
    """
    cosines: np.ndarray = np.einsum("ij,j->i", engine.decode(rows), projected)
    return cosines


def best(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k highest scores and their rows, of equal ones the lower row first."""
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def scan(
    engine: Engine, queries: np.ndarray, k: int, count: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Compare queries with all rows, or all that are allowed; arrays of shape (q, k).

    `k` is at most the number of those rows.
    """
    projected = np.stack([engine.project_query(query) for query in queries])
    total = count if allowed is None else len(allowed)
    candidate_rows = [np.empty(0, dtype=np.int64) for _ in queries]
    candidate_scores = [np.empty(0, dtype=np.float32) for _ in queries]
    for start in range(0, total, _ROWS):
        stop = min(start + _ROWS, total)
        if allowed is None:
            rows, vectors = np.arange(start, stop), engine.decode(slice(start, stop))
        else:
            rows = allowed[start:stop]
            vectors = engine.decode(rows)
        for number, products in enumerate(projected @ vectors.T):
            # Vectors that are not finite come last.
            products = np.where(np.isnan(products), -np.inf, products)
            scores = np.concatenate([candidate_scores[number], products])
            positions = np.arange(len(scores))
            if len(scores) > k:
                kth_best = np.partition(scores, -k)[-k]
                # All that may be as good, in the order of the rows.
                positions = np.flatnonzero(scores >= kth_best - _MARGIN)
            candidate_scores[number] = scores[positions]
            candidate_rows[number] = np.concatenate([candidate_rows[number], rows])[positions]
    ranked = [
        best(score(engine, query, rows), rows, k)
        for query, rows in zip(projected, candidate_rows, strict=True)
    ]
    return np.stack([scores for scores, _ in ranked]), np.stack([rows for _, rows in ranked])


def approximate(
    engine: Engine,
    queries: np.ndarray,
    k: int,
    pool: int,
    nprobe: int,
    candidates: int,
    allowed: np.ndarray | None = None,
    most_candidates: int = MOST_CANDIDATES,
) -> tuple[np.ndarray, np.ndarray]:
    """Search by candidates, so many for each hit, that are scored exactly.

    Parameters
    ----------
    engine : Engine
    queries : numpy.ndarray, shape (q, d), float32
    k : int
        At most `pool`.
    pool : int
        The number of rows to choose from.
    nprobe : int
    candidates : int
    allowed : numpy.ndarray of uint8, optional
        A bit for each row, as for `Engine.candidates`.
    most_candidates : int
        Where so many are alike, what lies behind them is not looked at.

    Returns
    -------
    scores : numpy.ndarray of float32, shape (q, k)
    rows : numpy.ndarray of int64, shape (q, k)
        -1 where the lists hold no more.
    """
    projected = np.stack([engine.project_query(query) for query in queries])
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    depth = min(pool, candidates * k)
    first_candidates = engine.candidates(projected, depth, nprobe, allowed)
    for number, (query, candidate_rows) in enumerate(zip(projected, first_candidates, strict=True)):
        query_depth, query_nprobe = depth, nprobe
        while True:
            candidate_rows = candidate_rows[candidate_rows >= 0]
            candidate_scores = score(engine, query, candidate_rows)
            best_scores, best_rows = best(candidate_scores, candidate_rows, k)
            too_few = len(candidate_rows) < k and query_nprobe < engine.lists
            # The worst candidate is among the best: what lies behind it may be, too.
            cut_off = len(candidate_rows) == query_depth and candidate_scores[-1] >= best_scores[-1]
            # Where all are compared, the answer is exact however many are alike.
            cut_off = cut_off and (query_depth < most_candidates or not engine.lists)
            if too_few:
                query_nprobe = min(4 * query_nprobe, engine.lists)
            elif cut_off and query_depth < pool:
                query_depth = min(4 * query_depth, pool)
            else:
                break
            candidate_rows = engine.candidates(query[None], query_depth, query_nprobe, allowed)[0]
        scores[number, : len(best_rows)] = best_scores
        rows[number, : len(best_rows)] = best_rows
    return scores, rows
