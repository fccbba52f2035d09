"""`SemanticDedup`: near-duplicates by the cosine similarity of embeddings."""

from __future__ import annotations

import numbers
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, locks, storage
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dedup import deciding, results
from nemo_image_curate.dedup.clustering import CONTENT, KEPT, ROWS, Clustering
from nemo_image_curate.dedup.cost import Cost, choose_clusters
from nemo_image_curate.dedup.extraction import extract
from nemo_image_curate.dedup.keep import By, check_keep, keep_columns
from nemo_image_curate.dedup.layout import LAYOUT, Layout
from nemo_image_curate.dedup.ranks import Order, rank_rows
from nemo_image_curate.dedup.recall import RecallEstimate, measure_recall
from nemo_image_curate.dedup.rules import check_rule
from nemo_image_curate.dedup.staged import Block, StagedRows, stage
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.stages.base import Stage, no_effect

# Folders of what an extraction has done so far.
_STEPS = "steps"


@dataclass(eq=False)
class SemanticDedup(Stage):
    """Adds columns that say which images are near-duplicates of others, by their embeddings.

    Embeddings are clustered, and compared with those of the same cluster; embeddings near the
    border of two clusters belong to both. After SemDeDup (Abbas et al., "SemDeDup: data-efficient
    learning at web-scale through semantic deduplication", 2023), which misses pairs that a border
    parts. Rows without an embedding, or whose embedding is zero or not finite, are not compared:
    their columns are null.

    Parameters
    ----------
    eps : float, default 0.05
        Two embeddings are duplicates when their cosine similarity is at least 1 - eps, to an
        accuracy of 1e-6. 0 to 1.
    n_clusters : int or "auto"
        Default: one up to 10,000 rows, so that all pairs are compared; then 2 sqrt(n).
    keep : {"hard", "easy", "random", "first", "best"}
        Which of several duplicates is kept: the one least (``hard``) or most (``easy``) similar
        to its cluster's centroid, a random one, the first of the dataset, or the one with the
        best value in the columns `by`. Ties by key.
    by : str or list of str, optional
        Columns of numbers or times, for ``keep="best"``, such as ``aesthetic_score``. The next one
        decides where the last are equal; a minus before its name means the lowest value:
        ``["aesthetic_score", "-bytes"]``. Rows without a value come last.
    rule : {"greedy", "reference", "components"}
        What is removed; see `nemo_image_curate.dedup.rules`. With ``greedy`` no two kept rows are
        duplicates of each other, and every removed one has a kept duplicate.
    n_probe : int, default 4
        To how many clusters an embedding may belong. More find more pairs, and cost more.
    embedding_column : str, default "image_embedding"
    random_state : int, default 0
        For the sample that clusters are found on, where they start, and ``keep="random"``.
    prefix : str, default ""
        Put before the names of the columns.
    work_dir : str or path, optional
        A folder for intermediate files, up to `n_probe` times the size of the embeddings (mostly
        less than twice), that all workers share. It is not emptied, so that clusters serve several
        runs. Default: in the system's temporary folder, where only the result is left.

    Columns
    -------
    cluster : int32
    is_duplicate : bool
    duplicate_of, duplicate_of_shard : string
        Key and shard of the row that stands for it; null when it is kept.
    duplicate_similarity : float32
        Cosine similarity with that row.

    Notes
    -----
    Memory: a worker holds one partition's embeddings three times, or 64 MB of embeddings if that
    is more, and keys and pairs of a 512th of the rows; the client holds what grows with clusters
    and shards: a sample of 25 embeddings for each cluster, and some 300 bytes for each shard.
    Time: the products of n k + n^2 n_probe^2 / 2 k pairs of vectors at most.

    Examples
    --------
    >>> ds = SemanticDedup(eps=0.05, keep="best", by="aesthetic_score")(ds)
    >>> ds = ds.filter("not is_duplicate")

    In two steps, for several values of eps:

    >>> clusters = SemanticDedup(eps=0.1, work_dir="work/").cluster(ds)
    >>> for eps in (0.02, 0.05, 0.1):
    ...     found = clusters.extract(eps)
    """

    eps: float = 0.05
    n_clusters: int | str = "auto"
    keep: str = "hard"
    by: By = None
    rule: str = "greedy"
    n_probe: int = 4
    embedding_column: str = "image_embedding"
    random_state: int = 0
    prefix: str = no_effect("")
    work_dir: str | os.PathLike[str] | None = no_effect(None)

    def columns(self) -> dict[str, pa.DataType]:
        """The cluster, and the decisions."""
        return results.decision_columns(self.prefix) | {f"{self.prefix}cluster": pa.int32()}

    def config(self) -> dict[str, Any]:
        """The parameters that decide the result."""
        return self.parameters()

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The embeddings, and what duplicates are kept by."""
        return [self.embedding_column, *keep_columns(self.by)]

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns, found now.

        Raises
        ------
        ConfigError
            For unusable parameters, or a `work_dir` that workers do not see.
        ColumnNotFoundError
            When there is no embedding column, or a column of `by` is missing.
        DatasetError
            When embeddings differ in length.
        """
        self._check_dataset(dataset)
        folder = self._folder(dataset)
        with locks.exclusive(str(folder)):
            clusters, clustering = self._open(dataset, folder, None)
            dim = clustering.sample()
            extraction = _Extraction.of(clusters, self.eps, self.keep, self.by, self.rule, None)
            if not extraction.complete():
                clustering.store(dim)
                extraction.run()
            if self.work_dir is None:
                clusters.remove_vectors()
            return extraction.attach()

    def cluster(
        self, dataset: ImageTextPairDataset, progress: bool | None = None
    ) -> SemanticClusters:
        """The first step: cluster the embeddings, and store them by cluster.

        Parameters
        ----------
        dataset : ImageTextPairDataset
            Embeddings that are not computed yet are computed, and stored with the other columns
            in the work folder, first.
        progress : bool, optional
            Default: on a terminal.
        """
        self._check_dataset(dataset)
        folder = self._folder(dataset)
        with locks.exclusive(str(folder)):
            clusters, clustering = self._open(dataset, folder, progress)
            clustering.store(clustering.sample())
        return clusters

    def _folder(self, dataset: ImageTextPairDataset) -> Path:
        column, eps, seed = self.embedding_column, self.eps, self.random_state
        config = ("semantic", column, self.n_clusters, self.n_probe, eps, seed)
        return results.work_folder(dataset, self.work_dir, *config)

    def _open(
        self, dataset: ImageTextPairDataset, folder: Path, progress: bool | None
    ) -> tuple[SemanticClusters, Clustering]:
        column = self.embedding_column
        if column not in dataset.source()[0].schema.names:
            dataset = dataset.save_metadata(str(folder / KEPT), progress=progress, overwrite=True)
        # A copy: users assign to `metadata` of theirs.
        dataset = dataset.replace(dataset.metadata)
        staged = stage(dataset, keep_columns(self.by), folder / ROWS, progress)
        clustering = Clustering(
            dataset,
            column,
            staged.counts,
            self._clusters_for(len(staged)),
            self.n_probe,
            float(self.eps),
            self.random_state,
            folder,
            progress,
        )
        return SemanticClusters(self, dataset, folder, staged), clustering

    def _clusters_for(self, n: int) -> int:
        n_clusters = choose_clusters(n) if self.n_clusters == "auto" else int(self.n_clusters)
        return max(1, min(n_clusters, n))

    def estimate_cost(self, dataset: ImageTextPairDataset) -> Cost:
        """What the work will take, before it is done.

        Rows are counted, and the first of them computed to see how long embeddings are.

        Raises
        ------
        ConfigError, ColumnNotFoundError
            As the work itself would.
        """
        self._check_dataset(dataset)
        first = dataset.replace(dataset.metadata[[self.embedding_column]]).head(100)
        dim = frames.embedding_array(first[self.embedding_column])[0].shape[1]
        device = frames.device_of(dataset.metadata)
        n = len(dataset)
        return Cost.of(n, dim, self._clusters_for(n), self.n_probe, device)

    def _check_dataset(self, dataset: ImageTextPairDataset) -> None:
        self.check()
        column = self.embedding_column
        frames.require_columns(dataset.metadata, *self.needs(dataset))
        kind = frames.schema(dataset.metadata).field(column).type
        if not str(kind).startswith(("list", "fixed_size_list", "large_list", "null")):
            raise ConfigError(f"column {column!r} holds {kind}, not embeddings.")

    def check(self) -> None:
        """Refuse unusable parameters.

        Raises
        ------
        ConfigError
        """
        _check_eps(self.eps)
        check_keep(self.keep, self.by)
        check_rule(self.rule)
        _check_integer("n_probe", self.n_probe, 1)
        _check_integer("random_state", self.random_state, 0)
        if self.n_clusters != "auto":
            _check_integer("n_clusters", self.n_clusters, 1)


