"""The columns of one shard as an Arrow table: from its sidecar, or from the tar's own members."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import storage, tables
from nemo_image_curate.errors import DatasetError, SchemaError
from nemo_image_curate.shards.reader import TarShard

# The key of our record in a Parquet file's metadata: fingerprint, provenance, summary.
RECORD_KEY = b"nemo_image_curate"


@dataclass(frozen=True)
class Footer:
    """What a Parquet file's footer says: rows, schema, a digest of it all, and our record."""

    rows: int
    schema: pa.Schema
    digest: str
    record: dict[str, Any]


def read_footer(location: str) -> Footer:
    """Read the footer of a Parquet file.

    Raises
    ------
    DatasetError
        Naming the file, when it is not a readable Parquet file.
    """
    try:
        with storage.open_read(location) as file, pq.ParquetFile(file) as parquet:
            metadata = parquet.metadata
            schema = parquet.schema_arrow
            raw = metadata.metadata or {}
            columns = [
                column.to_dict()
                for group in range(metadata.num_row_groups)
                for column in [metadata.row_group(group)]
            ]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(location, error) from error
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise DatasetError(f"sidecar {location} has more than one column {twice[0]!r}; rename one.")
    digest = hashlib.sha256(json.dumps(columns, sort_keys=True, default=str).encode())
    digest.update(repr(sorted(raw.items())).encode())
    record = _json_fields(raw.get(RECORD_KEY))
    return Footer(metadata.num_rows, tables.storage_schema(schema), digest.hexdigest(), record)


def read_sidecar(location: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or those of `columns` that it has, without its metadata."""
    try:
        with storage.open_read(location) as file, pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            present = names if columns is None else [name for name in columns if name in names]
            table = parquet.read(columns=present)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(location, error) from error
    return tables.conform(table, tables.storage_schema(table.schema))


def _unreadable(location: str, error: Exception) -> DatasetError:
    return DatasetError(
        f"sidecar {location} is not a readable Parquet file: {error}. Delete it to take the "
        "columns from the tar's own .txt and .json members, or write it again."
    )


def tar_columns(shard: TarShard, id_col: str, schema: pa.Schema | None = None) -> pa.Table:
    """Columns from a tar's own members: key, ``.txt`` as ``caption``, fields of ``.json``.

    A sample without one of them, or whose JSON is broken, has nulls there. Objects, values of
    mixed types in one field, and fields that are strings in `schema` become their JSON text.
    """
    index = shard.index
    keys = list(index.samples)
    columns: dict[str, list[Any]] = {}
    texts = [index.member(key, ("txt",)) for key in keys]
    fields = [index.member(key, ("json",)) for key in keys]
    for row, content in enumerate(shard.read(fields)):
        for field, value in _json_fields(content).items():
            name = field.encode("utf-8", "replace").decode()
            if name != id_col:
                columns.setdefault(name, [None] * len(keys))[row] = value
    if any(texts):
        captions = columns.setdefault("caption", [None] * len(keys))
        for row, content in enumerate(shard.read(texts)):
            if content is not None:
                captions[row] = content.decode("utf-8", "replace").rstrip("\r\n")
    arrays = {id_col: pa.array(keys, pa.string())}
    texts_wanted = {one.name for one in schema or () if pa.types.is_string(one.type)}
    arrays |= {name: _column(values, name in texts_wanted) for name, values in columns.items()}
    table = pa.table(arrays)
    return tables.conform(table, tables.storage_schema(table.schema))


def _json_fields(content: bytes | None) -> dict[str, Any]:
    if content is None:
        return {}
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _column(values: list[Any], as_text: bool) -> pa.Array:
    if not as_text:
        try:
            array = pa.array(values)
            array.validate(full=True)
            if not _has_objects(array.type):
                return array
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            pass
    texts = [None if value is None else _text(value) for value in values]
    return pa.array(texts, pa.string())


def _has_objects(kind: pa.DataType) -> bool:
    """Objects seldom have the same fields in every shard, and Parquet cannot hold an empty one."""
    if pa.types.is_list(kind):
        return _has_objects(kind.value_type)
    return bool(pa.types.is_struct(kind))


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


def unify(schemas: Iterable[tuple[str, pa.Schema]], from_tars: Collection[str] = ()) -> pa.Schema:
    """One schema for all shards: columns in order of appearance, types widened where they can be.

    Parameters
    ----------
    schemas : iterable of (str, pyarrow.Schema)
        A name for messages, and the schema.
    from_tars : collection of str
        Those whose columns come from the tar's own members: where such a column has no type in
        common with the others, it becomes text.

    Raises
    ------
    SchemaError
        Naming the shard, the column and both types, where there is no common type.
    """
    merged: dict[str, pa.Field] = {}
    # By column: whether any tar has it, and whether all shards can give it as text.
    textual: dict[str, tuple[bool, bool]] = {}
    seen: set[tuple[bytes, bool]] = set()
    for shard, schema in schemas:
        in_tar = shard in from_tars
        identity = schema.serialize().to_pybytes(), in_tar
        if identity in seen:
            continue
        seen.add(identity)
        for field in schema:
            known = merged.get(field.name)
            has_tar, as_text = textual.get(field.name, (False, True))
            has_tar, as_text = has_tar or in_tar, as_text and (in_tar or _is_plain(field.type))
            textual[field.name] = has_tar, as_text
            if known is None or known.type == field.type:
                merged[field.name] = known or field
                continue
            try:
                merged[field.name] = pa.unify_schemas(
                    [pa.schema([known]), pa.schema([field])], promote_options="permissive"
                ).field(0)
            except pa.ArrowException as error:
                if has_tar and as_text:
                    merged[field.name] = pa.field(field.name, pa.string())
                    continue
                raise SchemaError(
                    f"shard {shard}: column {field.name!r} is {field.type}, but {known.type} in "
                    "the shards before it. Cast it to one type, or drop it, in these sidecars."
                ) from error
    return pa.schema([tables.typed(field) for field in merged.values()])


def _is_plain(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind))
