"""`MilvusDatabase`: a live store in files of milvus-lite, or in a Milvus cluster."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import heapq
import json
import math
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nemo_image_curate import locks, storage
from nemo_image_curate.errors import (
    ConfigError,
    DatasetError,
    EncoderMismatchError,
    UnavailableError,
)
from nemo_image_curate.search.live.database import NAMES, Collection, Database, Found
from nemo_image_curate.search.live.milvus_conditions import (
    column_of,
    field_of,
    literal,
    milvus_condition,
)
from nemo_image_curate.search.live.rows import SHARD, Row, row_of

FILE_ENDING = ".db"
SCHEMES = ("http", "https", "tcp")
# Milvus' own limits: of a search or query (quotaAndLimits.limits.topK and queryResultWindow), of
# bytes in a text, of bytes of all dynamic fields together.
_MOST_HITS = 16_384
_MOST_KEY_BYTES, _MOST_COLUMN_BYTES = 65_535, 65_536
# So many rows go in one message: 16 MB of vectors of 4,096 values.
_BATCH = 1000
_CONNECT_SECONDS = 10.0
_STRONG = {"consistency_level": "Strong"}


def is_milvus(place: str) -> bool:
    """Whether a place is Milvus': a file that ends in ``.db``, or a URI."""
    return place.endswith(FILE_ENDING) or urllib.parse.urlsplit(place).scheme in SCHEMES


