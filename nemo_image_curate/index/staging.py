"""The partitions of a dataset, read once by the workers into files that all of them share.

A file is named by the fingerprint of its partition, so that a run that was killed goes on with
what is finished:

- ``NAME.vectors``: unit vectors, float32, of the rows that have an embedding;
- ``NAME.rows.arrow``: the plain columns of those rows;
- ``NAME.json``: how many there are, and a hash of all keys, shards and embeddings. Written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset import partitions, saving
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.index.rows import plain_schema, write_rows
from nemo_image_curate.shards import columns as shard_columns
from nemo_image_curate.vectors.unit import unit_vectors

# Shows a worker that it sees the client's folder.
_MARKER = "driver"


class Parts:
    """What an index needs of a dataset, partition by partition.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    column : str
        Of embeddings.
    folder : Path
        On a file system that all workers share.
    progress : bool or None

    Attributes
    ----------
    known : list of dict
        What is known of each partition without reading it: ``shard``, ``fingerprint``, and when
        its files were ``changed``.
    schema : pyarrow.Schema
        Of the plain columns.
    """

    def __init__(
        self, dataset: ImageTextPairDataset, column: str, folder: Path, progress: bool | None
    ):
        frame = dataset.metadata
        frames.require_columns(frame, dataset.id_col, SHARD_COLUMN, column)
        self.folder = folder
        self.progress = progress
        self.id_col = dataset.id_col
        self.column = column
        self.device = frames.device_of(dataset.metadata)
        self.schema = plain_schema(frames.schema(frame))
        names = list(dict.fromkeys([*self.schema.names, column]))
        self._frame = frame[names]
        places = [f"partition {number}" for number in range(frame.npartitions)]
        targets = saving.plan(frame, dataset.source()[1], places, False, "index", column)
        self.known: list[dict[str, Any]] = [
            {"shard": one.label, "fingerprint": one.fingerprint, "changed": one.newest_input}
            for one in targets
        ]

    def stem(self, number: int) -> Path:
        """What the names of a partition's files begin with."""
        return self.folder / str(self.known[number]["fingerprint"])[:24]

    def read(self, numbers: Sequence[int], with_vectors: bool = True) -> list[dict[str, Any]]:
        """Read partitions, as far as that is not done.

        Returns
        -------
        list of dict
            For each what is `known`, ``digest``, ``rows``, ``indexed`` (those with an embedding
            that has a direction) and ``dim`` (0 without any).
        """
        storage.make_dirs(str(self.folder))
        (self.folder / _MARKER).touch()
        found = {number: self._finished(number, with_vectors) for number in numbers}
        todo = [number for number, record in found.items() if record is None]
        options = (self.id_col, self.column, self.schema, self.device, with_vectors)
        results = partitions.run(
            self._frame,
            _read_part,
            [(self.stem(number), *options) for number in todo],
            what="read embeddings",
            numbers=todo,
            labels=[self.known[number]["shard"] for number in todo],
            progress=self.progress,
        )
        found |= dict(zip(todo, results, strict=True))
        return [{**self.known[number], **(found[number] or {})} for number in numbers]

    def _finished(self, number: int, with_vectors: bool) -> dict[str, Any] | None:
        place = _with(self.stem(number), ".json")
        info = storage.stat(str(place))
        if info is None or info.changed < self.known[number]["changed"]:
            return None
        record: dict[str, Any] = json.loads(place.read_text())
        return record if record.pop("with_vectors") or not with_vectors else None

    def vectors(self, number: int, dim: int) -> np.ndarray:
        """A partition's unit vectors, mapped, shape (n, dim)."""
        return part_vectors(self.stem(number), dim)

    def row_batches(self, number: int) -> Iterator[pa.RecordBatch]:
        """A partition's rows that are indexed."""
        with (
            pa.memory_map(str(_with(self.stem(number), ".rows.arrow"))) as file,
            pa.ipc.open_file(file) as opened,
        ):
            for batch in range(opened.num_record_batches):
                yield opened.get_batch(batch)


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def part_vectors(stem: Path, dim: int) -> np.ndarray:
    """The unit vectors of a part's file, shape (n, dim)."""
    path = _with(stem, ".vectors")
    if not path.stat().st_size:
        return np.empty((0, dim), dtype=np.float32)
    return np.memmap(path, dtype=np.float32, mode="r").reshape(-1, dim)


def _read_part(
    frame: Any,
    stem: Path,
    id_col: str,
    column: str,
    schema: pa.Schema,
    device: str,
    with_vectors: bool,
) -> dict[str, Any]:
    """Write the files of one computed partition; runs on a worker."""
    if not (stem.parent / _MARKER).exists():
        raise ConfigError(
            f"this worker does not see {stem.parent}. Give path= a folder on a file system that "
            "all workers share."
        )
    values, kept = frames.embedding_array(frame[column])
    vectors, good = unit_vectors(values, device)
    table = shard_columns.conform(frames.to_arrow(frame[schema.names]), schema)
    digest = hashlib.sha256()
    for name in (id_col, SHARD_COLUMN):
        digest.update(repr(table[name].to_pylist()).encode())
    digest.update(kept.tobytes())
    digest.update(frames.host(values).data)
    chosen = table.take(pa.array(kept[good]))
    with storage.atomic_write(str(_with(stem, ".rows.arrow"))) as file:
        write_rows(file, iter(chosen.combine_chunks().to_batches()), schema)
    if with_vectors:
        with storage.atomic_write(str(_with(stem, ".vectors"))) as file:
            file.write(vectors.contiguous().cpu().numpy().data)
    record = {
        "digest": digest.hexdigest(),
        "rows": len(table),
        "indexed": len(good),
        "dim": vectors.shape[1] if len(good) else 0,
    }
    done = json.dumps({**record, "with_vectors": with_vectors})
    storage.write_bytes(str(_with(stem, ".json")), done.encode())
    return record


def one_dim(column: str, records: Sequence[dict[str, Any]]) -> int:
    """The length of all embeddings.

    Raises
    ------
    DatasetError
        When there are none, or they differ.
    """
    by_dim = {record["dim"]: record["shard"] for record in records if record["dim"]}
    if len(by_dim) > 1:
        (one, here), (other, there) = list(by_dim.items())[:2]
        raise DatasetError(
            f"column {column!r}: embeddings of {one} values in {here} and of {other} in {there}: "
            "they are of different models. Embed all shards with one."
        )
    if not by_dim:
        rows = sum(record["rows"] for record in records)
        raise DatasetError(
            f"column {column!r}: none of {rows:,} rows has an embedding that could be indexed "
            "(not null, zero or NaN). image_error tells why images have none."
        )
    return next(iter(by_dim))
