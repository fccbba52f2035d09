import numpy as np
import pytest

from nemo_image_curate.errors import ColumnNotFoundError, DatasetError
from nemo_image_curate.index.vector_index import VectorIndex, build_index
from tests.dedup.make_embeddings import write_embeddings


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
