"""Arrow tables: types that both backends and Parquet hold, and digests of what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Rows that are hashed at once.
_HASHED_ROWS = 8192


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or one like it that no column has: for a column of ours beside those of users."""
    while name in taken:
        name += "_"
    return name


def storage_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with types that both frame backends hold: no dictionaries or views.

    A column of nulls has no type yet: other shards may know it.
    """
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])


def _plain(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_fixed_size_list(kind) or types.is_large_list(kind) or types.is_list(kind):
        return pa.list_(pa.field("item", _plain(kind.value_type)))
    return kind


def typed(field: pa.Field) -> pa.Field:
    """The field; text when all is null, so that nothing tells its type."""
    if pa.types.is_null(field.type):
        return field.with_type(pa.string())
    if pa.types.is_list(field.type):
        return field.with_type(pa.list_(typed(field.type.value_field)))
    return field


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of `schema`: cast where types differ, null where absent."""
    arrays = []
    for field in schema:
        if field.name not in table.column_names:
            arrays.append(pa.nulls(len(table), field.type))
        elif table.schema.field(field.name).type == field.type:
            arrays.append(table[field.name])
        else:
            arrays.append(table[field.name].cast(field.type))
    return pa.table(arrays, schema=schema)


def large_texts(table: pa.Table) -> pa.Table:
    """The table with 64-bit offsets in its columns of text: 32-bit ones end at 2 GB in a piece."""
    return _with_texts(table, pa.large_string())


def small_texts(table: pa.Table) -> pa.Table:
    """The table with 32-bit offsets in its columns of text, as frames have them."""
    return _with_texts(table, pa.string())


def _with_texts(table: pa.Table, kind: pa.DataType) -> pa.Table:
    texts = (pa.string(), pa.large_string())
    fields = [field.with_type(kind) if field.type in texts else field for field in table.schema]
    return table.cast(pa.schema(fields))


def with_valid_texts(table: pa.Table) -> tuple[pa.Table, dict[str, list[int]]]:
    """The table with U+FFFD in its texts in place of bytes that are no UTF-8, and where those are.

    Parquet files may hold such bytes in columns of text. They go unseen through Arrow and fail
    later, wherever a text is looked at.

    Returns
    -------
    table : pyarrow.Table
    row_numbers : dict of str to list of int
        By column, the rows that were mended; a column without any is not in it.

    Raises
    ------
    ValueError
        Naming the column, where such bytes are in texts inside of lists or structs.
    """
    row_numbers: dict[str, list[int]] = {}
    for number, field in enumerate(table.schema):
        if not _has_text(field.type):
            continue
        try:
            table.column(number).validate(full=True)
        except pa.ArrowInvalid as error:
            if not pa.types.is_string(field.type):
                raise ValueError(f"column {field.name!r}: {error}") from error
            contents = table.column(number).cast(pa.binary()).to_pylist()
            texts = [
                None if content is None else content.decode("utf-8", "replace")
                for content in contents
            ]
            row_numbers[field.name] = [
                row
                for row, (content, text) in enumerate(zip(contents, texts, strict=True))
                if text is not None and text.encode() != content
            ]
            table = table.set_column(number, field, pa.array(texts, field.type))
    return table, row_numbers


def _has_text(kind: pa.DataType) -> bool:
    inside = (kind.field(number).type for number in range(kind.num_fields))
    return bool(pa.types.is_string(kind)) or any(map(_has_text, inside))


def without_nan(table: pa.Table) -> pa.Table:
    """The table with null where a column of floats has NaN: both mean that there is no value."""
    for number, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table.column(number)
            if pc.any(pc.is_nan(column)).as_py():
                nulls = pa.scalar(None, field.type)
                table = table.set_column(
                    number, field, pc.if_else(pc.is_nan(column), nulls, column)
                )
    return table


def serialised(table: pa.Table) -> bytes:
    """A table as the bytes of an Arrow IPC file."""
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def content_digest(table: pa.Table, *arrays: np.ndarray) -> str:
    """A hash of what columns and further arrays hold, however the columns lie in memory.

    Chunks, the size of text offsets, and the bytes behind a null do not count.
    """
    schema = pa.schema(map(typed, storage_schema(table.schema)))
    digest = hashlib.sha256()
    # At least once, for the names of the columns.
    for start in range(0, max(1, len(table)), _HASHED_ROWS):
        rows = conform(table.slice(start, _HASHED_ROWS), schema)
        # Copied by `take`, values that belong to no row or to a null are gone.
        digest.update(serialised(rows.take(np.arange(len(rows)))))
    for array in arrays:
        digest.update(array.data)
    return digest.hexdigest()
