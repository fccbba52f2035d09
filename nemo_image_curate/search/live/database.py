"""`Database`: the Chroma database of a live store, which one process uses at a time."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nemo_image_curate import locks, storage
from nemo_image_curate.errors import DatasetError, EncoderMismatchError, require
from nemo_image_curate.search.live import _chroma

# Of 10,000 random vectors of width 512, the hardest there are, this found all of the true ten
# nearest, in 16 ms; Chroma's own 16 neighbours found 0.989. Up to 1,000 rows all are compared.
_HNSW = {"space": "cosine", "ef_search": 1000, "ef_construction": 100, "max_neighbors": 32}
_NAMES = ("images", "texts")


class Database:
    """Two collections of vectors in a folder; opened, and the folder claimed, at first use.

    Parameters
    ----------
    path : str or path
    encoder : callable
        Says which encoder the vectors are of.

    Attributes
    ----------
    lock : threading.RLock
        For several calls between which nothing else may happen.
    """

    def __init__(self, path: str | os.PathLike[str], encoder: Callable[[], str]):
        self.path = path
        self.encoder = encoder
        self.lock = threading.RLock()
        self._claim = contextlib.ExitStack()
        self._client: Any = None
        self._collections: dict[str, Any] = {}

    def collection(self, name: str) -> Any:
        """Chroma's collection "images" or "texts"."""
        with self.lock:
            if not self._collections:
                try:
                    self._open()
                except Exception:
                    self.close()
                    raise
            return self._collections[name]

    def batches(self, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Parts of as many items as Chroma takes at once; for when it is open."""
        size = self._client.get_max_batch_size()
        for start in range(0, len(items), size):
            yield items[start : start + size]

    def upsert(
        self, name: str, rows: Mapping[str, Mapping[str, Any]], vectors: Sequence[Any]
    ) -> None:
        """Keep rows by their keys, with a vector for each, in the place of those there were."""
        with self.lock:
            collection = self.collection(name)
            for part in self.batches(list(zip(rows, vectors, strict=True))):
                keys = [key for key, _ in part]
                old = collection.get(ids=keys, include=["metadatas"])
                # Columns of an old row that the new one lacks would stay.
                cleared = dict(zip(old["ids"], map(dict.fromkeys, old["metadatas"]), strict=True))
                collection.upsert(
                    ids=keys,
                    embeddings=[vector for _, vector in part],
                    metadatas=[{**cleared.get(key, {}), **rows[key]} for key in keys],
                )

    def close(self) -> None:
        """Let go of the folder; the next use claims it again."""
        with self.lock:
            if self._client is not None:
                self._client.close()
            self._client = None
            self._collections.clear()
            self._claim.close()

    def _open(self) -> None:
        require("chromadb", "search", "a store")
        folder = storage.local_path(self.path, "path", "Chroma's files go there")
        storage.make_dirs(folder)
        self._claim.enter_context(locks.exclusive(folder, shared=False))
        encoder = self.encoder()
        try:
            self._collections = self._load(folder, encoder)
        # Chroma raises errors of many kinds over a damaged file.
        except Exception as error:
            raise DatasetError(
                f"the store {self.path} is damaged, or its chroma.sqlite3 cannot be used: {error}. "
                "Put a copy of the folder in its place, or choose another one."
            ) from error
        for collection in self._collections.values():
            if (other := collection.metadata["encoder"]) != encoder:
                raise EncoderMismatchError(
                    f"the store {self.path} holds vectors of {other!r}, but the embedder is "
                    f"{encoder!r}. Use the embedder that made them, or another folder."
                )

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
            for name in _NAMES
        }
