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
from nemo_image_curate.index.format import Mark, Partition
from nemo_image_curate.index.rows import RowTable
from nemo_image_curate.index.staging import StagedPartition, StagedPartitions


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

    def pair(self, saved: Sequence[Hashable], dataset: Mapping[int, Hashable]) -> None:
        """Pair what is left and has the same mark, each at most once, in order."""
        free: dict[Hashable, list[int]] = defaultdict(list)
        for number in reversed(self.new):
            free[dataset[number]].append(number)
        for saved_number in list(self.missing):
            if candidates := free[saved[saved_number]]:
                number = candidates.pop()
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


def check_encoder(recipe: Mapping[str, Any], provenance: Mapping[str, Any], folder: str) -> None:
    """Refuse embeddings of another encoder than the index was made of.

    Raises
    ------
    DatasetError
    """
    indexed = recipe["provenance"]
    for name in ("encoder", "weights_sha256"):
        if indexed and provenance and indexed.get(name) != provenance.get(name):
            raise DatasetError(
                f"the index at {folder} is of embeddings by {_named(indexed)}, but the dataset's "
                f"are by {_named(provenance)}. Build the index again: build_index(dataset)."
            )


def _named(provenance: Mapping[str, Any]) -> str:
    weights = provenance.get("weights_sha256")
    return f"{provenance.get('encoder')!r}" + (f" (weights {weights[:12]})" if weights else "")


def refuse(
    match: Match,
    partitions: Sequence[Partition],
    staged: StagedPartitions,
    rows: RowTable,
    folder: str,
) -> NoReturn:
    """Say what differs between an index and a dataset.

    Raises
    ------
    DatasetError
        Always.
    """
    if not match.missing:
        shards = ", ".join(staged.marks[number].shard for number in match.new[:5])
        raise DatasetError(
            f"the index at {folder} lacks {len(match.new)} of the dataset's partitions: {shards}. "
            "Add them: VectorIndex.load(path).add(dataset)."
        )
    again = "Build the index again: build_index(dataset)."
    saved_samples = _samples_of(partitions, match.missing, rows, staged.id_col)
    new_samples = {
        (row[SHARD_COLUMN], row[staged.id_col])
        for number in match.new
        for batch in staged.row_batches(number)
        for row in batch.select([SHARD_COLUMN, staged.id_col]).to_pylist()
    }
    if lost := saved_samples - new_samples:
        shard, key = min(lost)
        raise DatasetError(
            f"the index at {folder} has {len(lost):,} embeddings that the dataset has not, such "
            f"as that of {key!r} of {shard}. For a part of a dataset, search the index of all of "
            f"it with where=. {again}"
        )
    if added := new_samples - saved_samples:
        shard, key = min(added)
        raise DatasetError(
            f"the dataset has {len(added):,} embeddings that the index at {folder} has not, in "
            f"shards that were indexed, such as that of {key!r} of {shard}. {again}"
        )
    shards = ", ".join(partitions[number].shard for number in match.missing[:5])
    raise DatasetError(
        f"the index at {folder} has other embeddings, or rows in another order, than the dataset "
        f"in {len(match.missing)} partitions: {shards}. {again}"
    )


def _samples_of(
    partitions: Sequence[Partition], numbers: Collection[int], rows: RowTable, id_col: str
) -> set[tuple[str, str]]:
    """The (shard, key) of all rows of some partitions of an index."""
    samples, start = set[tuple[str, str]](), 0
    for number, partition in enumerate(partitions):
        stop = start + partition.indexed
        if number in numbers:
            samples |= {(row[SHARD_COLUMN], row[id_col]) for row in rows.take(range(start, stop))}
        start = stop
    return samples
