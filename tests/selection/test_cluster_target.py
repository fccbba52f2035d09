"""DataComp's image-based filter against NumPy, given the same centroids."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nemo_image_curate import ClusterTarget, frames
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.errors import ConfigError, DatasetError
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.make_embedders import rows

DIM, K = 16, 12
IMAGES = planted(400, DIM, copies=0, centres=20, seed=1)
# Near three of them alone.
TARGETS = 3 * (
    np.repeat(IMAGES[[0, 50, 100]], 20, axis=0)
    + np.random.default_rng(2).normal(scale=0.02, size=(60, DIM))
)
WITHOUT = {4: None, 7: np.zeros(DIM)}
NAMES = ("is_near_target", "target_cluster")


@pytest.fixture(scope="module", params=["cpu", pytest.param("gpu", marks=[pytest.mark.gpu])])
def ds(request, tmp_path_factory):
    if request.param == "gpu" and (problem := frames.gpu_problem()):
        pytest.skip(f"no GPU: {problem}")
    some = [WITHOUT.get(row, vector) for row, vector in enumerate(IMAGES)]
    return write_embeddings(tmp_path_factory.mktemp("in") / "ds", some, 90, request.param)


def decided(dataset) -> dict[str, tuple]:
    return {row["key"]: tuple(row[name] for name in NAMES) for row in rows(dataset)}


def plain(centroids: np.ndarray) -> list[tuple]:
    """The filter in a few lines: hits of the target, and rows that share their clusters."""
    homes = (IMAGES.astype(np.float64) @ centroids.T).argmax(axis=1)
    hits = set((TARGETS.astype(np.float64) @ centroids.T).argmax(axis=1).tolist())
    return [
        (None, None) if row in WITHOUT else (int(home) in hits, int(home))
        for row, home in enumerate(homes)
    ]


def test_rows_in_the_clusters_of_the_target(ds, tmp_path):
    made = ClusterTarget(TARGETS, K, work_dir=tmp_path / "work")(ds)
    found = list(decided(made).values())
    (place,) = (tmp_path / "work").rglob("centroids.npy")
    centroids = np.load(place)
    assert centroids.shape == (K, DIM)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)
    assert found == plain(centroids)
    near = [decision for decision, _ in found]
    assert 20 < near.count(True) < 200
    assert near.count(None) == len(WITHOUT)
    # All of the clusters are there, and none of the work that led to them.
    assert {cluster for _, cluster in found} == {None, *range(K)}
    assert not list(place.parent.glob("steps"))


@pytest.mark.parametrize("as_path", [True, False])
def test_given_centroids_are_compared_by_cosine(ds, tmp_path, as_path):
    centroids = np.random.default_rng(3).normal(size=(30, DIM)).astype(np.float32)
    lengths = np.linspace(0.1, 5, 30, dtype=np.float32)[:, None]
    np.save(tmp_path / "given.npy", centroids * lengths)
    given = tmp_path / "given.npy" if as_path else centroids * lengths
    unit = centroids.astype(np.float64) / np.linalg.norm(centroids, axis=1, keepdims=True)
    stage = ClusterTarget(TARGETS, centroids=given, work_dir=tmp_path / "work")
    assert list(decided(stage(ds)).values()) == plain(unit)
    assert stage.centroids is given


def test_partitions_and_workers_do_not_show(ds, tmp_path, client):
    stage = ClusterTarget(TARGETS, K, sample_share=0.5, work_dir=tmp_path, prefix="a_")
    made = [stage(ds.replace(ds.metadata.repartition(npartitions=n))) for n in (5, 1)]
    found = [
        {row["key"]: (row["a_is_near_target"], row["a_target_cluster"]) for row in rows(each)}
        for each in made
    ]
    assert found[0] == found[1]
    assert Lineage(made[0].metadata).token != Lineage(ds.metadata).token


def test_a_target_as_a_dataset_and_what_is_recorded(ds, tmp_path):
    target = write_embeddings(tmp_path / "target", [None, *TARGETS], 20, ds.backend)
    of_array = ClusterTarget(TARGETS, K, work_dir=tmp_path / "work")(ds)
    of_dataset = ClusterTarget(target, K, work_dir=tmp_path / "work")(ds)
    assert decided(of_array) == decided(of_dataset)
    # Clusters are found once for both.
    assert len(list((tmp_path / "work").rglob("centroids.npy"))) == 1
    record = of_dataset.provenance["is_near_target"]
    assert (record["stage"], record["n_clusters"], record["max_iter"]) == ("ClusterTarget", K, 20)
    assert json.dumps(record)
    # The same clusters, and the same of them: it does not matter how the target lies in files.
    tokens = {Lineage(each.metadata).token for each in (of_array, of_dataset)}
    assert len(tokens) == 1


def test_a_number_of_clusters_that_goes_with_the_rows():
    sizes = {n: ClusterTarget(TARGETS)._sizes(n) for n in (1, 1000, 12_800_000, 384_000_000)}
    assert sizes[1] == (1, 256)
    assert sizes[1000] == (7, 7 * 256)
    assert sizes[12_800_000] == (100_000, 25_600_000)
    assert sizes[384_000_000] == (100_000, 25_600_000)
    assert ClusterTarget(TARGETS, 50, sample_share=0.03)._sizes(10_000) == (50, 300)


def test_nothing_is_near_where_there_is_nothing(ds, tmp_path):
    empty = write_embeddings(tmp_path / "none", [None, None], backend=ds.backend)
    made = ClusterTarget(TARGETS, K, work_dir=tmp_path / "work")(empty)
    assert set(decided(made).values()) == {(None, None)}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"n_clusters": 0}, "n_clusters=0 should be an integer of at least 1"),
        ({"n_clusters": "many"}, "n_clusters='many'"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"sample_share": 0}, "sample_share=0 should be a number above 0 and 1 at most"),
        ({"sample_share": 1.5}, "sample_share=1.5"),
        ({"centroids": np.ones(3)}, r"centroids of shape \(3,\)"),
        ({"centroids": np.eye(DIM) * (np.arange(DIM) > 0)}, "centroid 0 is zero or not finite"),
    ],
)
def test_unusable_settings_are_refused(ds, tmp_path, options, reason):
    with pytest.raises(ConfigError, match=reason):
        ClusterTarget(TARGETS, **{"work_dir": tmp_path, **options})(ds)


def test_other_widths_are_refused(ds, tmp_path):
    with pytest.raises(DatasetError, match="centroids of 16 values, embeddings of 5 in the target"):
        ClusterTarget(TARGETS[:, :5], K, work_dir=tmp_path)(ds)
    narrow = np.eye(5, dtype=np.float32)
    made = ClusterTarget(TARGETS[:, :5], centroids=narrow, work_dir=tmp_path)(ds)
    with pytest.raises(DatasetError, match="of 16 values in column 'image_embedding', of 5"):
        made.metadata.compute()
