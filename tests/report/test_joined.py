"""Two datasets joined: counts, decisions and examples, by shard and key, or by key alone."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.report import joined
from nemo_image_curate.report.joined import Join, compare
from tests.make_data import jpeg, write_sidecar, write_tar
from tests.report.sets import rows, write

COLUMNS = ["caption", "sharpness", "cluster", "is_duplicate", "selected", "duplicate_of"]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return write(tmp_path_factory.mktemp("a"), rows(), 3)


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """Without the first ten rows; another choice, a score that moved, captions that are gone."""
    frame = first.metadata.copy()
    frame["selected"] = frame["sharpness"] > 61
    frame["sharpness"] = frame["sharpness"].mask(frame["cluster"] == 1, frame["sharpness"] + 2)
    frame["caption"] = frame["caption"].where(frame["cluster"] != 2)
    changed = first.replace(frame).filter("key >= '0010'")
    folder = tmp_path_factory.mktemp("b")
    return changed.save_metadata(folder, columns=COLUMNS, progress=False)


def check(found):
    every = rows()
    both = [row for row in every if row["key"] >= "0010"]
    now = {row["key"]: row["sharpness"] > 61 for row in both}
    assert (found.both, found.only) == (len(both), (10, 0))
    assert found.changed == {
        "selected": sum(row["selected"] != now[row["key"]] for row in both),
        "sharpness": sum(row["cluster"] == 1 for row in both),
        "caption": sum(row["cluster"] == 2 for row in both),
    }
    assert found.largest["sharpness"] == 2
    assert found.largest["cluster"] == 0
    assert found.decisions["selected"] == Counter(
        (row["selected"], now[row["key"]]) for row in both
    )
    gained = {row["key"] for row in both if now[row["key"]] and not row["selected"]}
    shown = [key for _, key, _ in found.examples["selected=True"]]
    assert len(shown) == 4
    assert set(shown) <= gained
    assert {key for _, key, _ in found.examples["only_a"]} <= {row["key"] for row in every[:10]}
    assert found.examples["only_b"] == []


def test_runs_over_the_same_shards_are_joined_where_they_lie(first, second):
    join = Join.of(first, second)
    assert join == Join(by_shard=True, shared=3, unequal=0)
    check(compare(first, second, join, COLUMNS, 4, 0, False))


def test_rows_elsewhere_find_each_other_by_key(first, second, tmp_path, client):
    at_home = compare(first, second, Join.of(first, second), COLUMNS, 4, 0, False)
    moved = write(tmp_path, rows()[::-1], 2)
    join = Join.of(moved, second)
    assert not join.by_shard
    frame = second.metadata.repartition(npartitions=2)
    by_key = compare(first, second.replace(frame), join, COLUMNS, 4, 0, False)
    check(by_key)
    assert by_key == at_home


def test_a_shuffled_join_tells_the_same_without_a_client(first, second, monkeypatch):
    at_home = compare(first, second, Join.of(first, second), COLUMNS, 4, 0, False)
    monkeypatch.setattr(joined, "_same_partitions", lambda *_: False)
    assert compare(first, second, Join.of(first, second), COLUMNS, 4, 0, False) == at_home


def test_nulls_and_nan_and_other_types(tmp_path):
    one = [{**row, "sharpness": None if row["key"] < "0003" else 1.0} for row in rows()[:9]]
    two = [{**row, "sharpness": float("nan") if row["key"] < "0006" else 1} for row in one]
    datasets = write(tmp_path / "a", one, 1), write(tmp_path / "b", two, 1)
    found = compare(*datasets, Join(True, 1, 0), ["sharpness", "is_duplicate"], 4, 0, False)
    assert found.changed == {"sharpness": 3}
    assert found.largest == {"sharpness": 0}
    assert found.both == 9


def test_bytes_that_are_no_text(tmp_path):
    datasets = []
    for name, last in (("a", b"\xff\x00"), ("b", b"\xff\x01")):
        write_tar(tmp_path / name / "0.tar", [(f"{key}.jpg", jpeg(key)) for key in range(3)])
        content = pa.array([None, b"\xff", last], pa.binary())
        write_sidecar(tmp_path / name / "0.parquet", {"key": ["0", "1", "2"], "digest": content})
        datasets.append(ImageTextPairDataset.from_webdataset(tmp_path / name, backend="cpu"))
    assert compare(*datasets, Join(True, 1, 0), ["digest"], 4, 0, False).changed == {"digest": 1}


def test_whole_numbers_that_no_float_tells_apart(tmp_path):
    large = [2**60, 2**60 + 1, -(2**63), 5]
    other = [2**60, 2**60, 2**63 - 1, 5]
    one, two = (
        write(
            tmp_path / name,
            [{**row, "count": n} for row, n in zip(rows()[:4], values, strict=True)],
            1,
        )
        for name, values in (("a", large), ("b", other))
    )
    found = compare(one, two, Join.of(one, two), ["count"], 4, 0, progress=False)
    assert (found.both, found.changed["count"]) == (4, 2)
    assert found.largest["count"] == float(2**64 - 1)
