"""What is made of ranked lists: one of two, and one without near-duplicates."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from nemo_image_curate.index.hits import Hit

Item = TypeVar("Item", bound=Hashable)
# Cormack, Clarke, Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank
# learning methods", SIGIR 2009: the constant they fixed in a pilot study and used throughout.
RRF_K = 60
# Rounding of float32 sums: copies of one vector have cosines a little off 1.
_ROUNDING = 1e-6


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Item]]) -> dict[Item, float]:
    """The sum of 1 / (60 + rank) over the rankings that have an item; ranks begin at 1.

    Parameters
    ----------
    rankings : sequence of sequences
        The best first; no item twice in one.

    Returns
    -------
    dict of item to float
    """
    scores: dict[Item, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] = scores.get(item, 0.0) + 1 / (RRF_K + rank)
    return scores


def collapse(hits: Sequence[Hit], threshold: float, k: int) -> list[Hit]:
    """Hide hits that are near-duplicates of a better one that is shown.

    Parameters
    ----------
    hits : sequence of Hit
        The best first, each with its vector.
    threshold : float
        Cosine similarity from which two are near-duplicates.
    k : int
        Show at most so many.

    Returns
    -------
    list of Hit
        Each with the number of those it stands for in ``similar``: what it is most similar to
        stands for a hidden hit.
    """
    shown_hits: list[Hit] = []
    counts: list[int] = []
    vectors: np.ndarray | None = None
    for hit in hits:
        assert hit.vector is not None, "collapse needs vectors"
        if vectors is None:
            vectors = np.empty((min(k, len(hits)), len(hit.vector)), dtype=np.float32)
        if shown_hits:
            cosines = vectors[: len(shown_hits)] @ hit.vector
            nearest = int(cosines.argmax())
            if cosines[nearest] >= threshold - _ROUNDING:
                counts[nearest] += 1
                continue
        if len(shown_hits) < k:
            vectors[len(shown_hits)] = hit.vector
            shown_hits.append(hit)
            counts.append(0)
    return [replace(hit, similar=count) for hit, count in zip(shown_hits, counts, strict=True)]
