import numpy as np
from sklearn.cluster import KMeans

from nemo_image_curate.vectors.kmeans import _sums, spherical_kmeans
from tests.dedup.make_embeddings import planted


def blocks_of(folder, vectors, size):
    files = []
    for number, start in enumerate(range(0, len(vectors), size)):
        files.append(folder / f"b{number}.npy")
        np.save(files[-1], vectors[start : start + size])
    return files


def test_centroids_are_the_directions_of_their_members(tmp_path):
    vectors = planted(2000, copies=0)
    files = blocks_of(tmp_path, vectors, 600)
    centroids = spherical_kmeans(files, 12, 0, tmp_path, "cpu", False)
    assert centroids.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    similarity = (vectors @ centroids.T).max(axis=1).mean()
    start = vectors[np.random.default_rng(0).permutation(2000)[:12]]
    assert similarity > (vectors @ start.T).max(axis=1).mean() + 0.05
    theirs = KMeans(12, n_init=3, random_state=0).fit(vectors).cluster_centers_
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    assert similarity > (vectors @ theirs.T).max(axis=1).mean() - 0.02


def test_same_result_with_and_without_workers(tmp_path, client):
    vectors = planted(3000)
    files = blocks_of(tmp_path, vectors, 1000)
    apart = spherical_kmeans(files, 20, 3, tmp_path, "cpu", False)
    again = spherical_kmeans(files, 20, 3, tmp_path, "cpu", False)
    assert (apart == again).all()
    other = spherical_kmeans(files, 20, 4, tmp_path, "cpu", False)
    assert other.shape != apart.shape or (other != apart).any()


def test_sums_do_not_depend_on_the_order_of_vectors(tmp_path, backend):
    vectors = planted(3000)
    device = "cuda" if backend == "gpu" else "cpu"
    np.save(tmp_path / "centres.npy", vectors[:9])
    order = np.random.default_rng(0).permutation(3000)
    files = blocks_of(tmp_path, np.concatenate([vectors, vectors[order]]), 3000)
    found = [_sums(file, tmp_path / "centres.npy", device) for file in files]
    assert (found[0][0] == found[1][0]).all()
    assert (found[0][1] == found[1][1]).all()
    assert found[0][0].sum() == 3000
    np.testing.assert_allclose(found[0][1].sum(axis=0), vectors.sum(axis=0, dtype=float), atol=1e-5)


def test_copies_leave_no_empty_clusters(tmp_path):
    vectors = np.tile(np.float32([[1, 0], [0, 1]]), (50, 1))
    centroids = spherical_kmeans(blocks_of(tmp_path, vectors, 30), 10, 0, tmp_path, "cpu", False)
    assert sorted(centroids.tolist()) == [[0, 1], [1, 0]]


def test_vectors_that_cancel_out_keep_a_centroid(tmp_path):
    vectors = np.float32([[1, 0], [-1, 0]])
    centroids = spherical_kmeans(blocks_of(tmp_path, vectors, 2), 1, 0, tmp_path, "cpu", False)
    assert abs(centroids).tolist() == [[1, 0]]


def test_more_clusters_than_vectors(tmp_path):
    vectors = planted(5)
    assert len(spherical_kmeans(blocks_of(tmp_path, vectors, 5), 9, 0, tmp_path, "cpu", False)) <= 5
