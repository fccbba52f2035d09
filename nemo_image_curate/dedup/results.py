"""What deduplication found, on disk, and the lazy columns that are read from there.

`nemo_image_curate.dedup.deciding` writes it: a file for each block of partitions, with a record
batch for each of these, and at the end where the decisions about each partition are.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset.fingerprints import Lineage, fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.tables import content_digest
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

DONE = "_done"


def decision_columns(prefix: str) -> dict[str, pa.DataType]:
    """The columns that every deduplication adds, with their types."""
    kinds = {
        "is_duplicate": pa.bool_(),
        "dedup_error": pa.string(),
        "duplicate_of": pa.string(),
        "duplicate_of_shard": pa.string(),
        "duplicate_similarity": pa.float32(),
    }
    return {prefix + name: kind for name, kind in kinds.items()}


def work_folder(dataset: ImageTextPairDataset, work_dir: Any, *config: Any) -> Path:
    """The folder for the intermediate files of one stage; the same one after a restart.

    It goes with where the tars are, their sizes and times, and with all that is done to the frame
    after reading. What the sidecars hold is for the caller to compare.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    work_dir : str, path or None
        A folder that all workers share. Default: in the system's temporary folder.
    *config
        Whatever else decides the result.

    Returns
    -------
    pathlib.Path
        Made, when it is not there yet.

    Raises
    ------
    ConfigError
        When `work_dir` is not a local path.
    DatasetError
        When it cannot be made.
    """
    if work_dir is None:
        work_dir = os.path.join(tempfile.gettempdir(), f"nemo-image-curate-{os.getuid()}")
    base = storage.local_path(
        work_dir, "work_dir", "all workers share it, and object stores are too slow"
    )
    lineage = Lineage(dataset.metadata)
    inputs = [
        (reader.root, source.shard, source.tar and (source.tar.size, source.tar.changed))
        for reader, sources in lineage.readers
        for source in sources
    ]
    parts = (lineage.token, inputs, dataset.metadata.npartitions, config)
    folder = Path(base) / f"stage-{fingerprint(__version__, *parts)[:24]}"
    storage.make_dirs(str(folder))
    return folder


def complete(folder: Path) -> bool:
    """Whether all decisions are there."""
    return (folder / DONE).exists()


def block_file(folder: Path, block: int) -> Path:
    """Where the decisions about a block of partitions are."""
    # Not Parquet: in a dataset's folder it would be taken for a sidecar.
    return folder / f"block-{block:05d}.arrow"


def row_order(keys: pa.Array, shards: pa.Array, parts: np.ndarray) -> np.ndarray:
    """Rows by part, then shard, then key; equal ones stay in order."""
    columns = {"part": parts, "shard": shards, "key": keys, "row": np.arange(len(keys))}
    sort_keys = [(name, "ascending") for name in columns]
    order: np.ndarray = pc.sort_indices(pa.table(columns), sort_keys=sort_keys).to_numpy()
    return order


def partition_name(keys: pa.Array, shards: pa.Array) -> str:
    """The name of the decisions about these very rows."""
    return content_digest(pa.table({"key": keys, "shard": shards}))[:32]


class _Join:
    """Adds to a partition what was decided about its rows; the function that Dask maps.

    Files are found by the keys and shards of the rows, not by the number of the partition: a
    second frame to read them from would have Dask align, that is shuffle, the two whenever a user
    filters by their columns. And rows come out of a shuffle in one order or another.
    """

    # What Dask's dashboard calls these tasks.
    __name__ = "join-decisions"

    def __init__(self, folder: Path, id_col: str, names: dict[str, str], record: dict[str, Any]):
        self.record = record
        self.folder = folder
        self.id_col = id_col
        self.names = names
        self.digest = _record(folder)["digest"]

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # With the place: Dask takes expressions of one name for one, and a folder may be gone.
        return (*self.content_token(), str(self.folder))

    def content_token(self) -> tuple[str, ...]:
        """What was decided, and how, wherever it is."""
        names = [text for pair in self.names.items() for text in pair]
        how = json.dumps(self.record, sort_keys=True, default=str)
        return ("Decisions", self.digest, how, self.id_col, *names)

    def __call__(self, frame: Any) -> dict[str, Any]:
        keys, shards = (frames.column_to_arrow(frame[name]) for name in (self.id_col, SHARD_COLUMN))
        order = row_order(keys, shards, np.zeros(len(keys), dtype=np.int64))
        place = _record(self.folder)["places"].get(
            partition_name(keys.take(order), shards.take(order))
        )
        if place is None:
            raise _no_decisions(self.folder)
        original = np.empty(len(order), dtype=np.int64)
        original[order] = np.arange(len(order))
        decisions = read_decisions(self.folder, *place).take(original)
        return {column: decisions[name] for name, column in self.names.items()}


def _record(folder: Path) -> dict[str, Any]:
    """Noted at the end: where the decisions about a partition are, by its name."""
    try:
        return _record_of((folder / DONE).stat().st_mtime_ns, folder)
    except FileNotFoundError as error:
        raise _no_decisions(folder) from error


@functools.lru_cache(maxsize=8)
def _record_of(changed: int, folder: Path) -> dict[str, Any]:
    """The record that was written at a time, for all partitions that a process joins."""
    record: dict[str, Any] = json.loads((folder / DONE).read_bytes())
    return record


def read_decisions(folder: Path, block: int, batch: int) -> pa.Table:
    """The decisions about a partition."""
    try:
        with pa.memory_map(str(block_file(folder, block))) as file:
            return pa.Table.from_batches([pa.ipc.open_file(file).get_batch(batch)])
    except FileNotFoundError as error:
        raise _no_decisions(folder) from error


def _no_decisions(folder: Path) -> DatasetError:
    return DatasetError(
        f"{folder} holds no decisions about the rows of a partition: they are others than those "
        "that were deduplicated, or its files are gone. Run the deduplication again; give work_dir "
        "a folder that all workers share."
    )


def attach(
    dataset: ImageTextPairDataset,
    folder: Path,
    prefix: str,
    record: dict[str, Any],
    carried: Mapping[str, Any] | None = None,
) -> ImageTextPairDataset:
    """The dataset with the columns of the decisions, each name with `prefix` before it.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    folder : Path
    prefix : str
    record : dict
        How the decisions were made.
    carried : mapping of str to dict or None, optional
        Further columns that were written, which keep their names, and how they were made.
    """
    carried = carried or {}
    schema = read_decisions(folder, 0, 0).schema
    names = {name: name if name in carried else prefix + name for name in schema.names}
    for name in names.values():
        if name in (dataset.id_col, SHARD_COLUMN):
            raise ConfigError(f"prefix={prefix!r} would overwrite the column {name!r}.")
    columns = {names[name]: schema.field(name).type for name in names}
    records = {names[name]: carried.get(name, record) for name in names}
    provenance = {name: known for name, known in records.items() if known is not None}
    return dataset.with_columns(_Join(folder, dataset.id_col, names, record), columns, provenance)
