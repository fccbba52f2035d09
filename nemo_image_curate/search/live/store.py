"""`LiveStore`: images and texts that are added while they are being searched."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.embedders.text_image import require_text_side
from nemo_image_curate.errors import ConfigError, DatasetError, require
from nemo_image_curate.search.live import loading
from nemo_image_curate.search.live.chroma import ChromaDatabase
from nemo_image_curate.search.live.database import NAMES, Database
from nemo_image_curate.search.live.loading import Loaded
from nemo_image_curate.search.live.milvus import MilvusDatabase, is_milvus
from nemo_image_curate.search.live.rows import Row, is_text, row_id, rows_of, vector_problem
from nemo_image_curate.search.live.vectors import LiveVectors

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.embedders.base import ImageEmbedder

TOKEN_VARIABLE = "MILVUS_TOKEN"
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
        usable = [row_id(None, key) for key in dict.fromkeys(filter(is_text, keys))]
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


class ChromaStore(LiveStore):
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
    images, texts : LiveVectors
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
        database = ChromaDatabase(path, embedder.encoder)
        super().__init__(database, storage.join(str(path), "contents"), embedder, device)


class MilvusStore(LiveStore):
    """A Milvus database, in files of this machine (milvus-lite) or in a cluster.

    What `ChromaStore` does, where one machine is outgrown: in a cluster any number of processes
    add and search at the same time, and `add_dataset` lets all workers write. Files are for trying
    it out, up to some ten thousand rows; they are claimed by one process until `close`. Their
    server, in this process, listens on a port of this machine without a password. milvus-lite runs
    on Linux and macOS.

    Parameters
    ----------
    uri : str or path
        ``http(s)://host:port`` of a cluster, or a local path that ends in ``.db``; made when it is
        not there.
    embedder : ImageEmbedder
    device : str, default "cpu"
        Where images and texts are embedded.
    token : str, optional
        Of the cluster: ``user:password``, or an API key.
    contents : str or path, optional
        A folder, also in an object store, for the images that `add_images` is given. Default: in
        the files; a cluster has none, and `add_dataset` needs none.
    name : str, default "curate"
        What the two collections' names begin with.
    index_type : str, optional
        How Milvus searches: ``"FLAT"`` (all are compared), ``"HNSW"``, ``"IVF_FLAT"`` and others.
        Default: ``FLAT`` in files, the cluster's own choice (``AUTOINDEX``) there.

    Attributes
    ----------
    images, texts : LiveVectors
        What was added, to be searched.

    Raises
    ------
    ConfigError
        When the packages of the ``milvus`` extra are missing.
    DatasetError
        At first use, when no Milvus answers, or the files cannot be written, or are in use.
    EncoderMismatchError
        At first use, when it holds vectors of another encoder.

    Notes
    -----
    A sample's columns, its key, shard and caption among them, may have 65,536 bytes together.
    Images that are replaced or removed are kept in `contents` of a cluster, since another process
    may be adding the same.

    Examples
    --------
    >>> store = MilvusStore("http://milvus:19530", OpenCLIPEmbedder())  # doctest: +SKIP
    >>> store.add_dataset(dataset).added  # doctest: +SKIP
    1000000
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        embedder: ImageEmbedder,
        device: str = "cpu",
        *,
        token: str | None = None,
        contents: str | os.PathLike[str] | None = None,
        name: str = "curate",
        index_type: str | None = None,
    ):
        self.uri = uri
        self.token = token
        self.contents = contents
        self.name = name
        self.index_type = index_type
        place = os.fspath(uri)
        if not is_milvus(place):
            raise ConfigError(
                f"uri={place!r} should be http(s)://host:port, or a path that ends in .db."
            )
        database = MilvusDatabase(place, embedder.encoder, token, name, index_type)
        for module in ("pymilvus", *([] if database.is_shared else ["milvus_lite"])):
            require(module, "milvus", "MilvusStore")
        folder = None if contents is None else os.fspath(contents)
        if folder is None and not database.is_shared:
            folder = storage.join(place, "contents")
        super().__init__(database, folder, embedder, device)


def open_store(place: str, embedder: ImageEmbedder, device: str = "cpu") -> LiveStore:
    """The store of a place, by what it is called: Milvus' file or URI, else a folder of Chroma's.

    The token of a cluster is what ``MILVUS_TOKEN`` in the environment says.
    """
    if is_milvus(place):
        return MilvusStore(place, embedder, device, token=os.environ.get(TOKEN_VARIABLE))
    return ChromaStore(place, embedder, device)
