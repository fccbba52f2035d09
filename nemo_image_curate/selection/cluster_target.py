"""`ClusterTarget`: the images in those clusters that a target's images fall into."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.selection.checks import check_integer, check_positive
from nemo_image_curate.selection.hash_order import HashOrder
from nemo_image_curate.selection.kept import read_once
from nemo_image_curate.selection.targets import TargetStage
from nemo_image_curate.stages.base import no_effect
from nemo_image_curate.vectors.homes import homes
from nemo_image_curate.vectors.kmeans import kmeans
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.stages.gathered import Gathered

# DataComp's at its smallest scale, 12.8 million images, and at all larger ones.
_MOST_CLUSTERS = 100_000
_MEAN_SIZE = 128
# FAISS takes no more vectors for each centroid by default (its max_points_per_centroid).
_PER_CLUSTER = 256
_CENTROIDS = "centroids.npy"


@dataclass(eq=False)
class ClusterTarget(TargetStage):
    """Adds a column that says whether an image is in a cluster that the target has an image in.

    The image-based filter of DataComp (Gadre et al., "DataComp: in search of the next generation
    of multimodal datasets", arXiv 2304.14108, 2023), there with the training images of ImageNet as
    the target: k-means of the dataset's embeddings; the clusters whose centroid is the nearest of
    some image of the target; all rows whose nearest centroid is one of these.

    Parameters
    ----------
    target : ImageTextPairDataset, path, or numpy.ndarray of shape (m, d)
        A dataset with embeddings of the same encoder, or the place of one; or embeddings. They
        need not be unit vectors; those without direction are left out.
    n_clusters : int or "auto"
        Default: one for each 128 rows, 100,000 at most, which is what DataComp has. Fewer are
        wider, and keep more.
    sample_share : float, optional
        The share of the rows that clusters are found on, chosen by a hash of their keys. Default:
        256 for each cluster. DataComp takes 0.03 to 1.
    max_iter : int, default 20
        Steps of k-means at most, as in DataComp; it stops when little changes.
    centroids : numpy.ndarray of shape (k, d), or path of an ``.npy`` file, optional
        Found elsewhere, such as those that an earlier call left in `work_dir`, instead of k-means.
        They are compared by cosine.
    embedding_column : str, default "image_embedding"
    target_column : str, optional
        The target's column of embeddings. Default: `embedding_column`.
    random_state : int, default 0
        For the sample, and where clusters start.
    prefix : str, default ""
        Put before the names of the columns.
    check_encoder : bool, default True
        Refuse a dataset whose embeddings are recorded to be of another encoder, or of none when
        those of the target are of one.
    work_dir : str or path, optional
        A folder for the sample and the centroids, that all workers share, and that stays until the
        columns are computed. Default: in the system's temporary folder.

    Columns
    -------
    is_near_target : bool
        Null where there is no embedding, or one without direction.
    target_cluster : int32
        The nearest centroid.

    Raises
    ------
    ConfigError, ColumnNotFoundError, EncoderMismatchError, DatasetError
        When called: for unusable settings, what is no target, has no such column, is of another
        encoder, has no embedding, or another width.

    Notes
    -----
    Centroids are unit vectors, and nearest by cosine; products are in float32, and float64 decides
    between near ones. Time: ``2 k d`` operations for each row, and for each row of the sample and
    each step. Memory: a worker holds a partition's vectors some three times, a block of the sample
    (64 MB), and the centroids; the client the centroids.

    Examples
    --------
    >>> ds = ClusterTarget("imagenet/")(ds)
    >>> ds = ds.filter("is_near_target")
    """

    n_clusters: int | str = "auto"
    sample_share: float | None = None
    max_iter: int = 20
    # What they hold counts, wherever they are: `config` has a hash.
    centroids: np.ndarray | str | os.PathLike[str] | None = no_effect(None)
    random_state: int = 0
    prefix: str = ""

    def columns(self) -> dict[str, pa.DataType]:
        """Whether the target is near, and the cluster."""
        return {
            f"{self.prefix}is_near_target": pa.bool_(),
            f"{self.prefix}target_cluster": pa.int32(),
        }

    def check(self) -> None:
        """Refuse unusable settings.

        Raises
        ------
        ConfigError
        """
        if self.n_clusters != "auto":
            check_integer("n_clusters", self.n_clusters, 1)
        check_integer("max_iter", self.max_iter, 1)
        check_integer("random_state", self.random_state, 0)
        if self.sample_share is not None:
            check_positive("sample_share", self.sample_share, 1)

    def without_source(self) -> None:
        """Forget the target and the centroids: they are in files."""
        super().without_source()
        self.centroids = None

    def prepare(self, dataset: ImageTextPairDataset, folder: Path) -> _TargetClusters:
        """Find the clusters, and those that the target falls into."""
        target = self.gather(dataset, folder)
        device = frames.device_of(dataset.metadata)
        if self.centroids is None:
            place = self._clustered(dataset, folder, device)
        else:
            centroids = _usable(self.centroids)
            place = folder / f"clusters-{fingerprint(centroids.tobytes())[:24]}"
            storage.make_dirs(str(place))
            _save(place / _CENTROIDS, centroids)
        hits = place / f"hits-{fingerprint(target.digest)[:24]}.npy"
        if not hits.exists():
            _save(hits, _hits(target, place / _CENTROIDS, device))
        return _TargetClusters(place, hits)

    def _clustered(self, dataset: ImageTextPairDataset, folder: Path, device: str) -> Path:
        """The folder with the centroids of the dataset's embeddings."""
        vectors = HashOrder(dataset, self.embedding_column, True, None)
        settings = (self.n_clusters, self.sample_share, self.max_iter, self.random_state)
        place = folder / f"clusters-{fingerprint(vectors.digest, *map(str, settings))[:24]}"
        if (place / _CENTROIDS).exists():
            return place
        steps = place / "steps"
        storage.make_dirs(str(steps))
        centroids = np.empty((0, vectors.dim), dtype=np.float32)
        if vectors.count:
            k, most = self._sizes(vectors.count)
            seed = int(self.random_state)
            paths = vectors.write(steps / "sample", most, seed)
            centroids = kmeans(paths, k, seed, steps, device, None, max_iter=int(self.max_iter))
        _save(place / _CENTROIDS, centroids)
        shutil.rmtree(steps)
        return place

    def _sizes(self, n: int) -> tuple[int, int]:
        """How many clusters there are among `n` rows, and rows of the sample."""
        k = min(n // _MEAN_SIZE, _MOST_CLUSTERS) if self.n_clusters == "auto" else self.n_clusters
        k = min(max(1, int(k)), n)
        most = _PER_CLUSTER * k if self.sample_share is None else math.ceil(self.sample_share * n)
        return k, max(k, most)

    def run(self, frame: Any) -> dict[str, Any]:
        """The columns of a computed partition."""
        import torch

        clusters: _TargetClusters = self.basis
        centroids, is_hit = clusters.arrays()
        nearest = np.full(len(frame), -1, dtype=np.int32)
        if len(centroids):
            vectors, row_numbers = self.vectors(frame, centroids.shape[1])
            if len(row_numbers):
                index, _ = homes(vectors, torch.from_numpy(centroids).to(vectors.device))
                nearest[row_numbers] = index.cpu().numpy()
        without = nearest < 0
        is_near = np.zeros(len(frame), dtype=bool)
        is_near[~without] = is_hit[nearest[~without]]
        values = (pa.array(is_near, mask=without), pa.array(nearest, mask=without))
        return dict(zip(self.columns(), values, strict=True))


class _TargetClusters:
    """Centroids, float32, shape (k, d), and whether the target has an image there, bool, (k,)."""

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, folder: Path, hits: Path):
        self.folder = folder
        self.hits = hits
        self.digest = fingerprint(*(array.tobytes() for array in self.arrays()))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Both, read once per process."""
        paths = (self.folder / _CENTROIDS, self.hits)
        centroids, hits = (read_once(path, np.load, ClusterTarget.__name__) for path in paths)
        return centroids, hits


def _usable(centroids: Any) -> np.ndarray:
    """Given centroids, of length 1."""
    array = np.load(centroids) if isinstance(centroids, (str, os.PathLike)) else centroids
    if not isinstance(array, np.ndarray) or array.ndim != 2 or not array.size:
        raise ConfigError(
            f"centroids of shape {np.shape(array)}; they should be an array (k, d), or the path of "
            "an .npy file with one."
        )
    unit, row_numbers = unit_vectors(np.ascontiguousarray(array, dtype=np.float32), "cpu")
    if len(row_numbers) < len(array):
        missing = np.setdiff1d(np.arange(len(array)), row_numbers)[0]
        raise ConfigError(f"centroid {missing} is zero or not finite: nothing is nearest to it.")
    usable: np.ndarray = unit.numpy()
    return usable


def _hits(target: Gathered, place: Path, device: str) -> np.ndarray:
    """Whether each centroid is the nearest of some vector of the target; shape (k,), bool."""
    centroids = np.load(place)
    is_hit = np.zeros(len(centroids), dtype=bool)
    if len(centroids) and centroids.shape[1] != target.dim:
        raise DatasetError(
            f"ClusterTarget: centroids of {centroids.shape[1]} values, embeddings of {target.dim} "
            "in the target: they are of different models."
        )
    if len(centroids):
        find = dask.delayed(_nearest, pure=False)
        files = target.files()
        tasks = [find(file, place, device) for file in files]
        for index in jobs.compute_all(tasks, [file.name for file in files], "target"):
            is_hit[index] = True
    return is_hit


def _nearest(file: Path, centroids: Path, device: str) -> np.ndarray:
    """The centroids that are the nearest of some vector in a file; runs on a worker."""
    import torch

    vectors, columns = (torch.from_numpy(np.load(path)).to(device) for path in (file, centroids))
    index, _ = homes(vectors, columns)
    return np.unique(index.cpu().numpy())


def _save(path: Path, array: np.ndarray) -> None:
    with storage.atomic_write(str(path)) as file:
        np.save(file, array)
