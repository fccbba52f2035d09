"""Two datasets joined row by row on the workers, and what partitions of the join tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.dataset.looking.rows import sample_bits
from nemo_image_curate.dataset.sources import SHARD_COLUMN

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

_KEY = "key"
# What columns of users end with, and those that say which dataset a row is in do not.
_SIDES = ("_a", "_b")
_IN = {"_a": "in first", "_b": "in second"}
# A row that was found in one place, by hash: what examples are chosen by.
Place = tuple[int, str, str]


@dataclass(frozen=True)
class Join:
    """How rows of two datasets find each other.

    Attributes
    ----------
    by_shard : bool
        By shard and key; else by key alone.
    shared, unequal : int
        Tars of the same name in both, and those of them that differ in size.
    """

    by_shard: bool
    shared: int
    unequal: int

    @classmethod
    def of(cls, first: ImageTextPairDataset, second: ImageTextPairDataset) -> Join:
        """By shard and key where the two have a tar in common, by its name and size."""
        sizes, others = (
            {
                source.shard: source.tar.size
                for source in dataset.source()[1]
                if source.tar is not None
            }
            for dataset in (first, second)
        )
        shared = sizes.keys() & others.keys()
        unequal = sum(sizes[name] != others[name] for name in shared)
        return cls(len(shared) > unequal, len(shared), unequal)

    @property
    def on(self) -> list[str]:
        return [SHARD_COLUMN, _KEY] if self.by_shard else [_KEY]


@dataclass
class Comparison:
    """What some rows of a join tell; those of several partitions add up.

    Attributes
    ----------
    both, only : int, tuple of int
        Rows of both datasets, and of one of them alone.
    changed : Counter
        By column, rows of both whose value is another one.
    largest : dict of str to float
        By column of numbers, the largest difference.
    decisions : dict of str to Counter
        By bool column, how often a value is followed by which: pairs of true, false and None.
    examples : dict of str to list of Place
        By what they are examples of, the rows with the lowest hashes.
    """

    both: int = 0
    only: tuple[int, int] = (0, 0)
    changed: Counter[str] = field(default_factory=Counter)
    largest: dict[str, float] = field(default_factory=dict)
    decisions: dict[str, Counter[tuple[bool | None, bool | None]]] = field(default_factory=dict)
    examples: dict[str, list[Place]] = field(default_factory=dict)

    def add(self, other: Comparison, n: int) -> None:
        """Add what other rows tell; of examples the first `n` stay."""
        self.both += other.both
        self.only = (self.only[0] + other.only[0], self.only[1] + other.only[1])
        self.changed.update(other.changed)
        for name, value in other.largest.items():
            self.largest[name] = max(self.largest.get(name, 0.0), value)
        for name, counts in other.decisions.items():
            self.decisions.setdefault(name, Counter()).update(counts)
        for name, places in other.examples.items():
            self.examples[name] = sorted([*self.examples.get(name, []), *places])[:n]


def compare(
    first: ImageTextPairDataset,
    second: ImageTextPairDataset,
    join: Join,
    columns: Sequence[str],
    n: int,
    seed: int,
    progress: bool | None = None,
) -> Comparison:
    """Join two datasets and count what differs.

    Keys and eight bytes of each column go between workers; where both have the same shards in the
    same order, nothing does. The client gets counts and `n` examples of each kind.

    Parameters
    ----------
    first, second : ImageTextPairDataset
    join : Join
    columns : sequence of str
        Of both, without lists.
    n : int
    seed : int
        For the examples.
    """
    kinds = _kinds(first, second, columns)
    narrow = [
        _narrowed(dataset, kinds, side)
        for dataset, side in zip((first, second), _SIDES, strict=True)
    ]
    if join.by_shard and _same_partitions(first, second):
        import dask.dataframe as dd

        meta = _merge(frames.empty(narrow[0]), frames.empty(narrow[1]), join.on)
        frame = dd.map_partitions(
            _merge, *narrow, join.on, meta=meta, align_dataframes=False, enforce_metadata=False
        )
    else:
        frame = narrow[0].merge(narrow[1], on=join.on, how="outer", suffixes=_SIDES)
    parts = partitions.run(
        frame,
        _compare,
        [(join, kinds, n, seed)] * frame.npartitions,
        what="compare",
        progress=progress,
    )
    whole = Comparison()
    for part in parts:
        whole.add(part, n)
    return whole


def _same_partitions(first: ImageTextPairDataset, second: ImageTextPairDataset) -> bool:
    """Whether partition i of both has rows of the same shard."""
    shards = []
    for dataset in (first, second):
        lineage = Lineage(dataset.metadata)
        if not lineage.aligned:
            return False
        ((_, sources),) = lineage.readers
        shards.append([source.shard for source in sources])
    return shards[0] == shards[1] and None not in shards[0]


def _kinds(
    first: ImageTextPairDataset, second: ImageTextPairDataset, columns: Sequence[str]
) -> dict[str, str]:
    """How values of columns are compared: as bools, integers, numbers, or by hashes of texts."""
    schemas = [frames.schema(dataset.metadata) for dataset in (first, second)]
    kinds = {}
    for name in columns:
        types = [schema.field(name).type for schema in schemas]
        if all(map(pa.types.is_boolean, types)):
            kinds[name] = "bool"
        elif all(_is_number(kind) and pa.types.is_integer(kind) for kind in types):
            kinds[name] = "integer"
        elif all(_is_number(kind) for kind in types):
            kinds[name] = "number"
        else:
            kinds[name] = "text"
    return kinds


def _is_number(kind: pa.DataType) -> bool:
    # Hashes use all 64 bits, of which float64 has no room for.
    is_plain = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return is_plain and not pa.types.is_uint64(kind)


def _narrowed(dataset: ImageTextPairDataset, kinds: dict[str, str], side: str) -> Any:
    """A dataset's frame with its keys, and eight bytes or less of each column."""
    frame = dataset.metadata[list(dict.fromkeys([dataset.id_col, SHARD_COLUMN, *kinds]))]
    meta = _narrow(frames.empty(frame), dataset.id_col, kinds, side)
    return frame.map_partitions(
        _narrow, dataset.id_col, kinds, side, meta=meta, enforce_metadata=False
    )


