"""The first of the two steps of semantic deduplication: vectors on disk, by cluster.

A part is one partition of the dataset. Its folder entry consists of four files, written by one
task, the last of them to say that all are there:

- ``part-N.rows.npy``: the row of each stored vector;
- ``part-N.offsets.npy``: where each cluster's vectors begin;
- ``part-N.home.npy``: row, nearest cluster and similarity to its centroid, of every vector;
- ``part-N.vectors``: float32, sorted by cluster. A vector near the border of two clusters is
  stored in both.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_image_curate import cluster, frames, storage
from nemo_image_curate.dataset import ImageTextPairDataset
from nemo_image_curate.dedup.kmeans import spherical_kmeans
from nemo_image_curate.dedup.ranking import random_score
from nemo_image_curate.dedup.vectors import multiply_rate, nearest, unit
from nemo_image_curate.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    import numpy as np
    import torch

# Vectors in the sample for each centroid: 40 find no more pairs (measured).
_SAMPLE = 25
_MIN_SAMPLE = 16384
_MAX_SAMPLE = 2_000_000
_BLOCK_ROWS = 8192
# How near to a border vectors are stored on both sides, as a share of the distance of the pairs
# that matter. 0.5 is the worst case; 0.15 finds 99.2 % of the pairs where there are no clusters at
# all (100,000 vectors whose spectrum falls like 1 / sqrt(i)), and more where there are (measured).
_BORDER = 0.15
# Up to here all pairs are compared: it takes a second.
_BRUTE = 10_000


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the vectors of a dataset are stored.

    Attributes
    ----------
    folder : Path
    counts : list of int
        Rows of each part, those without a vector included.
    dim : int
        Length of the vectors; 0 when there are none.
    n_clusters : int
    eps : float
        Vectors up to this cosine distance apart are likely to share a cluster.
    """

    folder: Path
    counts: list[int]
    dim: int
    n_clusters: int
    eps: float

    def file(self, part: int, name: str) -> Path:
        """The path of one of a part's files."""
        return self.folder / f"part-{part:05d}.{name}"

    def starts(self) -> list[int]:
        """The number of each part's first row, counted through all parts."""
        return [sum(self.counts[:part]) for part in range(len(self.counts))]

    def homes(self) -> np.ndarray:
        """Nearest cluster and similarity to its centroid, of every row of the dataset.

        Returns
        -------
        numpy.ndarray of (int32, float32), shape (n,), fields ``cluster`` and ``similarity``
            Cluster -1 for rows without a vector.
        """
        import numpy as np

        found = np.zeros(sum(self.counts), dtype=[("cluster", "i4"), ("similarity", "f4")])
        found["cluster"], found["similarity"] = -1, np.nan
        if self.dim:
            for part, start in enumerate(self.starts()):
                home = np.load(self.file(part, "home.npy"))
                for name in found.dtype.names or ():
                    found[name][start + home["row"]] = home[name]
        return found

    def vectors(self, part: int) -> np.ndarray:
        """A part's stored vectors, shape (m, d), float32, read from disk as they are used."""
        import numpy as np

        path = self.file(part, "vectors")
        if not path.stat().st_size:
            return np.empty((0, self.dim), dtype=np.float32)
        return np.memmap(path, dtype=np.float32, mode="r").reshape(-1, self.dim)

    def lookup(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of rows of the dataset that have one, shape (len(rows), d), float32."""
        import numpy as np

        found = np.empty((len(rows), self.dim), dtype=np.float32)
        starts = np.array(self.starts())
        parts = np.searchsorted(starts, rows, side="right") - 1
        for part in np.unique(parts):
            mine = np.flatnonzero(parts == part)
            stored = np.load(self.file(part, "rows.npy"))
            order = np.argsort(stored, kind="stable")
            place = order[np.searchsorted(stored[order], rows[mine] - starts[part])]
            found[mine] = self.vectors(part)[place]
        return found

    def save(self) -> None:
        """Note that the step is complete."""
        record = dataclasses.asdict(self) | {"folder": None}
        storage.write_bytes(str(self.folder / _LAYOUT), json.dumps(record).encode())

    @classmethod
    def load(cls, folder: Path) -> Layout | None:
        """What a completed step left in `folder`, or None."""
        try:
            record = json.loads((folder / _LAYOUT).read_bytes())
        except FileNotFoundError:
            return None
        return cls(**(record | {"folder": folder}))


_LAYOUT = "layout.json"


def choose_clusters(n: int) -> int:
    """How many clusters make the work least: assignment costs n k, comparison about n^2 / k."""
    return 1 if n <= _BRUTE else math.ceil(2 * math.sqrt(n))


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a semantic deduplication is about to take, as far as it can be told before.

    Attributes
    ----------
    rows, dim, n_clusters : int
    multiply_adds : float
        Of clustering and comparing, when clusters are of equal size.
    disk_bytes : float
        Of the intermediate files, at most.
    seconds : float
        At the rate that this process multiplies matrices now, with all workers; reading and
        writing not included.
    """

    rows: int
    dim: int
    n_clusters: int
    multiply_adds: float
    disk_bytes: float
    seconds: float

    @classmethod
    def of(cls, rows: int, dim: int, n_clusters: int, n_probe: int, device: str) -> Cost:
        """The estimate, which measures the machine for some 50 ms."""
        probe = min(n_probe, n_clusters)
        compared = rows * rows * probe**2 / 2 / max(1, n_clusters)
        sample = min(rows, max(_SAMPLE * n_clusters, _MIN_SAMPLE), _MAX_SAMPLE)
        work = dim * (compared + rows * n_clusters + 5.0 * sample * n_clusters)
        rate = multiply_rate(device) * cluster.parallelism()
        return cls(rows, dim, n_clusters, work, 4.0 * rows * dim * probe, work / rate)

    def __str__(self) -> str:
        return (
            f"{self.rows:,} embeddings of {self.dim} values in {self.n_clusters:,} clusters: about "
            f"{self.multiply_adds / 1e12:.2f} T multiply-adds, {self.seconds:.0f} s here, and up "
            f"to {self.disk_bytes / 1e9:.1f} GB on disk"
        )


def cluster_vectors(
    dataset: ImageTextPairDataset,
    column: str,
    counts: list[int],
    n_clusters: int,
    n_probe: int,
    eps: float,
    seed: int,
    folder: Path,
    progress: bool | None,
) -> Layout:
    """Find clusters and store every vector in those that are nearest to it.

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

    Raises
    ------
    DatasetError
        When embeddings differ in length, or workers do not see `folder`.
    """
    import dask
    import numpy as np

    if done := Layout.load(folder):
        return done
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / "driver"
    marker.touch()
    device = "cuda" if dataset.backend == "gpu" else "cpu"
    # Of Dask's ways to shuffle only this one has rows arrive in the same order every time.
    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        partitions = dataset.metadata[[dataset.id_col, column]].to_delayed()
    labels = [f"partition {number}" for number in range(len(partitions))]
    sample = min(max(_SAMPLE * n_clusters, _MIN_SAMPLE), _MAX_SAMPLE)
    share = min(1.0, sample / max(1, sum(counts)))
    take = dask.delayed(_sample, pure=False)
    dims = cluster.compute_all(
        [
            take(frame, dataset.id_col, column, share, seed, folder, number, device)
            for number, frame in enumerate(partitions)
        ],
        labels,
        "sample",
        progress,
    )
    dim = _one_dim(column, dims)
    if not dim:
        layout = Layout(folder, counts, 0, 0, eps)
        layout.save()
        return layout
    place = folder / "centroids.npy"
    if not place.exists():
        blocks = _sample_blocks(folder, len(partitions), dim)
        centroids = spherical_kmeans(blocks, n_clusters, seed, folder, device, progress)
        with storage.atomic_write(str(place)) as file:
            np.save(file, centroids)
    centroids = np.load(place, mmap_mode="r")
    layout = Layout(folder, counts, dim, len(centroids), eps)
    assign = dask.delayed(_assign, pure=False)
    todo = [
        number for number in range(len(partitions)) if not layout.file(number, "vectors").exists()
    ]
    cluster.compute_all(
        [assign(partitions[number], column, layout, number, n_probe, device) for number in todo],
        [labels[number] for number in todo],
        "assign",
        progress,
    )
    for pattern in ("block-*.npy", "sample-*.npy", "step.npy"):
        for leftover in folder.glob(pattern):
            leftover.unlink()
    storage.remove_temporaries(str(folder))
    layout.save()
    return layout


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
    values, kept = frames.embedding_array(frame[column])
    vectors, rows = unit(values, device)
    return vectors, kept[rows]


def _sample(
    frame: Any,
    id_col: str,
    column: str,
    share: float,
    seed: int,
    folder: Path,
    number: int,
    device: str,
) -> int:
    """Store the vectors of a sample of a partition's rows, chosen by key; returns their length."""
    import numpy as np

    if not (folder / "driver").exists():
        raise ConfigError(
            f"this worker does not see {folder}. Give work_dir a folder on a file system that all "
            "workers share."
        )
    vectors, rows = _vectors(frame, column, device)
    keys = frames.column_to_arrow(frame[id_col])
    scores = random_score(keys, seed)[rows]
    # At least one, so that the sample is never empty.
    chosen = np.flatnonzero((scores < share) | (scores == scores.min(initial=1)))
    with storage.atomic_write(str(folder / f"sample-{number:05d}.npy")) as file:
        np.save(file, vectors[chosen].cpu().numpy())
    return vectors.shape[1] if len(vectors) else 0


def _sample_blocks(folder: Path, parts: int, dim: int) -> list[Path]:
    """The partitions' samples, joined to blocks of a size that is worth a task."""
    import numpy as np

    blocks: list[Path] = []
    waiting: list[np.ndarray] = []
    for number in range(parts):
        path = folder / f"sample-{number:05d}.npy"
        waiting.append(np.load(path).reshape(-1, dim))
        path.unlink()
        if sum(map(len, waiting)) >= _BLOCK_ROWS or number == parts - 1:
            block = folder / f"block-{len(blocks):05d}.npy"
            np.save(block, np.concatenate(waiting))
            blocks.append(block)
            waiting = []
    return blocks


def _assign(
    frame: Any, column: str, layout: Layout, number: int, n_probe: int, device: str
) -> None:
    """Write one part's files."""
    import numpy as np
    import torch

    vectors, rows = _vectors(frame, column, device)
    # A partition of nulls does not tell how long its embeddings would be.
    vectors = vectors.reshape(len(rows), layout.dim)
    centroids = torch.from_numpy(np.load(layout.folder / "centroids.npy")).to(device)
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
    home["similarity"] = exact.cpu().numpy()
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
        near = similarity[:, 0] - similarity[:, rank] <= _BORDER * math.sqrt(2 * eps)
        clusters.append(index[near, rank])
        positions.append(position[near])
    return torch.cat(clusters), torch.cat(positions)
