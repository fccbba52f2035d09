"""`ChromaVectors`: one collection of a live store, and how a sample is kept as a row of Chroma."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.index.hits import Hit
from nemo_image_curate.search.live.conditions import PRESENT, chroma_condition

_ROW = "_row"
_TAKEN_NAMES = frozenset({"key", "shard", "caption"})


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
        found = _ask(
            self.open_collection().get,
            ids=keys,
            where=None if where is None else chroma_condition(where),
            include=["metadatas", "embeddings"],
        )
        rows = zip(found["ids"], found["metadatas"], found["embeddings"], strict=True)
        hits = {key: _hit(key, row, 1.0, vector) for key, row, vector in rows}
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
    wanted = k + 1
    while count:
        answer = _ask(
            collection.query,
            query_embeddings=vector[None],
            n_results=wanted,
            where=condition,
            include=include,
        )
        distances = answer["distances"][0]
        found = len(distances)
        if found < wanted or distances[k - 1] != distances[-1]:
            vectors = answer["embeddings"][0] if "embeddings" in include else [None] * found
            rows = zip(answer["ids"][0], answer["metadatas"][0], distances, vectors, strict=True)
            hits = [_hit(key, row, 1 - distance, unit) for key, row, distance, unit in rows]
            return sorted(hits, key=lambda hit: (-hit.score, hit.key))[:k]
        wanted *= 4
    return []


def _ask(method: Callable[..., Any], **question: Any) -> Any:
    from chromadb.errors import ChromaError

    try:
        return method(**question)
    except (ChromaError, ValueError) as error:
        raise ConfigError(f"the live store cannot answer this query: {error}") from error


def _hit(key: str, row: Mapping[str, Any], score: float, vector: Any) -> Hit:
    unit = None if vector is None else np.asarray(vector, dtype=np.float32)
    return Hit(key, None, score, row.get("caption"), json.loads(row[_ROW]), unit)


def is_text(value: Any) -> bool:
    """Whether a value is a text that can be kept: lone surrogates are no characters."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def vector_problem(vector: np.ndarray) -> str | None:
    """None, or why an embedding cannot be compared with others."""
    pointing = 0 < float(np.linalg.norm(vector)) < math.inf
    return None if pointing else "its embedding has no direction: it is zero or not finite"


def row_of(key: Any, caption: Any, metadata: Any, **own: str) -> tuple[dict[str, Any], str | None]:
    """What Chroma keeps of a sample beside its vector, and None or why it cannot be kept.

    Parameters
    ----------
    key : str
    caption : str or None
    metadata : mapping or None
        Null values are left out.
    **own : str
        What the store itself wants to find; names begin with ``_``.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        return {}, f"the metadata is {type(metadata).__name__}, not a mapping"
    values = {name: value for name, value in (metadata or {}).items() if value is not None}
    if problem := _problem(key, caption, values):
        return {}, problem
    columns = {"key": key, **({} if caption is None else {"caption": caption}), **values}
    plain = json.dumps(values, ensure_ascii=False)
    return {**columns, PRESENT: list(columns), _ROW: plain, **own}, None


def _problem(key: Any, caption: Any, metadata: Mapping[str, Any]) -> str | None:
    if not is_text(key) or not key:
        return f"the key {key!r} is not a text"
    if caption is not None and not is_text(caption):
        return f"the caption {caption!r} is not a text"
    for name, value in metadata.items():
        if (
            not is_text(name)
            or name[:1] in ("", "_", "$", "#")
            or name in _TAKEN_NAMES
            or ":" in name
        ):
            return (
                f"metadata {name!r} is not a name of its own, or begins with _, $ or #, or has a "
                "colon or half a character"
            )
        if not isinstance(value, (str, bool, int, float)):
            return f"metadata {name!r} is {type(value).__name__}, not str, int, float or bool"
        if isinstance(value, str) and not is_text(value):
            return f"metadata {name!r} has half a character: a lone surrogate"
        if isinstance(value, float) and not math.isfinite(value):
            return f"metadata {name!r} is {value}, not a finite number"
        if isinstance(value, int) and abs(value) >= 2**63:
            return f"metadata {name!r} has more than 64 bits"
    return None