def _narrow(frame: Any, id_col: str, kinds: dict[str, str], side: str) -> Any:
    """Keys and comparable values of a partition; what Dask maps."""
    table = frames.to_arrow(frame)
    columns = {
        SHARD_COLUMN: table[SHARD_COLUMN].cast(pa.string()),
        _KEY: table[id_col].cast(pa.string()),
    }
    columns |= {name + side: _comparable(table[name], kind) for name, kind in kinds.items()}
    columns[_IN[side]] = pa.array(np.ones(len(table), np.int8))
    return frames.from_arrow(pa.table(columns), frames.backend_of(frame))


def _comparable(values: pa.ChunkedArray, kind: str) -> Any:
    if kind == "bool":
        return values.cast(pa.int8())
    if kind == "integer":
        # Float64 has no room for those beyond 2^53.
        return values.cast(pa.int64())
    if kind == "number":
        return frames.nan_to_null(values.cast(pa.float64(), safe=False))
    # Bytes need not be a text: those of a text have the hash of it.
    types = pa.types
    is_bytes = types.is_binary(values.type) or types.is_fixed_size_binary(values.type)
    texts = values.cast(pa.binary() if is_bytes else pa.string())
    plain = texts.fill_null(b"" if is_bytes else "").to_numpy().astype(object)
    hashes = pd.util.hash_array(plain, categorize=False)
    return pa.array(hashes.view(np.int64), mask=texts.is_null().to_numpy())


def _merge(first: Any, second: Any, on: list[str]) -> Any:
    """All rows of two partitions, those with equal keys together; what Dask maps."""
    return first.merge(second, on=on, how="outer", suffixes=_SIDES)


def _compare(frame: Any, join: Join, kinds: dict[str, str], n: int, seed: int) -> Comparison:
    """What the rows of a partition of the join tell; runs on a worker."""
    table = frames.to_arrow(frame)
    is_in = [table[_IN[side]].is_valid().to_numpy() for side in _SIDES]
    in_both = is_in[0] & is_in[1]
    only = [is_in[0] & ~is_in[1], is_in[1] & ~is_in[0]]
    result = Comparison(int(in_both.sum()), (int(only[0].sum()), int(only[1].sum())))
    shard = (
        table[SHARD_COLUMN]
        if join.by_shard
        else pc.coalesce(table[SHARD_COLUMN + "_a"], table[SHARD_COLUMN + "_b"])
    )
    places = pa.table({_KEY: table[_KEY], SHARD_COLUMN: shard})

    def choose(name: str, mask: np.ndarray) -> None:
        rows = np.flatnonzero(mask)
        candidates = places.take(rows)
        bits = sample_bits(candidates, _KEY, seed)
        first = np.argsort(bits, kind="stable")[: 2 * n]
        named = zip(
            bits[first].tolist(), *(c.to_pylist() for c in candidates.take(first)), strict=True
        )
        result.examples[name] = sorted(named)[:n]

    for name, mask in zip(("only_a", "only_b"), only, strict=True):
        choose(name, mask)
    both = table.filter(pa.array(in_both))
    for name, kind in kinds.items():
        before, after = both[f"{name}_a"], both[f"{name}_b"]
        null = [values.is_null().to_numpy() for values in (before, after)]
        values = [values.fill_null(0).to_numpy() for values in (before, after)]
        differs = (null[0] != null[1]) | (~null[0] & ~null[1] & (values[0] != values[1]))
        if changed := int(differs.sum()):
            result.changed[name] = changed
        if kind in ("integer", "number"):
            known = differs & ~null[0] & ~null[1]
            high, low = (pick(values[0][known], values[1][known]) for pick in (np.fmax, np.fmin))
            if kind == "integer":
                # Without a sign, no difference of two is too large.
                high, low = high.view(np.uint64), low.view(np.uint64)
            result.largest[name] = float((high - low).max(initial=0))
        if kind == "bool":
            result.decisions[name] = _transitions(null, values)
            for way in (1, 0):
                mask = np.zeros(len(table), bool)
                mask[np.flatnonzero(in_both)] = differs & ~null[1] & (values[1] == way)
                choose(f"{name}={bool(way)}", mask)
    return result


def _transitions(
    null: list[np.ndarray], values: list[np.ndarray]
) -> Counter[tuple[bool | None, bool | None]]:
    """How often each value of a bool column is followed by which."""
    codes = [np.where(nulls, 2, array) for nulls, array in zip(null, values, strict=True)]
    meaning = (False, True, None)
    counts = np.bincount(3 * codes[0].astype(np.int64) + codes[1].astype(np.int64), minlength=9)
    return Counter(
        {(meaning[code // 3], meaning[code % 3]): int(n) for code, n in enumerate(counts) if n}
    )
