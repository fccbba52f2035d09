"""`Database` and `Collection`: what a live store asks of Chroma or Milvus."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nemo_image_curate.errors import EncoderMismatchError
from nemo_image_curate.search.live.rows import Row

NAMES = ("images", "texts")


class Match(NamedTuple):
    """A row that a collection gives, with its cosine similarity to the query."""

    row: Row
    score: float
    vector: Any


def best_first(hit: Match) -> tuple[float, str, str]:
    """To sort by: equally near ones by their keys."""
    return -hit.score, hit.row.key, hit.row.shard or ""


class Collection(ABC):
    """Rows with their vectors, by id."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def condition(self, where: str) -> Any:
        """An expression as the database understands it.

        Raises
        ------
        ConfigError
            Naming the part that it cannot evaluate.
        """

    @abstractmethod
    def nearest(
        self, vectors: np.ndarray, depth: int, condition: Any, with_vectors: bool
    ) -> list[list[Match]]:
        """About the `depth` nearest of each vector, the best first; fewer when there are fewer."""

    @abstractmethod
    def get(self, ids: Sequence[str], condition: Any = None) -> dict[str, Match]:
        """The rows of some ids, as far as they are there, with vectors and a score of 1."""

    @abstractmethod
    def of_keys(self, keys: Sequence[str], condition: Any = None) -> list[Match]:
        """The rows of some keys, of whatever shard, with vectors and a score of 1."""

    @abstractmethod
    def put(self, rows: Iterable[Row], vectors: Sequence[np.ndarray]) -> None:
        """Keep rows with a vector for each, in the place of those of the same ids."""

    @abstractmethod
    def remove(self, ids: Sequence[str]) -> int:
        """Remove rows; how many there were."""

    @abstractmethod
    def has_content(self, sha256: str) -> bool:
        """Whether an image is some row's."""

    @abstractmethod
    def has_shards(self) -> bool:
        """Whether there are rows of a dataset."""

    def settle(self, least: int = 0) -> None:  # noqa: B027  not every database needs it
        """Make what was put quick to search, when it is at least so many rows."""


class Database(ABC):
    """Two collections, "images" and "texts"; opened at first use.

    Parameters
    ----------
    encoder : callable
        Says which encoder the vectors are of.

    Attributes
    ----------
    lock : threading.RLock
        For several calls between which nothing else may happen.
    """

    # Whether processes, those of workers too, may use it at the same time.
    is_shared = False

    def __init__(self, encoder: Callable[[], str]):
        self.encoder = encoder
        self.lock = threading.RLock()
        self._collections: Mapping[str, Collection] = {}

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it is, for messages."""

    @abstractmethod
    def refusal(self, row: Row) -> str | None:
        """None, or why the database cannot keep a row."""

    @abstractmethod
    def _open(self) -> Mapping[str, Collection]: ...

    @abstractmethod
    def _close(self, collections: Iterable[Collection]) -> None: ...

    def collection(self, name: str) -> Collection:
        """The collection "images" or "texts"."""
        with self.lock:
            if not self._collections:
                try:
                    self._collections = self._open()
                except Exception:
                    self.close()
                    raise
            return self._collections[name]

    def close(self) -> None:
        """Let go of it; the next use opens it again."""
        with self.lock:
            collections, self._collections = self._collections.values(), {}
            self._close(collections)

    def check_encoder(self, recorded: str, encoder: str) -> None:
        """Refuse vectors of another encoder."""
        if recorded != encoder:
            raise EncoderMismatchError(
                f"the store {self.place} holds vectors of {recorded!r}, but the embedder is "
                f"{encoder!r}. Use the embedder that made them, or another store."
            )