class MilvusDatabase(Database):
    """Two collections of Milvus'; a file is claimed by one process at a time.

    Parameters
    ----------
    uri : str
        A path that ends in ``.db``, or ``http(s)://host:port``.
    encoder : callable
        Says which encoder the vectors are of.
    token, name, index_type
        See `MilvusStore`.
    """

    def __init__(
        self,
        uri: str,
        encoder: Callable[[], str],
        token: str | None = None,
        name: str = "curate",
        index_type: str | None = None,
    ):
        super().__init__(encoder)
        self.is_shared = not uri.endswith(FILE_ENDING)
        why = "milvus-lite's files go there"
        self.uri = uri if self.is_shared else storage.local_path(uri, "uri", why)
        self.token = token
        self.name = name
        self.index_type = index_type or ("AUTOINDEX" if self.is_shared else "FLAT")
        self._claim = contextlib.ExitStack()

    def __reduce__(self) -> tuple[Any, ...]:
        # For workers, which open it themselves and need no embedder.
        encoder = functools.partial(str, self.encoder())
        return type(self), (self.uri, encoder, self.token, self.name, self.index_type)

    @property
    def place(self) -> str:
        """Where it is, without what is secret in a URI."""
        parts = urllib.parse.urlsplit(self.uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def refusal(self, row: Row) -> str | None:
        """None, or which limit of Milvus' a row is beyond."""
        if len(row.key.encode()) > _MOST_KEY_BYTES:
            return f"the key has more than {_MOST_KEY_BYTES:,} bytes, the most that Milvus keeps"
        columns = json.dumps(_fields(row), ensure_ascii=False)
        if len(columns.encode()) > _MOST_COLUMN_BYTES:
            return (
                f"its columns have more than {_MOST_COLUMN_BYTES:,} bytes, the most that Milvus "
                "keeps"
            )
        return None

    def _open(self) -> Mapping[str, Collection]:
        from pymilvus import MilvusException

        if not self.is_shared:
            storage.make_dirs(self.uri)
            self._claim.enter_context(locks.exclusive(self.uri, shared=False))
            self._claim.callback(_release, self.uri)
        encoder = self.encoder()
        try:
            client = self._client()
            is_lite = client.get_server_version().startswith("milvus_lite")
            collections = {
                name: MilvusCollection(self, client, f"{self.name}_{name}", is_lite)
                for name in NAMES
            }
            for collection in collections.values():
                if collection.open():
                    self.check_encoder(collection.recorded_encoder(), encoder)
            return collections
        except EncoderMismatchError:
            raise
        except MilvusException as error:
            if self.is_shared:
                raise UnavailableError(
                    f"no Milvus answers at {self.place}: {error.message}. Look whether it runs, "
                    "and whether the token is right."
                ) from error
            raise DatasetError(
                f"the store {self.place} is damaged: {error.message}. Put a copy in its place, or "
                "choose another one."
            ) from error

    def _client(self) -> Any:
        from pymilvus import MilvusClient

        client = MilvusClient(self.uri, token=self.token or "", timeout=_CONNECT_SECONDS)
        self._claim.callback(client.close)
        return client

    def _close(self, collections: Iterable[Collection]) -> None:
        with self._claim:
            for collection in collections:
                collection.settle()


class MilvusCollection(Collection):
    """One of the two collections; made when the first vectors tell their width.

    Parameters
    ----------
    database : MilvusDatabase
    client : pymilvus.MilvusClient
    name : str
    is_lite : bool
        Whether milvus-lite answers.
    """

    def __init__(self, database: MilvusDatabase, client: Any, name: str, is_lite: bool):
        self._database = database
        self._client = client
        self._name = name
        self._is_lite = is_lite
        self._most_hits = math.inf if is_lite else _MOST_HITS
        self._dim = 0
        self._count: int | None = None
        self._unsettled = 0

    def open(self) -> bool:
        """Whether it is there; then its vectors can be searched."""
        if not self._dim and self._client.has_collection(self._name):
            self._client.load_collection(self._name)
            fields = self._client.describe_collection(self._name)["fields"]
            (self._dim,) = (int(one["params"]["dim"]) for one in fields if one["name"] == "vector")
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
                (answer,) = self._client.query(
                    self._name, filter="", output_fields=["count(*)"], **_STRONG
                )
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
    ) -> list[list[Found]]:
        """See `Collection`."""
        if not self.open():
            return [[] for _ in vectors]
        if vectors.shape[1] != self._dim:
            raise ConfigError(
                f"a query has {vectors.shape[1]} values, but the vectors of the store "
                f"{self._database.place} are of dimension {self._dim}."
            )
        vectors = np.asarray(vectors, dtype=np.float32)
        directions = vectors.astype(np.float64)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        if depth > self._most_hits:
            hits = [self._scan(one, depth, condition) for one in directions]
        else:
            hits = self._search(vectors, directions, depth, condition)
        return (
            hits if with_vectors else [[one._replace(vector=None) for one in best] for best in hits]
        )

    def _search(
        self, vectors: np.ndarray, directions: np.ndarray, depth: int, condition: Any
    ) -> list[list[Found]]:
        answers = self._ask(
            "search",
            data=list(vectors),
            anns_field="vector",
            limit=depth,
            filter=condition or "",
            output_fields=["*"],
        )
        return [
            sorted((_found(hit["entity"], one) for hit in hits), key=_worst_last)
            for one, hits in zip(directions, answers, strict=True)
        ]

    def _scan(self, vector: np.ndarray, depth: int, condition: Any) -> list[Found]:
        """More than Milvus gives at once: all rows are looked at."""
        pages = self._client.query_iterator(
            self._name, _BATCH, filter=condition or "", output_fields=["*"], **_STRONG
        )
        try:
            hits = (_found(row, vector) for page in iter(pages.next, []) for row in page)
            return heapq.nsmallest(depth, hits, key=_worst_last)
        finally:
            pages.close()

    def get(self, ids: Sequence[str], condition: Any = None) -> dict[str, Found]:
        """See `Collection`."""
        hits = self._rows("id", [_primary(one) for one in ids], condition)
        return {hit.row.id: hit for hit in hits}

    def of_keys(self, keys: Sequence[str], condition: Any = None) -> list[Found]:
        """See `Collection`."""
        return self._rows("key", keys, condition)

    def put(self, rows: Iterable[Row], vectors: Sequence[np.ndarray]) -> None:
        """See `Collection`."""
        entities = [_entity(row, vector) for row, vector in zip(rows, vectors, strict=True)]
        with self._database.lock:
            if entities and not self.open():
                self._create(len(vectors[0]))
            # What milvus-lite calls upsert leaves the old row's columns where the new one has none;
            # its insert replaces the row.
            write = self._client.insert if self._is_lite else self._client.upsert
            for part in _parts(entities):
                write(self._name, part)
            self._changed(len(entities))

    def remove(self, ids: Sequence[str]) -> int:
        """See `Collection`."""
        with self._database.lock:
            present = [_primary(one) for one in self.get(ids)]
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
        with self._database.lock:
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
        schema.add_field("key", DataType.VARCHAR, max_length=_MOST_KEY_BYTES)
        schema.add_field("content", DataType.VARCHAR, max_length=64)
        indexes = MilvusClient.prepare_index_params()
        indexes.add_index("vector", index_type=self._database.index_type, metric_type="COSINE")
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

    def _rows(self, field: str, values: Sequence[str], condition: Any) -> list[Found]:
        hits: list[Found] = []
        for part in _parts(values) if self.open() else ():
            among = f"{field} in [{', '.join(map(literal, part))}]"
            where = f"{among} and {condition}" if condition else among
            hits += map(_found, self._ask("query", filter=where, output_fields=["*"]))
        return hits

    def _has(self, where: str) -> bool:
        return self.open() and bool(self._ask("query", filter=where, output_fields=["id"], limit=1))

    def _ask(self, method: str, **question: Any) -> Any:
        from pymilvus import MilvusException

        ask = functools.partial(getattr(self._client, method), self._name, **question, **_STRONG)
        with contextlib.suppress(MilvusException):
            return ask()
        # milvus-lite may fail while another thread writes: again, while none can.
        with self._database.lock:
            try:
                return ask()
            except MilvusException as error:
                raise ConfigError(
                    f"the live store cannot answer this query: {error.message}"
                ) from error


def _release(uri: str) -> None:
    """Stop milvus-lite's server in this process."""
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(uri)


def _primary(row_id: str) -> str:
    """A short and harmless primary key."""
    return hashlib.sha256(row_id.encode()).hexdigest()


def _entity(row: Row, vector: np.ndarray) -> dict[str, Any]:
    return {
        "id": _primary(row.id),
        "vector": np.asarray(vector, dtype=np.float32),
        "key": row.key,
        "content": row.content or "",
        **_fields(row),
    }


def _fields(row: Row) -> dict[str, Any]:
    """The columns as dynamic fields."""
    return {field_of(name): value for name, value in row.columns().items()}


def _found(entity: Mapping[str, Any], query: np.ndarray | None = None) -> Found:
    fields = ("id", "vector", "key", "content")
    columns = {column_of(name): value for name, value in entity.items() if name not in fields}
    vector = np.asarray(entity["vector"], dtype=np.float32)
    # Milvus' own scores differ in their last digits by where a row lies.
    score = 1.0 if query is None else float(np.clip(vector.astype(np.float64) @ query, -1, 1))
    return Found(row_of(columns, entity["content"] or None), score, vector)


def _worst_last(hit: Found) -> tuple[float, str, str]:
    return -hit.score, hit.row.key, hit.row.shard or ""


def _parts(items: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _BATCH):
        yield list(items[start : start + _BATCH])
