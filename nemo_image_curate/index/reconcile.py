"""Whether a saved index belongs to a dataset, and what differs when it does not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NoReturn

from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.index.rows import RowTable
from nemo_image_curate.index.staging import Parts


@dataclass
class Match:
    """Which partitions of a dataset are those of an index.

    Attributes
    ----------
    place : dict of int to int
        The dataset's partition for each of the index's.
    new : list of int
        The dataset's partitions that are not in the index.
    gone : list of int
        The index's partitions that are not in the dataset.
    records : dict of int to dict
        What was read of the dataset's partitions, because their fingerprints are not known: other
        columns than the embeddings were changed, or they are new.
    """

    place: dict[int, int] = field(default_factory=dict)
    new: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def same_files(self) -> bool:
        """Whether nothing had to be read, and nothing is missing or new."""
        return not (self.new or self.gone or self.records)


def match_fingerprints(partitions: Sequence[Mapping[str, Any]], parts: Parts) -> bool:
    """Whether an index and a dataset are of the same partitions, without reading them."""
    return sorted(map(_mark, partitions)) == sorted(map(_mark, parts.known))


def match(partitions: Sequence[Mapping[str, Any]], parts: Parts, with_vectors: bool) -> Match:
    """Compare partitions by fingerprint, and where those differ by content."""
    found = Match(new=list(range(len(parts.known))), gone=list(range(len(partitions))))
    _pair(found, partitions, dict(enumerate(parts.known)), _mark)
    if found.gone:
        wanted = list(found.new)
        found.records = dict(zip(wanted, parts.read(wanted, with_vectors), strict=True))
        _pair(found, partitions, found.records, itemgetter("digest"))
    return found


def _mark(partition: Mapping[str, Any]) -> tuple[str, float]:
    """What tells a partition without reading it: a sidecar may change and look the same."""
    return partition["fingerprint"], partition["changed"]


def _pair(
    found: Match,
    partitions: Sequence[Mapping[str, Any]],
    others: Mapping[int, Mapping[str, Any]],
    mark: Callable[[Mapping[str, Any]], Hashable],
) -> None:
    """Pair what has the same mark, each at most once, in order."""
    free: dict[Hashable, list[int]] = defaultdict(list)
    for number in reversed(found.new):
        free[mark(others[number])].append(number)
    for own in list(found.gone):
        if same := free[mark(partitions[own])]:
            found.place[own] = same.pop()
            found.gone.remove(own)
            found.new.remove(found.place[own])


def check_encoder(recipe: Mapping[str, Any], record: Mapping[str, Any], folder: str) -> None:
    """Refuse embeddings of another encoder than the index was made of.

    Raises
    ------
    DatasetError
    """
    then, now = recipe["provenance"], record
    for name in ("encoder", "weights_sha256"):
        if then and now and then.get(name) != now.get(name):
            raise DatasetError(
                f"the index at {folder} is of embeddings by {_named(then)}, but the dataset's are "
                f"by {_named(now)}. Build the index again: build_index(dataset)."
            )


def _named(record: Mapping[str, Any]) -> str:
    weights = record.get("weights_sha256")
    return f"{record.get('encoder')!r}" + (f" (weights {weights[:12]})" if weights else "")


def refuse(
    found: Match,
    partitions: Sequence[Mapping[str, Any]],
    parts: Parts,
    rows: RowTable,
    folder: str,
) -> NoReturn:
    """Say what differs between an index and a dataset.

    Raises
    ------
    DatasetError
        Always.
    """
    if not found.gone:
        names = ", ".join(parts.known[number]["shard"] for number in found.new[:5])
        raise DatasetError(
            f"the index at {folder} lacks {len(found.new)} of the dataset's partitions: {names}. "
            "Add them: VectorIndex.load(path).add(dataset)."
        )
    again = "Build the index again: build_index(dataset)."
    old = _samples_of(partitions, found.gone, rows, parts.id_col)
    new = {
        (row[SHARD_COLUMN], row[parts.id_col])
        for number in found.new
        for batch in parts.row_batches(number)
        for row in batch.select([SHARD_COLUMN, parts.id_col]).to_pylist()
    }
    if lost := old - new:
        shard, key = min(lost)
        raise DatasetError(
            f"the index at {folder} has {len(lost):,} embeddings that the dataset has not, such "
            f"as that of {key!r} of {shard}. For a part of a dataset, search the index of all of "
            f"it with where=. {again}"
        )
    if added := new - old:
        shard, key = min(added)
        raise DatasetError(
            f"the dataset has {len(added):,} embeddings that the index at {folder} has not, in "
            f"shards that were indexed, such as that of {key!r} of {shard}. {again}"
        )
    names = ", ".join(str(partitions[own]["shard"]) for own in found.gone[:5])
    raise DatasetError(
        f"the index at {folder} has other embeddings, or rows in another order, than the dataset "
        f"in {len(found.gone)} partitions: {names}. {again}"
    )


def _samples_of(
    partitions: Sequence[Mapping[str, Any]], chosen: Sequence[int], rows: RowTable, id_col: str
) -> set[tuple[str, str]]:
    """The (shard, key) of all rows of some partitions of an index."""
    wanted, start, found = set(chosen), 0, set[tuple[str, str]]()
    for number, partition in enumerate(partitions):
        stop = start + partition["indexed"]
        if number in wanted:
            found |= {(row[SHARD_COLUMN], row[id_col]) for row in rows.take(range(start, stop))}
        start = stop
    return found
