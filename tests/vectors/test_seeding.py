from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy.spatial import KDTree
from scipy.stats import chisquare

from nemo_image_curate.vectors.blocks import Blocks
from nemo_image_curate.vectors.seeding import _accepted, plus_plus
from tests.dedup.make_embeddings import planted
from tests.vectors.make_blocks import write_blocks


def test_proposals_are_accepted_as_if_drawn_one_at_a_time():
    """The next two centroids after the first one, against Arthur and Vassilvitskii's definition."""
    points = np.array([[0.0], [1], [1.5], [4], [9]])
    distances = (points - points.T) ** 2
    expected = {}
    for pair in permutations(range(1, 5), 2):
        nearer = np.minimum(distances[0], distances[pair[0]])
        first, second = distances[0] / distances[0].sum(), nearer / nearer.sum()
        expected[pair] = first[pair[0]] * second[pair[1]]
    chance = np.random.default_rng(0)
    drawn: Counter[tuple[int, ...]] = Counter()
    for _ in range(4000):
        proposals = chance.choice(5, 300, p=distances[0] / distances[0].sum())
        accepted = _accepted(points[proposals], distances[0][proposals], chance)
        drawn[tuple(proposals[accepted[:2]].tolist())] += 1
    assert set(drawn) <= set(expected)
    observed = [drawn[pair] for pair in expected]
    shares = np.array(list(expected.values()))
    assert chisquare(observed, 4000 * shares / shares.sum()).pvalue > 0.01


@pytest.mark.parametrize("spherical", [True, False])
def test_each_tight_cluster_gets_a_start(tmp_path, spherical, device):
    chance = np.random.default_rng(0)
    middles = chance.standard_normal((40, 32)) / np.sqrt(32)
    cluster = chance.integers(0, 40, 4000)
    vectors = middles[cluster] + 0.02 * chance.standard_normal((4000, 32)) / np.sqrt(32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    blocks = Blocks(write_blocks(tmp_path, vectors, 1500), tmp_path, device, False, spherical)

    def clusters(seed):
        starts = blocks.original(plus_plus(blocks, 40, np.random.default_rng(seed)))
        distance, row = KDTree(vectors).query(starts)
        assert distance.max() < 1e-6, "starts are some of the vectors"
        assert len(set(row.tolist())) == len(starts) == 40
        return len(set(cluster[row].tolist()))

    assert all(clusters(seed) >= 39 for seed in range(3))
    assert len(set(cluster[:40].tolist())) <= 32, "any rows would not do"
    blocks.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b0.npy", "b1.npy", "b2.npy"]


def test_more_starts_than_are_proposed_at_once(tmp_path):
    """A thousand distant pairs: as long as some have no centroid, no pair gets its second."""
    chance = np.random.default_rng(0)
    middles = chance.permutation(3000)[:, None] * np.float32([[10, 0]])
    points = np.concatenate([middles, middles + np.float32([0, 1e-3])])
    paths = write_blocks(tmp_path, points, 2500)
    blocks = Blocks(paths, tmp_path, "cpu", False, spherical=False)
    starts = blocks.original(plus_plus(blocks, 3000, np.random.default_rng(1)))
    assert len(np.unique(starts[:, 0].round())) == 3000


def test_fewer_different_vectors_than_starts(tmp_path):
    vectors = np.tile(np.float32([[1, 0], [0, 1], [-1, 0]]), (50, 1))
    blocks = Blocks(write_blocks(tmp_path, vectors, 40), tmp_path, "cpu", False, spherical=True)
    starts = plus_plus(blocks, 10, np.random.default_rng(0))
    assert sorted(starts.tolist()) == [[-1, 0], [0, 1], [1, 0]]


def test_distances_left_by_a_run_that_was_killed_are_not_taken(tmp_path):
    vectors = planted(500, copies=0)
    paths = write_blocks(tmp_path, vectors, 200)
    blocks = Blocks(paths, tmp_path, "cpu", False, spherical=True)
    clean = plus_plus(blocks, 20, np.random.default_rng(0))
    for path in paths:
        np.save(path.with_name(f"{path.stem}-distances.npy"), np.zeros(200, dtype=np.float32))
    assert (plus_plus(blocks, 20, np.random.default_rng(0)) == clean).all()
