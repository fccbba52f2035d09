"""`RowTable`: what is known of an index's vectors, by row number, in a memory-mapped file."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import tables
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.expressions.check import check
from nemo_image_curate.expressions.evaluate import matching_rows
from nemo_image_curate.vectors.sampling import random_score

# Rows of one record batch: what an expression is evaluated on at once.
BATCH_ROWS = 65_536
# Expressions whose rows are kept, 8 bytes for each row: a service gets the same ones again.
_REMEMBERED = 8


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a frame that a row table holds: no lists, no other nested values."""
    fields = map(tables.typed, tables.storage_schema(schema))
    return pa.schema([field for field in fields if not pa.types.is_nested(field.type)])


def sample_scores(batch: pa.RecordBatch, id_col: str) -> np.ndarray:
    """A number in [0, 1) for each row that depends on its shard and key alone."""
    return random_score(pc.binary_join_element_wise(batch[SHARD_COLUMN], batch[id_col], "/"), 0)


class RowTable:
    """The plain columns of all rows of an index, in the order of its vectors.

    Parameters
    ----------
    path : Path
        An Arrow IPC file.
    id_col : str

    Attributes
    ----------
    columns : list of str

    Raises
    ------
    DatasetError
        When the file is no whole Arrow file.
    """

    def __init__(self, path: Path, id_col: str):
        self.id_col = id_col
        try:
            with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as opened:
                # Batches are views of the file; what is not looked at is not read.
                self._batches = [opened.get_batch(i) for i in range(opened.num_record_batches)]
                self.schema: pa.Schema = opened.schema
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{path} is damaged: {error}. Build the index again.") from error
        self.columns: list[str] = self.schema.names
        self._starts = np.cumsum([0, *map(len, self._batches)])
        self._matches: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self._by_key: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, some thousand at a time."""
        yield from self._batches

    def take(self, rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """The columns of some rows, as plain values."""
        row_numbers = np.asarray(rows, dtype=np.int64)
        batch_numbers = np.searchsorted(self._starts, row_numbers, side="right") - 1
        records: list[dict[str, Any]] = [{}] * len(row_numbers)
        for number in np.unique(batch_numbers):
            positions = np.flatnonzero(batch_numbers == number)
            batch = self._batches[number].take(row_numbers[positions] - self._starts[number])
            for position, record in zip(positions, batch.to_pylist(), strict=True):
                records[position] = record
        return records

    def matching(self, expression: str) -> np.ndarray:
        """The numbers of the rows for which an expression is true.

        Parameters
        ----------
        expression : str
            As `ImageTextPairDataset.filter` takes it.

        Returns
        -------
        numpy.ndarray of int64
            Ascending; not to be written to.

        Raises
        ------
        ColumnNotFoundError
            When it names a column that does not exist.
        ConfigError
            When it is no expression that is true or false for each row.
        """
        with self._lock:
            if expression in self._matches:
                self._matches.move_to_end(expression)
                return self._matches[expression]
        used_columns = check(expression, self.columns)
        row_numbers = [np.empty(0, dtype=np.int64)]
        # Also without rows an expression is right or wrong.
        batches = self._batches or [pa.RecordBatch.from_pylist([], schema=self.schema)]
        for start, batch in zip(self._starts, batches, strict=False):
            table = pa.Table.from_batches([batch]).select(used_columns)
            row_numbers.append(start + np.flatnonzero(matching_rows(table, expression)))
        rows = np.concatenate(row_numbers)
        rows.flags.writeable = False
        with self._lock:
            self._matches[expression] = rows
            while len(self._matches) > _REMEMBERED:
                self._matches.popitem(last=False)
        return rows

    def find(self, key: str, shard: str | None = None) -> int:
        """The number of a sample's row.

        Raises
        ------
        DatasetError
            When there is no such row, or when several shards have the key and none is named.
        """
        rows = self.search(key, shard)
        if len(rows) == 1:
            return rows[0]
        if not rows:
            where = f" of {shard}" if shard else ""
            raise DatasetError(f"key {key!r}{where} is not in the index.")
        shards = sorted({row[SHARD_COLUMN] for row in self.take(rows)})
        if len(shards) == 1:
            raise DatasetError(f"key {key!r} is {len(rows)} times in {shards[0]}.")
        raise DatasetError(f"key {key!r} is in several shards: {', '.join(shards)}; name one.")

    def search(self, key: str, shard: str | None = None) -> list[int]:
        """The numbers of all rows with a key, in one shard or in any."""
        hashes, order = self._keys()
        key_hash = _hashes([key])[0]
        first, last = (np.searchsorted(hashes, key_hash, side) for side in ("left", "right"))
        same_hash = np.sort(order[first:last])
        return [
            int(number)
            for number, row in zip(same_hash, self.take(same_hash), strict=True)
            if row[self.id_col] == key and shard in (None, row[SHARD_COLUMN])
        ]

    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        """The keys' hashes in ascending order, and whose they are: 16 bytes for each row."""
        if self._by_key is None:
            by_batch = [_hashes(batch[self.id_col].to_pylist()) for batch in self._batches]
            hashes = np.concatenate([np.empty(0, dtype=np.uint64), *by_batch])
            order = np.argsort(hashes, kind="stable")
            self._by_key = hashes[order], order
        return self._by_key


def _hashes(keys: Sequence[str]) -> np.ndarray:
    hashes: np.ndarray = pd.util.hash_array(np.array(keys, dtype=object), categorize=False)
    return hashes


def write_rows(file: Any, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
    """Write what `RowTable` reads: every batch is conformed to `schema`, and of limited size."""
    with pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            table = tables.conform(pa.Table.from_batches([batch]), schema)
            writer.write_table(table.combine_chunks(), max_chunksize=BATCH_ROWS)
