"""Labels by key from mappings, tables and files, and what is refused."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate.classifiers.label_tables import entries, is_missing
from nemo_image_curate.errors import ConfigError, DatasetError, NotFoundError

EXPECTED = [(None, "0007", "cat"), (None, "0012", "NA"), (None, "0013", "")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "key,label\n0007,cat\n0012,NA\n0013,\n"),
        ("labels.tsv", "key\tlabel\n0007\tcat\n0012\tNA\n0013\t\n"),
        ("labels.CSV", '\ufeffid,other,label\n0007,1,cat\n0012,,"NA"\n0013,2,\n'),
    ],
)
def test_texts_stay_as_they_are_written(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert list(entries(tmp_path / name, "id")) == EXPECTED


def test_shards_tell_equal_keys_apart(tmp_path):
    path = tmp_path / "labels.parquet"
    columns = {"shard": ["a.tar", None], "key": ["1", "2"], "label": [True, None]}
    pq.write_table(pa.table(columns), path)
    (first, second) = entries(str(path), "key")
    assert first == ("a.tar", "1", True)
    assert second[:2] == (None, "2")
    assert is_missing(second[2])
    frame = pd.DataFrame({"key": ["1"], "shard": ["b/c.tar"], "label": [3]})
    assert list(entries(frame, "key")) == [("b/c.tar", "1", 3)]
    mapping = {("a.tar", "1"): "cat", "2": "dog"}
    assert list(entries(mapping, "key")) == [("a.tar", "1", "cat"), (None, "2", "dog")]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_null_and_nan_are_no_labels(missing):
    assert is_missing(missing)


@pytest.mark.parametrize("there", ["", 0, False, [], "nan", 0.0])
def test_all_else_is_a_value(there):
    assert not is_missing(there)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({7: "cat"}, "7 is no key"),
        ({("a.tar", 7): "cat"}, "is no key"),
        ([("1", "cat")], "labels is list"),
        ("labels.xlsx", r"\.csv, \.tsv and \.parquet"),
    ],
)
def test_other_kinds_are_refused(labels, message):
    with pytest.raises(ConfigError, match=message):
        list(entries(labels, "key"))


def test_tables_that_lack_something_are_refused(tmp_path):
    with pytest.raises(
        DatasetError, match=r"should have the columns 'key' and 'label'.*name, kind"
    ):
        list(entries(pd.DataFrame({"name": ["1"], "kind": ["cat"]}), "key"))
    with pytest.raises(DatasetError, match="the key 7 is no text"):
        list(entries(pd.DataFrame({"key": [7], "label": ["cat"]}), "key"))
    with pytest.raises(NotFoundError):
        list(entries(tmp_path / "absent.csv", "key"))
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(DatasetError, match=r"broken\.parquet is no table of labels"):
        list(entries(tmp_path / "broken.parquet", "key"))
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "long.csv").write_text("key,label\n0007,cat,dog\n0012,cat,dog\n")
    with pytest.raises(DatasetError, match=r"long\.csv is no table of labels"):
        list(entries(tmp_path / "long.csv", "key"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DatasetError, match=r"folder\.csv is a folder"):
        list(entries(tmp_path / "folder.csv", "key"))
    with pytest.raises(DatasetError, match=r"empty\.csv is no table of labels"):
        list(entries(tmp_path / "empty.csv", "key"))
