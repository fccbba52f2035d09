"""What a dataset shows of itself, without computing."""

from __future__ import annotations

import pyarrow as pa
import pytest

from nemo_image_curate import CaptionStatistics, storage
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.looking import summary as module
from nemo_image_curate.dataset.looking.summary import summarise
from nemo_image_curate.errors import JobError
from tests.make_data import jpeg, make_dataset, write_sidecar, write_tar


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("summary")
    make_dataset(root / "in", sizes=[4, 3])
    dataset = ImageTextPairDataset.from_webdataset(root / "in")
    dataset.metadata["few"] = dataset.metadata.score.where(dataset.metadata.width > 32)
    return CaptionStatistics()(dataset).save_metadata(root / "saved", progress=False)


def column(summary, name):
    (one,) = [column for column in summary.columns if column.name == name]
    return one


def test_a_saved_dataset_knows_its_rows_nulls_and_groups(saved, backend):
    dataset = ImageTextPairDataset.from_webdataset(saved.home, backend=backend)
    summary = summarise(dataset)
    assert (summary.rows, summary.shards, summary.conditions) == (7, 2, ())
    assert summary.tar_bytes == sum(storage.stat(tar).size for tar in dataset.tar_files)
    nulls = dataset.metadata["few"].isna().sum().compute()
    few = column(summary, "few")
    assert (few.nulls, few.group, few.stored, few.made_by) == (nulls, "others", True, "")
    assert 0 < nulls < 7
    assert few.low >= 0
    assert sum(few.bars) == 7 - nulls
    assert (summary.sampled_rows, summary.sampled_files) == (7, 2)
    assert [column(summary, name).group for name in ("key", "shard", "caption")] == [
        "where the bytes are",
        "where the bytes are",
        "captions",
    ]
    words = [one for one in summary.columns if one.made_by.startswith("CaptionStatistics")]
    assert words
    assert {one.group for one in words} == {"captions"}
    assert column(summary, "key").nulls == 0


def test_nulls_of_columns_that_not_every_file_has(tmp_path):
    for shard, columns in enumerate(
        [{"a": [1, None]}, {"a": [1, 2], "s": [{"x": 1, "y": 2}, None]}]
    ):
        write_tar(tmp_path / "in" / f"{shard}.tar", [("k.jpg", jpeg(1))])
        write_sidecar(tmp_path / "in" / f"{shard}.parquet", {"key": ["k", "l"], **columns})
    dataset = ImageTextPairDataset.from_webdataset(tmp_path / "in", backend="cpu")
    assert all(one.nulls is None for one in summarise(dataset).columns), "files of others"
    saved = dataset.save_metadata(tmp_path / "out", progress=False)
    known = {one.name: one.nulls for one in summarise(saved).columns}
    assert known == {"key": 0, "shard": 0, "a": 1, "s": None}


def test_nulls_of_lists_are_told_only_where_footers_know_them(tmp_path):
    write_tar(tmp_path / "in" / "0.tar", [(f"{key}.jpg", jpeg(1)) for key in "abc"])
    columns = {
        "key": list("abc"),
        "boxes": pa.array([[], [[0.1, 0.4]], []], pa.list_(pa.list_(pa.float64()))),
        "tags": [[], ["cat"], None],
        "words": [["a"], ["b", "c"], ["d"]],
        "image_embedding": pa.array([[1.0, 0.0], None, [0.0, 1.0]], pa.list_(pa.float32())),
        "a.b": [1, None, None],
        "one": [{"x": 1}, {"x": None}, {"x": 2}],
    }
    write_sidecar(tmp_path / "in" / "0.parquet", columns)
    dataset = ImageTextPairDataset.from_webdataset(tmp_path / "in", backend="cpu")
    dataset.provenance["image_embedding"] = {"encoder": "thumb"}
    saved = dataset.save_metadata(tmp_path / "out", progress=False)
    known = {one.name: one.nulls for one in summarise(saved).columns}
    told = {"key": 0, "shard": 0, "words": 0, "image_embedding": 1, "a.b": 2}
    assert known == told | {"boxes": None, "tags": None, "one": None}


