"""Small columns of all rows, in files that all workers share, and the blocks that tasks take."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import worker_cache
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.exchange import write_missing
from nemo_image_curate.tables import (
    conform,
    content_digest,
    large_texts,
    serialised,
    storage_schema,
    typed,
)

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Rows of a block: what a task holds in memory, some 100 bytes each.
BLOCK_ROWS = 1 << 18
# Blocks at most: two tasks that hand tables to each other have a record batch between them.
MOST_BLOCKS = 512


class Block:
    """Consecutive partitions that one task takes; a row is named by its number in the dataset.

    Attributes
    ----------
    number : int
    start : int
        The number of its first row.
    parts : range
        Its partitions.
    counts : list of int
        Their rows.
    files : list of Path
        Where these are.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, number: int, start: int, parts: range, counts: list[int], files: list[Path]):
        self.number = number
        self.start = start
        self.parts = parts
        self.counts = counts
        self.files = files

    def __len__(self) -> int:
        return sum(self.counts)

    def rows(self) -> np.ndarray:
        """The numbers of its rows."""
        return np.arange(self.start, self.start + len(self))

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Columns of its rows; texts with large offsets, since keys of many rows exceed 2 GB."""
        tables = [_read(file, columns) for file in self.files]
        return large_texts(pa.concat_tables(tables, promote_options="permissive")).combine_chunks()


def _read(file: Path, columns: Sequence[str] | None) -> pa.Table:
    with pa.OSFile(str(file)) as opened:
        table = pa.ipc.open_file(opened).read_all()
    return table if columns is None else table.select(columns)


class StagedRows:
    """The rows of a dataset, staged by `stage`.

    Parameters
    ----------
    id_col : str
    counts : list of int
        Rows of each partition.
    digests : list of str
        A hash of each partition's content.
    files : list of Path
        One for each partition; none when rows were only looked at.

    Attributes
    ----------
    blocks : list of Block
    starts : numpy.ndarray of int64
        The number of each block's first row.
    """

    def __init__(self, id_col: str, counts: list[int], digests: list[str], files: list[Path]):
        self.id_col = id_col
        self.counts = counts
        self.digests = digests
        self.blocks = _blocks(counts, files)
        self.starts = np.array([block.start for block in self.blocks])

    def __len__(self) -> int:
        return sum(self.counts)

    def digest(self) -> str:
        """A hash of what the columns hold."""
        return fingerprint(self.digests)


class RowArrays:
    """An array with a value for each row, in a file for each block.

    Parameters
    ----------
    folder : Path
    name : str
        What the files' names begin with.
    starts : numpy.ndarray of int64
        The number of each block's first row.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, folder: Path, name: str, starts: np.ndarray):
        self.folder = folder
        self.name = name
        self.starts = starts

    def path(self, block: int) -> Path:
        """The file of a block."""
        return self.folder / f"{self.name}-{block:05d}.npy"

    def write(self, block: int, values: np.ndarray) -> None:
        """Write the values of a block's rows."""
        with storage.atomic_write(str(self.path(block))) as file:
            np.save(file, values)

    def fill(
        self,
        function: Callable[..., None],
        arguments: Sequence[tuple[Any, ...]],
        what: str,
        progress: bool | None,
    ) -> None:
        """Have workers write the files that are not there; see `Exchange.fill`."""
        paths = [self.path(block) for block in range(len(self.starts))]
        write_missing(function, self, paths, arguments, what, progress)

    def read(self, block: int) -> np.ndarray:
        """The values of a block's rows."""
        values: np.ndarray = np.load(self.path(block))
        return values

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The values of some rows, which are read from disk as they are needed."""
        blocks = owners(self.starts, rows)
        numbers = np.unique(blocks)
        values = [np.empty(0, dtype=np.load(self.path(0), mmap_mode="r").dtype)]
        places = [np.empty(0, dtype=np.int64)]
        for block in numbers:
            places.append(np.flatnonzero(blocks == block))
            stored = np.load(self.path(block), mmap_mode="r")
            values.append(stored[rows[places[-1]] - self.starts[block]])
        taken = np.concatenate(values)
        taken[np.concatenate(places)] = taken.copy()
        return taken


def owners(starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The blocks that rows belong to.

    Parameters
    ----------
    starts : numpy.ndarray of int64
        Of all blocks.
    rows : numpy.ndarray of int64
    """
    # Of blocks with one start all but the last are empty.
    numbers: np.ndarray = np.searchsorted(starts, rows, side="right") - 1
    return numbers


