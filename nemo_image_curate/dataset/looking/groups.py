"""The largest groups of duplicates, each with the row that stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.looking.origin import projection
from nemo_image_curate.dataset.looking.rows import concatenated, told_rows
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.vectors.sampling import hash_bits

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Groups that the client counts; where there are more, those with the lowest hashes.
_COUNTED = 1 << 20
_FEWEST = 64
_ALL = 2**64 - 1
_Kept = tuple[str, str]


@dataclass(frozen=True)
class Group:
    """A row that stays, with its duplicates.

    Attributes
    ----------
    rows : pyarrow.Table
        The kept row first, where the dataset still has it; then duplicates by their similarity,
        the highest first. The id column, ``shard``, the columns of the deduplication, and those
        asked for.
    has_kept : bool
        Whether the first row is the kept one.
    size : int
        Rows of the whole group with the kept one; more than `rows` has where that was limited.
    """

    rows: pa.Table
    has_kept: bool
    size: int


@dataclass(frozen=True)
class Groups:
    """The largest groups of duplicates.

    Attributes
    ----------
    groups : list of Group
        The largest first.
    rows, duplicates : int
        Of the dataset.
    n_groups : int
        How many groups were counted: all, or those of a sample.
    sampled : float
        The share of groups that were counted, by a hash of their kept rows; 1 is all.
    """

    groups: list[Group]
    rows: int
    duplicates: int
    n_groups: int
    sampled: float


def groups(
    dataset: ImageTextPairDataset,
    column: str = "duplicate_of",
    n: int = 12,
    members: int = 8,
    columns: Sequence[str] = (),
    progress: bool | None = None,
) -> Groups:
    """The largest groups of duplicates; partitions are read twice.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    column : str
        The key of the row that stays, as deduplication wrote it, such as
        ``semantic_duplicate_of``. Its shard is in ``COLUMN_shard``, or in the same one.
    n : int
        Groups.
    members : int
        Rows of each, with the kept one.
    columns : sequence of str
        What else to tell of each row.
    progress : bool, optional
        Show a progress bar. Default: on a terminal.

    Returns
    -------
    Groups

    Raises
    ------
    ColumnNotFoundError, ConfigError
    """
    frame = dataset.metadata
    names = Names.of(dataset, column)
    if n < 1 or members < 2:
        raise ConfigError(f"n={n}, members={members}: at least 1 group of 2 rows.")
    frames.require_columns(frame, *names.needed, *columns)
    most = max(_FEWEST, _COUNTED // max(1, frame.npartitions))
    counted = partitions.run(
        projection(frame, names.needed),
        _count,
        [(names, most)] * frame.npartitions,
        what="groups",
        progress=progress,
    )
    cutoff = min((part.cutoff for part in counted), default=_ALL)
    sizes: Counter[_Kept] = Counter()
    for part in counted:
        known = part.hashes <= cutoff
        counts = [column.filter(pa.array(known)).to_pylist() for column in part.columns]
        for key, shard, count in zip(*counts, strict=True):
            sizes[key, shard] += count
    largest = sorted(sizes, key=lambda kept: (-sizes[kept], kept))[:n]
    rows = sum(part.rows for part in counted)
    duplicates = sum(part.duplicates for part in counted)
    wanted = list(dict.fromkeys([*names.with_similarity, *columns]))
    parts = (
        partitions.run(
            projection(frame, wanted),
            _members,
            [(names, largest, members)] * frame.npartitions,
            what="groups",
            progress=progress,
        )
        if largest
        else []
    )
    return Groups(
        [_group(names, kept, sizes[kept], parts, members) for kept in largest],
        rows,
        duplicates,
        len(sizes),
        (cutoff + 1) / 2**64,
    )


@dataclass(frozen=True)
class Names:
    """The columns that say what a duplicate is a duplicate of.

    Attributes
    ----------
    id_col, key : str
        Of a row, and of the one that stays.
    shard, similarity : str or None
        Of the latter, and of the two; None where the dataset has no such column.
    """

    id_col: str
    key: str
    shard: str | None
    similarity: str | None

    @classmethod
    def of(cls, dataset: ImageTextPairDataset, column: str) -> Names:
        frames.require_columns(dataset.metadata, column)
        there = set(dataset.metadata.columns)
        shard = f"{column}_shard"
        similarity = f"{column.removesuffix('_of')}_similarity"
        return cls(
            dataset.id_col,
            column,
            shard if shard in there else None,
            similarity if similarity in there else None,
        )

    @property
    def needed(self) -> list[str]:
        return [self.id_col, SHARD_COLUMN, self.key, *([self.shard] if self.shard else [])]

    @property
    def with_similarity(self) -> list[str]:
        return [*self.needed, *([self.similarity] if self.similarity else [])]

    def kept(self, table: pa.Table) -> pa.Table:
        """``key`` and ``shard`` of the row that each row is a duplicate of; null for none."""
        shard = table[self.shard or SHARD_COLUMN]
        return pa.table({"key": table[self.key].cast(pa.string()), "shard": shard})


@dataclass(frozen=True)
class _Counted:
    """The groups of a partition's duplicates: ``key``, ``shard``, ``count``."""

    rows: int
    duplicates: int
    cutoff: int
    hashes: np.ndarray
    columns: list[pa.Array]


