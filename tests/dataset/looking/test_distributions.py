"""Distributions of columns, against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, strategies

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.looking.bins import Bins, exact_sum
from nemo_image_curate.dataset.looking.distributions import distributions
from tests.make_data import jpeg, write_sidecar, write_tar

FLOATS = strategies.floats(allow_nan=False, allow_infinity=False, width=64)
# Others are taken for 0, and for the largest.
USUAL = FLOATS.filter(lambda value: value == 0 or 1e-120 < abs(value) < 1e120)
WHOLE = strategies.integers(-(10**6), 10**6).map(float)


@given(strategies.lists(USUAL | WHOLE, min_size=1), strategies.data())
def test_bars_are_exact_and_do_not_depend_on_partitions(values, data):
    numbers = np.array(values)
    cut = data.draw(strategies.integers(0, len(values)))
    parts = [Bins.of(part, 40, False) for part in (numbers[:cut], numbers[cut:])]
    merged = Bins.merged([part for part in parts if part is not None], 40)
    edges, counts, log = merged.bars(40)
    whole_edges, whole_counts, whole_log = Bins.of(numbers, 40, False).bars(40)
    np.testing.assert_array_equal(edges, whole_edges)
    np.testing.assert_array_equal(counts, whole_counts)
    assert log == whole_log
    assert len(counts) <= 40
    assert (edges[0], edges[-1]) == (min(values), max(values))
    if len(set(values)) > 1:
        assert (np.diff(edges) > 0).all()
        places = np.searchsorted(edges[1:-1], numbers, side="right")
        np.testing.assert_array_equal(counts, np.bincount(places, minlength=len(counts)))


@given(strategies.lists(FLOATS))
def test_sums_are_exact(values):
    assert exact_sum(np.array(values, dtype=np.float64)) == sum(
        (exact_sum(np.array([value])) for value in values), start=0
    )
    few = [value for value in values if abs(value) < 1e300]
    assert float(exact_sum(np.array(few, dtype=np.float64))) == math.fsum(few)


def test_values_at_the_ends_of_what_there_is():
    values = np.array([-1.7e308, -5e-324, 0.0, 5e-324, 1.7e308])
    edges, counts, _ = Bins.of(values, 40, False).bars(40)
    assert counts.sum() == 5
    assert (np.diff(edges) > 0).all()


def test_whole_numbers_have_bars_of_whole_numbers():
    edges, counts, _ = Bins.of(np.array([3.0, 3, 4, 6]), 40, True).bars(40)
    assert edges.tolist() == [3, 4, 5, 6, 7]
    assert counts.tolist() == [2, 1, 0, 1]


def test_long_tails_are_on_a_logarithmic_axis():
    values = np.exp(np.random.default_rng(0).normal(10, 2, 5000))
    edges, counts, log = Bins.of(values, 40, False).bars(40)
    assert log
    assert 20 < len(counts) <= 40
    ratios = edges[2:-1] / edges[1:-2]
    assert (ratios > 1).all()
    assert ratios.max() <= 2
    assert counts.max() < 0.2 * len(values)


def test_columns_of_every_kind(tmp_path, backend):
    columns = {
        "score": pa.array([1.5, math.nan, None, math.inf, 2.5, -1.0]),
        "width": pa.array([10, 20, None, 40, 50, 60], pa.int32()),
        "flag": [True, None, False, True, True, None],
        "label": ["cat", "dog", "cat", None, "bird", "cat"],
        "empty": pa.array([None] * 6, pa.float32()),
        "vector": [[1.0, 2.0], None, [1.0, 2.0], None, None, None],
    }
    for shard, rows in enumerate([slice(0, 2), slice(2, 6)]):
        part = pa.table({"key": list("abcdef"), **columns})[rows]
        write_tar(
            tmp_path / f"{shard}.tar", [(f"{k}.jpg", jpeg(1)) for k in part["key"].to_pylist()]
        )
        write_sidecar(tmp_path / f"{shard}.parquet", part)
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    found = distributions(dataset)
    assert list(found) == ["key", "shard", "score", "width", "flag", "label", "empty"]
    score, width, flag = found["score"], found["width"], found["flag"]
    assert (score.kind, score.rows, score.nulls, score.infinite) == ("number", 6, 2, 1)
    assert (score.low, score.high, score.mean, score.counts.sum()) == (-1.0, 2.5, 1.0, 3)
    assert (score.whole, width.whole) == (False, True)
    assert (width.low, width.high, width.mean, width.nulls) == (10, 60, 36, 1)
    assert (flag.kind, flag.nulls, flag.categories) == ("category", 2, [("true", 3), ("false", 1)])
    assert found["label"].categories == [("cat", 3), ("bird", 1), ("dog", 1)]
    assert (found["empty"].kind, found["empty"].nulls, found["empty"].low) == ("other", 6, None)
    vector = distributions(dataset, ["vector"])["vector"]
    assert (vector.kind, vector.rows, vector.nulls) == ("other", 6, 4)
    some = distributions(dataset, ["label"], where="width > 15")["label"]
    assert (some.rows, some.categories) == (4, [("bird", 1), ("cat", 1), ("dog", 1)])


def test_few_categories_are_named_and_too_many_are_none(tmp_path):
    names = [f"{n % 30:02d}" for n in range(100)]
    texts = [f"text {n}" for n in range(100)]
    long = ["x" * 10_000, *["short"] * 99]
    write_tar(tmp_path / "0.tar", [(f"{n}.jpg", jpeg(1)) for n in range(100)])
    write_sidecar(
        tmp_path / "0.parquet",
        {"key": [str(n) for n in range(100)], "name": names, "text": texts, "long": long},
    )
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    found = distributions(dataset)
    counted = pd.Series(names).value_counts()
    assert len(found["name"].categories) == 20
    assert (
        dict(found["name"].categories)
        == counted.sort_index().sort_values(ascending=False, kind="stable")[:20].to_dict()
    )
    assert (found["name"].others, found["name"].n_others) == (30, 10)
    assert (found["long"].kind, found["long"].rows, found["long"].nulls) == ("other", 100, 0)


@pytest.mark.parametrize("sizes", [[0], [0, 0]])
def test_no_rows(tmp_path, sizes):
    for shard, _ in enumerate(sizes):
        write_tar(tmp_path / f"{shard}.tar", [])
        write_sidecar(
            tmp_path / f"{shard}.parquet",
            {"key": pa.array([], pa.string()), "score": pa.array([], pa.float64())},
        )
    found = distributions(ImageTextPairDataset.from_webdataset(tmp_path))
    assert (found["score"].rows, found["score"].nulls, found["score"].low) == (0, 0, None)
