"""`ChromaVectors`: one collection of a live store, as something to search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.index.hits import Hit
from nemo_image_curate.search.live.conditions import chroma_condition
from nemo_image_curate.search.live.rows import hit_of, is_text


class ChromaVectors:
    """One collection of a `ChromaStore` as something to search.

    Parameters
    ----------
    open_collection : callable
        Gives Chroma's collection.
    """

    def __init__(self, open_collection: Callable[[], Any]):
        self.open_collection = open_collection

    @property
    def encoder(self) -> str:
        """Which encoder the vectors are of."""
        encoder: str = self.open_collection().metadata["encoder"]
        return encoder

    def __len__(self) -> int:
        return int(self.open_collection().count())

    def nearest(
        self, vectors: np.ndarray, k: int, where: str | None = None, with_vectors: bool = False
    ) -> list[list[Hit]]:
        """The rows of highest cosine similarity to each vector; see `Searchable.nearest`.

        `where` is translated for Chroma, which knows comparisons, ``in``, ``isin``, ``between``,
        ``and`` and ``or``; a column that a row lacks is null.
        """
        if k < 1:
            raise ConfigError(f"k={k} should be at least 1.")
        condition = None if where is None else chroma_condition(where)
        collection = self.open_collection()
        include = ["metadatas", "distances", *(["embeddings"] if with_vectors else [])]
        return [_nearest(collection, vector, k, condition, include) for vector in vectors]

    def lookup(
        self, samples: Sequence[tuple[str | None, str]], where: str | None = None
    ) -> list[Hit | None]:
        """The rows of some samples; see `Searchable.lookup`. No sample here has a shard."""
        keys = list(dict.fromkeys(key for shard, key in samples if shard is None and is_text(key)))
        if not keys:
            return [None] * len(samples)
        answer = _ask(
            self.open_collection().get,
            ids=keys,
            where=None if where is None else chroma_condition(where),
            include=["metadatas", "embeddings"],
        )
        rows = zip(answer["ids"], answer["metadatas"], answer["embeddings"], strict=True)
        hits = {key: hit_of(key, row, 1.0, vector) for key, row, vector in rows}
        return [hits.get(key) if shard is None else None for shard, key in samples]


def _nearest(
    collection: Any,
    vector: np.ndarray,
    k: int,
    condition: dict[str, Any] | None,
    include: list[str],
) -> list[Hit]:
    count = collection.count()
    k = min(k, count)
    # Which of several rows of one similarity come is Chroma's choice: fetch until all are there.
    depth = k + 1
    while count:
        answer = _ask(
            collection.query,
            query_embeddings=vector[None],
            n_results=depth,
            where=condition,
            include=include,
        )
        keys, rows, distances = (answer[name][0] for name in ("ids", "metadatas", "distances"))
        if len(keys) < depth or distances[k - 1] != distances[-1]:
            vectors = answer["embeddings"][0] if "embeddings" in include else [None] * len(keys)
            columns = zip(keys, rows, distances, vectors, strict=True)
            hits = [hit_of(key, row, 1 - distance, unit) for key, row, distance, unit in columns]
            return sorted(hits, key=lambda hit: (-hit.score, hit.key))[:k]
        depth *= 4
    return []


def _ask(method: Callable[..., Any], **question: Any) -> Any:
    from chromadb.errors import ChromaError

    try:
        return method(**question)
    except (ChromaError, ValueError) as error:
        raise ConfigError(f"the live store cannot answer this query: {error}") from error
