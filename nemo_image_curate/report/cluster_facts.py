"""What partitions tell of clusters: sizes, centroids, words of captions, rows near and far."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.dataset.looking.rows import concatenated, sample_bits, told_rows
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.expressions import evaluate
from nemo_image_curate.tables import free_name
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    import torch

# Sums are made of integers, so that they do not depend on the order of partitions.
_UNIT = 2.0**-32
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class Columns:
    """What is looked at.

    Attributes
    ----------
    id_col, cluster, embeddings : str
    caption : str or None
    plain : list of str
        What else to tell of rows.
    """

    id_col: str
    cluster: str
    embeddings: str
    caption: str | None
    plain: list[str]

    @property
    def distance(self) -> str:
        """What the column is called, beside `plain`, of the distance to the centroid."""
        return free_name("distance_to_centroid", self.plain)


@dataclass(frozen=True)
class Sizes:
    """Rows of each cluster, and how many of them are kept.

    Attributes
    ----------
    clusters, rows, kept : numpy.ndarray of int64, shape (k,)
        The largest first.
    nulls : int
        Rows in no cluster.
    """

    clusters: np.ndarray
    rows: np.ndarray
    kept: np.ndarray
    nulls: int

    @classmethod
    def merged(cls, parts: list[Sizes]) -> Sizes:
        """Those of all partitions."""
        numbers = np.concatenate([part.clusters for part in parts])
        clusters, place = np.unique(numbers, return_inverse=True)
        rows, kept = (
            np.bincount(place, np.concatenate(counts), len(clusters)).astype(np.int64)
            for counts in ([part.rows for part in parts], [part.kept for part in parts])
        )
        order = np.argsort(-rows, kind="stable")
        return cls(clusters[order], rows[order], kept[order], sum(part.nulls for part in parts))


def count_sizes(frame: Any, cluster: str, condition: str | None) -> Sizes:
    """Count the rows of each cluster in a partition; runs on a worker."""
    table = frames.to_arrow(frame)
    is_kept = np.zeros(len(table), bool)
    if condition is not None:
        is_kept = evaluate.matching_rows(table, condition)
    known = table[cluster].is_valid().to_numpy()
    numbers = table[cluster].drop_null().to_numpy().astype(np.int64)
    clusters, place = np.unique(numbers, return_inverse=True)
    rows = np.bincount(place, minlength=len(clusters))
    count = np.bincount(place, is_kept[known], len(clusters)).astype(np.int64)
    return Sizes(clusters, rows, count, int((~known).sum()))


@dataclass
class Sums:
    """What a partition adds to some clusters.

    Attributes
    ----------
    vectors : numpy.ndarray of int64, shape (k, d) or (k, 0)
        Sums of unit vectors, in multiples of 2^-32.
    words : list of Counter
        For each cluster, and last for all rows: in how many captions a word is.
    captions : numpy.ndarray of int64, shape (k + 1,)
        How many captions that were.
    """

    vectors: np.ndarray
    words: list[Counter[str]]
    captions: np.ndarray


def add_up(frame: Any, columns: Columns, clusters: np.ndarray, share: float, seed: int) -> Sums:
    """Add up the vectors and words of some clusters in a partition; runs on a worker."""
    numbers = _numbers(frame, columns)
    unit, rows = _units(frame, columns)
    vectors = np.zeros((len(clusters), unit.shape[1] if len(rows) else 0), np.int64)
    for place, cluster in enumerate(clusters if len(rows) else ()):
        cluster_vectors = unit[_mask(numbers[rows] == cluster, unit)].double()
        vectors[place] = (cluster_vectors / _UNIT).round().long().sum(dim=0).cpu().numpy()
    words: list[Counter[str]] = [Counter() for _ in range(len(clusters) + 1)]
    captions = np.zeros(len(clusters) + 1, np.int64)
    if columns.caption is not None:
        names = [columns.id_col, SHARD_COLUMN, columns.caption]
        table = frames.to_arrow(frame[names])
        bits = sample_bits(table, columns.id_col, seed)
        sampled = np.flatnonzero(bits <= np.uint64(min(int(share * 2**64), 2**64 - 1)))
        places = {int(cluster): place for place, cluster in enumerate(clusters)}
        for row, text in zip(
            sampled, table[columns.caption].take(sampled).to_pylist(), strict=True
        ):
            if not text:
                continue
            caption_words = set(_WORD.findall(text.lower()))
            for place in {places.get(int(numbers[row]), -1), len(clusters)} - {-1}:
                words[place].update(caption_words)
                captions[place] += 1
    return Sums(vectors, words, captions)


def centroids(parts: list[Sums]) -> np.ndarray:
    """Of unit length, of all partitions together; zero for a cluster without embeddings."""
    known = [part.vectors for part in parts if part.vectors.shape[1]]
    if not known:
        return np.zeros((len(parts[0].vectors), 0), np.float32)
    total = np.sum(known, axis=0) * _UNIT
    lengths = np.linalg.norm(total, axis=1, keepdims=True)
    middles: np.ndarray = (total / np.where(lengths, lengths, 1)).astype(np.float32)
    return middles


def top_words(parts: list[Sums], n: int) -> list[list[str]]:
    """The words of each cluster with the highest weights.

    The weight of a word is p ln(p / q), where p is the share of the cluster's captions that have
    it, q that of all captions: its term of the relative entropy of the two (S. Kullback and R. A.
    Leibler, "On information and sufficiency", 1951), which unlike tf-idf is nothing for words that
    are as frequent everywhere. Words of one caption alone are left out.
    """
    merged = [Counter[str]() for _ in parts[0].words]
    captions = np.sum([part.captions for part in parts], axis=0)
    for part in parts:
        for counter, more in zip(merged, part.words, strict=True):
            counter.update(more)
    *clusters, everywhere = merged
    tops = []
    for counter, count in zip(clusters, captions, strict=False):
        weights = {
            word: times / count * np.log(times / count * captions[-1] / everywhere[word])
            for word, times in counter.items()
            if times > 1
        }
        ordered = sorted(weights, key=lambda word: (-weights[word], word))
        tops.append([word for word in ordered if weights[word] > 0][:n])
    return tops


@dataclass(frozen=True)
class Extremes:
    """Rows of a cluster near its centroid and far from it, in a partition.

    Attributes
    ----------
    near, far : pyarrow.Table
        With the column `Columns.distance`.
    total, count : int
        The sum of all distances, in multiples of 2^-32, and how many they are.
    """

    near: pa.Table
    far: pa.Table
    total: int
    count: int


def extremes(
    frame: Any, columns: Columns, clusters: np.ndarray, n: int, middles: np.ndarray
) -> list[Extremes]:
    """The nearest and farthest rows of some clusters in a partition; runs on a worker."""
    import torch

    numbers = _numbers(frame, columns)
    unit, rows = _units(frame, columns)
    by_cluster = []
    for cluster, middle in zip(clusters, middles, strict=True):
        members = np.flatnonzero(numbers[rows] == cluster)
        products = np.empty(0)
        if len(members):
            vectors = unit[torch.from_numpy(members).to(unit.device)].double()
            products = (vectors @ torch.from_numpy(middle).to(unit.device).double()).cpu().numpy()
        # Of the accuracy of what they are made of, so that the same vector is equally far.
        distance = np.rint((1 - products) / 2.0**-20) * 2.0**-20
        named = frames.to_arrow(frame[[columns.id_col, SHARD_COLUMN]].iloc[rows[members]])
        ends: list[pa.Table] = []
        for sign in ("ascending", "descending"):
            order = _ordered(named, columns.id_col, distance, sign)[:n]
            table = told_rows(frame[columns.plain], rows[members][order])
            ends.append(table.append_column(columns.distance, pa.array(distance[order])))
        total = int(np.rint(distance / _UNIT).sum())
        by_cluster.append(Extremes(ends[0], ends[1], total, len(members)))
    return by_cluster


def nearest_of(
    tables: list[pa.Table], columns: Columns, n: int, farthest: bool = False
) -> pa.Table:
    """The nearest or farthest rows of all partitions."""
    table = concatenated(tables)
    sign = "descending" if farthest else "ascending"
    distance = table[columns.distance].to_numpy()
    return table.take(_ordered(table, columns.id_col, distance, sign)[:n])


def _ordered(table: pa.Table, id_col: str, distance: np.ndarray, sign: str) -> np.ndarray:
    """Rows by distance; equally far ones by key and shard."""
    columns = pa.table({"distance": distance, "key": table[id_col], "shard": table[SHARD_COLUMN]})
    by = [("distance", sign), ("key", "ascending"), ("shard", "ascending")]
    order: np.ndarray = pc.sort_indices(columns, sort_keys=by).to_numpy()
    return order


def _numbers(frame: Any, columns: Columns) -> np.ndarray:
    """The cluster of each row; -1 for none."""
    column = frames.column_to_arrow(frame[columns.cluster])
    numbers: np.ndarray = pc.fill_null(column.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return numbers


def _units(frame: Any, columns: Columns) -> tuple[torch.Tensor, np.ndarray]:
    """Unit vectors, and the rows that they are of."""
    values, with_vector = frames.embedding_array(frame[columns.embeddings])
    unit, rows = unit_vectors(values, frames.device_of(frame))
    return unit, with_vector[rows]


def _mask(chosen: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.from_numpy(chosen).to(like.device)
