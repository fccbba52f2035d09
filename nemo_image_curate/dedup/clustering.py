"""The first of the two steps of semantic deduplication: find clusters, store vectors by them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dedup.cost import sample_size
from nemo_image_curate.dedup.layout import Layout
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.tables import content_digest
from nemo_image_curate.vectors.blocks import write_blocks
from nemo_image_curate.vectors.kmeans import kmeans
from nemo_image_curate.vectors.nearest import GRAIN, nearest
from nemo_image_curate.vectors.sampling import random_score
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    import torch

# How near to a border vectors are stored on both sides, as a share of the distance of the pairs
# that matter. 0.5 is the worst case; 0.15 finds 99.2 % of the pairs where there are no clusters at
# all (100,000 vectors whose spectrum falls like 1 / sqrt(i)), and more where there are (measured).
_BORDER = 0.15
_CENTROIDS = "centroids.npy"
_SAMPLE = "sample"
# A hash of the vectors that everything here was made from.
CONTENT = "content"
# Folders that go with the input's files, not with the vectors.
KEPT = "embedded"
ROWS = "rows"


class Clustering:
    """Finds clusters, and stores every vector in those that are nearest to it.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    column : str
        Of embeddings; they need not be normalised.
    counts : list of int
        Rows of each partition.
    n_clusters : int
    n_probe : int
        In how many clusters a vector may be stored.
    eps : float
        Largest cosine distance of the pairs that matter.
    seed : int
    folder : Path
        On a file system that all workers share.
    progress : bool or None
    """

    def __init__(
        self,
        dataset: ImageTextPairDataset,
        column: str,
        counts: list[int],
        n_clusters: int,
        n_probe: int,
        eps: float,
        seed: int,
        folder: Path,
        progress: bool | None,
    ):
        self.id_col = dataset.id_col
        self.column = column
        self.counts = counts
        self.n_clusters = n_clusters
        self.n_probe = n_probe
        self.eps = eps
        self.seed = seed
        self.folder = folder
        self.progress = progress
        self.device = frames.device_of(dataset.metadata)
        self._frame = dataset.metadata[[dataset.id_col, column]]

    def sample(self) -> int:
        """Look at all vectors, and store some of them; forget what was made of other vectors.

        Returns
        -------
        int
            The length of the vectors; 0 when there are none.

        Raises
        ------
        ConfigError
            When workers do not see the folder.
        DatasetError
            When embeddings differ in length.
        """
        storage.make_dirs(str(self.folder))
        share = min(1.0, sample_size(self.n_clusters) / max(1, sum(self.counts)))
        options = (self.id_col, self.column, share, self.seed, self.folder, self.device)
        samples = partitions.run(
            self._frame,
            _sample,
            [(number, *options) for number in range(len(self.counts))],
            what="sample",
            progress=self.progress,
        )
        content = fingerprint([digest for _, digest in samples])
        note = self.folder / CONTENT
        if not note.exists() or note.read_text() != content:
            for old in self.folder.iterdir():
                if old.is_dir() and not old.name.startswith((KEPT, ROWS)):
                    shutil.rmtree(old)
                elif old.is_file() and not old.name.startswith((_SAMPLE, ".")):
                    old.unlink()
            storage.write_bytes(str(note), content.encode())
        return _one_dim(self.column, [dim for dim, _ in samples])

    def store(self, dim: int) -> Layout:
        """Cluster the sample, and store the vectors by cluster."""
        if layout := Layout.load(self.folder):
            self._tidy()
            return layout
        k = len(self._centroids(dim)) if dim else 0
        layout = Layout(self.folder, self.counts, dim, k, self.eps)
        if dim:
            parts = range(len(self.counts))
            todo = [number for number in parts if not layout.file(number, "vectors").exists()]
            options = (self.column, layout.without_counts(), self.n_probe, self.device)
            partitions.run(
                self._frame,
                _assign,
                [(number, *options) for number in todo],
                what="assign",
                numbers=todo,
                progress=self.progress,
            )
        self._tidy()
        layout.save()
        return layout

    def _tidy(self) -> None:
        for pattern in ("block-*.npy", f"{_SAMPLE}-*.npy", "step.npy"):
            for leftover in self.folder.glob(pattern):
                leftover.unlink()
        storage.remove_temporaries(str(self.folder))

    def _centroids(self, dim: int) -> np.ndarray:
        place = self.folder / _CENTROIDS
        if not place.exists():
            samples = _samples(self.folder, len(self.counts), dim)
            blocks = write_blocks(samples, self.folder)
            # By k-means++: 0.9946 of the pairs are found among 100,000 vectors, and all of a sample
            # among a million; 0.9927 and 0.9995 from random starts, in the same time
            # (ci/bench/dedup.py's vectors).
            centroids = kmeans(
                blocks, self.n_clusters, self.seed, self.folder, self.device, self.progress
            )
            with storage.atomic_write(str(place)) as file:
                np.save(file, centroids)
        stored: np.ndarray = np.load(place, mmap_mode="r")
        return stored


def _one_dim(column: str, dims: list[int]) -> int:
    different = sorted(set(dims) - {0})
    if len(different) > 1:
        raise DatasetError(
            f"column {column!r}: embeddings of different lengths ({different[0]} and "
            f"{different[-1]}) in different partitions: they are of different models."
        )
    return different[0] if different else 0


def _vectors(frame: Any, column: str, device: str) -> tuple[torch.Tensor, np.ndarray]:
    """The unit vectors of a partition, and their rows."""
    values, embedded_rows = frames.embedding_array(frame[column])
    vectors, rows = unit_vectors(values, device)
    return vectors, embedded_rows[rows]


def _sample(
    frame: Any,
    number: int,
    id_col: str,
    column: str,
    share: float,
    seed: int,
    folder: Path,
    device: str,
) -> tuple[int, str]:
    """Store a sample of a partition's vectors, chosen by key; runs on a worker.

    Returns
    -------
    dim : int
        0 when the partition has no vector.
    digest : str
        A hash of keys and vectors.
    """
    values, embedded_rows = frames.embedding_array(frame[column])
    keys = frames.column_to_arrow(frame[id_col])
    chosen = np.flatnonzero(random_score(keys, seed)[embedded_rows] < share)
    vectors, _ = unit_vectors(values[chosen], device)
    if not len(vectors):
        # The sample must not be empty where there is something.
        vectors = unit_vectors(values, device)[0][:1]
    with storage.atomic_write(str(folder / f"{_SAMPLE}-{number:05d}.npy")) as file:
        np.save(file, vectors.cpu().numpy())
    digest = content_digest(pa.table({"key": keys}), embedded_rows, frames.host(values))
    return (vectors.shape[1] if len(vectors) else 0), digest


def _samples(folder: Path, parts: int, dim: int) -> Iterator[np.ndarray]:
    """The partitions' samples, whose files are removed."""
    for number in range(parts):
        path = folder / f"{_SAMPLE}-{number:05d}.npy"
        yield np.load(path).reshape(-1, dim)
        path.unlink()


