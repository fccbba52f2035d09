import numpy as np
import pytest

from nemo_image_curate import frames
from nemo_image_curate.errors import BackendError
from nemo_image_curate.index.vector_index import build_index
from tests.dedup.make_embeddings import planted, write_embeddings


@pytest.mark.gpu
def test_a_graph_finds_what_brute_force_finds(tmp_path):
    if problem := frames.gpu_problem():
        pytest.skip(f"no GPU: {problem}")
    pytest.importorskip("cuvs")
    vectors = planted(5050, dim=64, copies=0.1, centres=40)
    columns = {"score": [float(row % 100) for row in range(5000)]}
    dataset = write_embeddings(tmp_path / "data", vectors[:5000], 1200, "gpu", **columns)
    built = build_index(dataset, kind="cuvs")
    built.scan_rows = 0
    queries = vectors[5000:]
    order = np.argsort(-(queries @ vectors[:5000].T), axis=1)[:, :10]
    found = built.search(queries, 10)[1]
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, order, strict=True)]
    assert np.mean(hits) > 9.5
    some = built.nearest(queries, 10, where="score < 50")
    assert all(len(one) == 10 and all(hit.metadata["score"] < 50 for hit in one) for one in some)


def test_without_a_gpu_it_says_so(tmp_path):
    if frames.gpu_problem() is None:
        pytest.skip("there is a GPU")
    dataset = write_embeddings(tmp_path / "data", planted(50))
    with pytest.raises(BackendError, match="kind='ivf'"):
        build_index(dataset, kind="cuvs")
