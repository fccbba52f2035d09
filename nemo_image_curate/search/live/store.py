"""`ChromaStore`: images and texts that are added while they are being searched."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError, DatasetError, EncoderMismatchError
from nemo_image_curate.search.live.vectors import ChromaVectors, is_text, row_of, vector_problem

if TYPE_CHECKING:
    from nemo_image_curate.embedders.base import ImageEmbedder

_CONTENT = "_sha256"
# Of 10,000 random vectors of width 512, the hardest there are, this found all of the true ten
# nearest, in 16 ms; Chroma's own 16 neighbours found 0.989. Up to 1,000 rows all are compared.
_HNSW = {"space": "cosine", "ef_search": 1000, "ef_construction": 100, "max_neighbors": 32}


class ChromaStore:
    """A folder with a persistent Chroma database and the images that were added to it.

    For sets that grow while they are searched; for those that stay as they are an index
    (`build_index`) is smaller and faster. Threads may share a store. Processes may not: one does
    not see what another adds, and with two that write the files break (chromadb 1.5.9). So the
    folder is claimed at first use, until `close`, and another process of this machine is refused.

    Parameters
    ----------
    path : str or path
        A local folder; made when it is not there.
    embedder : ImageEmbedder
    device : str, default "cpu"
        Where images and texts are embedded.

    Attributes
    ----------
    images, texts : ChromaVectors
        What was added, to be searched.

    Raises
    ------
    DatasetError
        At first use, when the folder cannot be written, or is in use.
    EncoderMismatchError
        At first use, when it holds vectors of another encoder.

    Examples
    --------
    >>> store = ChromaStore("live", ConseEmbedder())  # doctest: +SKIP
    >>> store.add_images(["cat"], [Path("cat.jpg").read_bytes()])  # doctest: +SKIP
    [None]
    """

    def __init__(self, path: str | os.PathLike[str], embedder: ImageEmbedder, device: str = "cpu"):
        self.path = path
        self.embedder = embedder
        self.device = device
        self.images = ChromaVectors(functools.partial(self._collection, "images"))
        self.texts = ChromaVectors(functools.partial(self._collection, "texts"))
        self._lock = threading.RLock()
        self._claim = contextlib.ExitStack()
        self._client: Any = None
        self._collections: dict[str, Any] = {}

    def add_images(
        self,
        keys: Sequence[str],
        images: Sequence[bytes],
        captions: Sequence[str | None] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[str | None]:
        """Embed and keep images; one of a key that is there already replaces it.

        Parameters
        ----------
        keys : sequence of str, length n
        images : sequence of bytes, length n
            Encoded; kept as they are.
        captions : sequence of str or None, length n, optional
            To be shown and filtered by; `add_texts` is what makes them searchable.
        metadata : sequence of mapping or None, length n, optional
            Values of type str, int, float or bool; null values are left out.

        Returns
        -------
        list of str or None, length n
            None for each image that was taken, else why it was not.

        Raises
        ------
        ConfigError
            When the lengths differ.
        """
        hashes = [{_CONTENT: hashlib.sha256(image).hexdigest()} for image in images]
        rows, reasons = _rows(keys, hashes, captions, metadata)
        vectors: dict[int, Any] = {}
        if rows:
            contents = [images[number] for number in rows]
            embedded, errors = self.embedder.embed_images(contents, device=self.device)
            for number, vector, error in zip(rows, embedded, errors, strict=True):
                reasons[number] = error or vector_problem(vector)
                if reasons[number] is None:
                    vectors[number] = vector
        with self._lock:
            self._collection("images")
            replaced = self._contents([keys[number] for number in vectors])
            # First the files: a row without its image would be a fault, a file too many is none.
            for number in vectors:
                location = self._location(rows[number][_CONTENT])
                storage.make_dirs(storage.parent(location))
                storage.write_bytes(location, images[number])
            self._upsert("images", keys, rows, vectors)
            self._drop(replaced)
        return reasons

    def add_texts(
        self,
        keys: Sequence[str],
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[str | None]:
        """Embed and keep texts, such as captions; see `add_images`.

        Raises
        ------
        ConfigError
            When the lengths differ, or the embedder has no text tower.
        """
        embed_text = getattr(self.embedder, "embed_text", None)
        if embed_text is None:
            raise ConfigError(f"{self.embedder.encoder()!r} has no text tower to embed texts with.")
        rows, reasons = _rows(keys, [{} for _ in texts], texts, metadata)
        vectors: dict[int, Any] = {}
        try:
            if rows:
                embedded = embed_text([texts[number] for number in rows], device=self.device)
                vectors = dict(zip(rows, embedded, strict=True))
        except ConfigError:
            # One of them cannot be embedded: find out which.
            for number in rows:
                try:
                    vectors[number] = embed_text([texts[number]], device=self.device)[0]
                except ConfigError as error:
                    reasons[number] = str(error)
        for number, vector in list(vectors.items()):
            reasons[number] = vector_problem(vector)
            if reasons[number] is not None:
                del vectors[number]
        with self._lock:
            self._upsert("texts", keys, rows, vectors)
        return reasons

    def image(self, key: str) -> bytes:
        """The encoded bytes of an image as it was added.

        Raises
        ------
        DatasetError
            When there is no such image.
        """
        with self._lock:
            found = self._contents([key]) if is_text(key) else []
            if not found:
                raise DatasetError(f"there is no image {key!r} in the store {self.path}.")
            return storage.read_bytes(self._location(found[0]))

    def remove(self, keys: Sequence[str]) -> int:
        """Remove images and texts of these keys; how many there were."""
        wanted, removed = list(dict.fromkeys(filter(is_text, keys))), 0
        with self._lock:
            unused = self._contents(wanted)
            for name in ("images", "texts"):
                collection = self._collection(name)
                for some in self._batches(wanted):
                    found = collection.get(ids=some, include=[])["ids"]
                    if found:
                        collection.delete(ids=found)
                    removed += len(found)
            self._drop(unused)
        return removed

    def close(self) -> None:
        """Let go of the folder; the next use claims it again."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None
            self._collections.clear()
            self._claim.close()

    def _collection(self, name: str) -> Any:
        with self._lock:
            if not self._collections:
                try:
                    self._open()
                except Exception:
                    self.close()
                    raise
            return self._collections[name]

    def _open(self) -> None:
        folder = storage.normalise(self.path)
        if not storage.is_local(folder):
            raise ConfigError(f"path={folder!r} should be a local folder: Chroma's files go there.")
        storage.make_dirs(folder)
        self._claim.enter_context(storage.exclusive(folder))
        encoder = self.embedder.encoder()
        try:
            found = {name: self._made(folder, name, encoder) for name in ("images", "texts")}
        # Chroma raises errors of many kinds over a damaged file.
        except Exception as error:
            raise DatasetError(
                f"the store {self.path} is damaged, or its chroma.sqlite3 cannot be used: {error}. "
                "Put a copy of the folder in its place, or choose another one."
            ) from error
        for collection in found.values():
            if (other := collection.metadata["encoder"]) != encoder:
                raise EncoderMismatchError(
                    f"the store {self.path} holds vectors of {other!r}, but the embedder is "
                    f"{encoder!r}. Use the embedder that made them, or another folder."
                )
        self._collections = found

    def _made(self, folder: str, name: str, encoder: str) -> Any:
        """Chroma's collection of a name, new or as it is."""
        import chromadb
        from chromadb.api.shared_system_client import SharedSystemClient
        from chromadb.config import Settings

        if self._client is None:
            # What could not start (chromadb 1.5.9) would be taken for started the next time.
            SharedSystemClient._identifier_to_system.pop(folder, None)
            self._client = chromadb.PersistentClient(folder, Settings(anonymized_telemetry=False))
        # Without None here Chroma would download a model of its own to embed texts with.
        return self._client.get_or_create_collection(
            name,
            embedding_function=None,
            configuration={"hnsw": _HNSW},
            metadata={"encoder": encoder},
        )

    def _location(self, sha256: str) -> str:
        # Never under a name that someone sent.
        return storage.join(storage.normalise(self.path), "contents", sha256[:2], sha256)

    def _batches(self, items: list[Any]) -> list[list[Any]]:
        size = self._client.get_max_batch_size()
        return [items[start : start + size] for start in range(0, len(items), size)]

    def _contents(self, keys: list[str]) -> list[str]:
        """The hashes of the images of some keys."""
        collection = self._collection("images")
        return [
            row[_CONTENT]
            for some in self._batches(keys)
            for row in collection.get(ids=some, include=["metadatas"])["metadatas"]
        ]

    def _drop(self, hashes: Sequence[str]) -> None:
        """Remove the files that no image needs any more."""
        collection = self._collection("images")
        for sha256 in set(hashes):
            if not collection.get(where={_CONTENT: sha256}, limit=1, include=[])["ids"]:
                storage.remove(self._location(sha256))

    def _upsert(
        self,
        name: str,
        keys: Sequence[str],
        rows: Mapping[int, dict[str, Any]],
        vectors: Mapping[int, Any],
    ) -> None:
        collection = self._collection(name)
        for numbers in self._batches(list(vectors)):
            ids = [keys[number] for number in numbers]
            found = collection.get(ids=ids, include=["metadatas"])
            # Columns of an old row that the new one lacks would stay.
            old = dict(zip(found["ids"], map(dict.fromkeys, found["metadatas"]), strict=True))
            collection.upsert(
                ids=ids,
                embeddings=[vectors[number] for number in numbers],
                metadatas=[{**old.get(keys[number], {}), **rows[number]} for number in numbers],
            )


def _rows(
    keys: Sequence[str],
    own: Sequence[dict[str, str]],
    captions: Sequence[str | None] | None,
    metadata: Sequence[Mapping[str, Any] | None] | None,
) -> tuple[dict[int, dict[str, Any]], list[str | None]]:
    """What Chroma keeps of each sample that it can keep, and why it cannot keep the others."""
    captions = [None] * len(keys) if captions is None else captions
    metadata = [None] * len(keys) if metadata is None else metadata
    lengths = [len(keys), len(own), len(captions), len(metadata)]
    if len(set(lengths)) != 1:
        raise ConfigError(
            f"keys, contents, captions and metadata should be of one length, not {lengths}."
        )
    rows: dict[int, dict[str, Any]] = {}
    reasons: list[str | None] = []
    seen: set[str] = set()
    for number, key in enumerate(keys):
        row, reason = row_of(key, captions[number], metadata[number], **own[number])
        if reason is None and key in seen:
            reason = f"the key {key!r} is there twice in one call"
        reasons.append(reason)
        if reason is None:
            seen.add(key)
            rows[number] = row
    return rows, reasons