def _assign(
    frame: Any, number: int, column: str, layout: Layout, n_probe: int, device: str
) -> None:
    """Write one part's files; runs on a worker."""
    import torch

    vectors, rows = _vectors(frame, column, device)
    # A partition of nulls does not tell how long its embeddings would be.
    vectors = vectors.reshape(len(rows), layout.dim)
    centroids = torch.from_numpy(np.load(layout.folder / _CENTROIDS)).to(device)
    index, similarity = nearest(vectors, centroids, min(n_probe, len(centroids)))
    member, place = _memberships(index, similarity, layout.eps)
    # By cluster, then by row, whatever the sort does with ties.
    order = torch.argsort(member * (len(rows) + 1) + place)
    member, place = member[order], place[order]
    edges = torch.arange(layout.n_clusters + 1, device=member.device)
    offsets = torch.searchsorted(member, edges)
    home = np.empty(len(rows), dtype=[("row", "i4"), ("cluster", "i4"), ("similarity", "f4")])
    home["row"], home["cluster"] = rows, index[:, 0].cpu().numpy()
    # In float32, unlike what `nearest` compares: keep policies order rows by it.
    exact = torch.linalg.vecdot(vectors, centroids[index[:, 0]])
    home["similarity"] = (exact.cpu().numpy() / GRAIN).round() * GRAIN
    for name, array in (
        ("rows.npy", rows[place.cpu().numpy()].astype(np.int32)),
        ("offsets.npy", offsets.cpu().numpy()),
        ("home.npy", home),
    ):
        with storage.atomic_write(str(layout.file(number, name))) as file:
            np.save(file, array)
    with storage.atomic_write(str(layout.file(number, "vectors"))) as file:
        vectors[place].cpu().numpy().tofile(file)


def _memberships(
    index: torch.Tensor, similarity: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The clusters in which vectors are stored, as (cluster, position of the vector).

    Two vectors within cosine distance eps are at most sqrt(2 eps) apart. When the plane between
    two centroids parts them, the nearer one is at most half of that away from it, and mostly much
    less, as few directions lead straight across. A vector is stored in its next nearest clusters
    as far as it is near to the plane.
    """
    import torch

    position = torch.arange(len(index), device=index.device)
    clusters, positions = [index[:, 0]], [position]
    for rank in range(1, index.shape[1]):
        # Divided by the distance of the two centroids, mostly a little below 1, this would be the
        # distance from the plane; taken as it is, it is cheaper and stores rather more.
        near_border = similarity[:, 0] - similarity[:, rank] <= _BORDER * math.sqrt(2 * eps)
        clusters.append(index[near_border, rank])
        positions.append(position[near_border])
    return torch.cat(clusters), torch.cat(positions)
