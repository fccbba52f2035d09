"""Exact thresholds, against numpy on the whole column."""

from __future__ import annotations

import datetime
import math

import dask.dataframe as dd
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nemo_image_curate import ImageTextPairDataset, frames
from nemo_image_curate.dataset import threshold
from nemo_image_curate.dataset.threshold import Share, find_threshold
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError
from nemo_image_curate.expressions.evaluate import matching_rows


def frame_of(parts, kind: pa.DataType, backend: str):
    """A Dask frame with a partition for each list of values, which may be empty."""
    tables = [pa.table({"x": pa.array(part, kind)}) for part in parts]
    computed = [frames.from_arrow(table, backend) for table in tables]
    return dd.from_map(lambda n: computed[n], range(len(computed)), meta=computed[0].iloc[:0])


def dataset_of(parts, kind: pa.DataType, backend: str) -> ImageTextPairDataset:
    return ImageTextPairDataset("nowhere", frame_of(parts, kind, backend), [], "x")


FLOATS = st.floats(width=32, allow_subnormal=True) | st.sampled_from([0.0, -0.0, 0.25, math.inf])
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2)
COLUMNS = st.one_of(
    *(st.tuples(st.just(kind), st.just(FLOATS)) for kind in (pa.float32(), pa.float64())),
    st.tuples(st.just(pa.int64()), st.just(INTEGERS)),
    st.tuples(st.just(pa.uint64()), st.just(st.integers(0, 2**64 - 1))),
    st.tuples(st.just(pa.int8()), st.just(st.integers(-128, 127))),
    st.tuples(st.just(pa.bool_()), st.just(st.booleans())),
)


@st.composite
def columns(draw):
    kind, values = draw(COLUMNS)
    parts = st.lists(st.lists(values | st.none(), max_size=30), min_size=1, max_size=5)
    return kind, draw(parts)


@settings(max_examples=25)
@given(
    columns(),
    st.floats(0.01, 1),
    st.booleans(),
    # As many order statistics as are held, and so few that there are several passes.
    st.sampled_from([4, 1 << 20]),
)
@example((pa.int64(), [[2**53, 2**53 + 1], [2**53 + 2]]), 0.67, True, 4)
def test_as_of_the_sorted_whole(column, fraction, largest, points):
    kind, parts = column
    frame = frame_of(parts, kind, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threshold, "_POINTS", points)
        patch.setattr(threshold, "_FEWEST_POINTS", 3)
        # A first guess, often a wrong one, of every second partition.
        patch.setattr(threshold, "_FEW_PARTITIONS", 1)
        patch.setattr(threshold, "_SAMPLED", 2)
        found = find_threshold(frame, "x", Share(fraction), largest)
    values = [value for part in parts for value in part]
    whole = sorted(value for value in values if value is not None and value == value)
    n = int(len(whole) * fraction)
    assert (found.n_with_value, found.n_without_value) == (len(whole), len(values) - len(whole))
    assert found.n_chosen == n
    if not n:
        assert found.value is None
        return
    expected = whole[len(whole) - n] if largest else whole[n - 1]
    assert found.value == expected
    # In an expression it keeps these rows and their equals.
    sign = ">=" if largest else "<="
    mask = matching_rows(pa.table({"x": pa.array(values, kind)}), f"x {sign} {found.value!r}")
    kept = sorted(value for value, is_kept in zip(values, mask, strict=True) if is_kept)
    assert kept == [one for one in whole if (one >= expected if largest else one <= expected)]


