"""The exact value that parts the highest or lowest values of a column from all others.

A sixteenth of the partitions tells about where the value lies. Then each of them counts its values
below, between and above, and tells evenly spaced order statistics of those between, out of which
comes the value itself, or a smaller interval to look into again (after Floyd and Rivest,
"Expected time bounds for selection", 1975, and Munro and Paterson, "Selection and sorting with
limited storage", 1980). Up to some 20 million rows a single pass over the column does, then two;
a guess that is wrong costs one more.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.ordered_keys import HIGHEST_KEY, check_ordered, keys_of, value_of
from nemo_image_curate.errors import ConfigError, DatasetError

# Order statistics that the client holds, 32 bytes each, and the least of a partition.
_POINTS = 1 << 20
_FEWEST_POINTS = 16
# One in so many partitions is looked at first, when there are more than a few, and how far the
# value may be from where it is among their rows, as a fraction of these.
_SAMPLED = 16
_FEW_PARTITIONS = 64
_MARGIN = 0.01


@dataclass(frozen=True)
class Threshold:
    """What parts the highest, or lowest, values of a column from all others.

    Attributes
    ----------
    bound : pyarrow.Scalar or None
        The lowest of the highest values, or the highest of the lowest; None when there are none
        of them.
    n_chosen : int
        The rows that were asked for; more have the bound's value or one beyond it when there are
        ties.
    n_with_value : int
    n_without_value : int
        Rows whose value is null or NaN; they do not count.
    """

    bound: pa.Scalar | None
    n_chosen: int
    n_with_value: int
    n_without_value: int

    @property
    def value(self) -> float | int | bool | str | None:
        """The bound as a plain value whose ``repr`` an expression takes; a time is a text."""
        if self.bound is None:
            return None
        kind, value = self.bound.type, self.bound.as_py()
        if pa.types.is_timestamp(kind):
            # Nanoseconds, which datetime lacks.
            return str(pd.Timestamp(value).isoformat())
        if pa.types.is_date(kind):
            return str(value.isoformat())
        plain: float | int | bool = value
        return plain

    def facts(self) -> dict[str, Any]:
        """What is recorded of it."""
        return {
            "threshold": self.value,
            "with_value": self.n_with_value,
            "without_value": self.n_without_value,
        }


@dataclass(frozen=True)
class Share:
    """How many of the rows that have a value: a fraction of them, rounded down, or a number.

    Parameters
    ----------
    fraction : float, optional
        Over 0, at most 1.
    count : int, optional
        At least 1; all rows when there are fewer.
    one_more : bool, default False
        One row more than the fraction, as of DataComp's threshold: it sorts scores downwards, and
        takes that at the index int(fraction n), which counts from 0.
    """

    fraction: Any = None
    count: Any = None
    one_more: bool = False

    def check(self) -> None:
        """Refuse what is no share.

        Raises
        ------
        ConfigError
        """
        if (self.fraction is None) == (self.count is None):
            raise ConfigError(
                f"fraction={self.fraction!r}, count={self.count!r}: give one of the two."
            )
        if self.count is None and not (_is(numbers.Real, self.fraction) and 0 < self.fraction <= 1):
            raise ConfigError(
                f"{self.fraction!r} is no fraction over 0 and at most 1 (30 % is 0.3)."
            )
        if self.fraction is None and not (_is(numbers.Integral, self.count) and self.count >= 1):
            raise ConfigError(f"count={self.count!r} should be an integer of at least 1.")

    def __str__(self) -> str:
        return f"{self.count:,}" if self.fraction is None else f"{self.fraction}"

    def of(self, n: int) -> int:
        """How many that is of n rows."""
        if self.fraction is None:
            return min(n, int(self.count))
        # A fraction of half precision times n would be of half precision, too: 65,504 at most.
        return min(n, int(n * float(self.fraction)) + self.one_more)


def _is(kind: type, value: Any) -> bool:
    # In Python True is a number.
    return isinstance(value, kind) and not isinstance(value, bool)


def find_threshold(
    frame: Any, column: str, share: Share, largest: bool = True, progress: bool | None = None
) -> Threshold:
    """The value that so many rows of a frame have, or exceed.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    column : str
        Of numbers, bools, times or dates.
    share : Share
    largest : bool
        Whether the highest values are wanted, or the lowest.
    progress : bool, optional
        Default: on a terminal.

    Returns
    -------
    Threshold
        The same for the same rows, however they lie in partitions.

    Raises
    ------
    ColumnNotFoundError
    ConfigError
        For a column of other values, or an unusable share.
    """
    share.check()
    frames.require_columns(frame, column)
    kind = frames.schema(frame[[column]]).field(column).type
    check_ordered(column, kind)
    most = max(_FEWEST_POINTS, _POINTS // max(1, frame.npartitions))

    def summaries_of(low: int, high: int, numbers: range) -> list[_Summary]:
        return partitions.run(
            frame[[column]],
            _summarise,
            [(column, low, high, most)] * len(numbers),
            what="threshold",
            numbers=numbers,
            progress=progress,
        )

    whole = range(frame.npartitions)
    low, high, rank = 0, HIGHEST_KEY, None
    if len(whole) > _FEW_PARTITIONS:
        sample = whole[::_SAMPLED]
        low, high = _guess(
            summaries_of(low, high, sample), len(whole) / len(sample), share, largest
        )
    while True:
        summaries = summaries_of(low, high, whole)
        counts = _total(summaries)
        if rank is None:
            kind = _common_kind(column, summaries, kind)
            n_with_value = int(counts.sum())
            n_without_value = sum(summary.rows for summary in summaries) - n_with_value
            n_chosen = share.of(n_with_value)
            if not n_chosen:
                return Threshold(None, 0, n_with_value, n_without_value)
            rank = n_with_value - n_chosen if largest else n_chosen - 1
        below, at_low, between, at_high, _ = map(int, counts)
        place = rank - below
        if place < 0:
            low, high = 0, low
        elif place < at_low:
            high = low
        elif place < at_low + between:
            low, high = _narrow(summaries, place - at_low)
        elif place < at_low + between + at_high:
            low = high
        else:
            low, high = high, HIGHEST_KEY
        if low == high:
            return Threshold(value_of(low, kind), n_chosen, n_with_value, n_without_value)


def _guess(summaries: list[_Summary], times: float, share: Share, largest: bool) -> tuple[int, int]:
    """Two keys between which the value of all rows should be, after so many times fewer."""
    n_sampled = int(_total(summaries)[2])
    n = int(n_sampled * times)
    if not (n_chosen := share.of(n)):
        return 0, HIGHEST_KEY
    place = n_sampled * (n - n_chosen if largest else n_chosen) / n
    # As wide as the client can hold what is between, by a margin of two.
    margin = n_sampled * max(_MARGIN, _POINTS / 4 / n)
    lowest, highest = int(place - margin), int(place + margin)
    low = _narrow(summaries, lowest)[0] if lowest >= 0 else 0
    high = _narrow(summaries, highest)[1] if highest < n_sampled else HIGHEST_KEY
    return (low, high) if low < high else (0, HIGHEST_KEY)


def _total(summaries: list[_Summary]) -> np.ndarray:
    """The counts of all summaries."""
    counts: np.ndarray = np.sum([summary.counts for summary in summaries], axis=0)
    return counts


@dataclass(frozen=True)
class _Summary:
    """What a partition tells of its values between two keys.

    Attributes
    ----------
    kind : pyarrow.DataType
    rows : int
    counts : numpy.ndarray of int64, shape (5,)
        Values below the low key, at it, between, at the high key, and above.
    points : numpy.ndarray of uint64
        Of the keys between, sorted, those at `_positions`.
    """

    kind: pa.DataType
    rows: int
    counts: np.ndarray
    points: np.ndarray


def _summarise(frame: Any, column: str, low: int, high: int, most: int) -> _Summary:
    """What a computed partition tells of its values; runs on a worker."""
    values = frames.nan_to_null(frames.column_to_arrow(frame[column]))
    check_ordered(column, values.type)
    keys = keys_of(values.drop_null())
    between = np.sort(keys[(keys > low) & (keys < high)])
    sides = (keys < low, keys == low, keys == high)
    below, at_low, at_high = (np.count_nonzero(side) for side in sides)
    above = len(keys) - below - at_low - len(between) - at_high
    counts = np.array([below, at_low, len(between), at_high, above])
    points = between[_positions(len(between), most)]
    return _Summary(values.type, len(values), counts, points)


def _positions(count: int, most: int) -> np.ndarray:
    """Evenly spaced positions among so many, the first and the last with them."""
    return np.linspace(0, max(0, count - 1), min(count, most), dtype=np.int64)


def _narrow(summaries: list[_Summary], place: int) -> tuple[int, int]:
    """The two points between which the key of a place lies; it may be one of them, or both."""
    keys, up_to, before_next = [], [], []
    for summary in summaries:
        count = int(summary.counts[2])
        positions = _positions(count, len(summary.points))
        keys.append(summary.points)
        # A point has these keys up to it since the last one, and the next has these before it.
        up_to.append(np.diff(positions, prepend=-1))
        before_next.append(np.diff(positions, append=count))
    points = np.concatenate(keys)
    order = np.argsort(points)
    # At least so many keys are no higher than a point, and at most so many are lower.
    fewest_up_to = np.cumsum(np.concatenate(up_to)[order])
    most_before = np.cumsum(np.concatenate(before_next)[order])
    most_before = np.concatenate([[0], most_before[:-1]])
    low = order[np.searchsorted(most_before, place, side="right") - 1]
    high = order[np.searchsorted(fewest_up_to, place, side="right")]
    return int(points[low]), int(points[high])


def _common_kind(column: str, summaries: list[_Summary], kind: pa.DataType) -> pa.DataType:
    """The type of the values, which a frame does not always know."""
    kinds = {summary.kind for summary in summaries if not pa.types.is_null(summary.kind)}
    if len(kinds) > 1:
        raise DatasetError(
            f"column {column!r} holds {' and '.join(sorted(map(str, kinds)))} in different "
            "partitions; cast it to one of them."
        )
    return kinds.pop() if kinds else kind
