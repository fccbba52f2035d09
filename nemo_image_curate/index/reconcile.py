"""Whether a saved index belongs to a dataset, and what differs when it does not.

Partitions are named by their numbers, those of the index and those of the dataset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.index.format import Mark, Partition, SavedIndex
from nemo_image_curate.index.rows import sample_scores
from nemo_image_curate.index.staging import StagedPartition, StagedPartitions

# Rows of an index whose names are compared at once with those of a dataset: some 200 MB.
_COMPARED_ROWS = 1_000_000
_AGAIN = "Build the index again: build_index(dataset)."


@dataclass
class Match:
    """Which partitions of a dataset are those of an index.

    Attributes
    ----------
    dataset_numbers : dict of int to int
        The dataset's partition for each of the index's.
    new : list of int
        The dataset's partitions that are not in the index.
    missing : list of int
        The index's partitions that are not in the dataset.
    staged : dict of int to StagedPartition
        The dataset's partitions that were read, because their fingerprints are not known: other
        columns than the embeddings were changed, or they are new.
    """

    new: list[int]
    missing: list[int]
    dataset_numbers: dict[int, int] = field(default_factory=dict)
    staged: dict[int, StagedPartition] = field(default_factory=dict)

    @property
    def unchanged(self) -> bool:
        """Whether nothing had to be read, and nothing is missing or new."""
        return not (self.new or self.missing or self.staged)

    def pair(self, index: Sequence[Hashable], dataset: Mapping[int, Hashable]) -> None:
        """Pair those that are left and have equal values, each at most once, in order."""
        unpaired: dict[Hashable, list[int]] = defaultdict(list)
        for number in reversed(self.new):
            unpaired[dataset[number]].append(number)
        for saved_number in list(self.missing):
            if equal := unpaired[index[saved_number]]:
                number = equal.pop()
                self.dataset_numbers[saved_number] = number
                self.missing.remove(saved_number)
                self.new.remove(number)


def has_same_marks(partitions: Sequence[Partition], staged: StagedPartitions) -> bool:
    """Whether an index and a dataset are of the same partitions, without reading them."""
    return sorted(_identities(partitions)) == sorted(_identities(staged.marks))


def _identities(marks: Iterable[Mark]) -> list[tuple[str, float]]:
    return [mark.identity for mark in marks]


def match(partitions: Sequence[Partition], staged: StagedPartitions, with_vectors: bool) -> Match:
    """Compare partitions by fingerprint, and where those differ by content."""
    result = Match(new=list(range(len(staged))), missing=list(range(len(partitions))))
    result.pair(_identities(partitions), dict(enumerate(_identities(staged.marks))))
    if result.missing:
        result.staged = staged.read(result.new, with_vectors)
        digests = {number: partition.digest for number, partition in result.staged.items()}
        result.pair([partition.digest for partition in partitions], digests)
    return result


def check_encoder(saved: SavedIndex, provenance: Mapping[str, Any]) -> None:
    """Refuse embeddings of another encoder than the index was made of.

    Raises
    ------
    DatasetError
    """
    indexed = saved.recipe["provenance"]
    for name in ("encoder", "weights_sha256"):
        if indexed and provenance and indexed.get(name) != provenance.get(name):
            raise DatasetError(
                f"the index at {saved.folder} is of embeddings by {_named(indexed)}, but the "
                f"dataset's are by {_named(provenance)}. {_AGAIN}"
            )


def _named(provenance: Mapping[str, Any]) -> str:
    weights = provenance.get("weights_sha256")
    return f"{provenance.get('encoder')!r}" + (f" (weights {weights[:12]})" if weights else "")


def refuse(match: Match, saved: SavedIndex, staged: StagedPartitions) -> NoReturn:
    """Say what differs between an index and a dataset.

    Raises
    ------
    DatasetError
        Always.
    """
    index = f"the index at {saved.folder}"
    if not match.missing:
        shards = ", ".join(staged.marks[number].shard for number in match.new[:5])
        raise DatasetError(
            f"{index} lacks {len(match.new)} of the dataset's partitions: {shards}. Add them: "
            "VectorIndex.load(path).add(dataset)."
        )
    id_col = staged.id_col
    rows = sum(saved.partitions[number].indexed for number in match.missing)
    lost, added = _Samples(), _Samples()
    # Those of one hash at a time, so that memory does not grow with the rows.
    passes = 1 + rows // _COMPARED_ROWS
    for turn in range(passes):
        saved_samples, new_samples = (
            {
                (row[SHARD_COLUMN], row[id_col])
                for batch in batches
                for row in _of_turn(batch, id_col, turn, passes)
            }
            for batches in (_saved_batches(saved, match.missing), _new_batches(match, staged))
        )
        lost.add(saved_samples - new_samples)
        added.add(new_samples - saved_samples)
    if lost.count:
        shard, key = lost.first
        raise DatasetError(
            f"{index} has {lost.count:,} embeddings that the dataset has not, such as that of "
            f"{key!r} of {shard}. For a part of a dataset, search the index of all of it with "
            f"where=. {_AGAIN}"
        )
    if added.count:
        shard, key = added.first
        raise DatasetError(
            f"the dataset has {added.count:,} embeddings that {index} has not, in shards that were "
            f"indexed, such as that of {key!r} of {shard}. {_AGAIN}"
        )
    shards = ", ".join(saved.partitions[number].shard for number in match.missing[:5])
    raise DatasetError(
        f"{index} has other embeddings, or rows in another order, than the dataset in "
        f"{len(match.missing)} partitions: {shards}. {_AGAIN}"
    )


class _Samples:
    """How many samples there are, and the first (shard, key) of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ("", "")

    def add(self, samples: set[tuple[str, str]]) -> None:
        """Count more."""
        if samples:
            self.first = min(samples | ({self.first} if self.count else set()))
            self.count += len(samples)


def _of_turn(batch: pa.RecordBatch, id_col: str, turn: int, passes: int) -> list[dict[str, Any]]:
    """The shards and keys of those rows that a pass compares."""
    names = batch.select([SHARD_COLUMN, id_col])
    if passes > 1:
        turns = (sample_scores(batch, id_col) * passes).astype(np.int64)
        names = names.filter(pa.array(turns == turn))
    samples: list[dict[str, Any]] = names.to_pylist()
    return samples


def _new_batches(match: Match, staged: StagedPartitions) -> Iterator[pa.RecordBatch]:
    for number in match.new:
        yield from staged.row_batches(number)


def _saved_batches(saved: SavedIndex, numbers: Collection[int]) -> Iterator[pa.RecordBatch]:
    """The rows of some partitions of an index."""
    ends = np.cumsum([partition.indexed for partition in saved.partitions])
    wanted = np.zeros(len(ends), dtype=bool)
    wanted[list(numbers)] = True
    start = 0
    for batch in saved.open_rows().batches():
        partitions = np.searchsorted(ends, np.arange(start, start + len(batch)), side="right")
        yield batch.filter(pa.array(wanted[partitions]))
        start += len(batch)
