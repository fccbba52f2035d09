"""`MilvusCollection`: rows and their vectors in Milvus; columns are its dynamic fields."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nemo_image_curate.errors import ConfigError, UnavailableError
from nemo_image_curate.search.live.database import Collection, Database, Match, best_first
from nemo_image_curate.search.live.milvus_conditions import (
    column_of,
    field_of,
    literal,
    milvus_condition,
)
from nemo_image_curate.search.live.rows import SHARD, Row, row_of

# Milvus' own limits: of a search (quotaAndLimits.limits.topK), and of a text.
_MOST_HITS = 16_384
MOST_KEY_BYTES = 65_535
# So many rows go in one message: 16 MB of vectors of 4,096 values.
_BATCH = 1000
# The longest that a call may take.
_SECONDS = 300.0
_STRONG = {"consistency_level": "Strong"}


class MilvusCollection(Collection):
    """One of the two collections; made when the first vectors tell their width.

    Parameters
    ----------
    database : Database
    client : pymilvus.MilvusClient
    name : str
    is_lite : bool
        Whether milvus-lite answers.
    index_type : str
        How vectors are searched.
    """

    def __init__(self, database: Database, client: Any, name: str, is_lite: bool, index_type: str):
        self._database = database
        self._client = client
        self._name = name
        self._is_lite = is_lite
        self._index_type = index_type
        self._most_hits = math.inf if is_lite else _MOST_HITS
        self._dim = 0
        self._count: int | None = None
        self._unsettled = 0

    def open(self) -> bool:
        """Whether it is there; then its vectors can be searched."""
        if not self._dim and self._client.has_collection(self._name):
            self._client.load_collection(self._name)
            fields = self._client.describe_collection(self._name)["fields"]
            (self._dim,) = (
                int(field["params"]["dim"]) for field in fields if field["name"] == "vector"
            )
        return bool(self._dim)

    def recorded_encoder(self) -> str:
        """Which encoder its vectors are of."""
        encoder: str = self._client.describe_collection(self._name)["properties"]["encoder"]
        return encoder

    def __len__(self) -> int:
        with self._database.lock:
            if self._count is not None:
                return self._count
            count = 0
            if self.open():
                (answer,) = self._ask("query", filter="", output_fields=["count(*)"])
                count = int(answer["count(*)"])
            # Nobody else adds to a file; milvus-lite needs half a microsecond for each row.
            if not self._database.is_shared:
                self._count = count
            return count

    def condition(self, where: str) -> str:
        """A condition as Milvus understands it."""
        return milvus_condition(where)

    def nearest(
        self, vectors: np.ndarray, depth: int, condition: Any, with_vectors: bool
    ) -> list[list[Match]]:
        """See `Collection`."""
        if not self.open():
            return [[] for _ in vectors]
        if vectors.shape[1] != self._dim:
            raise ConfigError(
                f"a query has {vectors.shape[1]} values, but the vectors of the store "
                f"{self._database.place} are of dimension {self._dim}."
            )
        search = self._search if depth <= self._most_hits else self._scan
        hits = search(vectors, depth, condition)
        if with_vectors:
            return hits
        return [[hit._replace(vector=None) for hit in best] for best in hits]

    def _search(self, vectors: np.ndarray, depth: int, condition: Any) -> list[list[Match]]:
        answers = self._ask(
            "search",
            data=list(np.asarray(vectors, dtype=np.float32)),
            anns_field="vector",
            limit=depth,
            filter=condition or "",
            output_fields=["*"],
        )
        return [
            sorted((_hit(hit["entity"], vector) for hit in hits), key=best_first)
            for vector, hits in zip(vectors, answers, strict=True)
        ]

    def _scan(self, vectors: np.ndarray, depth: int, condition: Any) -> list[list[Match]]:
        """More than Milvus gives at once: all rows are looked at, once for each vector."""
        answers = []
        for vector in vectors:
            pages = self._ask(
                "query_iterator", batch_size=_BATCH, filter=condition or "", output_fields=["*"]
            )
            with self._trouble(), contextlib.closing(pages):
                hits = (_hit(row, vector) for page in iter(pages.next, []) for row in page)
                answers.append(heapq.nsmallest(depth, hits, key=best_first))
        return answers

    def get(self, ids: Sequence[str], condition: Any = None) -> dict[str, Match]:
        """See `Collection`."""
        hits = self._rows("id", [_primary(row_id) for row_id in ids], condition)
        return {hit.row.id: hit for hit in hits}

    def of_keys(self, keys: Sequence[str], condition: Any = None) -> list[Match]:
        """See `Collection`."""
        return self._rows("key", keys, condition)

    def put(self, rows: Iterable[Row], vectors: Sequence[np.ndarray]) -> None:
        """See `Collection`."""
        entities = [_entity(row, vector) for row, vector in zip(rows, vectors, strict=True)]
        with self._database.lock, self._trouble():
            if entities and not self.open():
                self._create(len(vectors[0]))
            # What milvus-lite calls upsert leaves the old row's columns where the new one has none;
            # its insert replaces the row.
            write = self._client.insert if self._is_lite else self._client.upsert
            for part in _parts(entities):
                write(self._name, part, timeout=_SECONDS)
            self._changed(len(entities))

    def remove(self, ids: Sequence[str]) -> int:
        """See `Collection`."""
        with self._database.lock, self._trouble():
            present = [_primary(row_id) for row_id in self.get(ids)]
            for part in _parts(present):
                self._client.delete(self._name, ids=part)
            self._changed(len(present))
        return len(present)

    def has_content(self, sha256: str) -> bool:
        """See `Collection`."""
        return self._has(f"content == {literal(sha256)}")

    def has_shards(self) -> bool:
        """See `Collection`."""
        return self._has(f"exists {field_of(SHARD)}")

    def settle(self, least: int = 0) -> None:
        """Have milvus-lite write what it keeps in a slow list; a cluster does so by itself.

        A search took it 60 microseconds for each row of that list, 2 for each that was written
        (measured, version 3.2).
        """
        with self._database.lock, self._trouble():
            if self._is_lite and self._unsettled > least:
                self._client.flush(self._name)
                self._unsettled = 0

    def _changed(self, rows: int) -> None:
        self._count = None
        self._unsettled += rows

    def _create(self, dim: int) -> None:
        from pymilvus import DataType, MilvusClient, MilvusException

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        schema.add_field("key", DataType.VARCHAR, max_length=MOST_KEY_BYTES)
        schema.add_field("content", DataType.VARCHAR, max_length=64)
        indexes = MilvusClient.prepare_index_params()
        indexes.add_index("vector", index_type=self._index_type, metric_type="COSINE")
        for field in ("key", "content"):
            indexes.add_index(field, index_type="INVERTED")
        properties = {"encoder": self._database.encoder()}
        try:
            self._client.create_collection(
                self._name, schema=schema, properties=properties, **_STRONG
            )
            # Nothing is there to be waited for.
            self._client.create_index(self._name, indexes, sync=False)
        except MilvusException:
            # Another worker was first.
            if not self._client.has_collection(self._name):
                raise
        self.open()

    def _rows(self, field: str, values: Sequence[str], condition: Any) -> list[Match]:
        hits: list[Match] = []
        for part in _parts(values) if self.open() else ():
            among = f"{field} in [{', '.join(map(literal, part))}]"
            where = f"{among} and {condition}" if condition else among
            hits += map(_hit, self._ask("query", filter=where, output_fields=["*"]))
        return hits

    def _has(self, where: str) -> bool:
        return self.open() and bool(self._ask("query", filter=where, output_fields=["id"], limit=1))

    def _ask(self, method: str, **question: Any) -> Any:
        from pymilvus import MilvusException

        ask = functools.partial(
            getattr(self._client, method), self._name, timeout=_SECONDS, **question, **_STRONG
        )
        with contextlib.suppress(MilvusException):
            return ask()
        # milvus-lite may fail while another thread writes: again, while none can.
        with self._database.lock, self._trouble():
            return ask()

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        """Errors of Milvus' as ours: conditions and widths were looked at before."""
        from pymilvus import MilvusException

        try:
            yield
        except MilvusException as error:
            raise UnavailableError(
                f"Milvus at {self._database.place} does not do what it is asked: {error.message}"
            ) from error


def _primary(row_id: str) -> str:
    """A short and harmless primary key."""
    return hashlib.sha256(row_id.encode()).hexdigest()


def _entity(row: Row, vector: np.ndarray) -> dict[str, Any]:
    return {
        "id": _primary(row.id),
        "vector": np.asarray(vector, dtype=np.float32),
        "key": row.key,
        "content": row.content or "",
        **fields_of(row),
    }


def fields_of(row: Row) -> dict[str, Any]:
    """The columns as dynamic fields."""
    return {field_of(name): value for name, value in row.columns().items()}


def _hit(entity: Mapping[str, Any], query: np.ndarray | None = None) -> Match:
    fields = ("id", "vector", "key", "content")
    columns = {column_of(name): value for name, value in entity.items() if name not in fields}
    vector = np.asarray(entity["vector"], dtype=np.float32)
    # Milvus' own scores differ in their last digits by where a row lies.
    score = 1.0 if query is None else _cosine(vector.astype(np.float64), query.astype(np.float64))
    return Match(row_of(columns, entity["content"] or None), score, vector)


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return float(np.clip(first @ second / lengths, -1, 1))


def _parts(items: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _BATCH):
        yield list(items[start : start + _BATCH])
