"""`Hit`, one answer of a search, and `Searchable`, what can be searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Hit:
    """One image (or caption) that a search found.

    Attributes
    ----------
    key : str
    shard : str or None
        The tar that holds it, relative to the dataset's root; None for one of a live store.
    score : float
        Cosine similarity to the query, -1 to 1; after fusion with caption search the fused score.
    caption : str or None
    metadata : dict of str to object
        The row's other plain columns.
    vector : numpy.ndarray of float32, shape (d,), optional
        Of length 1; only when asked for.
    similar : int
        How many near-duplicates of it `Searcher.search` hid with ``collapse=``.
    """

    key: str
    shard: str | None
    score: float
    caption: str | None
    metadata: dict[str, Any]
    vector: np.ndarray | None = field(default=None, compare=False, repr=False)
    similar: int = 0

    @property
    def sample(self) -> tuple[str | None, str]:
        """What tells it from all others: shard and key."""
        return self.shard, self.key

    def to_dict(self) -> dict[str, Any]:
        """Everything but the vector, as plain values."""
        return {
            "key": self.key,
            "shard": self.shard,
            "score": self.score,
            "caption": self.caption,
            "metadata": self.metadata,
            "similar": self.similar,
        }


class Searchable(Protocol):
    """One set of unit vectors with their rows: `VectorIndex`, `ChromaStore.images`, ``.texts``."""

    @property
    def encoder(self) -> str | None:
        """Which encoder the vectors are of; None when that is not known."""
        ...

    def __len__(self) -> int: ...

    def nearest(
        self,
        vectors: np.ndarray,
        k: int,
        where: str | None = None,
        with_vectors: bool = False,
    ) -> list[list[Hit]]:
        """The rows of highest cosine similarity to each vector.

        Parameters
        ----------
        vectors : numpy.ndarray of float32, shape (q, d)
            Of length 1.
        k : int
            At most so many hits for each vector; fewer when there are fewer.
        where : str, optional
            Only rows for which this expression is true.
        with_vectors : bool
            Fill in ``Hit.vector``.

        Returns
        -------
        list of list of Hit, length q
            The best first; equal ones in an order of the set's own, whatever `k` is.

        Raises
        ------
        ConfigError
            When `k` is below 1, the vectors are of another width, or `where` cannot be used.
        """
        ...

    def lookup(
        self, samples: Sequence[tuple[str | None, str]], where: str | None = None
    ) -> list[Hit | None]:
        """The rows of some samples, with their vectors; for "more like this" and rank fusion.

        Parameters
        ----------
        samples : sequence of (shard, key)
            A shard of None leaves it open: any shard's row of that key.
        where : str, optional
            Rows for which this expression is not true count as not there.

        Returns
        -------
        list of Hit or None, one for each sample
            With ``vector`` filled in and a score of 1; None for a sample that is not there.

        Raises
        ------
        DatasetError
            When the shard is left open and several shards have the key.
        """
        ...
