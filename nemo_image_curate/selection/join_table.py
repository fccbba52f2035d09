"""The tables that `Join` takes columns from: Parquet files, and NumPy's arrays beside them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.errors import (
    ColumnNotFoundError,
    ConfigError,
    DamagedError,
    DatasetError,
    SchemaError,
)
from nemo_image_curate.tables import conform, content_digest, storage_schema, typed

# What a task reads of a table, in bytes; a row group at least.
_PIECE_BYTES = 1 << 26
# Rows of a row group of a table that was in memory.
_GROUP_ROWS = 1 << 16
# Bytes behind a Parquet file's footer: its length, and four letters.
_TRAILER = 8


class Piece:
    """Some row groups of a Parquet file, with the same rows of arrays beside it.

    Parameters
    ----------
    location : str
    groups : tuple of int
    columns : list of str
        Of the file.
    arrays : mapping of str to str
        Columns, and the arrays that they are made of.
    schema : pyarrow.Schema
        What both become.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(
        self,
        location: str,
        groups: tuple[int, ...],
        columns: list[str],
        arrays: Mapping[str, str],
        schema: pa.Schema,
    ):
        self.location = location
        self.groups = groups
        self.columns = columns
        self.arrays = dict(arrays)
        self.schema = schema

    def read(self) -> pa.Table:
        """Its rows."""
        with _reading(self.location), storage.open_read(self.location) as file:
            table = pq.ParquetFile(file).read_row_groups(self.groups, columns=self.columns)
        table = table.select(self.columns)
        if self.arrays:
            archive = _archive(self.location)
            with storage.fetched(archive) as file, np.load(file, allow_pickle=False) as arrays:
                for name, member in self.arrays.items():
                    table = table.append_column(name, _as_column(arrays[member]))
        return conform(table, self.schema)


@dataclass(frozen=True)
class TableFiles:
    """What is in the files of a table.

    Attributes
    ----------
    on : pyarrow.DataType
        Of the column that rows are found by.
    columns : dict of str to pyarrow.DataType
        Those that are taken, as a dataset holds them.
    pieces : list of Piece
        All rows, each with the column that they are found by.
    n_bytes : int
        About what they take in memory.
    digest : str
        A hash of what they hold, wherever the files lie.
    """

    on: pa.DataType
    columns: dict[str, pa.DataType]
    pieces: list[Piece]
    n_bytes: int
    digest: str


def in_memory(table: Any) -> pa.Table | None:
    """A table of pandas or Arrow as the latter's; None for what names files.

    Raises
    ------
    ConfigError
        For anything else.
    """
    if isinstance(table, (str, os.PathLike)) or _are_places(table):
        return None
    if isinstance(table, pa.Table):
        return table
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        return pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    raise ConfigError(
        f"Join takes Parquet files or a table of pandas or pyarrow, not {type(table).__name__}. "
        "Write it first: table.to_parquet(FOLDER)."
    )


def _are_places(table: Any) -> bool:
    return isinstance(table, (list, tuple)) and all(
        isinstance(place, (str, os.PathLike)) for place in table
    )


def columns_of(table: pa.Table, on: str, names: Sequence[str] | None) -> dict[str, pa.DataType]:
    """The columns that are taken of a table in memory, as a dataset holds them.

    Raises
    ------
    ColumnNotFoundError
    """
    wanted = _wanted(table.schema.names, on, names)
    schema = storage_schema(pa.schema([table.schema.field(name) for name in wanted]))
    return {field.name: field.type for field in map(typed, schema)}


def _wanted(columns: Sequence[str], on: str, names: Sequence[str] | None, remedy: str = "") -> Any:
    """The names of columns that are taken."""
    for name in (on, *(names or ())):
        if name not in columns:
            raise ColumnNotFoundError(name, columns, remedy)
    chosen = columns if names is None else names
    return [name for name in dict.fromkeys(chosen) if name != on]


