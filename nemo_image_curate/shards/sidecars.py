"""The Parquet file beside a tar: its columns, and the record that we keep in its footer."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import storage, tables
from nemo_image_curate.errors import CurateError, DamagedError, DatasetError
from nemo_image_curate.shards.columns import OWN_COLUMNS, free_name, json_fields
from nemo_image_curate.shards.names import ERROR_COLUMN, SHARD_COLUMN

# The key of our record in a Parquet file's metadata: fingerprint, provenance, summary.
RECORD_KEY = b"nemo_image_curate"
# Bytes of columns that one thread reads faster than several.
_THREADS_FROM = 2**20
# How each ``image_error`` of ours begins.
_ERROR_KINDS = ("missing", "decode:", "too large:", "embed:")


@dataclass(frozen=True)
class Footer:
    """What a Parquet file's footer says: rows, schema, a digest of it all, and our record.

    Attributes
    ----------
    rows : int
    schema : pyarrow.Schema
        As the columns are called here.
    digest : str
    record : dict
    renamed : dict of str to str
        Columns that others called as one of ours, and what they are called here.
    """

    rows: int
    schema: pa.Schema
    digest: str
    record: dict[str, Any]
    renamed: dict[str, str]


def read_footer(location: str, shard: str | None = None) -> Footer:
    """Read the footer of a Parquet file.

    Parameters
    ----------
    location : str
    shard : str, optional
        The tar that it is the sidecar of.

    Raises
    ------
    DamagedError
        Naming the file, when it is not a readable Parquet file.
    NotFoundError, ForbiddenError, UnavailableError
        When it could not be had.
    """
    with _reading(location), storage.open_read(location) as file, pq.ParquetFile(file) as parquet:
        metadata = parquet.metadata
        schema = parquet.schema_arrow
        renamed = _renamed(parquet, shard)
        raw = metadata.metadata or {}
        columns = [
            column.to_dict()
            for group in range(metadata.num_row_groups)
            for column in [metadata.row_group(group)]
        ]
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise DatasetError(f"sidecar {location} has more than one column {twice[0]!r}; rename one.")
    digest = hashlib.sha256(json.dumps(columns, sort_keys=True, default=str).encode())
    digest.update(repr(sorted(raw.items())).encode())
    record = json_fields(raw.get(RECORD_KEY))
    schema = pa.schema([one.with_name(renamed.get(one.name, one.name)) for one in schema])
    plain = tables.storage_schema(schema)
    return Footer(metadata.num_rows, plain, digest.hexdigest(), record, renamed)


def _renamed(parquet: pq.ParquetFile, shard: str | None) -> dict[str, str]:
    """Columns called as one of ours in a file that we did not write."""
    names = parquet.schema_arrow.names
    if json_fields((parquet.metadata.metadata or {}).get(RECORD_KEY)):
        return {}
    return {
        name: free_name(name, names)
        for name in OWN_COLUMNS
        if name in names and not _holds_ours(parquet, name, shard)
    }


def _holds_ours(parquet: pq.ParquetFile, name: str, shard: str | None) -> bool:
    """Whether a column has our values after all, by its statistics.

    Other programs lose our record when they write a file of ours again.
    """
    if name == SHARD_COLUMN and shard is None:
        return True
    place = parquet.schema_arrow.names.index(name)
    for number in range(parquet.metadata.num_row_groups):
        group = parquet.metadata.row_group(number)
        column = next(
            group.column(one)
            for one in range(group.num_columns)
            if group.column(one).path_in_schema.split(".")[0] == name
        )
        statistics = column.statistics
        if statistics is None or not pa.types.is_string(parquet.schema_arrow.field(place).type):
            return False
        if statistics.has_null_count and statistics.null_count == group.num_rows:
            continue
        if not statistics.has_min_max:
            return False
        for bound in (str(statistics.min), str(statistics.max)):
            if name == SHARD_COLUMN and bound != shard:
                return False
            if name == ERROR_COLUMN and not bound.startswith(_ERROR_KINDS):
                return False
    return True


def read_sidecar(
    location: str, columns: Sequence[str] | None = None, shard: str | None = None
) -> pa.Table:
    """Read a Parquet file, or those of `columns` that it has, without its metadata.

    Parameters
    ----------
    location : str
    columns : sequence of str, optional
        As they are called here.
    shard : str, optional
        The tar that it is the sidecar of.
    """
    with _reading(location), storage.open_read(location) as file, pq.ParquetFile(file) as parquet:
        names = parquet.schema_arrow.names
        renamed = _renamed(parquet, shard)
        own = {renamed.get(name, name): name for name in names}
        present = list(own) if columns is None else [name for name in columns if name in own]
        table = parquet.read(
            columns=[own[name] for name in present], use_threads=_is_large(parquet.metadata)
        )
    table = table.rename_columns([renamed.get(name, name) for name in table.column_names])
    return tables.conform(table, tables.storage_schema(table.schema))


def _is_large(metadata: pq.FileMetaData) -> bool:
    """Whether a file is worth the handing over to Arrow's threads."""
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return bool(sum(group.total_byte_size for group in groups) > _THREADS_FROM)


@contextlib.contextmanager
def _reading(location: str) -> Iterator[None]:
    """Tell a Parquet file that is damaged from one that could not be had."""
    with storage.reaching(location):
        try:
            yield
        except CurateError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            # Arrow's own of content are plain ones without a number.
            if isinstance(error, OSError) and (error.errno or type(error) is not OSError):
                raise
            raise DamagedError(
                f"sidecar {location} is not a readable Parquet file: {error}. Write it again from "
                "where it came; to take the columns from the tar's own .txt and .json members in "
                "its place, give it another ending."
            ) from error
