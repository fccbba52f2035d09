"""A sample of a dataset's embeddings as points of a map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.looking.origin import projection
from nemo_image_curate.dataset.looking.rows import concatenated, sample_bits, told_rows
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.tables import free_name
from nemo_image_curate.vectors.plane import Plane

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


@dataclass(frozen=True)
class Sample:
    """Rows of a dataset, by a hash of their keys, with their embeddings.

    Attributes
    ----------
    rows : pyarrow.Table
        The id column, ``shard``, and the columns asked for.
    vectors : numpy.ndarray, shape (m, d), float32
    of : int
        How many rows the dataset has.
    without : int
        Rows of the sample that have no embedding, or one with NaN or infinity; left out.
    """

    rows: pa.Table
    vectors: np.ndarray
    of: int
    without: int


@dataclass(frozen=True)
class Points:
    """A sample on a plane.

    Attributes
    ----------
    sample : Sample
    xy : numpy.ndarray, shape (m, 2), float32
    plane : Plane
    """

    sample: Sample
    xy: np.ndarray
    plane: Plane


def points(
    dataset: ImageTextPairDataset,
    column: str = "image_embedding",
    n: int = 5000,
    columns: Sequence[str] = (),
    seed: int = 0,
    progress: bool | None = None,
) -> Points:
    """A sample of embeddings on their principal plane.

    Parameters and errors are those of `sample_vectors`. The plane is that of the sample; other
    rows are put on it by ``points.plane.project``.
    """
    sample = sample_vectors(dataset, column, n, columns, seed, progress)
    plane = Plane.of(sample.vectors)
    return Points(sample, plane.project(sample.vectors), plane)


def sample_vectors(
    dataset: ImageTextPairDataset,
    column: str,
    n: int,
    columns: Sequence[str] = (),
    seed: int = 0,
    progress: bool | None = None,
) -> Sample:
    """A random sample of rows with their embeddings.

    Rows are counted first, which footers tell of a dataset that is as it was saved; then each
    partition is read once. The client holds little more than the sample.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    column : str
        Of embeddings.
    n : int
        Rows; all when there are fewer.
    columns : sequence of str
        What else to tell of each row.
    seed : int

    Returns
    -------
    Sample
        In the order of the hashes: the same however rows lie in partitions.

    Raises
    ------
    ColumnNotFoundError
    ConfigError
        When `n` is less than 1.
    DatasetError
        When no row of the sample has an embedding, or they differ in length.
    """
    names = list(dict.fromkeys([dataset.id_col, SHARD_COLUMN, *columns]))
    frame = dataset.metadata
    frames.require_columns(frame, *names, column)
    if n < 1:
        raise ConfigError(f"n={n} should be at least 1.")
    total = len(projection(frame, [dataset.id_col]))
    # Five standard deviations more than n, so that there are fewer once in a few million times.
    share = min(1.0, (n + 5 * math.sqrt(n)) / max(1, total))
    options = (dataset.id_col, column, names, share, n, seed)
    parts = partitions.run(
        projection(frame, dict.fromkeys([*names, column])),
        _sampled,
        [options] * frame.npartitions,
        what="look",
        progress=progress,
    )
    table = concatenated([rows for rows, _, _ in parts])
    dims = sorted({vectors.shape[1] for _, vectors, _ in parts if len(vectors)})
    if len(dims) > 1:
        raise DatasetError(
            f"column {column!r}: embeddings of different lengths ({dims[0]} and {dims[-1]}) in "
            "different partitions: they are of different models."
        )
    if not any(dims):
        raise DatasetError(f"column {column!r}: not one of {len(table):,} rows has an embedding.")
    row_numbers, start = [], 0
    for rows, _, with_vector in parts:
        row_numbers.append(with_vector + start)
        start += len(rows)
    vectors = np.concatenate([vectors for _, vectors, _ in parts if len(vectors)])
    vector_of = np.full(len(table), -1)
    vector_of[np.concatenate(row_numbers)] = np.arange(len(vectors))
    by = [(name, "ascending") for name in (free_name("bits", names), dataset.id_col, SHARD_COLUMN)]
    order = pc.sort_indices(table, sort_keys=by).to_numpy()[:n]
    vector_of = vector_of[order]
    has_vector = vector_of >= 0
    return Sample(
        table.take(order[has_vector]).select(names),
        vectors[vector_of[has_vector]],
        total,
        int((~has_vector).sum()),
    )


def _sampled(
    frame: Any, id_col: str, column: str, names: list[str], share: float, n: int, seed: int
) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """The sample's rows of a partition, their vectors, and which have one; runs on a worker."""
    bits = sample_bits(frames.to_arrow(frame[[id_col, SHARD_COLUMN]]), id_col, seed)
    chosen = np.flatnonzero(bits <= np.uint64(min(int(share * 2**64), 2**64 - 1)))
    chosen = chosen[np.argsort(bits[chosen], kind="stable")[:n]]
    values, with_vector = frames.embedding_array(frame[column].iloc[chosen])
    vectors = frames.host(values)
    finite = np.isfinite(vectors).all(axis=1)
    table = told_rows(frame[names], chosen)
    table = table.append_column(free_name("bits", names), pa.array(bits[chosen]))
    return table, np.array(vectors[finite]), with_vector[finite]
