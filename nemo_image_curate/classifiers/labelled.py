"""Labels that people gave to some samples by their keys, and the rows of a dataset they are of."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.classifiers.label_tables import KEY, Entry, Labels, entries
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ColumnNotFoundError, DatasetError
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# From what a table holds to a label, or to None where there is none.
Read: TypeAlias = Callable[[Any], Hashable | None]
# How many names messages and reports list.
_SHOWN = 5
KEPT = 20


@dataclass(frozen=True)
class LabelledRows:
    """The rows of a dataset that have a label, in the order of shards and keys.

    Attributes
    ----------
    table : pyarrow.Table, n rows
        ``key``, ``shard``, and the columns that were asked for.
    labels : list, of length n
    given : int
        How many labels there were.
    empty : int
        How many samples were listed without a label.
    not_in_dataset : int
    names : list of str
        Some of these: ``KEY``, or ``SHARD: KEY``.
    """

    table: pa.Table
    labels: list[Any]
    given: int
    empty: int
    not_in_dataset: int
    names: list[str]

    def row_names(self) -> list[tuple[str, str]]:
        """The shard and key of each row."""
        return _row_names(self.table)

    def unit_vectors(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """The directions of the embeddings of those rows that have one.

        Returns
        -------
        vectors : numpy.ndarray of float32, shape (m, d)
        row_numbers : numpy.ndarray of int64, shape (m,)
        """
        series = frames.from_arrow(self.table.select([column]), "cpu")[column]
        vectors, embedded_rows = frames.embedding_array(series)
        unit, with_direction = unit_vectors(vectors, "cpu")
        return unit.numpy(), embedded_rows[with_direction]


def labelled_rows(
    dataset: ImageTextPairDataset,
    labels: Labels,
    columns: Sequence[str],
    read: Read,
    progress: bool | None = None,
) -> LabelledRows:
    """Load some columns of the rows that have a label.

    Keys are looked up in all partitions; of `columns` only the partitions are read that have one
    of them. Memory grows with the labels, not with the dataset.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    labels : mapping, pandas.DataFrame, str or path
        Labels by key, or by (shard, key); a table with the columns ``key``, ``label`` and, where
        keys are not unique, ``shard``; a CSV, TSV or Parquet file of such a table; or a column of
        the dataset, null where there is no label.
    columns : sequence of str
    read : callable
        From a value of the table to a label, or to None for none.
    progress : bool, optional
        Default: on a terminal.

    Raises
    ------
    ColumnNotFoundError
    ConfigError
        For labels of another kind.
    DatasetError
        When a sample has several labels, or a key that is given without shard is in several.
    """
    frame = dataset.metadata
    frames.require_columns(frame, dataset.id_col, SHARD_COLUMN, *columns)
    finder = _finder(dataset, labels, read)
    keys = list(dict.fromkeys([dataset.id_col, SHARD_COLUMN, *finder.columns]))
    counts = partitions.run(frame[keys], _count, what="labels", shared=(finder,), progress=progress)
    parts = partitions.run(
        frame[list(dict.fromkeys([*keys, *columns]))],
        _take,
        what="labelled rows",
        numbers=[number for number, count in enumerate(counts) if count],
        shared=(finder, tuple(columns)),
        progress=progress,
    )
    # Of a dataset without any of them the columns, too.
    parts.append(_take(frames.empty(frame), finder, tuple(columns)))
    table = pa.concat_tables([table for table, _ in parts], promote_options="permissive")
    row_labels = [label for _, part_labels in parts for label in part_labels]
    names = _row_names(table)
    order = sorted(range(len(names)), key=names.__getitem__)
    missing = finder.missing(names)
    return LabelledRows(
        table.take(pa.array(order, pa.int64())),
        [row_labels[place] for place in order],
        len(row_labels) + len(missing),
        finder.empty,
        len(missing),
        missing[:KEPT],
    )


def _row_names(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table[SHARD_COLUMN].to_pylist(), table[KEY].to_pylist(), strict=True))


class _Finder(abc.ABC):
    """Finds the rows of a partition that have a label; goes to the workers.

    Attributes
    ----------
    columns : tuple of str
        What it looks at beside key and shard.
    empty : int
        Samples that were listed without a label.
    """

    columns: tuple[str, ...] = ()
    empty: int = 0

    def __init__(self, id_col: str):
        self.id_col = id_col

    @abc.abstractmethod
    def rows(self, frame: Any) -> Iterator[tuple[int, Any]]:
        """Row numbers of a computed partition, ascending, with their labels."""

    def missing(self, row_names: Sequence[tuple[str, str]]) -> list[str]:
        """What was listed and is not among the rows that were found, (shard, key)."""
        return []


class _ByColumn(_Finder):
    def __init__(self, id_col: str, name: str, read: Read):
        super().__init__(id_col)
        self.columns = (name,)
        self.read = read

    def rows(self, frame: Any) -> Iterator[tuple[int, Any]]:
        for row, value in enumerate(frames.column_to_arrow(frame[self.columns[0]]).to_pylist()):
            if (label := self.read(value)) is not None:
                yield row, label


class _ByKey(_Finder):
    """By a table: for each key its labels by shard, None standing for any."""

    def __init__(self, id_col: str, labels: Iterable[Entry], read: Read):
        super().__init__(id_col)
        self.labels: dict[str, dict[str | None, Any]] = {}
        several: dict[str, list[Any]] = {}
        for shard, key, value in labels:
            label = read(value)
            if label is None:
                self.empty += 1
                continue
            known = self.labels.setdefault(key, {}).setdefault(shard, label)
            if known != label:
                several.setdefault(_name(shard, key), [known]).append(label)
        if several:
            cases = [f"{name} ({', '.join(map(str, labels))})" for name, labels in several.items()]
            raise DatasetError(
                f"{len(several):,} samples have several labels that differ: {listed(cases)}. Leave "
                "one for each, or none."
            )
        if not self.labels:
            raise DatasetError("there are no labels; give some samples one.")
        self.keys = pa.array(list(self.labels), pa.string())

    def rows(self, frame: Any) -> Iterator[tuple[int, Any]]:
        keys = frames.column_to_arrow(frame[self.id_col]).cast(pa.string())
        shards = frames.column_to_arrow(frame[SHARD_COLUMN])
        hits = np.flatnonzero(pc.is_in(keys, self.keys).to_numpy(zero_copy_only=False))
        for row in hits.tolist():
            by_shard = self.labels[keys[row].as_py()]
            label = by_shard.get(shards[row].as_py(), by_shard.get(None))
            if label is not None:
                yield row, label

    def missing(self, row_names: Sequence[tuple[str, str]]) -> list[str]:
        """What was listed and is not among the rows that were found, (shard, key)."""
        shards_of: dict[str, set[str]] = {}
        for shard, key in row_names:
            shards_of.setdefault(key, set()).add(shard)
        ambiguous = [
            key
            for key, shards in shards_of.items()
            if None in self.labels[key] and len(shards - self.labels[key].keys()) > 1
        ]
        if ambiguous:
            raise DatasetError(
                f"{len(ambiguous):,} keys are in several shards: {listed(ambiguous)}. Say in which "
                f"one a sample is: with a column {SHARD_COLUMN!r}, or as (shard, key)."
            )
        return [
            _name(shard, key)
            for key, by_shard in self.labels.items()
            for shard in by_shard
            if key not in shards_of or not (shard is None or shard in shards_of[key])
        ]


def _count(frame: Any, finder: _Finder) -> int:
    """How many rows of a computed partition have a label; runs on a worker."""
    return sum(1 for _ in finder.rows(frame))


def _take(frame: Any, finder: _Finder, columns: Sequence[str]) -> tuple[pa.Table, list[Any]]:
    """The rows of a computed partition that have a label; runs on a worker."""
    row_numbers, labels = [], []
    for row, label in finder.rows(frame):
        row_numbers.append(row)
        labels.append(label)
    table = frames.to_arrow(frame[[finder.id_col, SHARD_COLUMN, *columns]].iloc[row_numbers])
    return table.rename_columns([KEY, SHARD_COLUMN, *columns]), labels


def _finder(dataset: ImageTextPairDataset, labels: Labels, read: Read) -> _Finder:
    columns = list(dataset.metadata.columns)
    if isinstance(labels, str) and labels in columns:
        return _ByColumn(dataset.id_col, labels, read)
    if isinstance(labels, str) and "." not in os.path.basename(labels):
        raise ColumnNotFoundError(labels, columns, "Files of labels end in .csv, .tsv, .parquet.")
    return _ByKey(dataset.id_col, entries(labels, dataset.id_col), read)


def _name(shard: str | None, key: str) -> str:
    return key if shard is None else f"{shard}: {key}"


def listed(names: Sequence[str], count: int | None = None) -> str:
    """A few names, and how many more there are of so many."""
    more = (len(names) if count is None else count) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f", and {more:,} more" if more > 0 else "")
