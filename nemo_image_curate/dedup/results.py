"""What deduplication found, on disk by partition, and the lazy columns that are read from there."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.fingerprints import Lineage, fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.rules import Decisions
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.tables import content_digest, serialised
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

_DONE = "_done"


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
    """The folder for the intermediate files of one deduplication; the same one after a restart.

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
    folder = Path(base) / f"dedup-{fingerprint(__version__, *parts)[:24]}"
    storage.make_dirs(str(folder))
    return folder


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

    def digest(self) -> str:
        """A hash of what the columns hold."""
        return content_digest(self.table, np.array(self.counts))


def gather(dataset: ImageTextPairDataset, columns: Sequence[str], progress: bool | None) -> Rows:
    """Compute key, shard and other small columns of every row."""
    names = list(dict.fromkeys([dataset.id_col, SHARD_COLUMN, *columns]))
    frames.require_columns(dataset.metadata, *names)
    frame = dataset.metadata[names]
    tables = partitions.run(frame, frames.to_arrow, what="read", progress=progress)
    table = pa.concat_tables(tables, promote_options="permissive")
    return Rows(table, [len(one) for one in tables])


def write(
    folder: Path,
    rows: Rows,
    id_col: str,
    ranks: np.ndarray,
    decisions: Decisions,
    compared: np.ndarray,
    why_not: str,
    **more: Any,
) -> None:
    """Write the decisions, one Arrow file per partition, then the mark that they are complete.

    One more file, of no rows, tells their columns.

    Parameters
    ----------
    folder : Path
    rows : Rows
    id_col : str
    ranks : numpy.ndarray of int64, shape (n,)
        The rank of each row; `decisions` are by rank.
    decisions : Decisions
    compared : numpy.ndarray of bool, shape (n,)
        False for rows that could not be compared with others, and are nobody's duplicates.
    why_not : str
        What ``dedup_error`` says of those.
    **more : pyarrow.Array
        Further columns.

    Raises
    ------
    DatasetError
        When partitions hold the same rows, whose decisions could not be told apart.
    """
    n = len(ranks)
    by_rank = np.empty(n, dtype=np.int64)
    by_rank[ranks] = np.arange(n)
    standing = decisions.duplicate_of[ranks]
    removed = standing >= 0
    similarity = decisions.similarity[ranks]
    names = rows.table.select([id_col, SHARD_COLUMN])
    # Arrow's strings end at 2 GB in one piece, which the keys of many samples exceed.
    large = names.cast(pa.schema([(name, pa.large_string()) for name in names.column_names]))
    large = large.combine_chunks()

    def part(start: int, count: int) -> pa.Table:
        rows_of_part = slice(start, start + count)
        partner_rows = pa.array(by_rank[standing[rows_of_part]], mask=~removed[rows_of_part])
        partners = large.take(partner_rows).cast(names.schema)
        reasons = np.full(len(partner_rows), why_not, dtype=object)
        return pa.table(
            {
                "is_duplicate": pa.array(removed[rows_of_part]),
                "dedup_error": pa.array(reasons, pa.string(), mask=compared[rows_of_part]),
                "duplicate_of": partners[id_col],
                "duplicate_of_shard": partners[SHARD_COLUMN],
                "duplicate_similarity": pa.array(
                    similarity[rows_of_part], mask=~removed[rows_of_part]
                ),
                **{name: column.slice(start, count) for name, column in more.items()},
            }
        )

    folder.mkdir(parents=True, exist_ok=True)
    digest, start, written = hashlib.sha256(), 0, dict[str, bytes]()
    for count in [0, *rows.counts]:
        keys, shards = (
            rows.table[name].slice(start, count).combine_chunks() for name in (id_col, SHARD_COLUMN)
        )
        order = _order(keys, shards)
        content = serialised(part(start, count).take(order))
        name = _file_name(keys.take(order), shards.take(order))
        if written.setdefault(name, content) != content:
            raise DatasetError(
                f"two partitions of the dataset hold the same {count:,} rows, for example of key "
                f"{keys[0].as_py()!r}; have each sample once in it."
            )
        digest.update(content)
        storage.write_bytes(str(folder / name), content)
        start += count
    storage.write_bytes(str(folder / _DONE), digest.hexdigest().encode())


def complete(folder: Path) -> bool:
    """Whether `write` finished here."""
    return (folder / _DONE).exists()


def _order(keys: pa.Array, shards: pa.Array) -> np.ndarray:
    """Rows by shard, then key; equal ones stay in order."""
    table = pa.table({"shard": shards, "key": keys, "row": np.arange(len(keys))})
    sort_keys = [(name, "ascending") for name in table.column_names]
    order: np.ndarray = pc.sort_indices(table, sort_keys=sort_keys).to_numpy()
    return order


def _file_name(keys: pa.Array, shards: pa.Array) -> str:
    """The name of the decisions about these very rows."""
    digest = content_digest(pa.table({"key": keys, "shard": shards}))
    # Not Parquet: in a dataset's folder it would be taken for a sidecar.
    return f"part-{digest[:32]}.arrow"


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
        self.digest = (folder / _DONE).read_text()

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
        order = _order(keys, shards)
        path = self.folder / _file_name(keys.take(order), shards.take(order))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        decisions = _read(path).take(place)
        return {own: decisions[name] for name, own in self.names.items()}


def _read(path: Path) -> pa.Table:
    try:
        with pa.OSFile(str(path)) as file:
            return pa.ipc.open_file(file).read_all()
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path.parent} holds no decisions about the rows of a partition ({path.name}): they "
            "are others than those that were deduplicated, or its files are gone. Run the "
            "deduplication again; give work_dir a folder that all workers share."
        ) from error


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
    nothing = pa.array([], pa.string())
    schema = _read(folder / _file_name(nothing, nothing)).schema
    names = {name: name if name in carried else prefix + name for name in schema.names}
    for name in names.values():
        if name in (dataset.id_col, SHARD_COLUMN):
            raise ConfigError(f"prefix={prefix!r} would overwrite the column {name!r}.")
    columns = {names[name]: schema.field(name).type for name in names}
    records = {names[name]: carried.get(name, record) for name in names}
    provenance = {name: known for name, known in records.items() if known is not None}
    return dataset.with_columns(_Join(folder, dataset.id_col, names, record), columns, provenance)
