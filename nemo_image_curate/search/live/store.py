"""`ChromaStore` and `MilvusStore`: live stores by their databases."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError, require
from nemo_image_curate.search.live.base import LiveStore
from nemo_image_curate.search.live.chroma import ChromaDatabase
from nemo_image_curate.search.live.milvus import MilvusDatabase, is_milvus

if TYPE_CHECKING:
    from nemo_image_curate.embedders.base import ImageEmbedder

TOKEN_VARIABLE = "MILVUS_TOKEN"


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
