"""Rows worth looking at: best, worst, next to a threshold, random; one pass for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.looking.origin import projection
from nemo_image_curate.dataset.looking.rows import concatenated, sample_bits, told_rows
from nemo_image_curate.dataset.ordered_keys import check_ordered, keys_of
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.tables import free_name

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

How = Literal["best", "worst", "below", "above", "random", "first"]
NEXT_TO = ("below", "above")
_ORDERED = ("best", "worst", *NEXT_TO)
# So many partitions are looked at first, when there are more: they tell how good a row of the
# others must be, so that the client holds the candidates of these and few more.
_FIRST_LOOK = 64
# Of a rank in "first": the row of the partition, after the number of that.
_ROW_BITS = 40
_Cutoff = tuple[Any, ...]


@dataclass(frozen=True)
class View:
    """Which rows to look at.

    Parameters
    ----------
    how : {"best", "worst", "below", "above", "random", "first"}
        The highest or lowest values of a column; those just below a value, or from it on; rows by
        a hash of their keys; the first of the frame.
    by : str, optional
        The column, of numbers, bools, times or dates. Rows without a value are in no such view.
    value : float or str, optional
        For "below" and "above"; of times and dates a text in ISO 8601.
    """

    how: How
    by: str | None = None
    value: float | str | None = None

    def check(self, schema: pa.Schema) -> None:
        """Refuse a view that a dataset with this schema does not have.

        Raises
        ------
        ConfigError
        """
        if self.how not in get_args(How):
            raise ConfigError(f"how={self.how!r} is none of {', '.join(get_args(How))}.")
        if (self.by is not None) != (self.how in _ORDERED):
            raise ConfigError(
                f"the view {self.how!r} with by={self.by!r}: {', '.join(_ORDERED)} need a column, "
                "and no other."
            )
        if (self.value is not None) != (self.how in NEXT_TO):
            raise ConfigError(
                f"the view {self.how!r} with value={self.value!r}: below and above need a value, "
                "and no other."
            )
        if self.by is not None:
            check_ordered(self.by, schema.field(self.by).type)

    def title(self, seed: int) -> str:
        """What to print above the rows."""
        value = f"{self.value:g}" if isinstance(self.value, float) else self.value
        return {
            "best": f"{self.by}: highest",
            "worst": f"{self.by}: lowest",
            "below": f"{self.by}: just below {value}",
            "above": f"{self.by}: {value} and just above",
            "random": f"random (seed {seed})",
            "first": "first",
        }[self.how]


@dataclass(frozen=True)
class Choice:
    """The rows of a view.

    Attributes
    ----------
    view : View
    title : str
    rows : pyarrow.Table
        In the order of the view, that nearest to what it asks for first. The dataset's id column,
        ``shard``, the columns that any of the views goes by, and those asked for.
    """

    view: View
    title: str
    rows: pa.Table


def choose(
    dataset: ImageTextPairDataset,
    views: Sequence[View],
    n: int,
    columns: Sequence[str] = (),
    where: str | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> list[Choice]:
    """The rows of some views, each partition read once for all of them.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    views : sequence of View
    n : int
        Rows of each view; fewer where there are no more.
    columns : sequence of str
        What else to tell of each row; of a text as much as `told_rows` does.
    where : str, optional
        An expression; only rows for which it is true.
    seed : int
        For "random".
    progress : bool, optional
        Show a progress bar. Default: on a terminal.

    Returns
    -------
    list of Choice
        The same however rows lie in partitions, but for "first"; ties go by key, then shard.

    Raises
    ------
    ColumnNotFoundError, ConfigError
    """
    frame = (dataset if where is None else dataset.filter(where)).metadata
    by = [view.by for view in views if view.by is not None]
    names = list(dict.fromkeys([dataset.id_col, SHARD_COLUMN, *by, *columns]))
    frames.require_columns(frame, *names)
    frame = projection(frame, names)
    schema = frames.schema(frame)
    for view in views:
        view.check(schema)
    if n < 1:
        raise ConfigError(f"n={n} should be at least 1.")
    order = _Order(dataset.id_col, tuple(views), n, seed, free_name("rank", names))

    def candidates(numbers: Sequence[int], cutoffs: list[_Cutoff | None]) -> list[list[pa.Table]]:
        arguments = [(number, order, cutoffs) for number in numbers]
        return partitions.run(
            frame, _candidates, arguments, what="look", numbers=numbers, progress=progress
        )

    whole = range(frame.npartitions)
    # Spread over all, so that sorted shards do not mislead, but for the very first.
    numbers = whole[:: -(-len(whole) // _FIRST_LOOK)]
    parts = candidates(numbers, [None] * len(views))
    if rest := sorted(set(whole) - set(numbers)):
        cutoffs = [order.cutoff(order.merged(tables)) for tables in zip(*parts, strict=True)]
        parts += candidates(rest, cutoffs)
    chosen = [order.merged(tables) for tables in zip(*parts, strict=True)]
    return [
        Choice(view, view.title(seed), rows.select(names))
        for view, rows in zip(views, chosen, strict=True)
    ]


def _beside(values: pa.ChunkedArray, value: Any) -> tuple[pa.ChunkedArray, pa.Scalar]:
    """A column and a value as Arrow compares them; whole numbers may exceed int64 and floats."""
    if isinstance(value, str):
        return values, pa.scalar(value).cast(values.type)
    if isinstance(value, float) and pa.types.is_integer(values.type):
        return values.cast(pa.float64(), safe=False), pa.scalar(value)
    unsigned = pa.types.is_unsigned_integer(values.type)
    low, end = (0, 2**64) if unsigned else (-(2**63), 2**63)
    if isinstance(value, int) and not low <= value < end:
        # No whole number of Arrow is so far; a float may be.
        far = math.inf if value > 0 else -math.inf
        if pa.types.is_floating(values.type):
            far = float(value)
        return values.cast(pa.float64(), safe=False), pa.scalar(far)
    return values, pa.scalar(value, pa.uint64() if unsigned else None)


def _candidates(
    frame: Any, number: int, order: _Order, cutoffs: Sequence[_Cutoff | None]
) -> list[pa.Table]:
    """The rows of a partition that each view may show; runs on a worker."""
    by = [view.by for view in order.views if view.by is not None]
    names = list(dict.fromkeys([order.id_col, SHARD_COLUMN, *by]))
    table = frames.to_arrow(frame[names])
    best = []
    for view, cutoff in zip(order.views, cutoffs, strict=True):
        rows, ranks = order.ranked(view, table, number)
        named = {name: table[name].take(rows) for name in order.names}
        first = order.first(pa.table({order.rank: ranks, **named}), cutoff)
        best.append((rows.take(first).to_numpy(), ranks.take(first)))
    # Once for all views: of many columns there are many views, and frames take long to take rows.
    all_rows = np.unique(np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in best)]))
    content = told_rows(frame, all_rows)
    return [
        content.take(np.searchsorted(all_rows, rows)).append_column(order.rank, ranks)
        for rows, ranks in best
    ]


@dataclass(frozen=True)
class _Order:
    """The order of rows in views, and how many of each are wanted.

    `rank` is what the column of a row's place in that order is called.
    """

    id_col: str
    views: tuple[View, ...]
    n: int
    seed: int
    rank: str

    @property
    def names(self) -> list[str]:
        return [self.id_col, SHARD_COLUMN]

    def ranked(self, view: View, table: pa.Table, number: int) -> tuple[pa.Array, pa.Array]:
        """The rows of a partition that belong to a view, and their ranks, the best the lowest."""
        if view.by is None:
            rows = np.arange(len(table))
            if view.how == "first":
                return pa.array(rows), pa.array(rows.astype(np.uint64) + (number << _ROW_BITS))
            return pa.array(rows), pa.array(sample_bits(table, self.id_col, self.seed))
        values = frames.nan_to_null(table[view.by])
        check_ordered(view.by, values.type)
        belongs = pc.is_valid(values)
        if view.how in NEXT_TO and not pa.types.is_null(values.type):
            compare = pc.less if view.how == "below" else pc.greater_equal
            fulfils = compare(*_beside(values, view.value))
            belongs = pc.and_(belongs, pc.fill_null(fulfils, False))
        chosen = np.flatnonzero(belongs.to_numpy())
        keys = keys_of(values.take(chosen).combine_chunks())
        lowest_first = view.how in ("worst", "above")
        return pa.array(chosen), pa.array(keys if lowest_first else ~keys)

    def first(self, table: pa.Table, cutoff: _Cutoff | None = None) -> pa.Array:
        """Where the best `n` rows of a table are, in order, none of them behind a cutoff."""
        by = [(name, "ascending") for name in (self.rank, *self.names)]
        best = pc.select_k_unstable(table, self.n, sort_keys=by)
        if cutoff is None:
            return best
        places = self._places(table.take(best))
        return best.filter(pa.array([place <= cutoff for place in places], pa.bool_()))

    def merged(self, tables: Sequence[pa.Table]) -> pa.Table:
        """The best `n` rows of all partitions."""
        whole = concatenated(tables)
        return whole.take(self.first(whole))

    def cutoff(self, best: pa.Table) -> _Cutoff | None:
        """What rows of other partitions must not be behind; None when there are too few rows."""
        return self._places(best)[-1] if len(best) == self.n else None

    def _places(self, table: pa.Table) -> list[_Cutoff]:
        # Nulls come last, as Arrow sorts them.
        columns = [table[name].to_pylist() for name in self.names]
        texts = [[(value is None, value or "") for value in column] for column in columns]
        return list(zip(table[self.rank].to_pylist(), *texts, strict=True))