@dataclass
class SemanticClusters:
    """Clustered embeddings: what `SemanticDedup.cluster` gives.

    Attributes
    ----------
    stage : SemanticDedup
    dataset : ImageTextPairDataset
    folder : Path
        Where the embeddings are.
    staged : StagedRows
        Keys and shards, in files there.
    """

    stage: SemanticDedup
    dataset: ImageTextPairDataset
    folder: Path
    staged: StagedRows

    @property
    def layout(self) -> Layout:
        """How they are stored.

        Raises
        ------
        DatasetError
            When they were removed.
        """
        if layout := Layout.load(self.folder):
            return layout
        raise DatasetError(f"the clustered embeddings in {self.folder} were removed; cluster again")

    def extract(
        self,
        eps: float | None = None,
        keep: str | None = None,
        by: By = None,
        rule: str | None = None,
        progress: bool | None = None,
    ) -> ImageTextPairDataset:
        """The second step: the dataset with the columns that say which rows are duplicates.

        Parameters
        ----------
        eps, keep, by, rule : optional
            Default: those of the stage. `eps` at most that of the stage.
        progress : bool, optional
            Default: on a terminal.

        Raises
        ------
        ConfigError
        DatasetError
            When the clustered embeddings were removed.
        """
        keep, by = (keep, by) if keep else (self.stage.keep, by or self.stage.by)
        rule = rule or self.stage.rule
        eps = self._eps(eps)
        check_keep(keep, by)
        check_rule(rule)
        extraction = _Extraction.of(self, eps, keep, by, rule, progress)
        with locks.exclusive(str(self.folder)):
            if not extraction.complete():
                extraction.run()
        return extraction.attach()

    def _eps(self, eps: float | None) -> float:
        eps = self.stage.eps if eps is None else eps
        _check_eps(eps)
        if eps > self.stage.eps:
            raise ConfigError(
                f"eps={eps} is more than the eps={self.stage.eps} that these clusters are made "
                "for; pairs across their borders would be missed. Cluster with the largest eps."
            )
        return float(eps)

    def estimate_recall(
        self, eps: float | None = None, sample_size: int = 1000, progress: bool | None = None
    ) -> RecallEstimate:
        """How many of the true pairs are compared, by comparing a sample with everything.

        Parameters
        ----------
        eps : float, optional
            Default: that of the stage.
        sample_size : int
            Rows, chosen at random with the stage's `random_state`.
        progress : bool, optional
            Default: on a terminal.
        """
        layout, eps, seed = self.layout, self._eps(eps), self.stage.random_state
        with locks.exclusive(str(self.folder)):
            return measure_recall(layout, eps, sample_size, seed, self.device, progress)

    @property
    def device(self) -> str:
        """Where vectors are multiplied: ``cpu`` or ``cuda``."""
        return frames.device_of(self.dataset.metadata)

    def remove_vectors(self) -> None:
        """Delete the stored embeddings; results that were extracted stay."""
        # First what says that they are there.
        (self.folder / LAYOUT).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            # What begins with a point is a lock.
            if path.is_file() and path.name != CONTENT and not path.name.startswith("."):
                path.unlink()
            elif path.name.startswith((_STEPS, ROWS)):
                shutil.rmtree(path)


