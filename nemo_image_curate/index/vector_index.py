"""`VectorIndex`: a saved and checked index over an embedding column, to which shards are added."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.index import build, format
from nemo_image_curate.index.format import SavedIndex
from nemo_image_curate.index.hits import Hit
from nemo_image_curate.index.kinds.table import check_settings, from_recipe
from nemo_image_curate.index.rescoring import MOST_CANDIDATES, approximate, scan
from nemo_image_curate.vectors.unit import directions

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

_CAPTION = "caption"


def index_path(dataset: ImageTextPairDataset, embedding_column: str = "image_embedding") -> str:
    """Where the index of a column is by default: in ``index/`` beside the dataset's metadata."""
    return storage.join(dataset.metadata_path, "index", embedding_column)


def build_index(
    dataset: ImageTextPairDataset,
    embedding_column: str = "image_embedding",
    kind: str = "auto",
    path: str | os.PathLike[str] | None = None,
    *,
    rerank: bool = True,
    target_recall: float = 0.96,
    max_memory: int | None = None,
    progress: bool | None = None,
) -> VectorIndex:
    """Make and save the index of an embedding column.

    Embeddings are scaled to length 1; rows whose embedding is null, zero or not finite are left
    out. The work is done by Dask tasks, one partition each. A build that was stopped goes on with
    what is finished; the files are the same bytes for any number of workers. What is there
    already, made of the same dataset with the same settings, is opened.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    embedding_column : str
    kind : {"auto", "flat", "ivf"}
        ``flat`` compares all vectors; ``ivf`` the codes in the nearest of many lists. ``auto``:
        ``flat`` up to 50,000 vectors, else ``ivf``. ``cuvs``, a graph on a GPU, is experimental:
        it has never been run on one.
    path : str or path, optional
        A local folder, shared with the workers. Default: `index_path`.
    rerank : bool, default True
        Keep all vectors in a mapped file (``ivf``: 2 bytes for each value), to score the best
        candidates exactly. Without it codes are longer, so that the index needs more memory.
    target_recall : float, default 0.96
        How many of the true ten nearest should be found, on average; as many lists are looked at
        as it takes.
    max_memory : int, optional
        Bytes that the index may take in memory when it is used.
    progress : bool, optional
        Show progress bars. Default: on a terminal.

    Returns
    -------
    VectorIndex

    Raises
    ------
    ConfigError
        For unusable settings, or when the index would not fit in `max_memory`.
    ColumnNotFoundError
        When there is no such column.
    DatasetError
        When there is no embedding in it, or they are of different encoders.
    BackendError
        When the kind does not work on this machine.

    Notes
    -----
    Memory: a worker holds one partition. The client holds the index, while it fills it twice,
    and the components of the training sample: 50 KB for each of 2 sqrt(n) lists. Disk: while it
    is built, the vectors in float32 besides the index.

    Examples
    --------
    >>> index = build_index(ds, path="index/")
    >>> len(index)
    40
    """
    check_settings(kind, rerank, target_recall, max_memory)
    place = index_path(dataset, embedding_column) if path is None else path
    folder = storage.local_path(place, "path", format.WHY_LOCAL)
    options = {
        "kind": kind,
        "rerank": rerank,
        "target_recall": target_recall,
        "max_memory": max_memory,
    }
    build.make(dataset, embedding_column, folder, options, progress)
    return VectorIndex.load(folder)


