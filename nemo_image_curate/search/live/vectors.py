"""`ChromaVectors`: one collection of a live store, as something to search."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.index.hits import Hit
from nemo_image_curate.search.live.conditions import chroma_condition
from nemo_image_curate.search.live.database import Database
from nemo_image_curate.search.live.rows import hit_of, is_text


class ChromaVectors:
    """One collection of a `ChromaStore` as something to search.

    Parameters
    ----------
    database : Database
    name : str
        Of the collection.
    """

    def __init__(self, database: Database, name: str):
        self.database = database
        self.name = name

    @property
    def encoder(self) -> str:
        """Which encoder the vectors are of."""
        encoder: str = self._collection().metadata["encoder"]
        return encoder

    def __len__(self) -> int:
        return int(self._collection().count())

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
        include = ["metadatas", "distances", *(["embeddings"] if with_vectors else [])]
        return [self._nearest(vector, k, condition, include) for vector in vectors]

    def lookup(
        self, samples: Sequence[tuple[str | None, str]], where: str | None = None
    ) -> list[Hit | None]:
        """The rows of some samples; see `Searchable.lookup`. No sample here has a shard."""
        keys = list(dict.fromkeys(key for shard, key in samples if shard is None and is_text(key)))
        if not keys:
            return [None] * len(samples)
        answer = self._ask(
            "get",
            ids=keys,
            where=None if where is None else chroma_condition(where),
            include=["metadatas", "embeddings"],
        )
        rows = zip(answer["ids"], answer["metadatas"], answer["embeddings"], strict=True)
        hits = {key: hit_of(key, row, 1.0, vector) for key, row, vector in rows}
        return [hits.get(key) if shard is None else None for shard, key in samples]

    def _collection(self) -> Any:
        return self.database.collection(self.name)

    def _nearest(
        self, vector: np.ndarray, k: int, condition: dict[str, Any] | None, include: list[str]
    ) -> list[Hit]:
        count = len(self)
        k = min(k, count)
        # Which of several rows of one similarity come is Chroma's choice: fetch until all are
        # there.
        depth = k + 1
        while count:
            answer = self._ask(
                "query",
                query_embeddings=vector[None],
                n_results=depth,
                where=condition,
                include=include,
            )
            keys, rows, distances = (answer[name][0] for name in ("ids", "metadatas", "distances"))
            if len(keys) < depth or distances[k - 1] != distances[-1]:
                vectors = answer["embeddings"][0] if "embeddings" in include else [None] * len(keys)
                columns = zip(keys, rows, distances, vectors, strict=True)
                hits = [
                    hit_of(key, row, 1 - distance, unit) for key, row, distance, unit in columns
                ]
                return sorted(hits, key=lambda hit: (-hit.score, hit.key))[:k]
            depth *= 4
        return []

    def _ask(self, method: str, **question: Any) -> Any:
        from chromadb.errors import ChromaError

        ask = functools.partial(getattr(self._collection(), method), **question)
        with contextlib.suppress(ChromaError, ValueError):
            answer = ask()
            if not any(row is None or None in row for row in answer["metadatas"]):
                return answer
        # A row that another thread removes meanwhile makes Chroma fail, or give null for what it
        # knew of it: again, while none can.
        with self.database.lock:
            try:
                return ask()
            except (ChromaError, ValueError) as error:
                raise ConfigError(f"the live store cannot answer this query: {error}") from error
