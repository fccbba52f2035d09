"""`ChromaDatabase`: the database of a live store in a folder, which one process uses at a time."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nemo_image_curate import locks, storage
from nemo_image_curate.errors import ConfigError, DatasetError, EncoderMismatchError, require
from nemo_image_curate.search.live import _chroma
from nemo_image_curate.search.live.chroma_conditions import PRESENT, chroma_condition
from nemo_image_curate.search.live.database import NAMES, Collection, Database, Match
from nemo_image_curate.search.live.rows import CAPTION, KEY, SHARD, Row

# Of 10,000 random vectors of width 512, the hardest there are, this found all of the true ten
# nearest, in 16 ms; Chroma's own 16 neighbours found 0.989. Up to 1,000 rows all are compared.
_HNSW = {"space": "cosine", "ef_search": 1000, "ef_construction": 100, "max_neighbors": 32}
# The plain metadata as JSON: Chroma would not give it back as it was.
_METADATA = "_row"
_CONTENT = "_sha256"


class ChromaDatabase(Database):
    """Two collections of Chroma's in a folder; the folder is claimed at first use.

    Parameters
    ----------
    path : str or path
    encoder : callable
        Says which encoder the vectors are of.
    """

    def __init__(self, path: str | os.PathLike[str], encoder: Callable[[], str]):
        super().__init__(encoder)
        self.path = path
        self._claim = contextlib.ExitStack()
        self._client: Any = None

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.path)

    def refusal(self, row: Row) -> str | None:
        """None: it keeps all rows."""
        return None

    def batches(self, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Parts of as many items as Chroma takes at once; for when it is open."""
        size = self._client.get_max_batch_size()
        for start in range(0, len(items), size):
            yield items[start : start + size]

    def _open(self) -> Mapping[str, Collection]:
        require("chromadb", "search", "a store")
        folder = storage.local_path(self.path, "path", "Chroma's files go there")
        storage.make_dirs(folder)
        self._claim.enter_context(locks.exclusive(folder, shared=False))
        encoder = self.encoder()
        try:
            collections = self._load(folder, encoder)
            for collection in collections.values():
                self.check_encoder(collection.metadata["encoder"], encoder)
        except EncoderMismatchError:
            raise
        # Chroma raises errors of many kinds over a damaged file.
        except Exception as error:
            raise DatasetError(
                f"the store {self.path} is damaged, or its chroma.sqlite3 cannot be used: {error}. "
                "Put a copy of the folder in its place, or choose another one."
            ) from error
        return {name: ChromaCollection(self, opened) for name, opened in collections.items()}

    def _load(self, folder: str, encoder: str) -> dict[str, Any]:
        """Chroma's collections, new or as they are."""
        import chromadb
        from chromadb.config import Settings

        _chroma.forget(folder)
        self._client = chromadb.PersistentClient(folder, Settings(anonymized_telemetry=False))
        return {
            name: self._client.get_or_create_collection(
                name,
                # Without None here Chroma would download a model of its own to embed texts with.
                embedding_function=None,
                configuration={"hnsw": _HNSW},
                metadata={"encoder": encoder},
            )
            for name in NAMES
        }

    def _close(self, collections: Iterable[Collection]) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None
        self._claim.close()