def store(table: pa.Table, folder: Path) -> str:
    """Write a table to a folder, as a file that is named by what it holds."""
    place = str(folder / f"own-{content_digest(table.combine_chunks())[:24]}.parquet")
    with storage.atomic_write(place) as file:
        pq.write_table(table, file, row_group_size=_GROUP_ROWS)
    return place


def open_files(
    table: Any, on: str, names: Sequence[str] | None, arrays: Mapping[str, str]
) -> TableFiles:
    """Look at the footers of a table's files.

    Parameters
    ----------
    table : str, path or list of them
        Files, folders or globs.
    on : str
        The column that rows are found by.
    names : sequence of str or None
        Columns that are taken; None for all.
    arrays : mapping of str to str
        Columns that are made of arrays, and what these are called in ``STEM.npz`` beside each
        ``STEM.parquet``.

    Raises
    ------
    ColumnNotFoundError, ConfigError, DatasetError, SchemaError
    """
    locations = _locations(table)
    footers = list(storage.concurrently(_Footer, locations))
    first = footers[0]
    read = [on, *_wanted(first.schema.names, on, names, f"It is not in {first.location}.")]
    whole = _common_schema(footers, read)
    beside = [_Arrays(footer, arrays) for footer in footers] if arrays else []
    for of_file in beside:
        of_file.require(beside[0].kinds)
    schema = pa.schema([*whole, *(beside[0].kinds.items() if beside else ())])
    pieces = [
        Piece(footer.location, groups, read, arrays, schema)
        for footer in footers
        for groups in footer.pieces(read, whole=bool(arrays))
    ]
    sizes = [footer.n_bytes(read) for footer in footers] + [each.n_bytes for each in beside]
    contents = [[footer.digest for footer in footers], [each.digest for each in beside]]
    columns = {field.name: field.type for field in schema if field.name != on}
    described = [[name, str(kind)] for name, kind in columns.items()]
    digest = fingerprint(on, described, sorted(arrays.items()), contents)
    return TableFiles(schema.field(on).type, columns, pieces, sum(sizes), digest)


@contextlib.contextmanager
def _reading(location: str) -> Iterator[None]:
    """Tell a file that is damaged from one that could not be had."""
    with storage.reaching(location):
        try:
            yield
        except (pa.ArrowException, ValueError) as error:
            text = str(error).rstrip(".")
            raise DamagedError(
                f"{location} is no readable Parquet file: {text}. Other tables become one with "
                "pandas: read_csv(...).to_parquet(...)."
            ) from error


def _locations(table: Any) -> list[str]:
    places = [table] if isinstance(table, (str, os.PathLike)) else table
    locations: dict[str, None] = {}
    for place in map(storage.normalise, places):
        with storage.reaching(place):
            if any(mark in place for mark in "*?["):
                files = [info.location for info in storage.glob(place)]
            elif storage.is_dir(place):
                files = [info.location for info in storage.find(place, ".parquet")]
            else:
                files = [place]
        locations |= dict.fromkeys(files)
    if not locations:
        raise DatasetError(f"there are no Parquet files at {', '.join(map(str, places))}.")
    return list(locations)


class _Footer:
    """What the footer of a Parquet file says."""

    def __init__(self, location: str):
        self.location = location
        with _reading(location), storage.open_read(location) as file:
            metadata = pq.read_metadata(file)
            file.seek(-_TRAILER, 2)
            length = int.from_bytes(file.read(4), "little")
            file.seek(-_TRAILER - length, 2)
            self.digest = hashlib.sha256(file.read(length)).hexdigest()
        self.schema = metadata.schema.to_arrow_schema()
        self.rows = metadata.num_rows
        self._groups: list[dict[str, int]] = []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            sizes: dict[str, int] = {}
            for column in map(group.column, range(group.num_columns)):
                name = column.path_in_schema.partition(".")[0]
                sizes[name] = sizes.get(name, 0) + column.total_uncompressed_size
            self._groups.append(sizes)

    def n_bytes(self, names: Sequence[str]) -> int:
        """About what some columns take."""
        return sum(sizes.get(name, 0) for sizes in self._groups for name in names)

    def pieces(self, names: Sequence[str], whole: bool) -> Iterator[tuple[int, ...]]:
        """Row groups that are read together; all of them where the file goes with arrays."""
        together: list[int] = []
        size = 0
        for number, sizes in enumerate(self._groups):
            together.append(number)
            size += sum(sizes.get(name, 0) for name in names)
            if size >= _PIECE_BYTES and not whole:
                yield tuple(together)
                together, size = [], 0
        if together:
            yield tuple(together)


