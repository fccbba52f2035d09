"""`LiveStore`: images and texts that are added while they are being searched."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.embedders.text_image import require_text_side
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.search.live import loading
from nemo_image_curate.search.live.database import NAMES, Database
from nemo_image_curate.search.live.loading import Loaded
from nemo_image_curate.search.live.rows import Row, is_text, key_problem, rows_of, vector_problem
from nemo_image_curate.search.live.vectors import LiveVectors

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.embedders.base import ImageEmbedder

# So many rows may wait until they are made quick to search.
_UNSETTLED = 1000


class LiveStore:
    """What `ChromaStore` and `MilvusStore` have in common.

    Attributes
    ----------
    images, texts : LiveVectors
        What was added, to be searched.
    """

    def __init__(
        self, database: Database, contents: str | None, embedder: ImageEmbedder, device: str
    ):
        self.embedder = embedder
        self.device = device
        self.images = LiveVectors(database, "images")
        self.texts = LiveVectors(database, "texts")
        self._database = database
        self._contents = contents

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
        rows, reasons = rows_of(keys, captions, metadata, hashes)
        self._refuse(rows, reasons)
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
            self._put("images", rows, vectors)
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
        rows, reasons = rows_of(keys, texts, metadata, [None] * len(texts))
        self._refuse(rows, reasons)
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
        self._put("texts", rows, vectors)
        return reasons

    def add_dataset(
        self,
        dataset: ImageTextPairDataset,
        embedding_column: str = "image_embedding",
        over: str = "images",
        progress: bool | None = None,
    ) -> Loaded:
        """Take over the embeddings of a dataset, with keys, shards, captions and plain columns.

        Partitions are read by the workers, and kept one after the other; in a Milvus cluster the
        workers keep them themselves. A sample that is there already is replaced, so that a load
        which was stopped can be made again. Images stay in their shards.

        Parameters
        ----------
        dataset : ImageTextPairDataset
        embedding_column : str, default "image_embedding"
        over : {"images", "texts"}
            What they are vectors of; `Searcher.search` takes the same word.
        progress : bool, optional
            Show a progress bar. Default: on a terminal.

        Returns
        -------
        Loaded
            How many rows there are, were added, and were left out for which reason.

        Raises
        ------
        ColumnNotFoundError
            When there is no such column.
        EncoderMismatchError
            When the embeddings are recorded to be of another encoder than the store's.
        JobError
            When partitions cannot be read.
        """
        if over not in NAMES:
            raise ConfigError(f"over={over!r} should be one of {', '.join(NAMES)}.")
        return loading.load(self._database, over, dataset, embedding_column, progress)

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
                raise DatasetError(
                    f"there is no image {key!r} in the store {self._database.place}."
                )
            return storage.read_bytes(self._location(hashes[0]))

    def remove(self, keys: Sequence[str]) -> int:
        """Remove images and texts of these keys, but those of a dataset; how many there were."""
        usable = [key for key in dict.fromkeys(keys) if key_problem(key) is None]
        with self._database.lock:
            hashes = self._hashes(usable)
            removed = sum(self._database.collection(name).remove(usable) for name in NAMES)
            self._drop(hashes)
        return removed

    def close(self) -> None:
        """Let go of the database; the next use opens it again."""
        self._database.close()

    def _refuse(self, rows: dict[int, Row], reasons: list[str | None]) -> None:
        """Take out the rows that the database cannot keep."""
        for number, row in list(rows.items()):
            reasons[number] = self._database.refusal(row)
            if reasons[number] is not None:
                del rows[number]

    def _put(self, name: str, rows: Mapping[int, Row], vectors: Mapping[int, Any]) -> None:
        """Keep those rows that have a vector."""
        units = [vector / np.linalg.norm(vector) for vector in vectors.values()]
        collection = self._database.collection(name)
        collection.put([rows[number] for number in vectors], units)
        collection.settle(_UNSETTLED)

    def _location(self, sha256: str) -> str:
        if self._contents is None:
            raise ConfigError(
                f"the store {self._database.place} has no place for images. Give it one that all "
                "who use it can reach: MilvusStore(..., contents='s3://bucket/contents')."
            )
        # Never under a name that someone sent.
        return storage.join(storage.normalise(self._contents), sha256[:2], sha256)

    def _hashes(self, keys: Sequence[str]) -> list[str]:
        """The hashes of the images of some keys."""
        hits = self._database.collection("images").get(keys)
        return [hit.row.content for hit in hits.values() if hit.row.content]

    def _drop(self, hashes: Sequence[str]) -> None:
        """Remove the files that no image needs any more."""
        # Another process may be adding the same image.
        if self._database.is_shared:
            return
        images = self._database.collection("images")
        for sha256 in set(hashes):
            if not images.has_content(sha256):
                storage.remove(self._location(sha256))
