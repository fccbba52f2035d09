"""`ChromaStore`: images and texts that are added while they are being searched."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nemo_image_curate import storage
from nemo_image_curate.embedders.text_image import require_text_side
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.search.live.database import Database
from nemo_image_curate.search.live.rows import is_text, rows_of, vector_problem
from nemo_image_curate.search.live.vectors import ChromaVectors

if TYPE_CHECKING:
    from nemo_image_curate.embedders.base import ImageEmbedder

_CONTENT = "_sha256"


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
        self._database = Database(path, embedder.encoder)
        self.images = ChromaVectors(self._database, "images")
        self.texts = ChromaVectors(self._database, "texts")

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
        hashes = [hashlib.sha256(image).hexdigest() for image in images]
        rows, reasons = rows_of(keys, captions, metadata, [{_CONTENT: sha256} for sha256 in hashes])
        vectors: dict[int, Any] = {}
        if rows:
            contents = [images[number] for number in rows]
            embedded, errors = self.embedder.embed_images(contents, device=self.device)
            for number, vector, error in zip(rows, embedded, errors, strict=True):
                reasons[number] = error or vector_problem(vector)
                if reasons[number] is None:
                    vectors[number] = vector
        with self._database.lock:
            replaced = self._hashes([keys[number] for number in vectors])
            # First the files: a row without its image would be a fault, a file too many is none.
            for number in vectors:
                location = self._location(hashes[number])
                storage.make_dirs(storage.parent(location))
                storage.write_bytes(location, images[number])
            new = {keys[number]: rows[number] for number in vectors}
            self._database.upsert("images", new, list(vectors.values()))
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
        embed_text = require_text_side(self.embedder).embed_text
        rows, reasons = rows_of(keys, texts, metadata, [{} for _ in texts])
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
        new = {keys[number]: rows[number] for number in vectors}
        self._database.upsert("texts", new, list(vectors.values()))
        return reasons

    def image(self, key: str) -> bytes:
        """The encoded bytes of an image as it was added.

        Raises
        ------
        DatasetError
            When there is no such image.
        """
        with self._database.lock:
            hashes = self._hashes([key]) if is_text(key) else []
            if not hashes:
                raise DatasetError(f"there is no image {key!r} in the store {self.path}.")
            return storage.read_bytes(self._location(hashes[0]))

    def remove(self, keys: Sequence[str]) -> int:
        """Remove images and texts of these keys; how many there were."""
        usable, removed = list(dict.fromkeys(filter(is_text, keys))), 0
        with self._database.lock:
            hashes = self._hashes(usable)
            for name in ("images", "texts"):
                collection = self._database.collection(name)
                for part in self._database.batches(usable):
                    present = collection.get(ids=part, include=[])["ids"]
                    if present:
                        collection.delete(ids=present)
                    removed += len(present)
            self._drop(hashes)
        return removed

    def close(self) -> None:
        """Let go of the folder; the next use claims it again."""
        self._database.close()

    def _location(self, sha256: str) -> str:
        # Never under a name that someone sent.
        return storage.join(storage.normalise(self.path), "contents", sha256[:2], sha256)

    def _hashes(self, keys: Sequence[str]) -> list[str]:
        """The hashes of the images of some keys."""
        images = self._database.collection("images")
        return [
            row[_CONTENT]
            for part in self._database.batches(keys)
            for row in images.get(ids=part, include=["metadatas"])["metadatas"]
        ]

    def _drop(self, hashes: Sequence[str]) -> None:
        """Remove the files that no image needs any more."""
        images = self._database.collection("images")
        for sha256 in set(hashes):
            if not images.get(where={_CONTENT: sha256}, limit=1, include=[])["ids"]:
                storage.remove(self._location(sha256))
