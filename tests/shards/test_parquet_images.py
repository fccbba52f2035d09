"""Images in columns of Parquet files become shards."""

from __future__ import annotations

import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import ImageTextPairDataset, inspect_dataset
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError, SchemaError
from nemo_image_curate.shards.parquet_images import find_tables, pack_tables
from tests.make_data import jpeg, read_tar
from tests.make_embedders import rows

HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path, row_group_size=None, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def images(count, first=0):
    return [
        {"bytes": jpeg(first + n, kind="PNG" if n % 2 else "JPEG"), "path": f"{first + n}.x"}
        for n in range(count)
    ]


@pytest.mark.parametrize("group", [1, 2, 5, 100])
def test_rows_become_samples_in_their_order(tmp_path, group):
    for number, count in enumerate((5, 3)):
        write(
            tmp_path / "hf" / f"train-{number}.parquet",
            row_group_size=group,
            image=pa.array(images(count, 10 * number), HF),
            text=[f"caption {number} {row}" for row in range(count)],
            label=range(count),
        )
    tables = find_tables([tmp_path / "hf"])
    summary = pack_tables(tables, tmp_path / "out", samples_per_shard=3)
    assert (summary.samples, summary.captioned, summary.rows, summary.unreadable) == (8, 8, 8, 0)
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "out")
    found = rows(ds)
    assert [row["file"] for row in found] == [f"{n}.x" for n in (0, 1, 2, 3, 4, 10, 11, 12)]
    assert [row["label"] for row in found] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert found[5]["caption"] == "caption 1 0"
    second = read_tar(tmp_path / "out" / "00001.tar")
    assert list(second)[:3] == ["000010.png", "000010.txt", "000010.json"]
    assert second["000010.png"] == jpeg(3, kind="PNG")
    assert inspect_dataset(ds)["faults"] == []
    (tmp_path / "out" / "00001.parquet").unlink()
    before = (tmp_path / "out" / "00001.tar").read_bytes()
    assert pack_tables(tables, tmp_path / "out", samples_per_shard=3) == summary
    assert (tmp_path / "out" / "00001.tar").read_bytes() == before


def test_rows_without_bytes_are_counted_and_named(tmp_path, caplog):
    nothing = [None, {"bytes": None, "path": "elsewhere.jpg"}, {"bytes": b"", "path": ""}]
    values = [*images(2), *nothing]
    table = write(tmp_path / "a.parquet", image=pa.array(values, HF))
    summary = pack_tables([table], tmp_path / "out")
    assert (summary.samples, summary.unreadable, summary.rows_without_image) == (2, 3, 3)
    assert f"{table} row 2 (no bytes of an image)" in caplog.text
    again = pack_tables([table], tmp_path / "out")
    assert again == summary
    table = write(tmp_path / "b.parquet", image=pa.array(nothing, HF))
    with pytest.raises(DatasetError, match="no row has an image"):
        pack_tables([table], tmp_path / "none")


def test_columns_of_every_kind(tmp_path, caplog):
    moment = datetime.datetime(2020, 1, 2, 3)
    table = write(
        tmp_path / "a.parquet",
        jpg=pa.array([jpeg(1), jpeg(2)], pa.large_binary()),
        caption=[["one", "two"], []],
        key=["a", "b"],
        shard=[1, 2],
        when=[moment, None],
        price=[decimal.Decimal("1.50"), decimal.Decimal("22.125")],
        boxes=[[{"x": 1, "day": moment}], []],
        vector=pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        tags=pa.array([[], ["x"]], pa.list_(pa.string())),
        mask=pa.array([b"m", b"n"]),
        views=pa.array([images(1), []], pa.list_(HF)),
    )
    summary = pack_tables([table], tmp_path / "out", samples_per_shard=1)
    assert summary.columns_left_out == ["mask", "views"]
    first, second = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    assert (first["caption"], first["captions"], second["caption"]) == ("one", ["one", "two"], None)
    assert (first["original_key"], second["original_shard"]) == ("a", 2)
    assert first["file"] == "a.parquet/0"
    assert first["when"] == moment
    assert [float(row["price"]) for row in (first, second)] == [1.5, 22.125]
    assert first["boxes"] == '[{"x": 1, "day": "2020-01-02 03:00:00"}]'
    assert list(second["vector"]) == [3.0, 4.0]
    assert "mask" not in first
    assert "'mask' holds bytes, too" in caplog.text
    assert "'views' holds bytes, too" in caplog.text


def test_which_column_has_the_images(tmp_path):
    values = pa.array([jpeg(1)])
    table = write(tmp_path / "a.parquet", left=values, right=pa.array([jpeg(2)]), n=[1])
    with pytest.raises(ConfigError, match=r"left, right may hold .*--image-column left"):
        pack_tables([table], tmp_path / "out")
    pack_tables([table], tmp_path / "out", image_column="right")
    assert read_tar(tmp_path / "out" / "00000.tar")["000000000.jpg"] == jpeg(2)
    with pytest.raises(ColumnNotFoundError):
        pack_tables([table], tmp_path / "other", image_column="middle")
    with pytest.raises(ConfigError, match="'n' is int64, not bytes"):
        pack_tables([table], tmp_path / "other", image_column="n")
    urls = write(tmp_path / "b.parquet", url=["http://a/b.jpg"])
    with pytest.raises(DatasetError, match=r"b\.parquet holds no images; its columns are url"):
        pack_tables([urls], tmp_path / "other")
    (tmp_path / "half.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"half\.parquet is no readable Parquet file"):
        pack_tables([tmp_path / "half.parquet"], tmp_path / "other")


def test_types_of_several_files(tmp_path):
    first = write(tmp_path / "a.parquet", image=pa.array([jpeg(1)]), n=[1])
    second = write(tmp_path / "b.parquet", image=pa.array([jpeg(2)]), n=[2.5], more=["x"])
    pack_tables([first, second], tmp_path / "out", samples_per_shard=1)
    found = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    assert [(row["n"], row["more"]) for row in found] == [(1.0, None), (2.5, "x")]
    third = write(tmp_path / "c.parquet", image=pa.array([jpeg(3)]), n=["three"])
    with pytest.raises(SchemaError, match=r"c\.parquet: column 'n' is string, but double"):
        pack_tables([first, second, third], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_which_paths_are_tables(tmp_path):
    table = write(tmp_path / "hf" / "data" / "a.parquet", n=[1])
    (tmp_path / "hf" / "README.md").write_text("x")
    (tmp_path / "hf" / ".cache").mkdir()
    assert find_tables([tmp_path / "hf"]) == [table]
    assert find_tables([table]) == [table]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(jpeg(1))
    assert find_tables([tmp_path / "photos"]) == []
    assert find_tables([tmp_path / "hf", tmp_path / "photos"]) == []
    (tmp_path / "hf" / "a.tar").write_bytes(b"")
    assert find_tables([tmp_path / "hf"]) == []
