"""The list of a folder's files follows the tars."""

from __future__ import annotations

import logging

import pytest

from nemo_image_curate.errors import DatasetError
from tests.dataset.opened import open_dataset, rows_of


def test_rows_of_removed_shards_go_and_are_told(made, tmp_path, caplog):
    meta = tmp_path / "meta"
    open_dataset(made.root).save_metadata(meta)
    for name in ("00001.tar", "00001.parquet"):
        (made.root / name).unlink()
    with caplog.at_level(logging.WARNING):
        saved = open_dataset(made.root).save_metadata(meta)
    assert {row["shard"] for row in rows_of(saved)} == {"00000.tar", "00002.tar"}
    names = ["00000.parquet", "00002.parquet", "_dataset.json"]
    assert sorted(path.name for path in meta.iterdir()) == names
    assert "the tars of 1 files are gone" in caplog.text
    assert "00001.parquet" in caplog.text


def test_files_of_shards_that_another_job_may_want_stay(made, tmp_path, caplog):
    meta = tmp_path / "meta"
    open_dataset(made.root).save_metadata(meta)
    with caplog.at_level(logging.WARNING):
        saved = open_dataset(str(made.root / "00002.tar")).save_metadata(meta)
    assert {row["shard"] for row in rows_of(saved)} == {"00002.tar"}
    assert len(list(meta.glob("*.parquet"))) == 3
    assert "2 files of shards that are not in this dataset stay" in caplog.text


@pytest.mark.parametrize(
    "content", [b"[]", b'{"format": 1}', b'{"files": 5}', b"\xff", b"", b"[" * 100_000]
)
def test_a_damaged_list_is_refused_and_written_anew(made, tmp_path, content):
    meta = tmp_path / "meta"
    open_dataset(made.root).save_metadata(meta)
    (meta / "_dataset.json").write_bytes(content)
    with pytest.raises(DatasetError):
        open_dataset(meta)
    assert len(open_dataset(made.root).save_metadata(meta)) == 12
