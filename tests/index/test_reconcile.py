import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate.errors import DatasetError
from nemo_image_curate.index import reconcile
from nemo_image_curate.index.vector_index import VectorIndex, build_index, index_path
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.index.make_index import opened
from tests.make_data import make_dataset
from tests.make_embedders import ThumbEmbedder


def rewrite(sidecar: Path, change) -> None:
    pq.write_table(change(pq.read_table(sidecar)), sidecar)


def other_embeddings(table: pa.Table) -> pa.Table:
    values = np.array(table["image_embedding"].to_pylist(), dtype=np.float32)
    values[3] = -values[3]
    column = pa.array(values.tolist(), pa.list_(pa.float32()))
    return table.set_column(table.column_names.index("image_embedding"), "image_embedding", column)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.slice(0, 90), r"has 10 embeddings that the dataset has not.*000190"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1).set_column(
            table.column_names.index("key"), "key", pa.array(["new"]))]),
         r"dataset has 1 embeddings that the index .* has not.*'new' of 00001.tar"),
        (other_embeddings, r"other embeddings.*in 1 partitions: 00001\.tar"),
        (lambda table: table.take(list(range(99, -1, -1))), "rows in another order"),
    ],
)  # fmt: skip
def test_another_dataset_is_refused(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(reconcile, "_COMPARED_ROWS", 30)
    dataset = write_embeddings(tmp_path / "data", planted(300), 100)
    built = build_index(dataset)
    rewrite(tmp_path / "data" / "00001.parquet", change)
    with pytest.raises(DatasetError, match=message) as caught:
        VectorIndex.load(built.path, opened(tmp_path / "data"))
    assert "build_index(dataset)" in str(caught.value)
    # Refused as before, and the index is as it was.
    with pytest.raises(DatasetError, match=message):
        VectorIndex.load(built.path, opened(tmp_path / "data"))
    assert len(VectorIndex.load(built.path)) == 300
    assert len(build_index(opened(tmp_path / "data"))) in (290, 300, 301)


def test_a_part_of_a_dataset_is_refused(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(300), 100, width=list(range(300)))
    built = build_index(dataset)
    with pytest.raises(DatasetError, match="where="):
        VectorIndex.load(built.path, dataset.filter("width < 150"))
    os.remove(tmp_path / "data" / "00001.tar")
    os.remove(tmp_path / "data" / "00001.parquet")
    with pytest.raises(DatasetError, match="has 100 embeddings that the dataset has not"):
        VectorIndex.load(built.path, opened(tmp_path / "data"))


def test_a_dataset_that_was_moved(tmp_path):
    dataset = write_embeddings(tmp_path / "data", planted(300), 100)
    build_index(dataset)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = opened(tmp_path / "moved")
    assert len(VectorIndex.load(index_path(moved), moved)) == 300


def test_another_encoder_is_refused(tmp_path):
    made = make_dataset(tmp_path / "in", sizes=[5, 4])
    plain = opened(made.root)
    saved = ThumbEmbedder()(plain).save_metadata(tmp_path / "meta")
    built = build_index(saved)

    class Other(ThumbEmbedder):
        def encoder(self):
            return "other"

    other = Other()(plain).save_metadata(tmp_path / "other")
    with pytest.raises(DatasetError, match=r"by 'thumb', but the dataset's are by 'other'"):
        VectorIndex.load(built.path, other)
    with pytest.raises(DatasetError, match="by 'thumb'"):
        built.add(other)
    mixed = saved.replace(saved.metadata, {"image_embedding": {"conflict": "by two models"}})
    with pytest.raises(DatasetError, match="by two models"):
        build_index(mixed, path=tmp_path / "mixed")
