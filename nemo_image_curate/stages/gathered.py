"""Vectors of a dataset's rows, or of a target's, in files that all workers see."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.tables import content_digest
from nemo_image_curate.vectors.sampling import random_score
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# What the vectors of an array are called.
ARRAY_COLUMN = "array"


class Gathered:
    """Unit vectors of rows, in the order of the dataset; those without one are left out.

    Attributes
    ----------
    folder : Path
    columns : tuple of str
        Of embeddings; every row has a vector in each.
    counts : list of int
        Rows of each partition.
    dim : int
        Values of a vector of the first column; 0 when there are none.
    digest : str
        A hash of keys, shards and vectors.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(
        self, folder: Path, columns: Sequence[str], counts: list[int], dim: int, digest: str
    ):
        self.folder = folder
        self.columns = tuple(columns)
        self.counts = counts
        self.dim = dim
        self.digest = digest

    def __len__(self) -> int:
        return sum(self.counts)

    def __dask_tokenize__(self) -> tuple[str, ...]:
        return ("Gathered", self.digest, str(self.folder))

    def content_token(self) -> tuple[str, ...]:
        """What they are, wherever they lie."""
        return ("Gathered", self.digest)

    def files(self, column: str | None = None) -> list[Path]:
        """The ``.npy`` files of a column, shape (n, d), float32; default: of the first one.

        Partitions without a row have none.
        """
        number = self.columns.index(column) if column else 0
        return [
            _file(self.folder, number, partition)
            for partition, count in enumerate(self.counts)
            if count
        ]

    def names(self, row_numbers: np.ndarray) -> pa.Table:
        """``key`` and ``shard`` of some rows.

        Parameters
        ----------
        row_numbers : numpy.ndarray of int64, shape (m,)

        Returns
        -------
        pyarrow.Table, m rows
        """
        ends = np.cumsum(self.counts)
        parts = np.searchsorted(ends, row_numbers, side="right")
        tables, places = [_NO_NAMES], []
        for part in np.unique(parts):
            places.append(np.flatnonzero(parts == part))
            within = row_numbers[places[-1]] - (ends[part] - self.counts[part])
            tables.append(_read_names(self.folder, part).take(within))
        order = np.argsort(np.concatenate(places)) if places else np.empty(0, dtype=np.int64)
        return pa.concat_tables(tables).take(order)


_NO_NAMES = pa.table(dict.fromkeys(["key", "shard"], pa.array([], pa.large_string())))


def _file(folder: Path, column: int, partition: int) -> Path:
    return folder / f"vectors-{column}-{partition:05d}.npy"


def _names_file(folder: Path, partition: int) -> Path:
    return folder / f"names-{partition:05d}.arrow"


def _read_names(folder: Path, partition: int) -> pa.Table:
    with pa.OSFile(str(_names_file(folder, partition))) as file:
        return pa.ipc.open_file(file).read_all()


