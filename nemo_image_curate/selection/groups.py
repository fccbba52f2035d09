"""Groups of rows that columns name, inside one another: which there are, and how large."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dedup.staged import Block
from nemo_image_curate.tables import serialised
from nemo_image_curate.vectors.water_filling import water_fill

# Tasks that count, each of which adds up some blocks.
_TASKS = 32
_SIZE = "rows in the group"


class Groups:
    """Groups in levels, from coarse to fine; one is named by the values of its row.

    Parameters
    ----------
    table : pyarrow.Table
        The different values of the columns, from the coarsest level to the finest, and how many
        rows have them.

    Attributes
    ----------
    table : pyarrow.Table
    columns : list of str
    sizes : numpy.ndarray of int64, shape (k,)
        Rows of each of the finest groups, in the order of their numbers.
    """

    def __init__(self, table: pa.Table):
        self.table = table
        self.columns = [name for name in table.column_names if name != _SIZE]
        # A group is named by the number of the group around it and the place of its own value.
        self._values: list[pa.Array] = []
        self._names: list[np.ndarray] = []
        outer = np.zeros(len(table), dtype=np.int64)
        for column in self.columns:
            different = pc.unique(table[column])
            self._values.append(different.take(pc.sort_indices(different)))
            names = self._named(outer, table[column], self._values[-1])
            self._names.append(np.unique(names))
            outer = np.searchsorted(self._names[-1], names)
        self.sizes = np.zeros(len(table), dtype=np.int64)
        self.sizes[outer] = table[_SIZE].to_numpy()

    @classmethod
    def count(
        cls, blocks: Sequence[Block], columns: Sequence[str], needed: Sequence[str]
    ) -> Groups:
        """The groups of staged rows.

        Parameters
        ----------
        blocks : sequence of Block
        columns : sequence of str
            From the coarsest level to the finest.
        needed : sequence of str
            Further columns; rows where one of all is null are not counted.
        """
        call = dask.delayed(_count, pure=False)
        tasks = [blocks[start::_TASKS] for start in range(min(_TASKS, len(blocks)))]
        labels = [f"blocks {number}" for number in range(len(tasks))]
        counts = jobs.compute_all(
            [call(task, list(columns), list(needed)) for task in tasks], labels, "count", None
        )
        tables = [pa.ipc.open_file(content).read_all() for content in counts]
        return cls(_added_up(pa.concat_tables(tables), list(columns)))

    @staticmethod
    def _named(outer: np.ndarray, column: Any, values: pa.Array) -> np.ndarray:
        place = pc.fill_null(pc.index_in(column.cast(values.type), value_set=values), -1)
        known = np.asarray(place, dtype=np.int64)
        return np.where((outer >= 0) & (known >= 0), outer * len(values) + known, -1)

    def numbers(self, table: pa.Table) -> np.ndarray:
        """The finest groups that rows belong to.

        Parameters
        ----------
        table : pyarrow.Table, n rows
            With the columns.

        Returns
        -------
        numpy.ndarray of int64, shape (n,)
            -1 where a value is null, or none of a group's.
        """
        outer = np.zeros(len(table), dtype=np.int64)
        for column, values, names in zip(self.columns, self._values, self._names, strict=True):
            named = self._named(outer, table[column], values)
            outer = np.searchsorted(names, named)
            is_known = np.zeros(len(named), dtype=bool)
            inside = outer < len(names)
            is_known[inside] = names[outer[inside]] == named[inside]
            outer[~is_known] = -1
        return outer

    def even_quotas(self, total: int, seed: int) -> np.ndarray:
        """How many rows to take of each of the finest groups, evenly from the top down.

        Parameters
        ----------
        total : int
            Rows to take; all, if there are fewer.
        seed : int

        Returns
        -------
        numpy.ndarray of int64, shape (k,)
        """
        chance = np.random.default_rng(seed)
        sizes, parents = [self.sizes], list[np.ndarray]()
        levels = zip(self._names[::-1], self._values[::-1], strict=True)
        for names, values in levels:
            parents.append(names // max(1, len(values)))
            above = np.zeros(int(parents[-1].max(initial=-1)) + 1, dtype=np.int64)
            np.add.at(above, parents[-1], sizes[-1])
            sizes.append(above)
        quotas = np.array([total][: len(sizes.pop())], dtype=np.int64)
        for level_sizes, outer in zip(sizes[::-1], parents[::-1], strict=True):
            # Groups inside one another have consecutive numbers.
            ends = np.searchsorted(outer, np.arange(len(quotas) + 1))
            parts = [
                water_fill(level_sizes[start:end], quota, chance)
                for start, end, quota in zip(ends[:-1], ends[1:], quotas, strict=True)
            ]
            quotas = np.concatenate([*parts, np.empty(0, dtype=np.int64)])
        return quotas

    def save(self, path: Path) -> None:
        """Write them to a file, whole or not at all."""
        storage.write_bytes(str(path), serialised(self.table))

    @classmethod
    def load(cls, path: Path) -> Groups:
        """What was saved."""
        with pa.memory_map(str(path)) as file:
            return cls(pa.ipc.open_file(file).read_all())


def _count(blocks: Sequence[Block], columns: list[str], needed: list[str]) -> bytes:
    """The different values of columns in some blocks, and their rows; runs on a worker.

    Arrow groups only by what lies aligned in memory without a warning, and buffers of a table that
    Dask sends do not.
    """
    counts = []
    for block in blocks:
        rows = block.table([*columns, *needed]).drop_null().select(columns)
        sizes = pa.array(np.ones(len(rows), dtype=np.int64))
        counts.append(_added_up(rows.append_column(_SIZE, sizes), columns))
    return serialised(_added_up(pa.concat_tables(counts), columns))


def _added_up(table: pa.Table, columns: list[str]) -> pa.Table:
    sums = table.group_by(columns).aggregate([(_SIZE, "sum")])
    sums = sums.rename_columns([*columns, _SIZE])
    return sums.sort_by([(name, "ascending") for name in columns])
