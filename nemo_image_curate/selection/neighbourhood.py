"""`Uniqueness` and `Typicality`: how near each row's nearest others are."""

from __future__ import annotations

import abc
import numbers
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, locks
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.results import work_folder
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.stages.base import Stage, no_effect
from nemo_image_curate.stages.gathered import Gathered, gather
from nemo_image_curate.vectors.neighbours import top_k
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# A vector's cosine with itself, of length 1 in float32, is at least this.
_ITSELF = 1 - 2.0**-18


@dataclass(eq=False)
class _Neighbourhood(Stage):
    """Adds a column made of the cosines of each row's nearest other rows."""

    k: int = 1
    embedding_column: str = "image_embedding"
    against: int | None = 100_000
    random_state: int = 0
    prefix: str = no_effect("")
    work_dir: str | os.PathLike[str] | None = no_effect(None)

    column: ClassVar[str]

    @staticmethod
    @abc.abstractmethod
    def score(cosines: np.ndarray) -> np.ndarray:
        """The column's values.

        Parameters
        ----------
        cosines : numpy.ndarray of float32, shape (m, at most k)
            Of each row's nearest others.
        """

    def check(self) -> None:
        """Refuse unusable parameters.

        Raises
        ------
        ConfigError
        """
        for name, least in (("k", 1), ("random_state", 0), ("against", 1)):
            value = getattr(self, name)
            if name == "against" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
                raise ConfigError(f"{name}={value!r} should be an integer of at least {least}.")

    def columns(self) -> dict[str, pa.DataType]:
        """The column, float32; null for rows without an embedding, or without any other row."""
        return {self.prefix + self.column: pa.float32()}

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The embeddings."""
        return [self.embedding_column]

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the column, computed when it is needed; vectors are gathered now.

        Raises
        ------
        ConfigError
            For unusable parameters, or a `work_dir` that is not a local path.
        ColumnNotFoundError
            When there is no embedding column.
        DatasetError
            When embeddings differ in length.
        """
        self.check()
        config = ("neighbourhood", self.embedding_column, self.against, self.random_state)
        frames.require_columns(dataset.metadata, *self.needs(dataset))
        folder = work_folder(dataset, self.work_dir, *config)
        with locks.exclusive(str(folder)):
            pool = gather(dataset, [self.embedding_column], folder, self.against, self.random_state)
        return dataset.with_columns(
            _Measure(self, pool, dataset.id_col), self.columns(), self.provenance()
        )


class _Measure:
    """Compares the rows of a partition with the gathered ones; the function that Dask maps."""

    def __init__(self, stage: _Neighbourhood, pool: Gathered, id_col: str):
        self.stage = stage
        self.pool = pool
        self.id_col = id_col
        # What Dask's dashboard calls these tasks.
        self.__name__ = type(stage).__name__

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (*self.content_token(), self.stage.prefix, str(self.pool.folder))

    def content_token(self) -> tuple[Any, ...]:
        """What the column holds, wherever the vectors lie."""
        return (*self.stage.content_token(), *self.pool.content_token(), self.id_col)

    def __call__(self, frame: Any) -> dict[str, Any]:
        stage, device = self.stage, frames.device_of(frame)
        values, embedded_rows = frames.embedding_array(frame[stage.embedding_column])
        vectors, with_direction = unit_vectors(values, device)
        row_numbers = embedded_rows[with_direction]
        scores = np.full(len(frame), np.nan, dtype=np.float32)
        if len(row_numbers):
            # One more, since a row may be the nearest to itself.
            others, cosines = top_k(vectors, self.pool.files(), stage.k + 1, device)
            keys, shards = (
                frames.column_to_arrow(frame[name]).take(pa.array(row_numbers))
                for name in (self.id_col, SHARD_COLUMN)
            )
            cosines[self._is_itself(others, cosines, keys, shards)] = np.nan
            # The nearest first, and what is missing last.
            cosines = -np.sort(-cosines, axis=1)[:, : stage.k]
            has_other = ~np.isnan(cosines[:, 0])
            scores[row_numbers[has_other]] = stage.score(cosines[has_other])
        return {stage.prefix + stage.column: pa.array(scores, from_pandas=True)}

    def _is_itself(
        self, others: np.ndarray, cosines: np.ndarray, keys: pa.Array, shards: pa.Array
    ) -> np.ndarray:
        """Which neighbours are the rows themselves, shape (m, k + 1)."""
        is_itself = np.zeros(others.shape, dtype=bool)
        rows, places = np.nonzero(cosines >= _ITSELF)
        names = self.pool.names(others[rows, places])
        same = [
            np.array(names[column].to_pylist(), dtype=object)
            == np.array(values.take(pa.array(rows)).to_pylist(), dtype=object)
            for column, values in (("key", keys), ("shard", shards))
        ]
        is_itself[rows, places] = np.logical_and(*same)
        return is_itself


@dataclass(eq=False)
class Uniqueness(_Neighbourhood):
    """Adds how far the nearest other row is: 1 minus the cosine of their embeddings.

    Near 0 for rows of which there is a copy; the highest are outliers, to be looked at:
    ``ds.metadata.nlargest(20, "uniqueness")``.

    Parameters
    ----------
    k : int, default 1
        Take the mean of so many nearest.
    embedding_column : str, default "image_embedding"
    against : int, optional
        Compare with so many rows only, if there are more: those whose keys have the lowest
        hashes, whatever the partitions. Then neighbours are further away than they would be among
        all, by the same rule for each row. None: with all rows, at n^2 products of vectors.
    random_state : int, default 0
        For that choice.
    prefix : str, default ""
        Put before the column's name.
    work_dir : str or path, optional
        A folder for the vectors that rows are compared with, which all workers share. They stay
        in it: the column is made of them when it is needed. Default: in the system's temporary
        folder.

    Columns
    -------
    uniqueness : float32
        From 0 to 2; null for rows without an embedding, or without any other row.

    Notes
    -----
    Exact, and the same for any partitioning. A worker holds one partition's embeddings and 4,096
    vectors of the others at a time. Save embeddings before: they are read twice.

    Examples
    --------
    >>> ds = Uniqueness()(ds)
    >>> outliers = ds.metadata.nlargest(20, "uniqueness")
    """

    column: ClassVar[str] = "uniqueness"

    @staticmethod
    def score(cosines: np.ndarray) -> np.ndarray:
        """1 - mean cosine."""
        return np.asarray(1 - np.nanmean(cosines, axis=1, dtype=np.float64))


@dataclass(eq=False)
class Typicality(_Neighbourhood):
    """Adds how many rows are like this one: the mean cosine to its `k` nearest other rows.

    High in the midst of many similar rows; low for outliers.

    Parameters
    ----------
    k : int, default 10
        Fewer where there are not so many.
    embedding_column, against, random_state, prefix, work_dir
        As of `Uniqueness`.

    Columns
    -------
    typicality : float32
        From -1 to 1; null for rows without an embedding, or without any other row.

    Examples
    --------
    >>> ds = Typicality(k=5)(ds)
    >>> ds = ds.filter("typicality > 0.2")
    """

    k: int = 10

    column: ClassVar[str] = "typicality"

    @staticmethod
    def score(cosines: np.ndarray) -> np.ndarray:
        """Mean cosine."""
        return np.asarray(np.nanmean(cosines, axis=1, dtype=np.float64))
