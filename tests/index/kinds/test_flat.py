import numpy as np

from nemo_image_curate.index.vector_index import build_index, index_path
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.index.make_index import truth


def test_flat_is_exact(tmp_path, backend):
    vectors = planted(500) * np.random.default_rng(0).uniform(0.1, 9, (500, 1)).astype(np.float32)
    dataset = write_embeddings(tmp_path / "data", vectors, 90, backend)
    built = build_index(dataset)
    assert built.recipe["kind"] == "flat"
    assert built.path == index_path(dataset, "image_embedding")
    queries = np.random.default_rng(1).standard_normal((20, 32))
    scores, rows = built.search(queries, 7)
    expected, order = truth(vectors, queries, 7)
    assert (rows == order).all()
    assert scores.dtype == np.float32
    assert np.allclose(scores, expected, atol=1e-6)
    own = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(built.vectors([3, 499, 3]), own[[3, 499, 3]], atol=1e-7)
