"""Packed shards: tar, index and sidecar of each, and what was counted when it was written."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import storage
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards.index import format_idx
from nemo_image_curate.shards.loose import PACKED_MARK
from nemo_image_curate.shards.names import ShardFiles, shard_name
from nemo_image_curate.shards.writer import TarWriter

# Columns that are ours; what others call so is kept under other names.
_OURS = ("key", "file", "caption", "captions", "shard", "image_error")
# Where a sidecar's footer holds what was counted when it was written.
_COUNTS = b"nemo_image_curate.pack"


@dataclass
class Counts:
    """What is counted of one shard."""

    samples: int = 0
    captioned: int = 0
    texts_left_out: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)


class Row(NamedTuple):
    """A sample: ending and bytes of its image, and its columns, ``key`` and ``caption`` too."""

    extension: str
    content: bytes
    record: dict[str, Any]


def renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of others, with other names for those that are called as ours."""
    record = {}
    for name, value in fields.items():
        new_name = name
        while new_name in _OURS or (new_name != name and new_name in fields):
            new_name = f"original_{new_name}"
        record[new_name] = value
    return record


def write_shard(
    files: ShardFiles,
    rows: Iterable[Row],
    counts: Counts,
    kinds: Mapping[str, pa.DataType] | None = None,
) -> None:
    """Write the tar of images, captions and records, its index, and last its sidecar.

    Parameters
    ----------
    files : ShardFiles
    rows : iterable of Row
        Taken one by one.
    counts : Counts
        What `rows` leave out; samples and captions are added here.
    kinds : mapping of str to pyarrow.DataType, optional
        Types of columns. Default: by their values.
    """
    written, records = [], []
    with storage.atomic_write(files.tar) as file:
        tar = TarWriter(file)
        for extension, content, record in rows:
            members = [(extension, content)]
            if record["caption"] is not None:
                members.append(("txt", record["caption"].encode()))
            members.append(("json", _json(record).encode()))
            key = record["key"]
            names = [(f"{key}.{ending}", ending, content) for ending, content in members]
            written.append([(name, tar.add(name, ending, body)) for name, ending, body in names])
            records.append(record)
        tar.close()
    counts.samples = len(records)
    counts.captioned = sum(record["caption"] is not None for record in records)
    storage.write_bytes(files.index, format_idx(written).encode())
    table = _table(records, kinds or {}).replace_schema_metadata(
        {_COUNTS: json.dumps(vars(counts))}
    )
    with storage.atomic_write(files.sidecar) as file:
        pq.write_table(table, file)


def write_shards(
    output: str,
    count: int,
    samples_per_shard: int,
    write: Callable[[int, str, ShardFiles], None],
) -> tuple[list[str], list[Counts]]:
    """Have those shards written that a stopped run has not.

    Parameters
    ----------
    output : str
    count : int
        How many samples there are, if all can be read.
    samples_per_shard : int
    write : callable
        Writes a shard: called with the place of its first sample, its name and its files.

    Returns
    -------
    tars : list of str
    counts : list of Counts
        Of each shard.
    """
    tars, counts = [], []
    for number, start in enumerate(range(0, count, samples_per_shard)):
        shard = shard_name(number)
        files = ShardFiles(storage.join(output, shard))
        # The sidecar is written last.
        if storage.stat(files.sidecar) is None:
            write(start, shard, files)
        tars.append(files.tar)
        counts.append(_read_counts(files.sidecar))
    storage.remove_temporaries(output)
    return tars, counts


def _read_counts(sidecar: str) -> Counts:
    with storage.open_read(sidecar) as file:
        values = json.loads(pq.read_schema(file).metadata[_COUNTS])
    return Counts(**{**values, "texts_left_out": Counter(values["texts_left_out"])})


def claim(output: str, settings: Sequence[Any]) -> None:
    """Note what is packed here, so that a stopped run goes on and another is refused."""
    mark = {"fingerprint": hashlib.sha256(repr(settings).encode()).hexdigest()}
    location = storage.join(output, PACKED_MARK)
    if storage.stat(location) is not None and storage.read_bytes(location) == _encoded(mark):
        return
    if storage.find(output, ".tar"):
        raise DatasetError(f"{output} holds shards of other images. Choose an empty folder.")
    storage.write_bytes(location, _encoded(mark))


def _json(value: Any) -> str:
    # Tables hold dates and decimals, too.
    return json.dumps(value, ensure_ascii=False, default=str)


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def _table(records: list[dict[str, Any]], more: Mapping[str, pa.DataType]) -> pa.Table:
    """All columns that some record has; captions are text even where there are none."""
    text, texts = pa.string(), pa.list_(pa.field("item", pa.string()))
    kinds = {"key": text, "file": text, "caption": text, "captions": texts, **more}
    names = dict.fromkeys(name for record in records for name in record) or dict.fromkeys(_OURS[:3])
    columns = {name: [record.get(name) for record in records] for name in names}
    return pa.table({name: _column(values, kinds.get(name)) for name, values in columns.items()})


def _column(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """An array of values; of objects, and of several types in one column, their JSON."""
    try:
        array = pa.array(values, kind)
        if not pa.types.is_nested(array.type) or kind is not None:
            return array
        if pa.types.is_list(array.type) and not pa.types.is_nested(array.type.value_type):
            return array
    except (pa.ArrowException, OverflowError, TypeError):
        pass
    texts = [value if value is None or isinstance(value, str) else _json(value) for value in values]
    return pa.array(texts, pa.string())
