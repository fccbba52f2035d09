"""The partitions of a dataset, read once by the workers into files that all of them share.

A file is named by the fingerprint of its partition, so that a run that was killed goes on with
what is finished:

- ``NAME.vectors``: unit vectors, float32, of the rows that have an embedding;
- ``NAME.rows.arrow``: the plain columns of those rows;
- ``NAME.json``: how many there are, and a hash of all keys, shards and embeddings. Written last.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset import partitions, saving
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.index.format import Mark, Partition
from nemo_image_curate.index.rows import plain_schema, write_rows
from nemo_image_curate.tables import conform, content_digest
from nemo_image_curate.vectors.unit import unit_vectors


@dataclass(frozen=True)
class StagedPartition(Partition):
    """A partition that was read.

    Attributes
    ----------
    dim : int
        The length of its embeddings; 0 without any.
    """

    dim: int


class StagedPartitions:
    """What an index needs of a dataset, partition by partition, in a folder.

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
    marks : list of Mark
        Of all partitions.
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
        self.device = frames.device_of(frame)
        self.schema = plain_schema(frames.schema(frame))
        names = list(dict.fromkeys([*self.schema.names, column]))
        self._frame = frame[names]
        targets = saving.plan_partitions(dataset, frame, "index", column)
        self.marks = [
            Mark(target.label, target.fingerprint, target.newest_input) for target in targets
        ]

    def __len__(self) -> int:
        return len(self.marks)

    def stem(self, number: int) -> Path:
        """What the names of a partition's files begin with."""
        return self.folder / self.marks[number].fingerprint[:24]

    def read(self, numbers: Sequence[int], with_vectors: bool = True) -> dict[int, StagedPartition]:
        """Read partitions, as far as that is not done; by number, in the order of `numbers`."""
        storage.make_dirs(str(self.folder))
        contents = {
            number: content
            for number in numbers
            if (content := self._finished(number, with_vectors)) is not None
        }
        todo = [number for number in numbers if number not in contents]
        options = (self.id_col, self.column, self.schema, self.device, with_vectors)
        results = partitions.run(
            self._frame,
            _read_partition,
            [(self.stem(number), *options) for number in todo],
            what="read embeddings",
            numbers=todo,
            labels=[self.marks[number].shard for number in todo],
            progress=self.progress,
        )
        contents |= dict(zip(todo, results, strict=True))
        return {
            number: StagedPartition(**vars(self.marks[number]), **contents[number])
            for number in numbers
        }

    def _finished(self, number: int, with_vectors: bool) -> dict[str, Any] | None:
        place = _with_ending(self.stem(number), ".json")
        info = storage.stat(str(place))
        if info is None or info.changed < self.marks[number].changed:
            return None
        content: dict[str, Any] = json.loads(place.read_text())
        return content if content.pop("with_vectors") or not with_vectors else None

    def vectors(self, number: int, dim: int) -> np.ndarray:
        """The unit vectors of a partition that has some, mapped, shape (n, dim)."""
        return staged_vectors(self.stem(number), dim)

    def row_batches(self, number: int) -> Iterator[pa.RecordBatch]:
        """A partition's rows that are indexed."""
        with (
            pa.memory_map(str(_with_ending(self.stem(number), ".rows.arrow"))) as file,
            pa.ipc.open_file(file) as opened,
        ):
            for batch in range(opened.num_record_batches):
                yield opened.get_batch(batch)

    def write_row_table(
        self, path: Path, numbers: Iterable[int], before: Iterable[pa.RecordBatch] = ()
    ) -> None:
        """Write the rows of some partitions, after others, for `RowTable`."""

        def batches() -> Iterator[pa.RecordBatch]:
            yield from before
            for number in numbers:
                yield from self.row_batches(number)

        with storage.atomic_write(str(path)) as file:
            write_rows(file, batches(), self.schema)


def _with_ending(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def staged_vectors(stem: Path, dim: int) -> np.ndarray:
    """The unit vectors of a partition that has some, mapped, shape (n, dim)."""
    return np.memmap(_with_ending(stem, ".vectors"), dtype=np.float32, mode="r").reshape(-1, dim)


def _read_partition(
    frame: Any,
    stem: Path,
    id_col: str,
    column: str,
    schema: pa.Schema,
    device: str,
    with_vectors: bool,
) -> dict[str, Any]:
    """Write the files of one computed partition; runs on a worker."""
    values, present = frames.embedding_array(frame[column])
    vectors, with_direction = unit_vectors(values, device)
    table = conform(frames.to_arrow(frame[schema.names]), schema)
    indexed = table.take(pa.array(present[with_direction]))
    with storage.atomic_write(str(_with_ending(stem, ".rows.arrow"))) as file:
        write_rows(file, iter(indexed.combine_chunks().to_batches()), schema)
    if with_vectors:
        with storage.atomic_write(str(_with_ending(stem, ".vectors"))) as file:
            file.write(vectors.contiguous().cpu().numpy().data)
    samples = table.select([id_col, SHARD_COLUMN])
    content = {
        "digest": content_digest(samples, present, frames.host(values)),
        "rows": len(table),
        "indexed": len(indexed),
        "dim": vectors.shape[1] if len(indexed) else 0,
    }
    text = json.dumps({**content, "with_vectors": with_vectors})
    storage.write_bytes(str(_with_ending(stem, ".json")), text.encode())
    return content


def common_dim(
    column: str, staged: Iterable[StagedPartition], known: Mapping[int, str] | None = None
) -> int:
    """The length of all embeddings.

    Parameters
    ----------
    column : str
    staged : iterable of StagedPartition
    known : mapping of int to str, optional
        A length that others have, and where they are.

    Raises
    ------
    DatasetError
        When there are none, or they differ.
    """
    staged = list(staged)
    by_dim = dict(known or {}) | {part.dim: part.shard for part in staged if part.dim}
    if len(by_dim) > 1:
        (dim, shard), (other_dim, other_shard) = list(by_dim.items())[:2]
        raise DatasetError(
            f"column {column!r}: embeddings of {dim} values in {shard} and of {other_dim} in "
            f"{other_shard}: they are of different models. Embed all shards with one."
        )
    if not by_dim:
        rows = sum(part.rows for part in staged)
        raise DatasetError(
            f"column {column!r}: none of {rows:,} rows has an embedding that could be indexed "
            "(not null, zero or NaN). image_error tells why images have none."
        )
    return next(iter(by_dim))
