"""`MilvusDatabase`: a live store in files of milvus-lite, or in a Milvus cluster."""

from __future__ import annotations

import contextlib
import functools
import json
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nemo_image_curate import locks, storage
from nemo_image_curate.errors import DatasetError, UnavailableError
from nemo_image_curate.search.live.database import NAMES, Collection, Database
from nemo_image_curate.search.live.milvus_collection import (
    MOST_KEY_BYTES,
    MilvusCollection,
    fields_of,
)
from nemo_image_curate.search.live.rows import Row

FILE_ENDING = ".db"
SCHEMES = ("http", "https", "tcp")
# The most that all dynamic fields of a row have in Milvus.
_MOST_COLUMN_BYTES = 65_536
_CONNECT_SECONDS = 10.0
# pymilvus asks every 10 s whether the server lives; milvus-lite's hangs up over the third time.
_NO_PINGS = {"grpc.keepalive_time_ms": 2**31 - 1}


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
        if len(row.key.encode()) > MOST_KEY_BYTES:
            return f"the key has more than {MOST_KEY_BYTES:,} bytes, the most that Milvus keeps"
        columns = json.dumps(fields_of(row), ensure_ascii=False)
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
            names = {name: f"{self.name}_{name}" for name in NAMES}
            collections = {
                name: MilvusCollection(self, client, full_name, is_lite, self.index_type)
                for name, full_name in names.items()
            }
            recorded = [
                collection.recorded_encoder()
                for collection in collections.values()
                if collection.open()
            ]
        except MilvusException as error:
            raise self._trouble(error) from error
        for other in recorded:
            self.check_encoder(other, encoder)
        return collections

    def _trouble(self, error: Any) -> DatasetError:
        if self.is_shared:
            return UnavailableError(
                f"no Milvus answers at {self.place}: {error.message}. Look whether it runs, and "
                "whether the token is right."
            )
        return DatasetError(
            f"the store {self.place} is damaged: {error.message}. Put a copy in its place, or "
            "choose another one."
        )

    def _client(self) -> Any:
        from pymilvus import MilvusClient

        options = {} if self.is_shared else {"grpc_options": _NO_PINGS}
        client = MilvusClient(self.uri, token=self.token or "", timeout=_CONNECT_SECONDS, **options)
        self._claim.callback(client.close)
        return client

    def _close(self, collections: Iterable[Collection]) -> None:
        with self._claim:
            for collection in collections:
                collection.settle()


def _release(uri: str) -> None:
    """Stop milvus-lite's server in this process."""
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(uri)
