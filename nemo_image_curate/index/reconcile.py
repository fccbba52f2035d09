"""Whether a saved index belongs to a dataset, and what differs when it does not.

Partitions are named by their numbers, those of the index and those of the dataset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.index.format import Mark, Partition, SavedIndex
from nemo_image_curate.index.staging import StagedPartition, StagedPartitions

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
        digests = {number: one.digest for number, one in result.staged.items()}
        result.pair([one.digest for one in partitions], digests)
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
    saved_samples = _samples_of(saved, match.missing)
    new_samples = {
        (row[SHARD_COLUMN], row[staged.id_col])
        for number in match.new
        for batch in staged.row_batches(number)
        for row in batch.select([SHARD_COLUMN, staged.id_col]).to_pylist()
    }
    if lost := saved_samples - new_samples:
        shard, key = min(lost)
        raise DatasetError(
            f"{index} has {len(lost):,} embeddings that the dataset has not, such as that of "
            f"{key!r} of {shard}. For a part of a dataset, search the index of all of it with "
            f"where=. {_AGAIN}"
        )
    if added := new_samples - saved_samples:
        shard, key = min(added)
        raise DatasetError(
            f"the dataset has {len(added):,} embeddings that {index} has not, in shards that were "
            f"indexed, such as that of {key!r} of {shard}. {_AGAIN}"
        )
    shards = ", ".join(saved.partitions[number].shard for number in match.missing[:5])
    raise DatasetError(
        f"{index} has other embeddings, or rows in another order, than the dataset in "
        f"{len(match.missing)} partitions: {shards}. {_AGAIN}"
    )


def _samples_of(saved: SavedIndex, numbers: Collection[int]) -> set[tuple[str, str]]:
    """The (shard, key) of all rows of some partitions of an index."""
    rows, id_col = saved.open_rows(), saved.recipe["id_col"]
    samples, start = set[tuple[str, str]](), 0
    for number, partition in enumerate(saved.partitions):
        stop = start + partition.indexed
        if number in numbers:
            samples |= {(row[SHARD_COLUMN], row[id_col]) for row in rows.take(range(start, stop))}
        start = stop
    return samples
