"""The embeddings of a dataset into a live store, partition by partition."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.compute.progress import Progress
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.search.live.database import Database
from nemo_image_curate.search.live.rows import (
    CAPTION,
    NO_DIRECTION,
    Row,
    is_own_name,
    is_text,
    key_problem,
)
from nemo_image_curate.tables import conform, storage_schema, typed
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

logger = logging.getLogger(__name__)
NO_EMBEDDING = "it has no embedding"
# Partitions that the client holds at once, where it is the one that keeps them.
_AT_ONCE = 4


@dataclass
class Loaded:
    """What came of the rows of a dataset: ``rows == added + sum(left_out.values())``.

    Attributes
    ----------
    rows : int
    added : int
        How many were kept, new or in the place of the same sample.
    left_out : dict of str to int
        How many were not, by reason.
    """

    rows: int = 0
    added: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: Loaded) -> Loaded:
        left_out = Counter(self.left_out) + Counter(other.left_out)
        return Loaded(self.rows + other.rows, self.added + other.added, dict(left_out))


class Part(NamedTuple):
    """The rows of a partition that have a usable embedding, and how many have none."""

    table: pa.Table
    vectors: np.ndarray
    loaded: Loaded


def load(
    database: Database,
    over: str,
    dataset: ImageTextPairDataset,
    column: str,
    progress: bool | None,
) -> Loaded:
    """Keep a dataset's embeddings; see `LiveStore.add_dataset`."""
    frame = dataset.metadata
    frames.require_columns(frame, dataset.id_col, SHARD_COLUMN, column)
    provenance = dataset.provenance.get(column, {})
    if "conflict" in provenance:
        raise DatasetError(
            f"column {column!r}: {provenance['conflict']}. Embed all shards with one model first."
        )
    encoder = database.encoder()
    database.check_encoder(encoder, provenance.get("encoder") or encoder)
    # Opened here, so that what is wrong with it is told before any work.
    collection = database.collection(over)
    schema = _kept_schema(frames.schema(frame), dataset.id_col, column)
    frame = frame[list(dict.fromkeys([*schema.names, column]))]
    options = (dataset.id_col, column, schema, frames.device_of(frame))
    label = f"load {column}"
    if database.is_shared:
        return _by_workers(frame, (database, over, *options), label, progress)
    total = Loaded()
    with Progress(label, frame.npartitions, progress).running() as bar:
        for start in range(0, frame.npartitions, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, frame.npartitions))
            for part in partitions.run(
                frame, _read_part, what=label, numbers=numbers, shared=options, progress=False
            ):
                loaded = _keep_part(database, over, dataset.id_col, part)
                total += loaded
                bar.end({"rows": loaded.rows, "errors": loaded.left_out})
    collection.settle()
    return total


def _by_workers(frame: Any, shared: tuple[Any, ...], what: str, progress: bool | None) -> Loaded:
    total, numbers = Loaded(), range(frame.npartitions)
    while numbers:
        # The first vectors make the collection, which two workers should not do at once.
        wave = numbers if total.added else numbers[:1]
        loaded = partitions.run(
            frame, _load_part, what=what, numbers=wave, shared=[shared], progress=progress
        )
        total, numbers = sum(loaded, total), numbers[len(wave) :]
    return total


def _kept_schema(schema: pa.Schema, id_col: str, column: str) -> pa.Schema:
    """The columns that a store keeps: texts, numbers, and what is true or false."""
    fields, others = [], []
    for plain in map(typed, storage_schema(schema)):
        name = plain.name
        if name in (id_col, SHARD_COLUMN) or (
            _is_kept(plain.type) and (name == CAPTION or is_own_name(name))
        ):
            fields.append(plain)
        elif name != column:
            others.append(name)
    if others:
        logger.warning("not kept in the store, which has no such columns: %s", ", ".join(others))
    return pa.schema(fields)


def _is_kept(kind: pa.DataType) -> bool:
    types = pa.types
    # Numbers of a database have a sign.
    number = types.is_signed_integer(kind) or types.is_floating(kind)
    unsigned = types.is_unsigned_integer(kind) and not types.is_uint64(kind)
    return number or unsigned or types.is_boolean(kind) or types.is_string(kind)


def _load_part(frame: Any, shared: tuple[Any, ...]) -> Loaded:
    """Keep the rows of one computed partition; runs on a worker."""
    database, over, *options = shared
    part = _read_part(frame, *options)
    try:
        return _keep_part(database, over, options[0], part)
    finally:
        database.close()


def _read_part(frame: Any, id_col: str, column: str, schema: pa.Schema, device: str) -> Part:
    """The rows of one computed partition that have an embedding; runs on a worker."""
    values, present = frames.embedding_array(frame[column])
    vectors, with_direction = unit_vectors(values, device)
    table = conform(frames.to_arrow(frame[schema.names]), schema)
    left_out = {
        NO_EMBEDDING: len(table) - len(present),
        NO_DIRECTION: len(present) - len(with_direction),
    }
    usable = table.take(pa.array(present[with_direction]))
    counts = {reason: number for reason, number in left_out.items() if number}
    return Part(usable, vectors.cpu().numpy(), Loaded(len(table), 0, counts))


def _keep_part(database: Database, over: str, id_col: str, part: Part) -> Loaded:
    """Keep the rows of a partition, and count them."""
    rows: dict[str, Row] = {}
    numbers: list[int] = []
    left_out: Counter[str] = Counter()
    for number, record in enumerate(part.table.to_pylist()):
        row = _row(record, id_col)
        reason = _problem(row, database)
        if reason is None and row.id in rows:
            reason = "its key is there twice in one shard"
        if reason is None:
            rows[row.id] = row
            numbers.append(number)
        else:
            left_out[reason] += 1
    database.collection(over).put(rows.values(), [part.vectors[number] for number in numbers])
    return part.loaded + Loaded(0, len(rows), dict(left_out))


def _row(record: dict[str, Any], id_col: str) -> Row:
    """A record of a frame; what is null or no finite number has no value."""
    key, shard = record.pop(id_col), record.pop(SHARD_COLUMN)
    caption = record.pop(CAPTION, None)
    metadata = {
        name: value
        for name, value in record.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }
    return Row(key, shard, caption, metadata)


def _problem(row: Row, database: Database) -> str | None:
    """None, or why a row cannot be kept, in words that are the same for many."""
    if key_problem(row.key):
        return "its key is not a text, or begins with a null character"
    if not is_text(row.shard):
        return "it has no shard"
    return database.refusal(row)
