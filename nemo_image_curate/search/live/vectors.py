"""`LiveVectors`: one collection of a live store, as something to search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.index.hits import Hit
from nemo_image_curate.search.live.database import Collection, Database, Match, best_first
from nemo_image_curate.search.live.rows import is_text, row_id

# Cosines of equal vectors may differ by so much, as they lie in memory (float32).
_NOISE = 1e-6
# So many times as many are fetched again where more are equally near.
_MORE = 4


class LiveVectors:
    """One collection of a live store as something to search.

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
        # Opening it has compared the two.
        self._collection()
        return self.database.encoder()

    def __len__(self) -> int:
        return len(self._collection())

    def nearest(
        self, vectors: np.ndarray, k: int, where: str | None = None, with_vectors: bool = False
    ) -> list[list[Hit]]:
        """The rows of highest cosine similarity to each vector; see `Searchable.nearest`.

        `where` is translated for the database, which knows comparisons, ``in``, ``isin``,
        ``between``, ``and`` and ``or``; a column that a row lacks is null.
        """
        if k < 1:
            raise ConfigError(f"k={k} should be at least 1.")
        collection = self._collection()
        condition = None if where is None else collection.condition(where)
        hits: list[list[Hit]] = [[] for _ in vectors]
        count = len(collection)
        k = min(k, count)
        # Which of several rows of one similarity come is the database's choice: fetch until all
        # are there.
        depth, pending = k + 1, list(range(len(vectors))) if count else []
        while pending:
            again = []
            answers = collection.nearest(vectors[pending], depth, condition, with_vectors)
            for number, nearest in zip(pending, answers, strict=True):
                if len(nearest) < depth or nearest[k - 1].score - nearest[-1].score > _NOISE:
                    best = sorted(nearest, key=best_first)[:k]
                    hits[number] = [row.hit(score, vector) for row, score, vector in best]
                else:
                    again.append(number)
            depth, pending = depth * _MORE, again
        return hits

    def lookup(
        self, samples: Sequence[tuple[str | None, str]], where: str | None = None
    ) -> list[Hit | None]:
        """The rows of some samples; see `Searchable.lookup`.

        A sample whose shard is open is the one that was added by itself, if there is one.
        """
        usable = {
            sample: row_id(*sample)
            for sample in dict.fromkeys(samples)
            if is_text(sample[1]) and (sample[0] is None or is_text(sample[0]))
        }
        if not usable:
            return [None] * len(samples)
        collection = self._collection()
        condition = None if where is None else collection.condition(where)
        rows = collection.get(list(usable.values()), condition)
        hits = {sample: rows.get(id) for sample, id in usable.items()}
        missing = [key for (shard, key), hit in hits.items() if shard is None and hit is None]
        hits |= {(None, key): hit for key, hit in _in_shards(collection, missing, condition)}
        return [
            None if (hit := hits.get(sample)) is None else hit.row.hit(1.0, hit.vector)
            for sample in samples
        ]

    def has_shards(self) -> bool:
        """Whether it holds rows of a dataset (`LiveStore.add_dataset`)."""
        return self._collection().has_shards()

    def _collection(self) -> Collection:
        return self.database.collection(self.name)


def _in_shards(
    collection: Collection, keys: Sequence[str], condition: object
) -> list[tuple[str, Match]]:
    """Rows of a dataset by their keys alone."""
    by_key: dict[str, Match] = {}
    for hit in collection.of_keys(keys, condition) if keys else []:
        key = hit.row.key
        if key in by_key:
            shards = sorted({str(hit.row.shard), str(by_key[key].row.shard)})
            raise DatasetError(f"key {key!r} is in several shards: {', '.join(shards)}; name one.")
        by_key[key] = hit
    return list(by_key.items())
