"""`HierarchicalClusters`: clusters of clusters, spread evenly over what a dataset shows."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, locks, storage
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dedup.results import work_folder
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.selection.checks import check_integer, is_integer
from nemo_image_curate.selection.hash_order import HashOrder, usable_vectors
from nemo_image_curate.selection.kept import MadeOfKept, read_once
from nemo_image_curate.stages.base import Stage, no_effect
from nemo_image_curate.vectors.hierarchical import HierarchicalKMeans
from nemo_image_curate.vectors.homes import homes

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Vectors for each cluster of the finest level at most: as many as FAISS's k-means takes.
_PER_CLUSTER = 256
# Of levels="auto": how many there are, how many clusters a level has for one of the next at most,
# and how many the coarsest has at least, where there are so many.
_AUTO_LEVELS, _AUTO_RATIO, _AUTO_LEAST = 3, 5, 10
_AUTO_MEAN_SIZE = 30
_HIERARCHY = "hierarchy.npz"


@dataclass(eq=False)
class HierarchicalClusters(Stage):
    """Adds the clusters that rows belong to by their embeddings, in levels from fine to coarse.

    Hierarchical k-means with resampling, after Vo et al., "Automatic data curation for
    self-supervised learning: a clustering-based approach", 2024 (arXiv 2405.15613), the method
    behind DINOv3's data: the finest clusters are those of embeddings, each further level's are
    those of the centroids before. Each level is found again several times among the embeddings
    nearest to its centroids, so that clusters spread evenly over all there is, not over where most
    of it is. `BalancedSample` draws rows from them.

    Parameters
    ----------
    levels : sequence of int or "auto"
        How many clusters each level has, the finest first; falling. Default: three levels, the
        finest with 4 sqrt(n) clusters, or n / 30 if that is less, each other one with a fifth of
        those before, or more where the coarsest would have less than 10.
    resampling_steps : int, default 10
        How many times a level is found again, from the half of an average cluster that is nearest
        to each centroid. 0: plain k-means of each level.
    normalize : bool, default True
        Compare embeddings by their cosine; zero ones have no clusters. Otherwise they are taken as
        they are, and compared by Euclidean distance.
    embedding_column : str, default "image_embedding"
    random_state : int, default 0
        For where k-means starts, and the embeddings it looks at.
    prefix : str, default ""
        Put before the names of the columns.
    work_dir : str or path, optional
        A folder for intermediate files, twice the size of the embeddings looked at, that all
        workers share; the centroids stay in it, from which columns are made when they are needed.
        Default: in the system's temporary folder.

    Columns
    -------
    cluster_1, cluster_2, ... : int32
        The finest first; null without a usable embedding.
    centroid_distance : float32
        From the centroid of ``cluster_1``: 1 - cosine with `normalize`, else Euclidean.

    Notes
    -----
    The result does not depend on partitions or workers. Centroids are found on 256 embeddings for
    each of the finest clusters at most, those whose keys have the lowest hashes.

    Memory: a worker holds one partition's embeddings, or a file of 16,384 (a 512th of those looked
    at, if that is more), some three times, and the centroids of a level; so does the client.
    Time: the products of ``min(n, 256 k) k (11 + 7 resampling_steps) + n k`` pairs of vectors at
    most, half of that mostly.

    Examples
    --------
    >>> ds = HierarchicalClusters()(ds)
    >>> ds = BalancedSample(1_000_000)(ds)
    """

    levels: Sequence[int] | str = "auto"
    resampling_steps: int = 10
    normalize: bool = True
    embedding_column: str = "image_embedding"
    random_state: int = 0
    prefix: str = no_effect("")
    work_dir: str | os.PathLike[str] | None = no_effect(None)

    def check(self) -> None:
        """Refuse unusable parameters.

        Raises
        ------
        ConfigError
        """
        check_integer("resampling_steps", self.resampling_steps, 0)
        check_integer("random_state", self.random_state, 0)
        levels = self.levels
        if levels == "auto":
            return
        is_list = isinstance(levels, Sequence) and not isinstance(levels, str)
        if not is_list or not levels or not all(is_integer(k, 1) for k in levels):
            raise ConfigError(
                f"levels={levels!r} should be 'auto', or how many clusters each level has, such "
                "as (1000, 100)."
            )
        if list(levels) != sorted(set(map(int, levels)), reverse=True):
            raise ConfigError(
                f"levels={levels!r} should fall: the finest level first, such as (1000, 100)."
            )

    def columns(self) -> dict[str, pa.DataType]:
        """A column for each level, and the distance from the finest centroid."""
        levels = _AUTO_LEVELS if self.levels == "auto" else len(self.levels)
        names = {f"{self.prefix}cluster_{number + 1}": pa.int32() for number in range(levels)}
        return names | {f"{self.prefix}centroid_distance": pa.float32()}

    def config(self) -> dict[str, Any]:
        """The parameters that decide the result."""
        return self.parameters()

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The embeddings."""
        return [self.embedding_column]

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns; centroids are found now.

        Raises
        ------
        ConfigError
            For unusable parameters, or a `work_dir` that workers do not see.
        ColumnNotFoundError
            When there is no embedding column.
        DatasetError
            When embeddings differ in length.
        """
        self.check()
        frames.require_columns(dataset.metadata, *self.needs(dataset))
        folder = work_folder(dataset, self.work_dir, "hierarchical", self.config())
        with locks.exclusive(str(folder)):
            if self.embedding_column not in dataset.source()[0].schema.names:
                # They are looked at more than once.
                dataset = dataset.save_metadata(str(folder / "embedded"), overwrite=True)
            vectors = HashOrder(dataset, self.embedding_column, self.normalize, None)
            result = folder / f"clusters-{vectors.digest[:24]}"
            if not (result / _HIERARCHY).exists():
                self._find(vectors, result, frames.device_of(dataset.metadata))
        names = tuple(self.columns())
        add = _Clusters(result / _HIERARCHY, self.embedding_column, self.normalize, names)
        return dataset.with_columns(add, self.columns(), self.provenance())

    def _find(self, vectors: HashOrder, folder: Path, device: str) -> None:
        """Find the centroids, and write them."""
        steps = folder / "steps"
        storage.make_dirs(str(steps))
        levels = self._levels_for(vectors.count)
        centroids = np.empty((0, vectors.dim), dtype=np.float32)
        ancestors = np.empty((len(levels), 0), dtype=np.int32)
        if vectors.count:
            paths = vectors.write(steps, levels[0] * _PER_CLUSTER, self.random_state)
            search = HierarchicalKMeans(
                levels,
                self.resampling_steps,
                self.random_state,
                steps,
                device,
                None,
                self.normalize,
            )
            centroids, ancestors = search.fit(paths)
        with storage.atomic_write(str(folder / _HIERARCHY)) as file:
            np.savez(file, centroids=centroids, ancestors=ancestors)
        shutil.rmtree(steps)

    def _levels_for(self, n: int) -> list[int]:
        """Clusters of each level among `n` rows."""
        if not isinstance(self.levels, str):
            return [min(int(k), max(n, 1)) for k in self.levels]
        finest = min(n // _AUTO_MEAN_SIZE, round(4 * math.sqrt(n)))
        steps = _AUTO_LEVELS - 1
        ratio = min(_AUTO_RATIO, max(1.0, (finest / _AUTO_LEAST) ** (1 / steps)))
        return [max(1, round(finest / ratio**level)) for level in range(_AUTO_LEVELS)]


class _Clusters(MadeOfKept):
    """The clusters of rows."""

    # What Dask's dashboard calls these tasks.
    __name__ = "hierarchical-clusters"

    def __init__(self, path: Path, column: str, normalize: bool, names: tuple[str, ...]):
        super().__init__(path)
        self.column = column
        self.normalize = normalize
        self.names = names
        centroids, ancestors = self._hierarchy()
        self.digest = fingerprint(centroids.tobytes(), ancestors.tobytes())

    def _hierarchy(self) -> tuple[np.ndarray, np.ndarray]:
        return read_once(self.path, _read_hierarchy, "HierarchicalClusters")

    def content_token(self) -> tuple[Any, ...]:
        return ("HierarchicalClusters", self.digest, self.column, self.normalize, *self.names)

    def __call__(self, frame: Any) -> dict[str, Any]:
        import torch

        centroids, ancestors = self._hierarchy()
        rows = np.empty(0, dtype=np.int64)
        clusters = np.empty((len(ancestors), 0), dtype=np.int32)
        distance = np.empty(0)
        if len(centroids):
            vectors, rows = usable_vectors(frame, self.column, self.normalize)
            if len(vectors):
                on_device = torch.from_numpy(centroids).to(vectors.device)
                index, distances = homes(vectors, on_device, self.normalize)
                clusters, distance = ancestors[:, index.cpu().numpy()], distances.cpu().numpy()
        values = [*clusters, distance.astype(np.float32)]
        return {
            name: _with_nulls(column, rows, len(frame))
            for name, column in zip(self.names, values, strict=True)
        }


def _with_nulls(values: np.ndarray, rows: np.ndarray, count: int) -> pa.Array:
    """A column of `count` rows with values in some, and nulls elsewhere."""
    whole = np.zeros(count, dtype=values.dtype)
    whole[rows] = values
    missing = np.ones(count, dtype=bool)
    missing[rows] = False
    return pa.array(whole, mask=missing)


def _read_hierarchy(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Centroids of the finest level, and their numbers in all levels."""
    with np.load(path) as arrays:
        return arrays["centroids"], arrays["ancestors"]