def test_nothing_is_computed(saved):
    dataset = saved.with_columns(refuse, {"dear": pa.float32()})
    summary = summarise(dataset)
    assert summary.rows == 7, "stages keep all rows"
    assert not column(summary, "dear").stored
    assert column(summary, "dear").bars == []
    assert "not computed yet" in repr(dataset)
    assert "not computed yet" in dataset._repr_html_()
    filtered = dataset.filter("dear > 1")
    summary = summarise(filtered)
    assert (summary.rows, summary.of_rows, summary.conditions) == (None, 7, ("dear > 1",))
    assert "rows not counted, of 7 before conditions" in repr(filtered)
    assert "<code>dear &gt; 1</code>" in filtered._repr_html_()
    assert summarise(saved.replace(saved.metadata.sort_values("key"))).rows is None


def test_columns_that_are_not_needed_are_not_computed_when_others_are_looked_at(saved):
    dataset = saved.with_columns(refuse, {"dear": pa.float32()})
    assert dataset.hist("few").distribution.rows == 7
    assert len(dataset.show(2, by="few").keys) == 6
    assert dataset.grid(4).width > 300
    assert dataset.show(dataset.show(1).keys).keys == saved.show(1).keys
    with pytest.raises(JobError, match="computed"):
        dataset.hist("dear", progress=False)


def refuse(frame):
    raise AssertionError("computed")


def test_assigned_columns_are_not_those_of_the_files(saved):
    dataset = saved.replace(saved.metadata)
    dataset.metadata["few"] = dataset.metadata["width"] * 2
    few = column(summarise(dataset), "few")
    assert (few.nulls, few.stored, few.bars) == (None, False, [])
    assert column(summarise(dataset.select(["width"])), "width").bars


def test_columns_of_the_tars_themselves(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.jpg", jpeg(1)), ("a.txt", b"words")])
    summary = summarise(ImageTextPairDataset.from_webdataset(tmp_path))
    assert (summary.rows, summary.sidecar_bytes, summary.sampled_rows) == (None, None, 0)
    assert "rows not counted (len counts them)" in repr(
        ImageTextPairDataset.from_webdataset(tmp_path)
    )


def test_hostile_names_are_text(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.jpg", jpeg(1))])
    name = "</script><b onload='x'>"
    write_sidecar(tmp_path / "0.parquet", {"key": ["a"], name: [1]})
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    assert "<b onload" not in dataset._repr_html_()
    assert "&lt;/script&gt;" in dataset._repr_html_()
    assert name in repr(dataset)


def test_it_is_told_when_files_are_gone_and_a_failure_is_one_line(tmp_path, saved, monkeypatch):
    make_dataset(tmp_path, sizes=[2])
    dataset = ImageTextPairDataset.from_webdataset(tmp_path).save_metadata(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.parquet")).unlink()
    assert "2 rows" in repr(dataset)
    assert "2 rows" in dataset._repr_html_()
    saved = saved.replace(saved.metadata)
    saved.metadata = None
    assert "\n" not in repr(saved)
    assert repr(saved).startswith(f"ImageTextPairDataset({saved.path!r}); AttributeError")
    assert saved._repr_html_() is None


def test_many_columns_and_footers_are_limited(saved, monkeypatch):
    monkeypatch.setattr(module, "MAX_FOOTERS", 1)
    monkeypatch.setattr(module, "SAMPLED_FILES", 1)
    monkeypatch.setattr(module, "SAMPLED_COLUMNS", 1)
    summary = summarise(saved)
    assert all(one.nulls is None for one in summary.columns)
    assert (summary.sampled_files, sum(bool(one.bars) for one in summary.columns)) == (1, 1)
