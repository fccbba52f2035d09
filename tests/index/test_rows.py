import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import ImageTextPairDataset, frames
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError
from nemo_image_curate.index import rows as rows_module
from nemo_image_curate.index.rows import RowTable, plain_schema, write_rows
from tests.make_data import make_dataset


@pytest.fixture
def table():
    count = 1000
    return pa.table(
        {
            "key": [f"{number % 900:04d}" for number in range(count)],
            "shard": [f"{number // 300}.tar" for number in range(count)],
            "caption": [
                None if number % 7 == 0 else f"picture {number}" for number in range(count)
            ],
            "width": pa.array(range(count), pa.int64()),
            "score": pa.array([None if n % 5 == 0 else n / 10 for n in range(count)]),
            "two words": [number % 2 == 0 for number in range(count)],
        }
    )


@pytest.fixture
def saved(tmp_path, table, monkeypatch):
    monkeypatch.setattr(rows_module, "BATCH_ROWS", 128)
    with (tmp_path / "rows.arrow").open("wb") as file:
        # In pieces, as partitions come.
        write_rows(file, iter(table.to_batches(max_chunksize=333)), table.schema)
    return RowTable(tmp_path / "rows.arrow", "key")


def test_take(saved, table):
    assert len(saved) == 1000
    assert saved.columns == table.column_names
    wanted = [999, 0, 128, 127, 500, 500]
    assert saved.take(wanted) == [table.slice(row, 1).to_pylist()[0] for row in wanted]
    assert saved.take([]) == []
    assert pa.Table.from_batches(saved.batches()).equals(table)


@pytest.mark.parametrize(
    ("expression", "truth"),
    [
        ("width >= 990", lambda row: row["width"] >= 990),
        ("score > 50", lambda row: row["score"] is not None and row["score"] > 50),
        ("`two words` == True and width < 9", lambda row: row["two words"] and row["width"] < 9),
        ("caption.isna()", lambda row: row["caption"] is None),
        ("caption.str.contains('11')", lambda row: "11" in (row["caption"] or "")),
        (
            "shard == '2.tar' or key in ['0001']",
            lambda r: r["shard"] == "2.tar" or r["key"] == "0001",
        ),
        ("width < 0", lambda row: False),
    ],
)
def test_matching(saved, table, expression, truth):
    expected = [number for number, row in enumerate(table.to_pylist()) if truth(row)]
    for _ in range(2):
        found = saved.matching(expression)
        assert found.dtype == np.int64
        assert found.tolist() == expected


def test_matching_means_what_filter_means(tmp_path):
    made = make_dataset(tmp_path / "in", sizes=[7, 5])
    dataset = ImageTextPairDataset.from_webdataset(made.root, backend="cpu")
    whole = frames.to_arrow(dataset.metadata.compute())
    with (tmp_path / "rows").open("wb") as file:
        write_rows(file, iter(whole.to_batches()), plain_schema(whole.schema))
    table = RowTable(tmp_path / "rows", "key")
    for expression in (
        "width > 33 and score < 8",
        "33 <= width < 35 or score > 9",
        "caption.str.contains('picture 1')",
        "~(width in [32, 35])",
    ):
        expected = dataset.filter(expression).metadata.compute().key.tolist()
        assert [row["key"] for row in table.take(table.matching(expression))] == expected


def test_matching_refuses_what_filter_refuses(saved):
    for expression in ("width", "caption > 5", "@x > 1", "key.map(len) > 1", "1 > 0", ""):
        with pytest.raises(ConfigError):
            saved.matching(expression)
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'width'"):
        saved.matching("widht > 1")


def test_expressions_are_remembered_and_forgotten(saved, monkeypatch):
    monkeypatch.setattr(rows_module, "_REMEMBERED", 2)
    first = saved.matching("width < 5")
    assert saved.matching("width < 5") is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 7
    saved.matching("width < 6")
    saved.matching("width < 7")
    assert saved.matching("width < 5") is not first


def test_find(saved):
    assert saved.find("0500") == 500
    assert saved.find("0005", "3.tar") == 905
    assert saved.find("0005", "0.tar") == 5
    with pytest.raises(DatasetError, match=r"several shards: 0\.tar, 3\.tar"):
        saved.find("0005")
    with pytest.raises(DatasetError, match="not in the index"):
        saved.find("nothing")
    with pytest.raises(DatasetError, match=r"of 2\.tar"):
        saved.find("0005", "2.tar")


def test_no_rows(tmp_path, table):
    with (tmp_path / "rows").open("wb") as file:
        write_rows(file, iter([]), table.schema)
    empty = RowTable(tmp_path / "rows", "key")
    assert len(empty) == 0
    assert empty.matching("width > 3").tolist() == []
    with pytest.raises(ConfigError):
        empty.matching("width > 'a'")
    with pytest.raises(DatasetError):
        empty.find("0001")


def test_lists_are_no_plain_columns():
    schema = pa.schema({"key": pa.string(), "e": pa.list_(pa.float32()), "n": pa.null()})
    assert plain_schema(schema) == pa.schema({"key": pa.string(), "n": pa.string()})


@pytest.mark.parametrize("content", [b"", b"nonsense", b"ARROW1\0\0" + bytes(100)])
def test_damaged(tmp_path, content):
    (tmp_path / "rows").write_bytes(content)
    with pytest.raises(DatasetError, match="rows is damaged"):
        RowTable(tmp_path / "rows", "key")
