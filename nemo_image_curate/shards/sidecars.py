"""The Parquet file beside a tar: its columns, and the record that we keep in its footer."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import storage, tables
from nemo_image_curate.errors import CurateError, DamagedError, DatasetError
from nemo_image_curate.shards.columns import OWN_COLUMNS, free_name, json_fields
from nemo_image_curate.shards.names import SHARD_COLUMN

logger = logging.getLogger(__name__)

# The key of our record in a Parquet file's metadata: fingerprint, provenance, summary.
RECORD_KEY = b"nemo_image_curate"
# What is in it, of which each may be missing.
_RECORD_FIELDS = {
    **dict.fromkeys(("version", "fingerprint", "origin"), str),
    "tar_size": int,
    **dict.fromkeys(("names", "holds"), list),
    **dict.fromkeys(("account", "columns", "summary"), dict),
}
# Bytes of columns that one thread reads faster than several.
_THREADS_FROM = 2**20
# Bytes behind the footer: its length, and four letters.
_TRAILER = 8
# Bytes that are read of a file's end, at one request; few footers are longer.
_MOST_FOOTERS = 2**16
# Footers whose bytes are held at once.
_FOOTERS_AT_ONCE = 1024
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
    return _parsed(location, _tail(location), shard)


def read_footers(
    locations: Sequence[str], shards: Sequence[str | None] | None = None
) -> Iterator[Footer | DatasetError]:
    """Yield what `read_footer` says of many files, or raises, in their order.

    Threads wait for the files. They are parsed here: by threads it takes twice as long.

    Parameters
    ----------
    locations : sequence of str
    shards : sequence of str or None, optional
        The tar that each is the sidecar of.
    """
    shards = [None] * len(locations) if shards is None else shards
    for start in range(0, len(locations), _FOOTERS_AT_ONCE):
        batch = locations[start : start + _FOOTERS_AT_ONCE]
        tails = storage.concurrently(_tail_or_error, batch)
        for location, tail, shard in zip(batch, tails, shards[start:], strict=False):
            try:
                yield _parsed(location, tail, shard) if isinstance(tail, bytes) else tail
            except DatasetError as error:
                yield error


def _tail_or_error(location: str) -> bytes | DatasetError:
    try:
        return _tail(location)
    except DatasetError as error:
        return error


def _tail(location: str) -> bytes:
    """The end of a Parquet file, from its footer on; all of what is no such file."""
    with _reading(location), storage.open_read(location) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _MOST_FOOTERS))
        tail = file.read()
        needed = _TRAILER + int.from_bytes(tail[-_TRAILER:-4], "little")
        if len(tail) < needed <= size:
            file.seek(size - needed)
            tail = file.read()
        return tail[-needed:]


def _parsed(location: str, tail: bytes, shard: str | None) -> Footer:
    with _reading(location):
        metadata = pq.read_metadata(pa.BufferReader(tail))
        schema = metadata.schema.to_arrow_schema()
    # Of a damaged footer, pyarrow's own look at single columns ends the process.
    digest = hashlib.sha256(tail[:-_TRAILER])
    record = _record((metadata.metadata or {}).get(RECORD_KEY))
    renamed = _renamed(location, schema, record, shard)
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise DatasetError(f"sidecar {location} has more than one column {twice[0]!r}; rename one.")
    if renamed:
        schema = pa.schema(
            [field.with_name(renamed.get(field.name, field.name)) for field in schema]
        )
    plain = tables.storage_schema(schema)
    return Footer(metadata.num_rows, plain, digest.hexdigest(), record, renamed)


def _renamed(
    location: str, schema: pa.Schema, record: dict[str, Any], shard: str | None
) -> dict[str, str]:
    """Columns called as one of ours in a file that we did not write."""
    called_as_ours = [name for name in OWN_COLUMNS if name in schema.names]
    if record or not called_as_ours:
        return {}
    with _reading(location), storage.open_read(location) as file, pq.ParquetFile(file) as parquet:
        return {
            name: free_name(name, schema.names)
            for name in called_as_ours
            if not _holds_ours(parquet, name, shard)
        }


def _record(content: bytes | None) -> dict[str, Any]:
    """Our record; none where one of its fields is not what we write there."""
    record = json_fields(content)
    for name, kind in _RECORD_FIELDS.items():
        if not isinstance(record.get(name), (kind, type(None))):
            return {}
    columns = record.get("columns") or {}
    return record if all(isinstance(how, dict) for how in columns.values()) else {}


def _holds_ours(parquet: pq.ParquetFile, name: str, shard: str | None) -> bool:
    """Whether a column has our values after all.

    Other programs lose our record when they write a file of ours again.
    """
    if name == SHARD_COLUMN and shard is None:
        return True
    if not pa.types.is_string(parquet.schema_arrow.field(name).type):
        return False
    values = parquet.read(columns=[name])[name].unique().drop_null().to_pylist()
    if name == SHARD_COLUMN:
        return values in ([], [shard])
    return all(value.startswith(_ERROR_KINDS) for value in values)


def read_sidecar(
    location: str, columns: Sequence[str] | None = None, shard: str | None = None
) -> pa.Table:
    """Read a Parquet file, or those of `columns` that it has, without its metadata.

    Texts that are no UTF-8 are told in a warning; bytes that are none of it become U+FFFD.

    Parameters
    ----------
    location : str
    columns : sequence of str, optional
        As they are called here.
    shard : str, optional
        The tar that it is the sidecar of.
    """
    table, no_texts = read_texts(location, columns, shard)
    for name, row_numbers in no_texts.items():
        logger.warning(
            "sidecar %s: %d texts of column %r are no UTF-8, the first in row %d counted from 0; "
            "bytes that are none of it become U+FFFD. Write them again as UTF-8 where they came "
            "from",
            *(location, len(row_numbers), name, row_numbers[0]),
        )
    return table


def read_texts(
    location: str, columns: Sequence[str] | None = None, shard: str | None = None
) -> tuple[pa.Table, dict[str, list[int]]]:
    """What `read_sidecar` reads, and by column the rows whose texts are no UTF-8."""
    with _reading(location), storage.open_read(location) as file, pq.ParquetFile(file) as parquet:
        names = parquet.schema_arrow.names
        record = _record((parquet.metadata.metadata or {}).get(RECORD_KEY))
        renamed = _renamed(location, parquet.schema_arrow, record, shard)
        in_file = {renamed.get(name, name): name for name in names}
        present = (
            list(in_file) if columns is None else [name for name in columns if name in in_file]
        )
        table = parquet.read(
            columns=[in_file[name] for name in present], use_threads=_is_large(parquet.metadata)
        )
        table = table.rename_columns([renamed.get(name, name) for name in table.column_names])
        return tables.with_valid_texts(tables.conform(table, tables.storage_schema(table.schema)))


def null_counts(location: str) -> dict[str, int | None]:
    """How many rows are null in each column of a file that we wrote, as its footer says.

    Parameters
    ----------
    location : str

    Returns
    -------
    dict of str to int or None
        None where that is not known, as of lists and structs, unless nothing in them is null;
        empty for files of others.
    """
    with _reading(location):
        metadata = pq.read_metadata(pa.BufferReader(_tail(location)))
    record = _record((metadata.metadata or {}).get(RECORD_KEY))
    if not record:
        return {}
    leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    is_plain = [leaf.max_definition_level <= 1 and not leaf.max_repetition_level for leaf in leaves]
    # A plain column may have a dot in its name.
    names = [
        leaf.path if plain else leaf.path.partition(".")[0]
        for leaf, plain in zip(leaves, is_plain, strict=True)
    ]
    # Statistics of lists count those that are empty, and nulls in them; embeddings have neither.
    embeddings = {name for name, how in (record.get("columns") or {}).items() if "encoder" in how}
    counts: dict[str, int | None] = {name: 0 for name in names if names.count(name) == 1}
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for number, name in enumerate(names):
            statistics, count = group.column(number).statistics, counts.get(name)
            known = count is not None and statistics is not None and statistics.has_null_count
            if known and statistics.null_count and not (is_plain[number] or name in embeddings):
                known = False
            counts[name] = count + statistics.null_count if known else None
    return counts


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
