"""How the values of columns are distributed: exact counts, in one pass over the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.looking.bins import Bins, exact_sum
from nemo_image_curate.dataset.looking.origin import projection

if TYPE_CHECKING:
    from fractions import Fraction

    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

Kind = Literal["number", "category", "other"]
# Columns of texts with more different values are no categories. ImageNet has 1,000 classes.
MAX_CATEGORIES = 1024
# Nor are columns with a longer text in UTF-8, such as captions.
MAX_CATEGORY_BYTES = 1024
# Of these so many are told one by one.
NAMED_CATEGORIES = 20


@dataclass(frozen=True)
class Distribution:
    """What values a column has, and how often.

    Attributes
    ----------
    column : str
    kind : {"number", "category", "other"}
        "other" for lists, times, and texts with more than `MAX_CATEGORIES` different values or one
        longer than `MAX_CATEGORY_BYTES`: only rows and nulls are counted.
    rows, nulls : int
        NaN counts as null.
    infinite : int
        Infinite values: they are neither nulls nor in a bar.
    low, high, mean : float or None
        Of finite numbers; None when there are none.
    edges : numpy.ndarray of float64, shape (b + 1,)
        Of the bars. The first is `low`; the last `high`, or one more for whole numbers. Those
        between are multiples of a power of two, or on a logarithmic axis eighths, quarters, ... of
        octaves. There is one bar without width where all values are the same and not whole.
    counts : numpy.ndarray of int64, shape (b,)
        Of values from one edge up to the next; the last bar includes its upper edge.
    log : bool
        Whether the bars are for a logarithmic axis: nearly all values would be in a few others.
    whole : bool
        The column is of whole numbers.
    categories : list of (str, int)
        The `NAMED_CATEGORIES` most frequent values; "true" and "false" of bools.
    others : int
        Rows with any other value.
    n_others : int
        How many other values there are.
    """

    column: str
    kind: Kind
    rows: int
    nulls: int
    infinite: int
    low: float | None
    high: float | None
    mean: float | None
    edges: np.ndarray
    counts: np.ndarray
    log: bool
    whole: bool
    categories: list[tuple[str, int]]
    others: int
    n_others: int


def distributions(
    dataset: ImageTextPairDataset,
    columns: Sequence[str] | None = None,
    bins: int = 40,
    where: str | None = None,
    progress: bool | None = None,
) -> dict[str, Distribution]:
    """How the values of columns are distributed; each partition is read once.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    columns : sequence of str, optional
        Default: all but lists, such as embeddings, which take long to read.
    bins : int
        At most so many bars, and half as many at least, unless whole numbers have fewer values.
    where : str, optional
        An expression; only rows for which it is true.
    progress : bool, optional
        Show a progress bar. Default: on a terminal.

    Returns
    -------
    dict of str to Distribution
        The same however rows lie in partitions.

    Raises
    ------
    ColumnNotFoundError, ConfigError
    """
    frame = (dataset if where is None else dataset.filter(where)).metadata
    if columns is None:
        columns = [field.name for field in frames.schema(frame) if not _is_nested(field.type)]
    frames.require_columns(frame, *columns)
    if not columns:
        return {}
    names = list(dict.fromkeys(columns))
    parts = partitions.run(
        projection(frame, names),
        _summarise,
        [(names, bins)] * frame.npartitions,
        what="distributions",
        progress=progress,
    )
    return {name: _merged(name, [part[name] for part in parts], bins) for name in names}


def _is_nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind))


@dataclass(frozen=True)
class _Summary:
    """What a partition tells of a column."""

    kind: Kind | None
    rows: int
    nulls: int
    infinite: int = 0
    total: Fraction | int = 0
    bins: Bins | None = None
    values: pa.StructArray | None = None


def _summarise(frame: Any, names: list[str], bins: int) -> dict[str, _Summary]:
    """What a partition tells of its columns; runs on a worker."""
    return {name: _summary(frames.column_to_arrow(frame[name]), bins) for name in names}


def _summary(column: pa.Array, bins: int) -> _Summary:
    values = frames.nan_to_null(column)
    kind, types = values.type, pa.types
    if types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    counted = (len(values), values.null_count)
    if values.null_count == len(values):
        return _Summary(None, *counted)
    is_text = types.is_string(kind) or types.is_large_string(kind)
    if is_text and pc.max(pc.binary_length(values)).as_py() > MAX_CATEGORY_BYTES:
        return _Summary("other", *counted)
    if is_text or types.is_boolean(kind):
        frequencies = values.drop_null().value_counts()
        if len(frequencies) > MAX_CATEGORIES:
            return _Summary("other", *counted)
        return _Summary("category", *counted, values=frequencies)
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)):
        return _Summary("other", *counted)
    numbers = values.drop_null().cast(pa.float64(), safe=False).to_numpy()
    finite = numbers[np.isfinite(numbers)]
    return _Summary(
        "number",
        *counted,
        infinite=len(numbers) - len(finite),
        total=exact_sum(finite),
        bins=Bins.of(finite, bins, types.is_integer(kind)),
    )


def _merged(name: str, parts: list[_Summary], bins: int) -> Distribution:
    rows, nulls = sum(part.rows for part in parts), sum(part.nulls for part in parts)
    kinds = {part.kind for part in parts} - {None}
    infinite = sum(part.infinite for part in parts)
    low = high = mean = None
    edges, counts, log, whole = np.empty(0), np.empty(0, np.int64), False, False
    categories: list[tuple[str, int]] = []
    others: list[tuple[str, int]] = []
    kind: Kind = "other"
    if kinds == {"number"}:
        kind = "number"
        all_bins = [part.bins for part in parts if part.bins is not None]
        if (merged := Bins.merged(all_bins, bins)) is not None:
            low, high = merged.low, merged.high
            mean = float(sum(part.total for part in parts) / merged.count)
            edges, counts, log = merged.bars(bins)
            whole = merged.whole
    elif kinds == {"category"}:
        ordered = _frequencies([part.values for part in parts if part.values is not None])
        if len(ordered) <= MAX_CATEGORIES:
            kind = "category"
            categories, others = ordered[:NAMED_CATEGORIES], ordered[NAMED_CATEGORIES:]
    return Distribution(
        *(name, kind, rows, nulls, infinite, low, high, mean, edges, counts, log, whole),
        categories,
        others=sum(count for _, count in others),
        n_others=len(others),
    )


def _frequencies(parts: list[pa.StructArray]) -> list[tuple[str, int]]:
    """Values with their counts, the most frequent first; too many as soon as they are."""
    counter: Counter[Any] = Counter()
    for part in parts:
        values, counts = part.flatten()
        for value, count in zip(values.to_pylist(), counts.to_pylist(), strict=True):
            counter[value] += count
        if len(counter) > MAX_CATEGORIES:
            break
    texts = [(str(v).lower() if isinstance(v, bool) else v, n) for v, n in counter.items()]
    return sorted(texts, key=lambda pair: (-pair[1], pair[0]))
