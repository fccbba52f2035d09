"""Sums over rows that were chosen, rows chosen at random, and all: what a comparison is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.vectors.sampling import random_score

SAMPLES = ("selected", "random", "all")
# What `Hash` adds.
SCORE = "__random__"


@dataclass(frozen=True)
class Sample:
    """What some rows have.

    Attributes
    ----------
    samples : int
        A row that is taken several times counts as often, here and in all else.
    means : dict of str to float or None
        Of each column; None when all is null.
    clusters, concepts : int or None
        How many of them have a row; None when they were not looked at.
    evenness : float or None
        Entropy of the clusters over the logarithm of how many of them the dataset has: 1 when each
        has as many rows, 0 when all rows are in one.
    """

    samples: int
    means: dict[str, float | None]
    clusters: int | None
    evenness: float | None
    concepts: int | None


class Hash:
    """Adds the hash of shard and key; the function that Dask maps.

    Keys alone may come in every shard.
    """

    # What Dask's dashboard calls these tasks.
    __name__ = "hash"

    def __init__(self, id_col: str, seed: int):
        self.id_col = id_col
        self.seed = seed

    def __call__(self, frame: Any) -> dict[str, Any]:
        return {SCORE: pa.array(_hashes(frame, self.id_col, self.seed))}


def _hashes(frame: Any, id_col: str, seed: int) -> np.ndarray:
    texts = [
        pc.fill_null(frames.column_to_arrow(frame[name]).cast(pa.large_string()), "")
        for name in (SHARD_COLUMN, id_col)
    ]
    return random_score(pc.binary_join_element_wise(*texts, pa.scalar("\0", texts[0].type)), seed)


def _weights(frame: Any, name: str) -> np.ndarray:
    """How often each row is taken; whole numbers, shape (n,)."""
    values = frames.nan_to_null(frames.column_to_arrow(frame[name]))
    return np.asarray(pc.fill_null(values.cast(pa.int64()), 0))


def count_chosen(frame: Any, how_often: str) -> tuple[int, int]:
    """Rows of a computed partition, and the size of the choice; runs on a worker."""
    return len(frame), int(_weights(frame, how_often).sum())


@dataclass(frozen=True)
class Totals:
    """What partitions have, for the choice, the random one, and all rows.

    Attributes
    ----------
    samples : numpy.ndarray of int64, shape (3,)
    sums : numpy.ndarray of float64, shape (3, number of columns)
    counts : numpy.ndarray of int64, shape (3, number of columns)
        Of values that are not null.
    clusters, concepts : pyarrow.Table
        ``value``, and a count for each of the three.
    """

    samples: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    clusters: pa.Table
    concepts: pa.Table

    @classmethod
    def none(cls, columns: int) -> Totals:
        """Of no rows."""
        empty = _tally(pa.array([], pa.string()), np.empty((3, 0), dtype=np.int64))
        zeros = np.zeros((3, columns), dtype=np.int64)
        return cls(np.zeros(3, dtype=np.int64), zeros.astype(np.float64), zeros, empty, empty)

    @classmethod
    def sum(cls, parts: Sequence[Totals]) -> Totals:
        """All of several together."""
        arrays = {
            name: np.sum([getattr(part, name) for part in parts], axis=0)
            for name in ("samples", "sums", "counts")
        }
        tables = {
            name: _added_up(pa.concat_tables([getattr(part, name) for part in parts]))
            for name in ("clusters", "concepts")
        }
        return cls(**arrays, **tables)

    def sample(
        self, name: str, columns: Sequence[str], clusters: str | None, concepts: str | None
    ) -> Sample:
        """What one of the three has."""
        number = SAMPLES.index(name)
        sums, counts = self.sums[number].tolist(), self.counts[number].tolist()
        of_clusters = self.clusters[name].to_numpy()
        return Sample(
            int(self.samples[number]),
            {
                column: total / count if count else None
                for column, total, count in zip(columns, sums, counts, strict=True)
            },
            int(np.count_nonzero(of_clusters)) if clusters else None,
            _evenness(of_clusters) if clusters else None,
            int(np.count_nonzero(self.concepts[name])) if concepts else None,
        )


def _evenness(counts: np.ndarray) -> float | None:
    """Entropy of the shares of some groups over the logarithm of their number."""
    total = counts.sum()
    if not total:
        return None
    shares = counts[counts > 0] / total
    entropy = float(-(shares * np.log(shares)).sum())
    return entropy / math.log(len(counts)) if len(counts) > 1 else 1.0


def _tally(values: pa.Array, weights: np.ndarray) -> pa.Table:
    """How often each value comes in the three.

    Parameters
    ----------
    values : pyarrow.Array, length n
    weights : numpy.ndarray of int64, shape (3, n)
    """
    columns = {"value": values.cast(pa.string()), **dict(zip(SAMPLES, weights, strict=True))}
    return _added_up(pa.table(columns).filter(values.is_valid()))


def _added_up(table: pa.Table) -> pa.Table:
    """One row for each value."""
    sums = [(name, "sum") for name in SAMPLES]
    groups = pa.TableGroupBy(table, "value", use_threads=False)
    return groups.aggregate(sums).rename_columns(["value", *SAMPLES])


def look(
    frame: Any,
    id_col: str,
    how_often: str,
    seed: int,
    turns: int,
    bound: float,
    columns: Sequence[str],
    clusters: str | None,
    concepts: str | None,
) -> Totals:
    """What a computed partition has; runs on a worker.

    Parameters
    ----------
    frame : pandas.DataFrame or cudf.DataFrame
    id_col, how_often : str
    seed : int
    turns : int
        How often the random choice takes each row.
    bound : float
        Rows whose hash is at most this it takes once more.
    columns : sequence of str
    clusters, concepts : str or None
    """
    once_more = _hashes(frame, id_col, seed) <= bound
    ones = np.ones(len(frame), dtype=np.int64)
    weights = np.stack([_weights(frame, how_often), turns + once_more.astype(np.int64), ones])
    sums, counts = np.zeros((3, len(columns))), np.zeros((3, len(columns)), dtype=np.int64)
    for number, name in enumerate(columns):
        array = frames.nan_to_null(frames.column_to_arrow(frame[name]).cast(pa.float64()))
        sums[:, number] = weights @ np.asarray(pc.fill_null(array, 0.0))
        counts[:, number] = weights @ np.asarray(array.is_valid()).astype(np.int64)
    none = Totals.none(0)
    of_clusters, of_concepts = none.clusters, none.concepts
    if clusters:
        of_clusters = _tally(frames.column_to_arrow(frame[clusters]), weights)
    if concepts:
        lists = frames.column_to_arrow(frame[concepts])
        rows = pc.list_parent_indices(lists).to_numpy()
        of_concepts = _tally(pc.list_flatten(lists), weights[:, rows])
    return Totals(weights.sum(axis=1), sums, counts, of_clusters, of_concepts)
