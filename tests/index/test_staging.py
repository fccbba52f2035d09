import numpy as np
import pytest

from nemo_image_curate.errors import ColumnNotFoundError, DatasetError
from nemo_image_curate.index import staging
from nemo_image_curate.index.staging import StagedPartitions
from nemo_image_curate.index.vector_index import VectorIndex, build_index
from tests.dedup.make_embeddings import planted, write_embeddings


def test_rows_without_a_direction_are_left_out(tmp_path, backend):
    good = np.float32([0.6, 0.8])
    vectors = [None, good, [0, 0], [np.nan, 1], [1, 0], None, [0, -2], [np.inf, 0]]
    # The last shard holds nothing that can be found, another one nothing at all.
    dataset = write_embeddings(tmp_path / "data", vectors, 7, backend)
    built = build_index(dataset)
    assert (len(built), built.recipe["left_out"]) == (3, 5)
    hits = built.nearest(np.float32([[0.6, 0.8]]), 9)[0]
    assert [hit.key for hit in hits] == ["000001", "000004", "000006"]
    assert [hit.score for hit in hits] == pytest.approx([1, 0.6, -0.8])
    assert len(VectorIndex.load(built.path, dataset)) == 3


def test_nothing_to_index(tmp_path):
    for name, vectors in {"none": [], "null": [None, None], "zero": [[0, 0]]}.items():
        dataset = write_embeddings(tmp_path / name, vectors)
        with pytest.raises(DatasetError, match=r"none of .* has an embedding"):
            build_index(dataset)
    with pytest.raises(ColumnNotFoundError):
        build_index(dataset, "text_embedding")
    dataset = write_embeddings(tmp_path / "mixed", [[1, 0], [1, 0, 0]], 1)
    with pytest.raises(DatasetError, match=r"of 2 values in 00000.tar and of 3 in 00001.tar"):
        build_index(dataset)


def test_partitions_are_read_once(tmp_path, monkeypatch):
    vectors = [*planted(9), None]
    dataset = write_embeddings(tmp_path / "data", vectors, 4, score=list(range(10)))
    staged = StagedPartitions(dataset, "image_embedding", tmp_path / "parts", False)
    assert len(staged) == 3
    rows_alone = staged.read([2], with_vectors=False)
    assert list(rows_alone) == [2]
    assert (rows_alone[2].rows, rows_alone[2].indexed, rows_alone[2].dim) == (2, 1, 32)
    partitions = staged.read(range(3))
    assert [one.shard for one in partitions.values()] == ["00000.tar", "00001.tar", "00002.tar"]
    assert partitions[2] == rows_alone[2]
    assert len({one.digest for one in partitions.values()}) == 3
    assert np.allclose(staged.vectors(1, 32), vectors[4:8], atol=1e-6)
    (batch,) = staged.row_batches(2)
    assert batch.to_pylist() == [{"key": "000008", "shard": "00002.tar", "score": 8}]
    monkeypatch.setattr(staging, "_read_partition", lambda *args: 1 / 0)
    again = StagedPartitions(dataset, "image_embedding", tmp_path / "parts", False)
    assert again.read(range(3)) == partitions
    assert again.read([1], with_vectors=False) == {1: partitions[1]}