class VectorIndex:
    """A saved index of unit vectors, and what is known of their rows.

    Made by `build_index`, opened by `VectorIndex.load`. Threads may share one.

    Attributes
    ----------
    path : str
    recipe : dict
        How it was made: ``kind``, ``factory`` (in FAISS's notation), ``dim``, ``count``,
        ``left_out`` (rows without a usable embedding), ``lists``, ``nprobe``, ``candidates``,
        ``recall`` (measured recall@10), ``bytes`` (estimates: ``memory``, ``disk``), ``column``,
        ``encoder`` and ``provenance`` of the embeddings, ``options`` as they were given, ``files``
        with their hashes, and more.
    rows : RowTable
    nprobe, candidates : int
        How many lists a search looks at, and how many rows it scores exactly for each hit; may be
        set.
    most_candidates : int
        How many rows a search scores at most where more are alike; may be set.
    scan_rows : int
        Up to so many allowed rows are all compared; may be set. The default is about as fast as
        looking for them in the lists of 1,000,000 (measured).
    """

    def __init__(self, saved: SavedIndex):
        self.path = saved.folder
        self.recipe: dict[str, Any] = {**saved.recipe, "files": saved.files}
        kind = from_recipe(saved.recipe)
        if missing := set(kind.roles) - set(saved.files):
            raise self._damaged(f"it names no file of {', '.join(sorted(missing))}")
        self.rows = saved.open_rows()
        names = {saved.recipe["id_col"], SHARD_COLUMN}
        if len(self.rows) != kind.count or not names <= set(self.rows.columns):
            raise self._damaged(f"its rows are not {kind.count:,} with {', '.join(sorted(names))}")
        self.nprobe: int = self.recipe.get("nprobe", 1)
        self.candidates: int = self.recipe.get("candidates", 2)
        self.most_candidates = MOST_CANDIDATES
        self.scan_rows = 5_000
        self._engine = kind.open(saved.paths)

    def _damaged(self, problem: str) -> DatasetError:
        place = os.path.join(self.path, format.DESCRIPTION)
        return DatasetError(f"{place} is damaged: {problem}. Build the index again.")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        dataset: ImageTextPairDataset | None = None,
        check_files: bool = False,
        progress: bool | None = None,
    ) -> VectorIndex:
        """Open an index, and check that it is whole and belongs to a dataset.

        Parameters
        ----------
        path : str or path
        dataset : ImageTextPairDataset, optional
            When its metadata was saved again since, keys and embeddings are compared by content;
            if they are the same, the index takes over the other columns, for ``where=``.
        check_files : bool, default False
            Hash all files. Without it those above 256 MB are only compared by size.
        progress : bool, optional

        Raises
        ------
        DatasetError
            When there is no index, a file is damaged, or the dataset is another one: what
            differs, and what to do.
        """
        folder = storage.local_path(path, "path", format.WHY_LOCAL)
        if dataset is not None:
            build.refresh(folder, dataset, progress)
        while True:
            saved = format.read(folder)
            try:
                format.check(saved, check_files)
                return cls(saved)
            except (FileNotFoundError, DatasetError) as error:
                # Unless it was replaced after its description was read.
                if format.read(folder) != saved:
                    continue
                if isinstance(error, DatasetError):
                    raise
                raise DatasetError(f"{error.filename} is gone. Build the index again.") from error

    @property
    def encoder(self) -> str | None:
        """The encoder that the embeddings are of; None when that is not known."""
        encoder: str | None = self.recipe["encoder"]
        return encoder

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"VectorIndex({self.path!r}, {self.recipe['factory']}, {len(self):,} vectors)"

    def search(
        self, vectors: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows of highest cosine similarity to each query.

        Parameters
        ----------
        vectors : numpy.ndarray, shape (q, d)
            Of any length but 0.
        k : int
        allowed : numpy.ndarray of int64, optional
            Ascending numbers of the rows to choose from.

        Returns
        -------
        scores : numpy.ndarray of float32, shape (q, k)
            Cosine similarities, the highest first; -inf where there is no row.
        rows : numpy.ndarray of int64, shape (q, k)
            Of equal similarity, the lower number first; -1 where there is no row. When as many
            are allowed and all are finite, there are k of them.

        Raises
        ------
        ConfigError
            When `k` is below 1, or the queries are of another width, zero or not finite.
        """
        queries = self._queries(vectors)
        if k < 1:
            raise ConfigError(f"k={k} should be a positive integer.")
        pool = len(self) if allowed is None else len(allowed)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        k = min(k, pool)
        if k and len(queries):
            best_scores, rows[:, :k] = self._best(queries, k, allowed, pool)
            # A file of another program may hold vectors of NaN, which are like none.
            rows[:, :k][np.isnan(best_scores)] = -1
            # In float16 a vector's length is not quite 1.
            scores[:, :k] = np.where(np.isnan(best_scores), -np.inf, best_scores.clip(-1, 1))
        return scores, rows

    def _best(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None, pool: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows of the k nearest of `pool` rows."""
        if pool <= self.scan_rows or k > self.most_candidates:
            return scan(self._engine, queries, k, len(self), allowed)
        nprobe, bits = self.nprobe, None
        if allowed is not None:
            mask = np.zeros(len(self), dtype=bool)
            mask[allowed] = True
            bits = np.packbits(mask, bitorder="little")
            # So that as many of them are looked at as there would be of all rows.
            nprobe = min(self._engine.lists, round(nprobe * len(self) / pool))
        scores, rows = approximate(
            self._engine, queries, k, pool, nprobe, self.candidates, bits, self.most_candidates
        )
        # What a graph does not lead to is found all the same.
        incomplete = np.flatnonzero((rows < 0).any(axis=1))
        if len(incomplete):
            scores[incomplete], rows[incomplete] = scan(
                self._engine, queries[incomplete], k, len(self), allowed
            )
        return scores, rows

    def _queries(self, vectors: np.ndarray) -> np.ndarray:
        """The queries' directions, float32."""
        import torch

        array = np.asarray(vectors)
        dim = self.recipe["dim"]
        if array.ndim != 2 or array.shape[1] != dim:
            raise ConfigError(
                f"queries of shape {array.shape} do not fit the index of {self.encoder or 'a'} "
                f"embeddings, which have {dim} values: they should be of shape (q, {dim}), and by "
                "the same model."
            )
        wide = array.astype(np.float64)
        queries: np.ndarray = directions(torch.from_numpy(wide)).float().numpy()
        if np.isnan(queries).any():
            if not np.isfinite(wide).all():
                raise ConfigError("a query has values that are NaN or infinite.")
            raise ConfigError("a query is all zero, and has no direction to look in.")
        return queries

    def nearest(
        self,
        vectors: np.ndarray,
        k: int,
        where: str | None = None,
        with_vectors: bool = False,
    ) -> list[list[Hit]]:
        """The rows of highest cosine similarity to each vector; see `Searchable.nearest`."""
        allowed = None if where is None else self.rows.matching(where)
        scores, rows = self.search(vectors, k, allowed)
        answers = []
        for query_scores, query_rows in zip(scores, rows, strict=True):
            present = query_rows >= 0
            answers.append(self._hits(query_rows[present], query_scores[present], with_vectors))
        return answers

    def lookup(
        self, samples: Sequence[tuple[str | None, str]], where: str | None = None
    ) -> list[Hit | None]:
        """The rows of some samples, with their vectors; see `Searchable.lookup`."""
        allowed = None if where is None else self.rows.matching(where)
        rows: list[int | None] = []
        for shard, key in samples:
            same_key = self.rows.search(key, shard)
            if allowed is not None:
                same_key = np.array(same_key)[np.isin(same_key, allowed)].tolist()
            if len(same_key) > 1 and shard is None:
                self.rows.find(key)  # which says in which shards it is
            # A key that a shard has twice names two rows that nothing tells apart.
            rows.append(same_key[0] if same_key else None)
        present = np.array([row for row in rows if row is not None], dtype=np.int64)
        hits = iter(self._hits(present, np.ones(len(present)), True))
        return [None if row is None else next(hits) for row in rows]

    def _hits(self, rows: np.ndarray, scores: np.ndarray, with_vectors: bool) -> list[Hit]:
        vectors = self.vectors(rows) if with_vectors and len(rows) else [None] * len(rows)
        hits = []
        for columns, score, vector in zip(self.rows.take(rows), scores, vectors, strict=True):
            key, shard = columns.pop(self.recipe["id_col"]), columns.pop(SHARD_COLUMN)
            caption = columns.pop(_CAPTION, None)
            hits.append(Hit(key, shard, float(score), caption, columns, vector))
        return hits

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The unit vectors of some rows, shape (m, d), float32.

        As they were for ``flat``; in float16 with ``rerank``, else from one byte a value.
        """
        return self._engine.vectors(np.asarray(rows, dtype=np.int64))

    def add(self, dataset: ImageTextPairDataset, progress: bool | None = None) -> VectorIndex:
        """Add the shards that a dataset has and this index has not.

        Rows are added at the end. What was learned from the first shards (components, centres) is
        kept; how many lists to look at is measured anew. When the index has grown fourfold, build
        it again.

        Parameters
        ----------
        dataset : ImageTextPairDataset
            All of it, the shards that are indexed already included.
        progress : bool, optional

        Returns
        -------
        VectorIndex
            The new one, which takes the place of this one's files.

        Raises
        ------
        DatasetError
            When what is indexed already is not in the dataset as it was, or is of another encoder.
        """
        build.add(self.path, dataset, progress)
        return VectorIndex.load(self.path)
