"""The vectors of some clusters, gathered from all parts."""

from __future__ import annotations

import itertools
import tempfile

import numpy as np

from nemo_image_curate.dedup.layout import Layout
from nemo_image_curate.dedup.ranks import Ranks
from nemo_image_curate.dedup.staged import RowArrays

# A task with more, which then is one cluster, keeps them in a file.
_MEMORY_BYTES = 512 * 2**20


class Members:
    """The vectors of some clusters, each cluster in keep order.

    Attributes
    ----------
    rows, ranks, roles : numpy.ndarray, shape (m,)
        Of a role, see `extraction`.
    vectors : numpy.ndarray, shape (m, d), float32
        In memory, or in a file that has no name when they are too many.
    """

    def __init__(
        self, layout: Layout, first: int, last: int, ranks: Ranks, roles: RowArrays | None
    ):
        homes, rows, places = [], [], []
        for part, base in enumerate(layout.starts()):
            offsets = np.load(layout.file(part, "offsets.npy"), mmap_mode="r")[first : last + 1]
            stored = np.load(layout.file(part, "rows.npy"), mmap_mode="r")[offsets[0] : offsets[-1]]
            homes.append(np.repeat(np.arange(last - first), np.diff(offsets)))
            rows.append(base + stored.astype(np.int64))
            places.append(np.arange(offsets[0], offsets[-1]))
        parts = np.repeat(np.arange(len(rows)), list(map(len, rows)))
        home, row, place = (np.concatenate(arrays) for arrays in (homes, rows, places))
        role = np.full(len(row), 2, np.int8) if roles is None else roles.take(row)
        used = np.flatnonzero(role)
        rank = ranks.take(row[used])
        order = np.lexsort((rank, home[used]))
        in_order = used[order]
        self._home, self.rows, self.roles = home[in_order], row[in_order], role[in_order]
        self.ranks = rank[order]
        self.vectors = _room(len(order), layout)
        for part in np.unique(parts[used]):
            goals = np.flatnonzero(parts[in_order] == part)
            # Forward through the file.
            goals = goals[np.argsort(place[in_order[goals]])]
            self.vectors[goals] = layout.vectors(int(part))[place[in_order[goals]]]

    def clusters(self) -> list[tuple[int, int]]:
        """Where each cluster starts and ends."""
        edges = np.flatnonzero(np.diff(self._home)) + 1
        bounds = [0, *edges.tolist(), len(self._home)]
        return list(itertools.pairwise(bounds))


def _room(rows: int, layout: Layout) -> np.ndarray:
    if rows * layout.dim * 4 <= _MEMORY_BYTES:
        return np.empty((rows, layout.dim), dtype=np.float32)
    with tempfile.TemporaryFile(dir=layout.folder) as file:
        return np.memmap(file, dtype=np.float32, mode="w+", shape=(rows, layout.dim))
