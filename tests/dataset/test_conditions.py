"""Rows that conditions drop are counted: false, null, and by which column."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.dataset.conditions import Dropped, drop_rows
from tests.make_data import jpeg, write_sidecar, write_tar

VALUES = st.lists(st.tuples(st.sampled_from([None, 1.0, 2.0, float("nan")]), st.none() | st.text()))


@given(VALUES)
def test_the_sum_closes(rows):
    table = pa.table(
        {
            "x": pa.array([x for x, _ in rows], pa.float64()),
            "t": pa.array([t for _, t in rows], pa.string()),
        }
    )
    kept, summary = drop_rows(table, ["x > 1 and t != 'a'", "t != 'b'"])
    dropped = Dropped.total([summary])
    assert len(kept) + dropped.by_condition + dropped.by_null == len(rows)
    assert len(kept) == sum(x == 2 and t not in (None, "a", "b") for x, t in rows)
    assert dropped.null_columns.get("x", 0) <= dropped.by_null


def dataset(root, scores) -> ImageTextPairDataset:
    keys = list(map(str, range(len(scores))))
    write_tar(root / "0.tar", [(f"{key}.jpg", jpeg(int(key))) for key in keys])
    write_sidecar(root / "0.parquet", {"key": keys, "score": scores, "size": [1, 2, 3, 4, None]})
    return ImageTextPairDataset.from_webdataset(root)


SCORES = [1.0, None, float("nan"), 5.0, 6.0]


def test_an_export_tells_which_column_was_null(tmp_path, caplog):
    ds = dataset(tmp_path / "in", SCORES)
    done = ds.filter("score > 2 and size > 0").to_webdataset(tmp_path / "out")
    assert (done.samples, done.filtered, done.null, done.missing) == (1, 4, 3, 0)
    assert done.null_columns == {"score": 2, "size": 1}
    assert "3 rows were dropped because a condition was neither true nor false" in caplog.text
    # Continued, it tells the same.
    again = ds.filter("score > 2 and size > 0").to_webdataset(tmp_path / "out")
    assert again == done


def test_conditions_one_after_the_other(tmp_path):
    ds = dataset(tmp_path / "in", SCORES).filter("score > 2").filter("size > 0")
    done = ds.to_webdataset(tmp_path / "out")
    assert (done.samples, done.filtered, done.null) == (1, 4, 3)
    assert len(ds) == 1


def test_a_save_tells_it_too(tmp_path, caplog):
    ds = dataset(tmp_path / "in", SCORES)
    saved = ds.filter("score > 2").save_metadata(tmp_path / "out")
    assert "2 rows were dropped" in caplog.text
    assert "score 2" in caplog.text
    assert saved.metadata.key.compute().tolist() == ["3", "4"]


def test_a_filter_column_with_nulls(tmp_path):
    ds = dataset(tmp_path / "in", SCORES)
    ds.metadata["good"] = ds.metadata.score > 2
    done = ds.to_webdataset(tmp_path / "out", filter_column="good")
    assert (done.samples, done.filtered, done.null, done.null_columns) == (2, 3, 2, {"good": 2})


@pytest.mark.parametrize("change", ["assign", "filter"])
def test_what_is_done_after_a_filter_counts(tmp_path, change):
    ds = dataset(tmp_path / "in", SCORES).filter("score > 2")
    if change == "assign":
        ds.metadata["double"] = ds.metadata.score * 2
    else:
        ds = ds.filter(ds.metadata.score > 5)
    saved = ds.save_metadata(tmp_path / "out")
    rows: pd.DataFrame = saved.metadata.compute()
    assert rows.key.tolist() == (["3", "4"] if change == "assign" else ["4"])


def test_a_column_that_is_assigned_after_a_filter_is_written(tmp_path):
    ds = dataset(tmp_path / "in", SCORES).filter("score > 2")
    ds.metadata["twice"] = ds.metadata.score * 2
    saved = ds.save_metadata(tmp_path / "saved")
    assert saved.metadata.compute()["twice"].tolist() == [10, 12]
