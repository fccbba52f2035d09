"""Vectors on disk, by cluster.

A part is one partition of the dataset. Its folder entry consists of four files, written by one
task, the last of them to say that all are there:

- ``part-N.rows.npy``: the row of each stored vector;
- ``part-N.offsets.npy``: where each cluster's vectors begin;
- ``part-N.home.npy``: row, nearest cluster and similarity to its centroid, of every vector;
- ``part-N.vectors``: float32, sorted by cluster. A vector near the border of two clusters is
  stored in both.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np

from nemo_image_curate import storage

# Says that the step is complete.
LAYOUT = "layout.json"


class Layout:
    """How the vectors of a dataset are stored.

    Parameters
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

    # No dataclass: Dask would look into it for tasks, number by number, for each task anew.
    def __init__(self, folder: Path, counts: list[int], dim: int, n_clusters: int, eps: float):
        self.folder = folder
        self.counts = counts
        self.dim = dim
        self.n_clusters = n_clusters
        self.eps = eps

    def file(self, part: int, name: str) -> Path:
        """The path of one of a part's files."""
        return self.folder / f"part-{part:05d}.{name}"

    def starts(self) -> list[int]:
        """The number of each part's first row, counted through all parts."""
        return list(itertools.accumulate(self.counts[:-1], initial=0))

    def without_counts(self) -> Layout:
        """The same without `counts`, for tasks that are one of many and do not need them."""
        return Layout(self.folder, [], self.dim, self.n_clusters, self.eps)

    def homes(self, parts: range) -> np.ndarray:
        """Nearest cluster and similarity to its centroid, of every row of some parts.

        Returns
        -------
        numpy.ndarray of (int32, float32), shape (n,), fields ``cluster`` and ``similarity``
            Cluster -1 for rows without a vector.
        """
        counts = self.counts[parts.start : parts.stop]
        homes = np.zeros(sum(counts), dtype=[("cluster", "i4"), ("similarity", "f4")])
        homes["cluster"], homes["similarity"] = -1, np.nan
        if self.dim:
            for part, start in zip(parts, itertools.accumulate(counts, initial=0), strict=False):
                home = np.load(self.file(part, "home.npy"))
                for name in homes.dtype.names or ():
                    homes[name][start + home["row"]] = home[name]
        return homes

    def vectors(self, part: int) -> np.ndarray:
        """A part's stored vectors, shape (m, d), float32, read from disk as they are used."""
        path = self.file(part, "vectors")
        if not path.stat().st_size:
            return np.empty((0, self.dim), dtype=np.float32)
        return np.memmap(path, dtype=np.float32, mode="r").reshape(-1, self.dim)

    def lookup(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of rows of the dataset that have one, shape (len(rows), d), float32."""
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        starts = np.array(self.starts())
        parts = np.searchsorted(starts, rows, side="right") - 1
        for part in np.unique(parts):
            positions = np.flatnonzero(parts == part)
            stored = np.load(self.file(part, "rows.npy"))
            order = np.argsort(stored, kind="stable")
            place = order[np.searchsorted(stored[order], rows[positions] - starts[part])]
            vectors[positions] = self.vectors(part)[place]
        return vectors

    def save(self) -> None:
        """Note that the step is complete."""
        record = {**vars(self), "folder": None}
        storage.write_bytes(str(self.folder / LAYOUT), json.dumps(record).encode())

    @classmethod
    def load(cls, folder: Path) -> Layout | None:
        """What a completed step left in `folder`, or None."""
        try:
            record = json.loads((folder / LAYOUT).read_bytes())
        except FileNotFoundError:
            return None
        return cls(**(record | {"folder": folder}))
