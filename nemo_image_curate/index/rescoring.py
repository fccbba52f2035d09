"""Look for the nearest vectors: scores, and an order that depends on nothing else looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nemo_image_curate.index.kinds.engines import Engine

# Looking further ends here, as far as there are enough hits.
MOST_CANDIDATES = 4096
# Rows that are compared at once.
_ROWS = 8192
# A matrix product's cosines differ by less from those of `score`.
_MARGIN = 4e-6


def score(engine: Engine, asked: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The cosine of a query with each of some rows, shape (m,), float32.

    Each sum is made by itself, so that its last bits are the same in any company.
    """
    found: np.ndarray = np.einsum("ij,j->i", engine.stored(rows), asked)
    return found


def ordered(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k highest scores and their rows, of equal ones the lower row first."""
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def scan(
    engine: Engine, queries: np.ndarray, k: int, count: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Compare queries with all rows, or all that are allowed; arrays of shape (q, k).

    `k` is at most the number of those rows.
    """
    asked = np.stack([engine.asked(query) for query in queries])
    total = count if allowed is None else len(allowed)
    near = [np.empty(0, dtype=np.int64) for _ in queries]
    about = [np.empty(0, dtype=np.float32) for _ in queries]
    for start in range(0, total, _ROWS):
        stop = min(start + _ROWS, total)
        if allowed is None:
            rows, vectors = np.arange(start, stop), engine.stored(slice(start, stop))
        else:
            rows = allowed[start:stop]
            vectors = engine.stored(rows)
        products = asked @ vectors.T
        for number, values in enumerate(products):
            values = np.concatenate([about[number], values])
            chosen = np.arange(len(values))
            if len(values) > k:
                least = np.partition(values, -k)[-k]
                # All that may be as good, in the order of the rows.
                chosen = np.flatnonzero(values >= least - _MARGIN)
            about[number] = values[chosen]
            near[number] = np.concatenate([near[number], rows])[chosen]
    found = [
        ordered(score(engine, query, rows), rows, k)
        for query, rows in zip(asked, near, strict=True)
    ]
    return np.stack([scores for scores, _ in found]), np.stack([rows for _, rows in found])


def approximate(
    engine: Engine,
    queries: np.ndarray,
    k: int,
    pool: int,
    probe: int,
    candidates: int,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Search by candidates, so many for each hit, that are scored exactly; shape (q, k) each.

    `pool` is the number of rows to choose from, and `k` at most that.
    """
    asked = np.stack([engine.asked(query) for query in queries])
    first = min(pool, candidates * k)
    found = engine.candidates(asked, first, probe, allowed)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    for number, near in enumerate(found):
        want, reach = first, probe
        while True:
            near = near[near >= 0]
            value = score(engine, asked[number], near)
            best, order = ordered(value, near, k)
            short = len(near) < k and reach < engine.lists
            # The worst candidate is among the best: what lies behind it may be, too.
            cut = len(near) == want and value[-1] >= best[-1]
            # Where all are compared, the answer is exact however many are alike.
            cut = cut and (want < MOST_CANDIDATES or not engine.lists)
            if short:
                reach = min(4 * reach, engine.lists)
            elif cut and want < pool:
                want = min(4 * want, pool)
            else:
                break
            near = engine.candidates(asked[number : number + 1], want, reach, allowed)[0]
        scores[number, : len(best)], rows[number, : len(best)] = best, order
    return scores, rows