@pytest.mark.parametrize("shape", ["random", "sorted", "steps", "constant", "few between"])
def test_of_many_values_in_uneven_partitions(shape, backend, monkeypatch):
    """However they are spread, few passes are made, each telling few values."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=30_000).astype(np.float32)
    if shape == "sorted":
        x.sort()
    elif shape == "steps":
        x = np.round(x)
    elif shape == "constant":
        x[:] = 0.1
    elif shape == "few between":
        # A single value between two that all other rows have.
        x = np.float32([0.1] * 14_999 + [0.2] + [0.3] * 15_000)
        rng.shuffle(x)
    parts = np.split(x, [1, 1, 20_000, 20_500, 29_000])
    monkeypatch.setattr(threshold, "_POINTS", 600)
    passes = []
    run = threshold.partitions.run

    def counted(*arguments, **options):
        passes.append(run(*arguments, **options))
        assert all(len(summary.points) <= 100 for summary in passes[-1])
        return passes[-1]

    monkeypatch.setattr(threshold.partitions, "run", counted)
    descending = np.sort(x)[::-1]
    for count in (1, 9_000, 15_001, 30_000):
        found = find_threshold(frame_of(parts, pa.float32(), backend), "x", Share(count=count))
        assert found.value == descending[count - 1]
    assert len(passes) <= 4 * 4


def test_of_a_dataset(backend):
    ds = dataset_of([[0.5, None, 0.1], [], [math.nan, 0.9, 0.7]], pa.float32(), backend)
    top = ds.threshold("x", top=0.5)
    assert top == np.float32(0.7)
    assert len(ds.filter(f"x >= {top!r}")) == 2
    bottom = ds.threshold("x", bottom=0.25)
    assert len(ds.filter(f"x <= {bottom!r}")) == 1
    assert ds.threshold("x", count=3) == ds.threshold("x", top=0.75) == 0.5
    assert ds.threshold("x", count=100) == ds.threshold("x", top=1) == np.float32(0.1)


def test_the_same_for_any_partitioning(client):
    x = np.random.default_rng(1).normal(size=2_000)
    thresholds = {
        find_threshold(frame_of(np.array_split(x, n), pa.float64(), "cpu"), "x", Share(0.3)).value
        for n in (1, 3, 8)
    }
    assert thresholds == {np.sort(x)[::-1][599]}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.timestamp("ns"), ["2020-01-01T00:00:00.000000001", "2020-01-01T00:00:00.000000002"]),
        (pa.timestamp("ms", "Europe/Berlin"), ["2020-06-01T12:00", "2020-06-01T13:00"]),
        (pa.timestamp("s"), ["1969-07-20T20:17:40", "1969-07-20T20:17:41"]),
    ],
)
def test_of_times(kind, values):
    times = pa.array(np.array(values, "datetime64[ns]")).cast(pa.timestamp("ns", kind.tz))
    ds = dataset_of([[time] for time in times.cast(kind)], kind, "cpu")
    latest = ds.threshold("x", top=0.5)
    assert isinstance(latest, str)
    assert len(ds.filter(f"x >= {latest!r}")) == 1
    assert len(ds.filter(f"x > {latest!r}")) == 0


def test_of_dates():
    days = [datetime.date(1960, 2, 29), datetime.date(2020, 1, 1)]
    ds = dataset_of([days], pa.date32(), "cpu")
    assert ds.threshold("x", bottom=0.5) == "1960-02-29"
    assert len(ds.filter("x <= '1960-02-29'")) == 1


def test_infinite_thresholds_go_into_expressions(backend):
    ds = dataset_of([[math.inf, 1.0], [-math.inf, None]], pa.float64(), backend)
    assert len(ds.filter(f"x >= {ds.threshold('x', count=1)!r}")) == 1
    assert len(ds.filter(f"x <= {ds.threshold('x', bottom=0.4)!r}")) == 1
    assert len(ds.filter(f"x >= {ds.threshold('x', top=1.0)!r}")) == 3


def test_no_row_at_all(backend):
    for parts in ([[None, math.nan]], [[]]):
        ds = dataset_of(parts, pa.float32(), backend)
        with pytest.raises(DatasetError, match=r"no threshold: 0.3 of 0 rows that have a value"):
            ds.threshold("x", top=0.3)
    with pytest.raises(DatasetError, match=r"0.3 of 1 rows that have a value is none \(1 have"):
        dataset_of([[1.0, None]], pa.float32(), backend).threshold("x", top=0.3)


def test_types_that_the_frame_does_not_tell():
    """What users compute in pandas: the type is that of the values, not that of the frame."""
    frame = dd.from_dict({"x": [1, 5, 3, 4]}, npartitions=2)
    untyped = frame.map_partitions(lambda part: part.astype(object), meta={"x": object})
    assert find_threshold(untyped, "x", Share(0.5)).value == 4
    mixed = frame.map_partitions(
        lambda part: part.astype(object if 1 in part.x.tolist() else float), meta={"x": object}
    )
    with pytest.raises(DatasetError, match="'x' holds double and int64 in different partitions"):
        find_threshold(mixed, "x", Share(0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "top=None, bottom=None, count=None: give one of the three"),
        ({"top": 0.3, "count": 3}, "give one of the three"),
        ({"top": 0}, "0 is no fraction over 0 and at most 1"),
        ({"bottom": 1.01}, "1.01 is no fraction"),
        ({"top": math.nan}, "nan is no fraction"),
        ({"top": True}, "True is no fraction"),
        ({"top": "0.3"}, "'0.3' is no fraction"),
        ({"count": 0}, "count=0 should be an integer of at least 1"),
        ({"count": 0.5}, "count=0.5 should be an integer"),
    ],
)
def test_unusable_shares(arguments, message):
    with pytest.raises(ConfigError, match=message):
        dataset_of([[1.0]], pa.float64(), "cpu").threshold("x", **arguments)


def test_unusable_columns():
    ds = dataset_of([["a"]], pa.string(), "cpu")
    with pytest.raises(ConfigError, match="column 'x' holds string, which has no threshold"):
        ds.threshold("x", top=0.3)
    with pytest.raises(ColumnNotFoundError, match="no column 'y'"):
        ds.threshold("y", top=0.3)


def test_fractions_of_numpys_types():
    for kind in (np.float16, np.float32, np.float64):
        assert Share(kind(0.5)).of(1_000_000) == 500_000