def gather(
    dataset: ImageTextPairDataset,
    columns: Sequence[str],
    folder: Path,
    count: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Gathered:
    """Write the unit vectors of all rows, or of a random choice of them, to a folder.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    columns : sequence of str
        Of embeddings. Rows that lack one, or whose vector has no direction, are left out.
    folder : Path
        On a file system that all workers share.
    count : int, optional
        So many rows: those with the lowest `random_score` of their keys, which do not depend on
        how rows lie in partitions. Default: all.
    seed : int
        For that choice.
    progress : bool, optional
        Default: on a terminal.

    Raises
    ------
    ColumnNotFoundError
    DatasetError
        When embeddings of a column differ in length.
    """
    storage.make_dirs(str(folder))
    names = [dataset.id_col, SHARD_COLUMN]
    frames.require_columns(dataset.metadata, *columns)
    frame = dataset.metadata[[*names, *columns]]
    device = frames.device_of(dataset.metadata)
    # More than are asked for: how many keys fall below a score varies by the root of their number.
    share = 1.0 if count is None else (count + 5 * count**0.5 + 10) / max(1, len(dataset))
    while True:
        arguments = [
            (number, names, tuple(columns), folder, device, seed, share)
            for number in range(frame.npartitions)
        ]
        written = partitions.run(frame, _write, arguments, what="gather", progress=progress)
        scores = [of_part for of_part, _, _ in written]
        if share >= 1 or sum(map(len, scores)) >= (count or 0):
            break
        share *= 2
    dim = _one_dim(columns, [dims for _, dims, _ in written])
    counts, digests = [len(of_part) for of_part in scores], [digest for _, _, digest in written]
    if count is not None and sum(counts) > count:
        trim = dask.delayed(_trim, pure=False)
        numbers = range(len(counts))
        trimmed = jobs.compute_all(
            [
                trim(folder, number, len(columns), chosen)
                for number, chosen in zip(numbers, _lowest(scores, count), strict=True)
            ],
            [f"partition {number}" for number in numbers],
            "gather",
            progress,
        )
        counts, digests = [rows for rows, _ in trimmed], [digest for _, digest in trimmed]
    # Empty partitions do not change what there is.
    digest = fingerprint([digest for digest, rows in zip(digests, counts, strict=True) if rows])
    return Gathered(folder, columns, counts, dim, digest)


def gather_target(
    target: ImageTextPairDataset | str | os.PathLike[str] | np.ndarray,
    column: str,
    folder: Path,
    backend: str = "auto",
    progress: bool | None = None,
) -> Gathered:
    """Write the unit vectors of what a dataset is compared with to a folder.

    Parameters
    ----------
    target : ImageTextPairDataset, path, or numpy.ndarray of shape (m, d)
        Of an array, keys are the numbers of the rows, and shards are empty.
    column : str
        Of the dataset's embeddings.
    folder : Path
        On a file system that all workers share.
    backend : {"auto", "cpu", "gpu"}
        To open a path with.
    progress : bool, optional

    Raises
    ------
    ConfigError
        When an array has not two dimensions, or no vector with a direction.
    """
    if isinstance(target, np.ndarray):
        return _gather_array(target, folder)
    if isinstance(target, (str, os.PathLike)):
        from nemo_image_curate.dataset.dataset import ImageTextPairDataset

        target = ImageTextPairDataset.from_webdataset(target, backend=backend)
    return gather(target, [column], folder, progress=progress)


def _gather_array(target: np.ndarray, folder: Path) -> Gathered:
    if target.ndim != 2 or not target.size:
        raise ConfigError(f"the target has shape {target.shape}; vectors have (m, d).")
    vectors, row_numbers = unit_vectors(np.ascontiguousarray(target, dtype=np.float32), "cpu")
    if not len(vectors):
        raise ConfigError("no vector of the target has a direction: all are zero or not finite.")
    storage.make_dirs(str(folder))
    keys = pa.array(map(str, row_numbers), pa.large_string())
    names = pa.table({"key": keys, "shard": pa.array([""] * len(keys), pa.large_string())})
    arrays = [vectors.numpy()]
    _save(folder, 0, names, arrays)
    digest = content_digest(names, *arrays)
    return Gathered(folder, [ARRAY_COLUMN], [len(names)], vectors.shape[1], digest)


def _write(
    frame: Any,
    number: int,
    names: list[str],
    columns: tuple[str, ...],
    folder: Path,
    device: str,
    seed: int,
    share: float,
) -> tuple[np.ndarray, list[int], str]:
    """Write a partition's vectors; runs on a worker.

    Returns
    -------
    scores : numpy.ndarray of float64
        By which rows are chosen.
    dims : list of int
        Lengths of the vectors of each column; 0 where there is none.
    digest : str
    """
    keys = frames.column_to_arrow(frame[names[0]])
    shards = frames.column_to_arrow(frame[names[1]])
    scores = random_score(keys, seed)
    chosen = np.flatnonzero(scores < share)
    vectors, rows, dims = [], [], []
    for column in columns:
        values, embedded = frames.embedding_array(frame[column])
        dims.append(values.shape[1] if len(values) else 0)
        positions = np.flatnonzero(np.isin(embedded, chosen))
        # A partition without a vector does not know how long it would be.
        of_column, with_direction = unit_vectors(values[positions], device)
        vectors.append(of_column)
        rows.append(embedded[positions][with_direction])
    common = rows[0]
    for row_numbers in rows[1:]:
        common = np.intersect1d(common, row_numbers, assume_unique=True)
    arrays = [
        of_column[np.searchsorted(row_numbers, common)].cpu().numpy()
        for of_column, row_numbers in zip(vectors, rows, strict=True)
    ]
    table = pa.table({"key": keys.take(common), "shard": shards.take(common)})
    table = table.cast(_NO_NAMES.schema)
    _save(folder, number, table, arrays)
    return scores[common], dims, content_digest(table, *arrays)


def _save(folder: Path, number: int, names: pa.Table, arrays: Sequence[np.ndarray]) -> None:
    for column, array in enumerate(arrays):
        with storage.atomic_write(str(_file(folder, column, number))) as file:
            np.save(file, array)
    with (
        storage.atomic_write(str(_names_file(folder, number))) as file,
        pa.ipc.new_file(file, names.schema) as writer,
    ):
        writer.write_table(names)


def _trim(folder: Path, number: int, columns: int, chosen: np.ndarray) -> tuple[int, str]:
    """Keep some of the rows that a partition has written; runs on a worker."""
    arrays = [np.load(_file(folder, column, number))[chosen] for column in range(columns)]
    names = _read_names(folder, number).filter(pa.array(chosen)).combine_chunks()
    _save(folder, number, names, arrays)
    return len(names), content_digest(names, *arrays)


def _lowest(scores: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Masks of the `count` lowest of all; of equal ones the first."""
    order = np.argsort(np.concatenate(scores), kind="stable")
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[:count]] = True
    return np.split(chosen, np.cumsum([len(of_part) for of_part in scores])[:-1])


def _one_dim(columns: Sequence[str], dims: list[list[int]]) -> int:
    for column, of_column in zip(columns, zip(*dims, strict=True), strict=True):
        different = sorted(set(of_column) - {0})
        if len(different) > 1:
            raise DatasetError(
                f"column {column!r}: embeddings of different lengths ({different[0]} and "
                f"{different[-1]}) in different partitions: they are of different models."
            )
    return max(of_part[0] for of_part in dims)
