"""The columns that a tar's own members give, and one schema for those of all shards."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa

from nemo_image_curate import storage, tables
from nemo_image_curate.errors import SchemaError
from nemo_image_curate.shards.faults import Fault
from nemo_image_curate.shards.names import ERROR_COLUMN, SHARD_COLUMN
from nemo_image_curate.shards.reader import TarShard
from nemo_image_curate.shards.texts import decode_text, guess_encodings

# Members that are texts, and the columns that they become; of a column's, the last one counts.
_TEXTS = {"text": "caption", "caption": "caption", "txt": "caption", "cls": "cls"}
# What others may not call a column of theirs.
OWN_COLUMNS = (SHARD_COLUMN, ERROR_COLUMN)
# A label of class; zeros before it would be lost.
WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")
# Lists within lists. Parquet's readers stop at some 30.
_DEEPEST = 8
# Characters of a value in a message.
_SHOWN = 40

logger = logging.getLogger(__name__)


def read_tar(
    shard: TarShard, id_col: str, schema: pa.Schema | None = None
) -> tuple[pa.Table, list[Fault]]:
    """Columns from a tar's own members, and what is wrong with them.

    ``.txt`` is ``caption`` (or else ``.caption``, ``.text``), ``.cls`` is ``cls`` (of whole
    numbers, if all are), and each field of ``.json`` a column. A sample without one of them, or
    whose JSON is broken, has nulls there. Objects, lists more than 8 deep, and fields that are
    strings in `schema`, become their JSON text. So do values of several kinds in one field, unless
    most of them are numbers: then texts that are none are null. A field called as a column of ours
    gets another name; one called as `id_col` does where it is not the sample's key.
    """
    index = shard.index
    keys = list(index.samples)
    faults: list[Fault] = []
    columns: dict[str, list[Any]] = {}
    names: dict[str, str] = {}
    fields = [index.member(key, ("json",)) for key in keys]
    for row, content in enumerate(shard.read(fields)):
        if content is None:
            continue
        try:
            record = storage.parse_json(content)
            problem = "" if isinstance(record, dict) else "the .json member is no object"
        except ValueError as error:
            record, problem = None, str(error)
        if problem:
            faults.append(Fault("json", keys[row], f"{problem}; its fields are null"))
            continue
        for field, value in record.items():
            if field == id_col and value == keys[row]:
                continue
            name = names.get(field)
            if name is None:
                name = names[field] = field.encode("utf-8", "backslashreplace").decode()
                if name in (id_col, *OWN_COLUMNS):
                    name = names[field] = free_name(name, record)
                    detail = f"the field {field!r} of .json is the column {name!r}"
                    faults.append(Fault("renamed", keys[row], detail))
            columns.setdefault(name, [None] * len(keys))[row] = value
    for extension, name in _TEXTS.items():
        members = [index.member(key, (extension,)) for key in keys]
        if any(members):
            texts = columns.setdefault(name, [None] * len(keys))
            for row, content in enumerate(shard.read(members)):
                if content is not None:
                    text = _member_text(content, keys[row], extension, faults)
                    lost = texts[row]
                    if lost not in (None, text) and _text(lost).strip() != text.strip():
                        detail = (
                            f"the .{extension} counts more than {_excerpt(lost)} of another member"
                        )
                        faults.append(Fault("conflict", keys[row], detail))
                    texts[row] = text
    if "cls" in columns and any(index.member(key, ("cls",)) for key in keys):
        columns["cls"] = _whole_numbers(columns["cls"])
    arrays = {id_col: pa.array(keys, pa.string())}
    texts_wanted = {column.name for column in schema or () if pa.types.is_string(column.type)}
    for name, values in columns.items():
        arrays[name] = _column(name, values, name in texts_wanted, keys, faults)
    table = pa.table(arrays)
    return tables.conform(table, tables.storage_schema(table.schema)), faults


def free_name(name: str, taken: Collection[str]) -> str:
    """Another name for a column that is called as one of ours."""
    return tables.free_name(f"{name}_original", taken)


def _member_text(content: bytes, key: str, extension: str, faults: list[Fault]) -> str:
    text = decode_text(content)
    if text is None:
        guesses = " or ".join(guess_encodings(content)) or "binary"
        detail = f"its .{extension} is not UTF-8 (perhaps {guesses}); bytes of it are replaced"
        faults.append(Fault("encoding", key, detail))
        text = content.decode("utf-8", "replace")
    return text.rstrip("\r\n")


def _whole_numbers(values: list[Any]) -> list[Any]:
    """Labels as integers, where all of them are; those with zeros before them are texts."""
    texts = [value.strip() for value in values if isinstance(value, str)]
    if not all(WHOLE_NUMBER.fullmatch(text) for text in texts):
        return values
    return [int(value) if isinstance(value, str) else value for value in values]


def json_fields(content: bytes | None) -> dict[str, Any]:
    """The fields of a JSON object; none where there is no such thing."""
    if content is None:
        return {}
    try:
        value = storage.parse_json(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _column(
    name: str, values: list[Any], as_text: bool, keys: list[str], faults: list[Fault]
) -> pa.Array:
    array = None if as_text else _typed(values)
    if array is not None:
        return array
    kinds = {kind for kind in map(_kind, values) if kind}
    if len(kinds) > 1:
        array = None if as_text else _mostly_numbers(name, values, keys, faults)
        if array is not None:
            return array
        first = next(kind for kind in map(_kind, values) if kind)
        row = next(row for row, value in enumerate(values) if _kind(value) not in ("", first))
        detail = (
            f"the values of {name!r} are {' and '.join(sorted(kinds))}, such as "
            f"{_excerpt(values[row])}; the column is text"
        )
        faults.append(Fault("mixed", keys[row], detail))
    elif kinds == {"numbers"} and (not as_text or _typed(values) is None):
        row = max(range(len(values)), key=lambda row: abs(values[row] or 0))
        detail = (
            f"no type of numbers holds all values of {name!r}, such as {_excerpt(values[row])}; "
            "the column is text"
        )
        faults.append(Fault("mixed", keys[row], detail))
    texts = [None if value is None else _text(value) for value in values]
    return pa.array(texts, pa.string())


def _typed(values: list[Any]) -> pa.Array | None:
    try:
        array = pa.array(values)
        array.validate(full=True)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return None
    return None if _has_objects(array.type) or _depth(array.type) > _DEEPEST else array


def _kind(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "booleans"
    if isinstance(value, (int, float)):
        return "numbers"
    return "texts" if isinstance(value, str) else "lists or objects"


def _mostly_numbers(
    name: str, values: list[Any], keys: list[str], faults: list[Fault]
) -> pa.Array | None:
    """The column as numbers, where more values are numbers than not: others are null, and told.

    Each shard decides for itself, so that the type does not depend on the order of the shards.
    """
    numbers = [_number(value) for value in values]
    strange = [
        row for row, value in enumerate(values) if value is not None and numbers[row] is None
    ]
    if sum(number is not None for number in numbers) <= len(strange):
        return None
    array = _typed(numbers)
    if array is not None:
        for row in strange:
            detail = (
                f"{name!r} is {_excerpt(values[row])} where other values are numbers; it is null"
            )
            faults.append(Fault("mixed", keys[row], detail))
    return array


def _number(value: Any) -> int | float | None:
    """A JSON number, also one that was written as a text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value) if set(value) & set(".eE") else int(value)
    return None


def _excerpt(value: Any) -> str:
    text = _text(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _has_objects(kind: pa.DataType) -> bool:
    """Objects seldom have the same fields in every shard, and Parquet cannot hold an empty one."""
    if pa.types.is_list(kind):
        return _has_objects(kind.value_type)
    return bool(pa.types.is_struct(kind))


def _depth(kind: pa.DataType) -> int:
    depth = 0
    while pa.types.is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth


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
                    logger.warning(
                        "%s: column %r is %s, but %s in the shards before it; it becomes text",
                        *(shard, field.name, field.type, known.type),
                    )
                    merged[field.name] = pa.field(field.name, pa.string())
                    continue
                raise SchemaError(
                    f"shard {shard}: column {field.name!r} is {field.type}, but {known.type} in "
                    "the shards before it. Cast it to one type, or drop it, in these sidecars."
                ) from error
    return pa.schema([tables.typed(field) for field in merged.values()])


def _is_plain(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind))