def _count(frame: Any, names: Names, most: int) -> _Counted:
    """Count the duplicates of each row that stays; runs on a worker."""
    table = frames.to_arrow(frame)
    kept = names.kept(table).filter(pc.is_valid(table[names.key]))
    sizes = kept.group_by(["key", "shard"]).aggregate([([], "count_all")]).combine_chunks()
    hashes = hash_bits(sizes["key"], 0)
    cutoff = _ALL
    if len(sizes) > most:
        cutoff = int(np.partition(hashes, most - 1)[most - 1])
        sizes = sizes.filter(pa.array(hashes <= cutoff))
        hashes = hashes[hashes <= cutoff]
    columns = [sizes[name].combine_chunks() for name in ("key", "shard", "count_all")]
    return _Counted(len(table), len(kept), cutoff, hashes, columns)


def _members(frame: Any, names: Names, largest: list[_Kept], members: int) -> pa.Table:
    """The rows of some groups in a partition, at most so many of each; runs on a worker."""
    table = frames.to_arrow(frame[names.with_similarity])
    keys = pa.array([key for key, _ in largest], pa.string())
    is_member = pc.is_in(names.kept(table)["key"], value_set=keys)
    is_kept = pc.is_in(table[names.id_col], value_set=keys)
    rows = np.flatnonzero(pc.or_(is_member, is_kept).to_numpy())
    chosen = []
    few = table.take(rows)
    for kept in largest:
        kept_rows, others = _split(names, kept, few)
        chosen += [*kept_rows[:1], *others[:members]]
    return told_rows(frame, rows[sorted(set(chosen))])


def _group(
    names: Names, kept: _Kept, duplicates: int, parts: Sequence[pa.Table], members: int
) -> Group:
    table = concatenated(parts)
    kept_rows, others = _split(names, kept, table)
    rows = [*kept_rows[:1], *others][:members]
    return Group(table.take(pa.array(rows, pa.int64())), bool(kept_rows), duplicates + 1)


def _split(names: Names, kept: _Kept, table: pa.Table) -> tuple[list[int], list[int]]:
    """The rows of a table that are the kept row of a group, and its duplicates in order."""
    key, shard = kept
    of = names.kept(table)
    places = table.select([names.id_col, SHARD_COLUMN]).to_pylist()
    kept_rows = [row for row, place in enumerate(places) if tuple(place.values()) == (key, shard)]
    is_other = pc.and_(pc.equal(of["key"], key), pc.equal(of["shard"], shard))
    others = np.flatnonzero(pc.fill_null(is_other, False).to_numpy()).tolist()
    similarity = table[names.similarity].to_pylist() if names.similarity else [None] * len(table)

    def order(row: int) -> tuple[float, Any]:
        return (-(similarity[row] or 0.0), tuple(places[row].values()))

    return kept_rows, sorted(others, key=order)
