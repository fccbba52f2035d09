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
        homes, rows, row_ranks, row_roles, places = [], [], [], [], []
        for part, base in enumerate(layout.starts()):
            offsets = np.load(layout.file(part, "offsets.npy"), mmap_mode="r")[first : last + 1]
            stored = np.load(layout.file(part, "rows.npy"), mmap_mode="r")[offsets[0] : offsets[-1]]
            part_rows = base + stored.astype(np.int64)
            part_roles = (
                np.full(len(part_rows), 2, np.int8) if roles is None else roles.take(part_rows)
            )
            used = np.flatnonzero(part_roles)
            homes.append(np.repeat(np.arange(last - first), np.diff(offsets))[used])
            rows.append(part_rows[used])
            row_ranks.append(ranks.take(part_rows[used]))
            row_roles.append(part_roles[used])
            places.append(offsets[0] + used)
        self._home = np.concatenate(homes)
        order = np.lexsort((np.concatenate(row_ranks), self._home))
        self._home = self._home[order]
        self.rows = np.concatenate(rows)[order]
        self.ranks = np.concatenate(row_ranks)[order]
        self.roles = np.concatenate(row_roles)[order]
        self.vectors = _room(len(order), layout)
        goal = np.empty(len(order), dtype=np.int64)
        goal[order] = np.arange(len(order))
        start = 0
        for part, place in enumerate(places):
            if len(place):
                stored = layout.vectors(part)
                self.vectors[goal[start : start + len(place)]] = stored[place]
            start += len(place)

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
