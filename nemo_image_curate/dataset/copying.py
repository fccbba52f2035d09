"""Write one output shard of an export by copying the byte ranges that staging found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import storage
from nemo_image_curate.dataset import saving
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ChangedError
from nemo_image_curate.shards import sidecars
from nemo_image_curate.shards.index import Member, format_idx
from nemo_image_curate.shards.names import ShardFiles, sample_key, shard_name
from nemo_image_curate.shards.opened_tar import OpenedTar
from nemo_image_curate.shards.signatures import SIGNATURE_BYTES, image_ending
from nemo_image_curate.shards.writer import TarWriter

# The staged column that says where the members of each row lie.
MEMBERS = "__members__"
# The staged column that says which content of the tar that is.
TAR = "__tar__"
# The staged column that says how often each row is written, where that is not once.
COPIES = "__copies__"


@dataclass(frozen=True)
class Naming:
    """How output shards and samples are called."""

    samples_per_shard: int
    max_shards: int
    id_col: str
    old_id_col: str | None

    def shard(self, number: int) -> str:
        """The name of an output shard, without extension."""
        return shard_name(number, self.max_shards)

    def key(self, shard: int, row: int) -> str:
        """The key of a sample."""
        return sample_key(self.shard(shard), row, self.samples_per_shard)


def write_shard(
    number: int,
    slices: list[tuple[str, int, int]],
    target: saving.Target,
    root: str,
    naming: Naming,
    provenance: dict[str, Any],
) -> None:
    """Write one output shard; runs on a worker.

    The tar, then its index, then its sidecar, which marks it done.

    Parameters
    ----------
    number : int
    slices : list of (str, int, int)
        Staged Parquet file, first sample, and the one after the last, in order.
    target : Target
        The sidecar to write.
    root : str
        What the staged rows' shards are relative to.
    """
    table = pa.concat_tables(_samples(*piece) for piece in slices)
    keys = [naming.key(number, row) for row in range(len(table))]
    files = ShardFiles.beside(target.location)
    written = _write_tar(files.tar, table, keys, root, naming)
    storage.write_bytes(files.index, format_idx(written).encode("utf-8", "surrogateescape"))
    old = table[naming.id_col]
    table = table.drop_columns([MEMBERS, TAR])
    table = _replace(table, naming.id_col, pa.array(keys, pa.string()))
    table = _replace(
        table, SHARD_COLUMN, pa.array([naming.shard(number) + ".tar"] * len(keys), pa.string())
    )
    if naming.old_id_col is not None:
        table = _replace(table, naming.old_id_col, old)
    saving.write_table(table, target, provenance, {})


def _samples(location: str, start: int, stop: int) -> pa.Table:
    """Samples of a staged file: its rows in order, each as often as it is written."""
    table = sidecars.read_sidecar(location)
    if COPIES not in table.column_names:
        return table.slice(start, stop - start)
    ends = np.cumsum(table[COPIES].to_numpy())
    rows = np.searchsorted(ends, np.arange(start, stop), side="right")
    return table.take(rows).drop_columns(COPIES)


def _replace(table: pa.Table, name: str, values: Any) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def _write_tar(
    location: str, table: pa.Table, keys: list[str], root: str, naming: Naming
) -> list[list[tuple[str, Member]]]:
    old_keys = table[naming.id_col].to_pylist()
    members = [[Member(**fields) for fields in sample] for sample in table[MEMBERS].to_pylist()]
    shards, tokens = table[SHARD_COLUMN].to_pylist(), table[TAR].to_pylist()
    contents = _contents(root, shards, tokens, members)
    written = []
    with storage.atomic_write(location) as file:
        tar = TarWriter(file)
        for key, old_key, sample in zip(keys, old_keys, members, strict=True):
            entries = []
            for member in sample:
                content = next(contents)
                if member.extension.lower() == "json":
                    content = _with_new_id(content, naming, old_key, key)
                extension = member.extension or _ending_of(content, sample)
                name = f"{key}.{extension}"
                entries.append((name, tar.add(name, extension, content)))
            written.append(entries)
        # Sees that the last tar is still what it was.
        next(contents, None)
        tar.close()
    return written


def _ending_of(content: bytes | memoryview, sample: list[Member]) -> str:
    """What an image without extension is called, beside the other members of its sample."""
    ending = image_ending(bytes(content[:SIGNATURE_BYTES])) or "bin"
    taken = {member.extension.lower() for member in sample}
    return f"image.{ending}" if ending in taken else ending


def _contents(
    root: str, shards: list[str], tokens: list[str], members: list[list[Member]]
) -> Iterator[bytes | memoryview]:
    """The bytes of all members in order; at most one source shard open at a time.

    `tokens` say which content of its tar each row was found in.

    Raises
    ------
    ChangedError
        When a tar has other content now, or had it while it was read.
    """
    start = 0
    while start < len(shards):
        stop = start
        while stop < len(shards) and shards[stop] == shards[start]:
            stop += 1
        with OpenedTar(storage.join(root, shards[start])) as tar:
            if {tar.info.token} != set(tokens[start:stop]):
                raise ChangedError(
                    f"{tar.location} was changed while it was exported. Wait until it is complete, "
                    "then run the same export again, to an empty folder."
                )
            ranges = (
                (member.offset, member.size) for sample in members[start:stop] for member in sample
            )
            yield from tar.read(ranges)
        start = stop


def _with_new_id(
    content: bytes | memoryview, naming: Naming, old_key: str, key: str
) -> bytes | memoryview:
    """A ``.json`` member with its id field renamed as the sample is; others unchanged."""
    raw = bytes(content)
    try:
        fields = storage.parse_json(raw)
    except ValueError:
        return raw
    if not isinstance(fields, dict) or naming.id_col not in fields:
        return raw
    fields[naming.id_col] = key
    if naming.old_id_col is not None:
        fields[naming.old_id_col] = old_key
    try:
        return json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # Half a surrogate pair is allowed in JSON as an escape only.
        return json.dumps(fields).encode()
