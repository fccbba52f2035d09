"""ClusterBudget: the published allocation, the hardest rows of each cluster, for any partitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from nemo_image_curate import ClusterBudget
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.make_data import digests
from tests.selection.make_choices import rearranged, table, values

SIZES = (200, 120, 60, 15, 4, 1)


@pytest.fixture(scope="module")
def vectors():
    """Of any length, in clusters of very different sizes; one is missing."""
    vectors = list(planted(400) * np.random.default_rng(1).uniform(0.1, 9, (400, 1)))
    vectors[7] = None
    return vectors


@pytest.fixture(scope="module")
def clusters():
    clusters = np.random.default_rng(2).permutation(np.repeat(np.arange(6), SIZES)).tolist()
    clusters[9] = None
    return clusters


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, vectors, clusters):
    folder = tmp_path_factory.mktemp("budget") / "data"
    names = [None if cluster is None else f"cluster {cluster}" for cluster in clusters]
    return write_embeddings(folder, vectors, 90, cluster=clusters, name=names)


def expected(vectors, clusters, ratio, temperature):
    """The parts by a general solver, and each row's cosine with its centroid; plainly in numpy."""
    rows = [row for row in range(400) if row not in (7, 9)]
    unit = np.full((400, 32), np.nan)
    for row in rows:
        unit[row] = vectors[row] / np.linalg.norm(vectors[row])
    members = [[row for row in rows if clusters[row] == number] for number in range(6)]
    centroids = np.stack([unit[own].mean(axis=0) for own in members])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    cosine = np.array([unit[row] @ centroids[clusters[row] or 0] for row in range(400)])
    intra = np.array([1 - cosine[own].mean() for own in members])
    inter = np.array([(1 - centroids @ centroids[number]).sum() / 5 for number in range(6)])
    share = np.exp(inter * intra / temperature)
    share /= share.sum()
    sizes = np.array([len(own) for own in members])
    total = round(ratio * 398)
    lower = np.minimum(int(0.5 * total / 6), sizes - 1)
    solved = minimize(
        lambda x: 0.5 * np.square(x - share * total).sum(),
        np.clip(sizes * ratio, lower, sizes),
        jac=lambda x: x - share * total,
        bounds=list(zip(lower, sizes, strict=True)),
        constraints={"type": "eq", "fun": lambda x: x.sum() - total},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    return total, solved.x, members, cosine


@pytest.mark.parametrize(("ratio", "temperature"), [(0.3, 0.1), (0.6, 0.02), (1.0, 0.1)])
def test_budgets_are_those_of_a_general_solver(
    dataset, vectors, clusters, tmp_path, ratio, temperature
):
    total, parts, members, cosine = expected(vectors, clusters, ratio, temperature)
    selected = values(ClusterBudget(ratio, temperature, work_dir=tmp_path)(dataset), "selected")
    assert [row for row, value in enumerate(selected) if value is None] == [7, 9]
    assert sum(map(bool, selected)) == total
    for part, own in zip(parts, members, strict=True):
        chosen = [row for row in own if selected[row]]
        assert abs(len(chosen) - part) < 1 + 1e-4
        # Those farthest from the centroid.
        left = [cosine[row] for row in own if not selected[row]]
        assert not chosen or not left or max(cosine[chosen]) <= min(left)


@pytest.mark.parametrize("which", ["easy", "random"])
def test_which_rows_of_a_cluster(dataset, vectors, clusters, tmp_path, backend, which):
    data = dataset
    if backend == "gpu":
        data = write_embeddings(tmp_path / "data", vectors, 90, backend, cluster=clusters)
    total, parts, members, cosine = expected(vectors, clusters, 0.3, 0.1)
    selected = values(ClusterBudget(0.3, which=which, work_dir=tmp_path / "work")(data), "selected")
    assert sum(map(bool, selected)) == total
    is_nearest = []
    for part, own in zip(parts, members, strict=True):
        chosen = [row for row in own if selected[row]]
        assert abs(len(chosen) - part) < 1 + 1e-4
        left = [cosine[row] for row in own if not selected[row]]
        is_nearest.append(not chosen or not left or min(cosine[chosen]) >= max(left))
    assert all(is_nearest) == (which == "easy")


def test_the_same_for_any_partitions_and_workers(dataset, tmp_path, request):
    stage = ClusterBudget(0.4, cluster_column="name", work_dir=tmp_path / "work")
    alone = table(stage(dataset))
    by_number = values(ClusterBudget(0.4, work_dir=tmp_path / "work")(dataset), "selected")
    assert alone["selected"].to_pylist() == by_number
    assert table(stage(rearranged(dataset))).equals(alone)
    stage(dataset).save_metadata(tmp_path / "alone")
    request.getfixturevalue("client")
    other = ClusterBudget(0.4, cluster_column="name", work_dir=tmp_path / "two")(dataset)
    other.save_metadata(tmp_path / "saved")
    assert digests(tmp_path / "saved") == digests(tmp_path / "alone")


def test_one_cluster_and_none(tmp_path):
    vectors = planted(20)
    one = write_embeddings(tmp_path / "one", vectors, 20, cluster=[3] * 20)
    selected = values(ClusterBudget(0.5, work_dir=tmp_path / "work")(one), "selected")
    assert sum(selected) == 10
    none = write_embeddings(tmp_path / "none", [None] * 4, 2, cluster=[3, None, 3, 3])
    assert values(ClusterBudget(0.5, work_dir=tmp_path / "work")(none), "selected") == [None] * 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ratio": 0}, ConfigError, "ratio=0 should be a number above 0 and 1 at most"),
        ({"ratio": 1.5}, ConfigError, "ratio=1.5 should be a number above 0 and 1 at most"),
        ({"ratio": 0.5, "temperature": 0}, ConfigError, "temperature=0 should be a number above 0"),
        ({"ratio": 0.5, "which": "first"}, ConfigError, "which='first' should be one of"),
        ({"ratio": 0.5, "cluster_column": "clusters"}, ColumnNotFoundError, "mean 'cluster'"),
    ],
)
def test_what_cannot_be(dataset, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        ClusterBudget(**options, work_dir=tmp_path)(dataset)