@dataclass
class _Extraction:
    """One extraction: from clusters to decisions on disk."""

    clusters: SemanticClusters
    config: dict[str, Any]
    staged: StagedRows
    name: str
    progress: bool | None

    @classmethod
    def of(
        cls,
        clusters: SemanticClusters,
        eps: float,
        keep: str,
        by: By,
        rule: str,
        progress: bool | None,
    ) -> _Extraction:
        config = {"eps": float(eps), "keep": keep, "by": by, "rule": rule}
        staged = clusters.staged
        columns = keep_columns(by)
        if columns and columns != keep_columns(clusters.stage.by):
            staged = stage(clusters.dataset, columns, clusters.folder / f"{ROWS}-by", progress)
        # Keys, shards and the columns of `by`; the folder goes with the embeddings.
        name = fingerprint(sorted(config.items(), key=str), staged.digest())[:16]
        return cls(clusters, config, staged, name, progress)

    @property
    def decided(self) -> Path:
        return self.clusters.folder / f"decisions-{self.name}"

    def complete(self) -> bool:
        return results.complete(self.decided)

    def run(self) -> None:
        clusters, layout = self.clusters, self.clusters.layout
        keep, by, rule, eps = (self.config[name] for name in ("keep", "by", "rule", "eps"))
        steps = clusters.folder / f"{_STEPS}-{self.name}"
        storage.make_dirs(str(steps))
        id_col, seed = clusters.dataset.id_col, clusters.stage.random_state
        order = Order(keep, by, seed, id_col, layout if keep in ("hard", "easy") else None)
        ranks = rank_rows(self.staged, order, steps, self.progress)
        partners = extract(
            layout, self.staged, ranks, rule, eps, steps, clusters.device, self.progress
        )
        deciding.write(
            self.decided, self.staged, partners, _Homes(layout), "no embedding", self.progress
        )
        shutil.rmtree(steps)

    def attach(self) -> ImageTextPairDataset:
        stage = self.clusters.stage
        record = stage.record(**self.config)
        return results.attach(self.clusters.dataset, self.decided, stage.prefix, record)


class _Homes(deciding.RowFacts):
    """The clusters of rows, and which have none."""

    def __init__(self, layout: Layout):
        self.layout = layout

    def equals(self, block: Block) -> np.ndarray:
        # Rows that are alike are told by their pairs.
        places = np.arange(len(block))
        return np.where(self.layout.homes(block.parts)["cluster"] >= 0, places, -1)

    def columns(self, block: Block) -> dict[str, pa.Array]:
        clusters = self.layout.homes(block.parts)["cluster"]
        return {"cluster": pa.array(clusters, mask=clusters < 0)}


def _check_eps(eps: Any) -> None:
    if not (isinstance(eps, numbers.Real) and 0 <= float(eps) <= 1):
        raise ConfigError(f"eps={eps!r} should be a cosine distance from 0 to 1.")


def _check_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise ConfigError(f"{name}={value!r} should be an integer of at least {least}.")
