"""`Join`: columns of a table of one's own, each row's found by a value that names it.

The table's rows go to buckets by a hash of that value, in files that all workers share. A bucket
keeps those that the dataset has, sorted, and partitions look theirs up there. So no process holds
the table, and no row of the dataset leaves its place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dedup.exchange import Exchange, write_batches
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.selection import join_table
from nemo_image_curate.selection.join_table import Piece, TableFiles
from nemo_image_curate.selection.prepared import PreparedStage
from nemo_image_curate.stages.base import NO_EFFECT
from nemo_image_curate.tables import conform, large_texts

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# What a task holds of the table, and of how many pieces there are at most.
_BUCKET_BYTES = 1 << 26
_MOST_BUCKETS = 1024
# 128 bits: that two of a thousand million values have the same is as likely as 1 in 10**21.
_HASH_BYTES = 16
_HASH = np.dtype(f"S{_HASH_BYTES}")
_HASH_COLUMN = "hash of what rows are found by"
_DONE = "_done.json"

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Join(PreparedStage):
    """Adds columns of a table of one's own, by a column that names rows in both.

    Every row stays where it is, in its shard and in its order. Rows that the table has not are
    null. How many there are is logged.

    Parameters
    ----------
    table : str, path, list of them, pandas.DataFrame or pyarrow.Table
        Parquet files: one, a folder, a glob or a list of them, fsspec URLs too.
    on : str, default "uid"
        A column of texts or whole numbers that both have, such as ``uid`` or ``key``. Each value
        stands in the table once.
    names : sequence of str, optional
        The table's columns to add. Default: all.
    arrays : mapping of str to str, optional
        Columns made of arrays of NumPy that have the table's rows: for each ``STEM.parquet`` those
        in ``STEM.npz`` beside it. As DataComp's embeddings:
        ``{"image_embedding": "l14_img", "text_embedding": "l14_txt"}``.
    encoder : str, optional
        What made the embeddings among these columns, as embedders call it:
        ``"openai/clip-vit-large-patch14"``, or that of ``embedder.encoder()``. Scores, searches and
        indexes refuse embeddings of unknown origin.
    work_dir : str or path, optional
        A folder for files that all workers share: about as large as the columns of the table while
        it is called, and as those of the rows that match until they are computed. Default: in the
        system's temporary folder.

    Columns
    -------
    of the table : as there
        Half floats become float32, and arrays lists.

    Notes
    -----
    A worker holds a row group of the table, with `arrays` a file of it, and then a bucket: 64 MB,
    and a 1,024th of tables over 64 GB.

    Examples
    --------
    >>> ds = Join("scores/*.parquet", on="uid", names=["my_score"])(ds)  # doctest: +SKIP
    >>> ds = ds.filter("my_score > 0.5")  # doctest: +SKIP
    """

    table: Any = dataclasses.field(metadata=NO_EFFECT)
    on: str = "uid"
    names: Sequence[str] | None = None
    arrays: Mapping[str, str] | None = None
    encoder: str | None = None

    def check(self) -> None:
        """Refuse names that cannot be, with `ConfigError`."""
        if isinstance(self.names, str):
            raise ConfigError(f"names={self.names!r} should be a list: [{self.names!r}].")
        both = {*(self.names or ())} & {*(self.arrays or ())}
        if self.on in {*(self.names or ()), *(self.arrays or ())} or both:
            raise ConfigError(
                f"names={self.names}, arrays={self.arrays} and on={self.on!r} should name "
                "different columns."
            )
        if self.arrays and join_table.in_memory(self.table) is not None:
            raise ConfigError("arrays= are files beside Parquet files; this table is in memory.")

    def columns(self) -> dict[str, pa.DataType]:
        """The columns that are added, as the table's files say.

        Raises
        ------
        ColumnNotFoundError, ConfigError, DatasetError, SchemaError
            When the table cannot be had, or has not these columns.
        """
        if self.basis is not None:
            return dict(self.basis.columns)
        memory = join_table.in_memory(self.table)
        if memory is not None:
            return join_table.columns_of(memory, self.on, self.names)
        return self._open(self.table).columns

    def _open(self, place: Any) -> TableFiles:
        return join_table.open_files(place, self.on, self.names, self.arrays or {})

    def inputs(self) -> list[str]:
        """What rows are found by."""
        return [self.on]

    def without_source(self) -> None:
        """Forget the table."""
        self.table = None

    def provenance(self) -> dict[str, dict[str, Any]]:
        """Where each column is from; of embeddings, what made them."""
        records = {}
        for name, kind in self.columns().items():
            records[name] = self.record()
            if not _is_embedding(kind):
                records[name].pop("encoder")
        return records

    def prepare(self, dataset: ImageTextPairDataset, folder: Path) -> _Joined:
        """Find what the dataset's rows are in the table."""
        memory = join_table.in_memory(self.table)
        if memory is None:
            return self._prepare(dataset, folder, self._open(self.table))
        place = join_table.store(memory, folder)
        try:
            return self._prepare(dataset, folder, self._open(place))
        finally:
            os.remove(place)

    def _prepare(self, dataset: ImageTextPairDataset, folder: Path, files: TableFiles) -> _Joined:
        self._refuse(dataset, files.columns)
        _require_same_kind(dataset, self.on, files.on)
        frame = dataset.metadata[[self.on]]
        count = max(1, min(-(-files.n_bytes // _BUCKET_BYTES), _MOST_BUCKETS))
        # What an earlier call left there may be of other rows.
        shutil.rmtree(folder / "rows", ignore_errors=True)
        storage.make_dirs(str(folder / "rows"))
        asked = Exchange(folder / "rows", "rows", frame.npartitions, count)
        arguments = [(asked, number, self.on) for number in range(asked.senders)]
        sums = partitions.run(frame, _send_rows, arguments, what="rows")
        digests = [digest for _, digest in sums]
        place = folder / f"joined-{fingerprint(files.digest, count, digests)[:24]}"
        if not (place / _DONE).exists():
            # The same one after a restart, which reads what is missing.
            steps = folder / f"table-{fingerprint(files.digest, count)[:24]}"
            sent = Exchange(steps, "table", len(files.pieces), count)
            storage.make_dirs(str(steps))
            sent.fill(_send_piece, [(piece, self.on) for piece in files.pieces], "table", None)
            _match_all(asked, sent, place, self.on)
            shutil.rmtree(steps)
        shutil.rmtree(folder / "rows")
        matched = json.loads((place / _DONE).read_bytes())
        self._tell(sum(rows for rows, _ in sums), matched)
        return _Joined(place, files, count)

    def _refuse(self, dataset: ImageTextPairDataset, columns: Mapping[str, pa.DataType]) -> None:
        """Refuse columns that the dataset has, and an encoder of no embeddings."""
        if not columns:
            raise ConfigError(f"the table has no other column than {self.on!r}.")
        taken = [name for name in columns if name in dataset.metadata.columns]
        if taken:
            raise ConfigError(
                f"the dataset has columns of these names already: {', '.join(taken)}. Choose "
                "others of the table: names=[...] (--columns), or rename them there."
            )
        if self.encoder is not None and not any(map(_is_embedding, columns.values())):
            raise ConfigError(
                f"encoder={self.encoder!r}, and there is no column of embeddings, only: "
                f"{', '.join(columns)}."
            )

    def _tell(self, rows: int, matched: dict[str, int]) -> None:
        """Say how many rows there are on both sides; refuse to add nothing but nulls."""
        text = (
            f"{matched['rows']:,} of {rows:,} rows of the dataset are in the table, by {self.on}; "
            f"{matched['used']:,} of {matched['table']:,} rows of the table are in the dataset"
        )
        if rows and not matched["rows"]:
            raise DatasetError(
                f"{text}. Look whether both write {self.on!r} in the same way, or join on another "
                "column."
            )
        logger.log(logging.INFO if matched["rows"] == rows else logging.WARNING, text)

    def run(self, frame: Any) -> dict[str, Any]:
        """The columns of a computed partition."""
        table = self.basis.of(frames.column_to_arrow(frame[self.on]))
        return {name: table[name].combine_chunks() for name in table.column_names}


def _is_embedding(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_floating(kind.value_type))


class _Joined:
    """What the dataset's rows have in the table: two files for each bucket, sorted by hash."""

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, folder: Path, files: TableFiles, buckets: int):
        self.folder = folder
        self.digest = files.digest
        self.columns = files.columns
        self.buckets = buckets

    def of(self, values: pa.Array) -> pa.Table:
        """The table's row for each value; null where it has none."""
        rows, hashes = _hashes(values)
        buckets = _buckets(hashes, self.buckets)
        schema = pa.schema(list(self.columns.items()))
        tables, places, start = [schema.empty_table()], np.full(len(values), -1), 0
        for bucket in np.unique(buckets):
            here = np.flatnonzero(buckets == bucket)
            stored = np.load(_hash_file(self.folder, bucket), mmap_mode="r")
            found, is_there = _places(stored, hashes[here])
            with pa.memory_map(str(_row_file(self.folder, bucket))) as file:
                batch = pa.ipc.open_file(file).get_batch(0)
                taken = pa.Table.from_batches([batch]).take(found[is_there])
            tables.append(conform(taken, schema))
            places[rows[here[is_there]]] = start + np.arange(len(taken))
            start += len(taken)
        return pa.concat_tables(tables).combine_chunks().take(pa.array(places, mask=places < 0))


def _places(stored: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where hashes are among sorted ones, and whether they are there."""
    if not len(stored):
        return np.zeros(len(hashes), dtype=np.int64), np.zeros(len(hashes), dtype=bool)
    places = np.searchsorted(stored, hashes).clip(max=len(stored) - 1)
    return places, stored[places] == hashes


def _hash_file(folder: Path, bucket: int) -> Path:
    return folder / f"hashes-{bucket:04d}.npy"


def _row_file(folder: Path, bucket: int) -> Path:
    return folder / f"rows-{bucket:04d}.arrow"


def _kind(kind: pa.DataType) -> str | None:
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "texts"
    return "whole numbers" if types.is_integer(kind) else None


def _require_same_kind(dataset: ImageTextPairDataset, on: str, of_table: pa.DataType) -> None:
    ours = frames.schema(dataset.metadata[[on]]).field(on).type
    # Of a column of objects only its values would tell.
    kinds = [_kind(of_table if pa.types.is_null(ours) else ours), _kind(of_table)]
    if None in kinds or kinds[0] != kinds[1]:
        raise ConfigError(
            f"{on!r} is {ours} in the dataset and {of_table} in the table. Rows are found by "
            "texts, or by whole numbers, in both: cast one of them."
        )


def _hashes(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The rows that have a value, and its hash."""
    texts = values.cast(pa.large_string()).to_pylist()
    rows = np.array([row for row, text in enumerate(texts) if text is not None], dtype=np.int64)
    digests = [
        hashlib.blake2b(text.encode(), digest_size=_HASH_BYTES).digest()
        for text in texts
        if text is not None
    ]
    return rows, np.frombuffer(b"".join(digests), dtype=_HASH)


def _buckets(hashes: np.ndarray, count: int) -> np.ndarray:
    """The bucket of each hash, by its first two bytes."""
    pairs = np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, _HASH_BYTES)[:, :2]
    buckets: np.ndarray = (pairs[:, 0].astype(np.int64) * 256 + pairs[:, 1]) * count >> 16
    return buckets


def _to_arrow(hashes: np.ndarray) -> pa.Array:
    content = pa.py_buffer(np.ascontiguousarray(hashes).tobytes())
    return pa.Array.from_buffers(pa.binary(_HASH_BYTES), len(hashes), [None, content])


def _from_arrow(table: pa.Table) -> np.ndarray:
    column = table[_HASH_COLUMN].combine_chunks()
    if not len(column):
        return np.empty(0, dtype=_HASH)
    values: np.ndarray = np.frombuffer(column.buffers()[1], _HASH)
    return values[column.offset : column.offset + len(column)]


def _send_rows(frame: Any, sent: Exchange, number: int, on: str) -> tuple[int, str]:
    """Send what names the rows of a partition to its buckets; runs on a worker.

    Returns
    -------
    rows : int
    digest : str
        A hash of what was sent.
    """
    _, hashes = _hashes(frames.column_to_arrow(frame[on]))
    hashes, counts = np.unique(hashes, return_counts=True)
    table = pa.table({_HASH_COLUMN: _to_arrow(hashes), "count": counts})
    sent.write(number, table, _buckets(hashes, sent.receivers))
    return len(frame), hashlib.sha256(hashes.tobytes() + counts.tobytes()).hexdigest()


def _send_piece(sent: Exchange, number: int, piece: Piece, on: str) -> None:
    """Send rows of the table to their buckets; runs on a worker."""
    table = piece.read()
    rows, hashes = _hashes(table[on].combine_chunks())
    table = large_texts(table).take(rows).append_column(_HASH_COLUMN, _to_arrow(hashes))
    sent.write(number, table, _buckets(hashes, sent.receivers))


def _match_all(asked: Exchange, sent: Exchange, place: Path, on: str) -> None:
    """Keep what the dataset has of the table, and write down how much that is."""
    storage.make_dirs(str(place))
    call = dask.delayed(_match, pure=False)
    numbers = range(sent.receivers)
    tasks = [call(asked, sent, number, place, on) for number in numbers]
    results = jobs.compute_all(tasks, [f"bucket {number}" for number in numbers], "join")
    *sums, n_repeated = np.array([counts for counts, _ in results]).sum(axis=0).tolist()
    if n_repeated:
        first = min(value for _, value in results if value is not None)
        # Of a table that is mended all is read again.
        shutil.rmtree(place)
        shutil.rmtree(sent.folder)
        raise ConfigError(
            f"the table has {on}={first!r} more than once, and {n_repeated:,} such values in all: "
            "which of their rows count nobody can tell. Keep one row of each."
        )
    done = json.dumps(dict(zip(("rows", "used", "table"), sums, strict=True)))
    storage.write_bytes(str(place / _DONE), done.encode())


def _match(
    asked: Exchange, sent: Exchange, bucket: int, place: Path, on: str
) -> tuple[tuple[int, int, int, int], Any]:
    """Write the rows of a bucket that the dataset has, by their hashes; runs on a worker.

    Returns
    -------
    counts : tuple of int
        Rows of the dataset that the table has, rows of the table that the dataset has, all rows of
        the table, and values that it has more than once.
    repeated : object
        The first of these; None without one.
    """
    table = sent.read(bucket)
    hashes = _from_arrow(table)
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    is_same = hashes[1:] == hashes[:-1]
    repeated = pc.unique(table[on].take(order[1:][is_same]))
    wanted = asked.read(bucket)
    found, is_there = _places(hashes, _from_arrow(wanted))
    rows = int(wanted["count"].to_numpy()[is_there].sum())
    used = np.unique(found[is_there])
    kept = table.drop_columns([on, _HASH_COLUMN]).take(order[used])
    write_batches(_row_file(place, bucket), kept, [len(kept)])
    with storage.atomic_write(str(_hash_file(place, bucket))) as file:
        np.save(file, hashes[used])
    counts = (rows, len(used), len(table), len(repeated))
    return counts, pc.min(repeated).as_py()