def _common_schema(footers: Sequence[_Footer], names: Sequence[str]) -> pa.Schema:
    """Types that all files' columns can have."""
    schemas = []
    for footer in footers:
        missing = [name for name in names if name not in footer.schema.names]
        if missing:
            raise SchemaError(
                f"{footer.location} has no column {missing[0]!r}, unlike {footers[0].location}. "
                "Name the columns that all files have: names=[...] (--columns)."
            )
        schemas.append(storage_schema(pa.schema([footer.schema.field(name) for name in names])))
    try:
        unified = pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaError(f"the table's files have no common types: {error}.") from error
    return pa.schema([typed(field.remove_metadata()) for field in unified])


def _archive(location: str) -> str:
    return location.removesuffix(".parquet") + ".npz"


class _Arrays:
    """What the headers of the arrays beside a Parquet file say."""

    def __init__(self, footer: _Footer, arrays: Mapping[str, str]):
        self.location = _archive(footer.location)
        self.kinds: dict[str, pa.DataType] = {}
        self.n_bytes = 0
        checksums = []
        with storage.reaching(self.location), storage.open_read(self.location) as file:
            try:
                with zipfile.ZipFile(file) as archive:
                    for name, member in arrays.items():
                        info, shape, dtype = self._header(archive, member)
                        if not shape or shape[0] != footer.rows:
                            raise DatasetError(
                                f"{self.location}: {member} has shape {shape}, and "
                                f"{footer.location} has {footer.rows:,} rows. They should have "
                                "the same rows."
                            )
                        self.kinds[name] = self._kind(member, shape, dtype)
                        self.n_bytes += info.file_size
                        checksums.append([name, info.CRC, info.file_size])
            except zipfile.BadZipFile as error:
                raise DamagedError(f"{self.location} is no .npz file: {error}.") from error
        self.digest = fingerprint(checksums)

    def _header(
        self, archive: zipfile.ZipFile, member: str
    ) -> tuple[zipfile.ZipInfo, tuple[int, ...], np.dtype[Any]]:
        try:
            info = archive.getinfo(f"{member}.npy")
        except KeyError:
            names = ", ".join(name.removesuffix(".npy") for name in archive.namelist())
            raise ConfigError(f"{self.location} has no array {member!r}, only: {names}.") from None
        with archive.open(info) as array:
            version = np.lib.format.read_magic(array)
            header = np.lib.format
            read = header.read_array_header_1_0 if version == (1, 0) else None
            shape, _, dtype = (read or header.read_array_header_2_0)(array)
        return info, shape, dtype

    def _kind(self, member: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> pa.DataType:
        if len(shape) == 2 and dtype.kind == "f":
            return frames.embedding_type()
        if len(shape) == 1 and dtype.kind in "biuf":
            return _plain(pa.from_numpy_dtype(dtype))
        raise ConfigError(
            f"{self.location}: {member} is {dtype} of shape {shape}. Arrays are floats of shape "
            "(rows, dim), or a number for each row."
        )

    def require(self, kinds: Mapping[str, pa.DataType]) -> None:
        """Refuse arrays of other types than those of the first file."""
        if self.kinds != kinds:
            raise SchemaError(f"{self.location} has arrays of other types than the first file.")


def _plain(kind: pa.DataType) -> pa.DataType:
    return storage_schema(pa.schema([("values", kind)])).field("values").type


def _as_column(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return frames.embedding_column(values, np.arange(len(values)), len(values))