class ChromaCollection(Collection):
    """One of the two collections.

    Parameters
    ----------
    database : ChromaDatabase
    collection : chromadb.Collection
    """

    def __init__(self, database: ChromaDatabase, collection: Any):
        self._database = database
        self._collection = collection

    def __len__(self) -> int:
        return int(self._collection.count())

    def condition(self, where: str) -> dict[str, Any]:
        """A condition as Chroma understands it."""
        return chroma_condition(where)

    def nearest(
        self, vectors: np.ndarray, depth: int, condition: Any, with_vectors: bool
    ) -> list[list[Match]]:
        """See `Collection`."""
        embeddings = ["embeddings"] if with_vectors else []
        answer = self._ask(
            "query",
            query_embeddings=vectors,
            n_results=depth,
            where=condition,
            include=["metadatas", "distances", *embeddings],
        )
        nothing = [[None] * len(ids) for ids in answer["ids"]]
        units = answer["embeddings"] if with_vectors else nothing
        return [
            [
                Match(_row(columns), 1 - distance, unit)
                for columns, distance, unit in zip(*of_query, strict=True)
            ]
            for of_query in zip(answer["metadatas"], answer["distances"], units, strict=True)
        ]

    def get(self, ids: Sequence[str], condition: Any = None) -> dict[str, Match]:
        """See `Collection`."""
        hits = [
            hit
            for part in self._database.batches(ids)
            for hit in self._rows(ids=list(part), where=condition)
        ]
        return {hit.row.id: hit for hit in hits}

    def of_keys(self, keys: Sequence[str], condition: Any = None) -> list[Match]:
        """See `Collection`."""
        among: dict[str, Any] = {KEY: {"$in": list(keys)}}
        return self._rows(where={"$and": [among, condition]} if condition else among)

    def put(self, rows: Iterable[Row], vectors: Sequence[np.ndarray]) -> None:
        """See `Collection`."""
        with self._database.lock:
            for part in self._database.batches(list(zip(rows, vectors, strict=True))):
                ids = [row.id for row, _ in part]
                old = self._collection.get(ids=ids, include=["metadatas"])
                # Columns of an old row that the new one lacks would stay.
                cleared = dict(zip(old["ids"], map(dict.fromkeys, old["metadatas"]), strict=True))
                self._collection.upsert(
                    ids=ids,
                    embeddings=[vector for _, vector in part],
                    metadatas=[{**cleared.get(row.id, {}), **_stored_row(row)} for row, _ in part],
                )

    def remove(self, ids: Sequence[str]) -> int:
        """See `Collection`."""
        removed = 0
        with self._database.lock:
            for part in self._database.batches(ids):
                present = self._collection.get(ids=list(part), include=[])["ids"]
                if present:
                    self._collection.delete(ids=present)
                removed += len(present)
        return removed

    def has_content(self, sha256: str) -> bool:
        """See `Collection`."""
        return self._has({_CONTENT: sha256})

    def has_shards(self) -> bool:
        """See `Collection`."""
        return self._has({PRESENT: {"$contains": SHARD}})

    def _has(self, where: dict[str, Any]) -> bool:
        return bool(self._collection.get(where=where, limit=1, include=[])["ids"])

    def _rows(self, **question: Any) -> list[Match]:
        answer = self._ask("get", **question, include=["metadatas", "embeddings"])
        pairs = zip(answer["metadatas"], answer["embeddings"], strict=True)
        return [Match(_row(columns), 1.0, vector) for columns, vector in pairs]

    def _ask(self, method: str, **question: Any) -> Any:
        from chromadb.errors import ChromaError

        ask = functools.partial(getattr(self._collection, method), **question)
        with contextlib.suppress(ChromaError, ValueError):
            answer = ask()
            if _is_whole(answer["metadatas"]):
                return answer
        # A row that another thread removes meanwhile makes Chroma fail, or give null for what it
        # knew of it: again, while none can.
        with self._database.lock:
            try:
                return ask()
            except (ChromaError, ValueError) as error:
                raise ConfigError(f"the live store cannot answer this query: {error}") from error


def _is_whole(metadatas: Iterable[Any]) -> bool:
    """Whether each row, or each in the lists of several queries, is known."""
    return all(
        None not in rows if isinstance(rows, list) else rows is not None for rows in metadatas
    )


def _stored_row(row: Row) -> dict[str, Any]:
    """A row as Chroma keeps it."""
    columns = row.columns()
    content = {} if row.content is None else {_CONTENT: row.content}
    return {
        **columns,
        **content,
        PRESENT: list(columns),
        _METADATA: json.dumps(row.metadata, ensure_ascii=False),
    }


def _row(columns: Mapping[str, Any]) -> Row:
    return Row(
        columns[KEY],
        columns.get(SHARD),
        columns.get(CAPTION),
        json.loads(columns[_METADATA]),
        columns.get(_CONTENT),
    )