def block_count(rows: int) -> int:
    """Into how many blocks so many rows are cut."""
    return max(1, min(-(-rows // BLOCK_ROWS), MOST_BLOCKS))


def _blocks(counts: list[int], files: list[Path]) -> list[Block]:
    """Consecutive partitions of about as many rows for each block."""
    # One at least, so that a dataset without rows has one block of them all.
    least = max(1, sum(counts) / block_count(sum(counts)))
    starts = list(itertools.accumulate(counts, initial=0))
    edges = [0]
    for number in range(len(counts)):
        if starts[number + 1] - starts[edges[-1]] >= least and number + 1 < len(counts):
            edges.append(number + 1)
    bounds = itertools.pairwise([*edges, len(counts)])
    return [
        Block(number, starts[first], range(first, last), counts[first:last], files[first:last])
        for number, (first, last) in enumerate(bounds)
    ]


def stage(
    dataset: ImageTextPairDataset,
    columns: Sequence[str],
    folder: Path | None,
    progress: bool | None,
) -> StagedRows:
    """Compute key, shard and other small columns of every row, and store them.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    columns : sequence of str
    folder : Path or None
        For the files; None to store nothing, and look at the rows only.
    progress : bool or None
    """
    files = _files(folder, map("rows-{:05d}".format, range(dataset.metadata.npartitions)))
    results = _run(dataset, columns, files, range(dataset.metadata.npartitions), progress)
    counts = [count for count, _ in results]
    digests = [digest for _, digest in results]
    return StagedRows(dataset.id_col, counts, digests, [file for file in files if file])


def stage_measured(
    known: StagedRows,
    measured: ImageTextPairDataset,
    columns: Sequence[str],
    folder: Path,
    progress: bool | None,
) -> StagedRows:
    """The same with columns that are made of images, as far as that was not done before.

    Parameters
    ----------
    known : StagedRows
        What the rows are told by.
    measured : ImageTextPairDataset
    columns : sequence of str
    folder : Path
        Of these images and of the way to measure them.
    progress : bool or None
    """
    names = [f"rows-{number:05d}-{digest[:16]}" for number, digest in enumerate(known.digests)]
    files = _files(folder, names)
    todo = [number for number, file in enumerate(files) if file and not file.exists()]
    try:
        _run(measured, columns, files, todo, progress)
    finally:
        if todo and measured.backend == "gpu":
            # What comes next may need the memory of the decoders that worked here.
            worker_cache.clear_on_workers()
    return StagedRows(known.id_col, known.counts, known.digests, [file for file in files if file])


def _files(folder: Path | None, names: Iterable[str]) -> list[Path | None]:
    if folder is None:
        return [None for _ in names]
    storage.make_dirs(str(folder))
    return [folder / f"{name}.arrow" for name in names]


def _run(
    dataset: ImageTextPairDataset,
    columns: Sequence[str],
    files: Sequence[Path | None],
    numbers: Sequence[int],
    progress: bool | None,
) -> list[tuple[int, str]]:
    wanted = list(dict.fromkeys([dataset.id_col, SHARD_COLUMN, *columns]))
    frames.require_columns(dataset.metadata, *wanted)
    frame = dataset.metadata[wanted]
    schema = frames.schema(frame)
    return partitions.run(
        frame,
        _stage_partition,
        [(files[number], schema) for number in numbers],
        what="read",
        numbers=numbers,
        progress=progress,
    )


def _stage_partition(frame: Any, file: Path | None, schema: pa.Schema) -> tuple[int, str]:
    """Store one computed partition; runs on a worker."""
    table = frames.to_arrow(frame)
    # Where a frame does not tell a column's type, its values do.
    fields = [
        table.schema.field(field.name) if pa.types.is_null(field.type) else field
        for field in schema
    ]
    table = conform(table, pa.schema(map(typed, storage_schema(pa.schema(fields)))))
    if file is not None:
        storage.write_bytes(str(file), serialised(table))
    return len(table), content_digest(table)
