"""What deduplication found, on disk by partition, and the lazy columns that are read from there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_image_curate import cluster, frames, storage
from nemo_image_curate.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.lineage import Lineage, fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.rules import Decisions
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_DONE = "_done"


def work_folder(
    dataset: ImageTextPairDataset, work_dir: Any, used: Sequence[str], *config: Any
) -> Path:
    """The folder for the intermediate files of one deduplication; the same one after a restart.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    work_dir : str, path or None
        A folder that all workers share. Default: in the system's temporary folder.
    used : sequence of str
        The columns that decide the result.
    *config
        Whatever else decides it.

    Returns
    -------
    pathlib.Path
        Not made yet.

    Raises
    ------
    ConfigError
        When `work_dir` is not a local path.
    """
    frames.require_columns(dataset.metadata, *used)
    if work_dir is None:
        work_dir = os.path.join(tempfile.gettempdir(), f"nemo-image-curate-{os.getuid()}")
    base = storage.normalise(work_dir)
    if not storage.is_local(base):
        raise ConfigError(
            f"work_dir={base!r} should be a folder on a local or mounted file system that all "
            "workers share; object stores are too slow for what is kept there."
        )
    # As in a save in place: the input is what the files were before columns were added to them.
    inputs = [source.identity(in_place=True) for source in dataset.source()[1]]
    made = {name: dataset.provenance.get(name) for name in used}
    token = Lineage(dataset.metadata).token
    digest = fingerprint(__version__, token, inputs, dataset.metadata.npartitions, made, config)
    return Path(base) / f"dedup-{digest[:24]}"


@dataclass(frozen=True)
class Rows:
    """Small columns of all rows, in the order of the dataset.

    Attributes
    ----------
    table : pyarrow.Table, n rows
    counts : list of int
        Rows of each partition.
    """

    table: pa.Table
    counts: list[int]


def gather(dataset: ImageTextPairDataset, columns: Sequence[str], progress: bool | None) -> Rows:
    """Compute key, shard and other small columns of every row."""
    import dask
    import pyarrow as pa

    names = list(dict.fromkeys([dataset.id_col, SHARD_COLUMN, *columns]))
    frames.require_columns(dataset.metadata, *names)
    frame = dataset.metadata[names]
    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        partitions = frame.to_delayed()
    to_arrow = dask.delayed(frames.to_arrow, pure=False)
    tables = cluster.compute_all(
        [to_arrow(partition) for partition in partitions],
        [f"partition {number}" for number in range(len(partitions))],
        "read",
        progress,
        shared=not Lineage(frame).independent,
    )
    table = pa.concat_tables(tables, promote_options="permissive")
    return Rows(table, [len(one) for one in tables])


def write(
    folder: Path,
    rows: Rows,
    id_col: str,
    ranks: np.ndarray,
    decisions: Decisions,
    compared: np.ndarray | None = None,
    **more: Any,
) -> None:
    """Write the decisions, one Arrow file per partition, then the mark that they are complete.

    Parameters
    ----------
    folder : Path
    rows : Rows
    id_col : str
    ranks : numpy.ndarray of int64, shape (n,)
        The rank of each row; `decisions` are by rank.
    decisions : Decisions
    compared : numpy.ndarray of bool, shape (n,), optional
        False for rows that could not be compared with others: their columns are null.
    **more : pyarrow.Array
        Further columns.
    """
    import numpy as np
    import pyarrow as pa

    n = len(ranks)
    by_rank = np.empty(n, dtype=np.int64)
    by_rank[ranks] = np.arange(n)
    standing = decisions.duplicate_of[ranks]
    removed = standing >= 0
    unknown = None if compared is None else ~compared
    partner = pa.array(by_rank[standing], mask=~removed)
    table = pa.table(
        {
            "is_duplicate": pa.array(removed, mask=unknown),
            "duplicate_of": rows.table[id_col].take(partner),
            "duplicate_of_shard": rows.table[SHARD_COLUMN].take(partner),
            "duplicate_similarity": pa.array(decisions.similarity[ranks], mask=~removed),
            **more,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for number, count in enumerate(rows.counts):
        with storage.atomic_write(str(_file(folder, number))) as file:
            part = table.slice(start, count).combine_chunks()
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(part)
        start += count
    storage.write_bytes(str(folder / _DONE), b"")


def complete(folder: Path) -> bool:
    """Whether `write` finished here."""
    return (folder / _DONE).exists()


def _file(folder: Path, partition: int) -> Path:
    # Not Parquet: in a dataset's folder it would be taken for a sidecar.
    return folder / f"part-{partition:05d}.arrow"


class DecisionsReader:
    """Reads the decisions of one partition as a frame."""

    def __init__(self, folder: Path, backend: frames.Backend):
        self.folder = folder
        self.backend = backend

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # The name is the fingerprint; where the folder is does not matter.
        return ("DecisionsReader", *self.folder.parts[-2:], self.backend)

    def __call__(self, partition: int) -> Any:
        import pyarrow as pa

        path = _file(self.folder, partition)
        try:
            with pa.OSFile(str(path)) as file:
                table = pa.ipc.open_file(file).read_all()
        except FileNotFoundError as error:
            raise DatasetError(
                f"{path} is gone: it holds what deduplication found, until that is saved. Run the "
                "deduplication again; give work_dir a folder that all workers share."
            ) from error
        return frames.from_arrow(table, self.backend)


def attach(
    dataset: ImageTextPairDataset, folder: Path, prefix: str, record: dict[str, Any]
) -> ImageTextPairDataset:
    """The dataset with the columns of the decisions, each name with `prefix` before it."""
    import dask.dataframe as dd

    frame = dataset.metadata
    read = DecisionsReader(folder, frames.backend_of(frame))
    meta = read(0).iloc[:0]
    found = dd.from_map(read, range(frame.npartitions), meta=meta)
    names = {name: prefix + name for name in meta.columns}
    for name in names.values():
        if name in (dataset.id_col, SHARD_COLUMN):
            raise ConfigError(f"prefix={prefix!r} would overwrite the column {name!r}.")
    out = frames.with_columns(frame._meta, {names[name]: meta[name] for name in names})
    joined = frame.map_partitions(_join, found, names, meta=out, align_dataframes=False)
    return dataset.replace(joined, dict.fromkeys(names.values(), record))


def _join(frame: Any, found: Any, names: dict[str, str]) -> Any:
    if len(frame) != len(found):
        raise DatasetError(
            f"a partition has {len(frame):,} rows, but had {len(found):,} when it was "
            "deduplicated. Deduplicate again."
        )
    return frames.with_columns(frame, {names[name]: found[name] for name in names})
