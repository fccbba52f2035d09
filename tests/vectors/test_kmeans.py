from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree
from scipy.stats import entropy
from sklearn.cluster import KMeans

from nemo_image_curate.vectors.blocks import Block
from nemo_image_curate.vectors.kmeans import _sums, kmeans
from tests.dedup.make_embeddings import planted
from tests.vectors.make_blocks import five_rings, write_blocks

INITS = ["k-means++", "random"]


@pytest.mark.parametrize("init", INITS)
def test_centroids_are_the_directions_of_their_members(tmp_path, init):
    vectors = planted(2000, copies=0)
    paths = write_blocks(tmp_path, vectors, 600)

    def similarity(centroids):
        return (vectors @ centroids.T).max(axis=1).mean()

    results = [kmeans(paths, 12, seed, tmp_path, "cpu", False, init=init) for seed in range(3)]
    for seed, centroids in enumerate(results):
        assert centroids.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
        start = vectors[np.random.default_rng(seed).permutation(2000)[:12]]
        assert similarity(centroids) > similarity(start) + 0.05
    theirs = KMeans(12, n_init=3, random_state=0).fit(vectors).cluster_centers_
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    # 0.026 less is what two starts in one of the twelve clusters cost.
    assert max(map(similarity, results)) > similarity(theirs) - 0.03
    assert sorted(tmp_path.iterdir()) == paths, "nothing is left"


@pytest.mark.parametrize("offset", [0, 1e4])
def test_euclidean_centroids_are_the_means_of_their_members(tmp_path, offset, device):
    points = five_rings(0, share=0.1)[0] + np.float32(offset)
    paths = write_blocks(tmp_path, points, 1000)
    options = {"spherical": False, "max_iter": 100, "tol": 0}
    centroids = kmeans(paths, 20, 0, tmp_path, device, False, **options)
    distance, home = KDTree(centroids).query(points)
    means = [points[home == number].mean(axis=0, dtype=float) for number in range(20)]
    # At 10,000 float32 has steps of 0.001.
    np.testing.assert_allclose(centroids, means, atol=2e-3 if offset else 1e-5)
    theirs = KMeans(20, n_init=3, random_state=0).fit(points.astype(float)).inertia_
    assert (distance**2).sum() < theirs * 1.15


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("spherical", [True, False])
def test_same_result_with_and_without_workers(tmp_path, request, spherical, init):
    vectors = planted(3000)
    paths = write_blocks(tmp_path, vectors, 400)

    def centroids(seed):
        return kmeans(paths, 20, seed, tmp_path, "cpu", False, spherical=spherical, init=init)

    alone = centroids(3)
    request.getfixturevalue("client")
    assert (centroids(3) == alone).all()
    of_another_seed = centroids(4)
    assert of_another_seed.shape != alone.shape or (of_another_seed != alone).any()


@pytest.mark.parametrize("seed", range(3))
def test_centroids_cover_sparse_regions(tmp_path, seed):
    """In each place, however many points are there (docstring of `five_rings`)."""
    points, rings = five_rings(seed, share=0.1)
    paths = write_blocks(tmp_path, points, 1000)

    def evenness(init):
        """Entropy of the rings that centroids lie in, over ln 5."""
        options = {"spherical": False, "init": init}
        centroids = kmeans(paths, 100, seed, tmp_path, "cpu", False, **options)
        return entropy(np.bincount(rings[KDTree(points).query(centroids)[1]])) / np.log(5)

    assert evenness("k-means++") > 0.7
    assert evenness("random") < 0.65


def test_sums_do_not_depend_on_the_order_of_vectors(tmp_path, device):
    vectors = planted(3000)
    np.save(tmp_path / "centroids.npy", vectors[:9])
    order = np.random.default_rng(0).permutation(3000)
    paths = write_blocks(tmp_path / "blocks", np.concatenate([vectors, vectors[order]]), 3000)
    results = [_sums(Block(path, device, None, 1.0), tmp_path / "centroids.npy") for path in paths]
    (counts, sums, _), (counts_reordered, sums_reordered, _) = results
    assert (counts == counts_reordered).all()
    assert (sums == sums_reordered).all()
    assert counts.sum() == 3000
    np.testing.assert_allclose(sums.sum(axis=0), vectors.sum(axis=0, dtype=float), atol=1e-5)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("spherical", [True, False])
def test_copies_leave_no_empty_clusters(tmp_path, spherical, init):
    vectors = np.tile(np.float32([[1, 0], [0, 1]]), (50, 1))
    paths = write_blocks(tmp_path, vectors, 30)
    options = {"spherical": spherical, "init": init}
    centroids = kmeans(paths, 10, 0, tmp_path, "cpu", False, **options)
    assert sorted(centroids.tolist()) == [[0, 1], [1, 0]]


def test_vectors_that_cancel_out_keep_a_centroid(tmp_path):
    paths = write_blocks(tmp_path, np.float32([[1, 0], [-1, 0]]), 2)
    assert abs(kmeans(paths, 1, 0, tmp_path, "cpu", False)).tolist() == [[1, 0]]


@pytest.mark.parametrize("init", INITS)
def test_more_clusters_than_vectors(tmp_path, init):
    paths = write_blocks(tmp_path, planted(5), 5)
    assert len(kmeans(paths, 9, 0, tmp_path, "cpu", False, init=init)) == 5


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_euclidean_clusters_of_equal_vectors(tmp_path, value):
    paths = write_blocks(tmp_path, np.full((7, 2), value, dtype=np.float32), 3)
    centroids = kmeans(paths, 3, 0, tmp_path, "cpu", False, spherical=False)
    assert centroids.tolist() == [[value, value]]
