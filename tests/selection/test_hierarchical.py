"""HierarchicalClusters: nearest centroids in levels, for any partitions; what was found is kept."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import HierarchicalClusters
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError
from nemo_image_curate.selection import hierarchical
from tests.dedup.datasets import dataset as pictures
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.make_data import digests, jpeg
from tests.make_embedders import ThumbEmbedder
from tests.selection.make_choices import rearranged, table, values

LEVELS = (30, 6)


@pytest.fixture(scope="module")
def vectors():
    """Of any length; one is missing, one zero, one not finite."""
    vectors = list(planted(900) * np.random.default_rng(1).uniform(0.1, 9, (900, 1)))
    vectors[5], vectors[6], vectors[7] = None, np.zeros(32), np.full(32, np.nan)
    return vectors


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, vectors):
    return write_embeddings(tmp_path_factory.mktemp("hierarchical") / "data", vectors, 250)


def stage(work, steps=1, **options):
    return HierarchicalClusters(LEVELS, steps, work_dir=work, **options)


@pytest.mark.parametrize("normalize", [True, False])
def test_rows_have_the_nearest_centroid_and_those_above_it(tmp_path, vectors, backend, normalize):
    data = write_embeddings(tmp_path / "data", vectors, 250, backend)
    found = table(stage(tmp_path / "work", normalize=normalize)(data))
    assert found.schema.field("cluster_1").type == pa.int32()
    first, second = (found[name].to_pylist() for name in ("cluster_1", "cluster_2"))
    distance = found["centroid_distance"].to_pylist()
    unusable = [5, 6, 7] if normalize else [5, 7]
    for column in (first, second, distance):
        assert [row for row, value in enumerate(column) if value is None] == unusable
    # One cluster lies in one of the next level.
    assert len({(a, b) for a, b in zip(first, second, strict=True)}) == len(set(first))
    (place,) = (tmp_path / "work").rglob("hierarchy.npz")
    centroids = np.load(place)["centroids"].astype(float)
    for row, vector in enumerate(vectors):
        if row in unusable:
            continue
        plain = vector / np.linalg.norm(vector) if normalize else np.asarray(vector, float)
        squares = np.square(plain - centroids).sum(axis=1)
        assert first[row] == squares.argmin()
        expected = squares.min() / 2 if normalize else np.sqrt(squares.min())
        np.testing.assert_allclose(distance[row], expected, atol=1e-5)


def test_the_same_for_any_partitions_and_workers(dataset, tmp_path, request):
    alone = table(stage(tmp_path / "work")(dataset))
    other = rearranged(dataset, 2)
    assert table(stage(tmp_path / "work")(other)).equals(alone)
    result = stage(tmp_path / "work")(dataset)
    result.save_metadata(tmp_path / "alone")
    request.getfixturevalue("client")
    stage(tmp_path / "two")(dataset).save_metadata(tmp_path / "saved")
    assert digests(tmp_path / "saved") == digests(tmp_path / "alone")
    assert result.provenance["cluster_1"]["levels"] == LEVELS
    changed = values(stage(tmp_path / "work", random_state=1)(dataset), "cluster_1")
    assert changed != alone["cluster_1"].to_pylist()


def test_a_run_that_was_stopped_goes_on(dataset, tmp_path, monkeypatch):
    whole = table(stage(tmp_path / "whole", 2)(dataset))

    class Stopped(Exception):
        pass

    kmeans = hierarchical.HierarchicalKMeans._kmeans
    calls = []

    def stopping(self, paths, number, step):
        calls.append((number, step))
        if len(calls) == 3:
            raise Stopped
        return kmeans(self, paths, number, step)

    monkeypatch.setattr(hierarchical.HierarchicalKMeans, "_kmeans", stopping)
    with pytest.raises(Stopped):
        stage(tmp_path / "work", 2)(dataset)
    assert table(stage(tmp_path / "work", 2)(dataset)).equals(whole)
    assert calls == [(0, 0), (0, 1), (0, 2), (0, 2), (1, 0), (1, 1), (1, 2)]
    # And what is finished is not done again, as long as vectors are what they were.
    stage(tmp_path / "work", 2)(dataset)
    assert len(calls) == 7
    assert not list((tmp_path / "work").rglob("vectors-*")), "only centroids stay"


def test_more_vectors_than_are_looked_at(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(hierarchical, "_PER_CLUSTER", 4)
    found = table(stage(tmp_path / "work", 0)(dataset))
    assert table(stage(tmp_path / "other", 0)(rearranged(dataset))).equals(found)
    assert found["cluster_1"].null_count == 3
    monkeypatch.undo()
    assert not table(stage(tmp_path / "all", 0)(dataset)).equals(found)


def test_levels_by_themselves(dataset, tmp_path):
    result = HierarchicalClusters(resampling_steps=0, work_dir=tmp_path)(dataset)
    found = table(result)
    counts = [len(set(found[f"cluster_{level}"].drop_null().to_pylist())) for level in (1, 2, 3)]
    # 897 / 30, then as few as leave 10 for the last.
    assert counts[0] in range(25, 30)
    assert counts[1:] == [17, 10]


def test_embeddings_that_are_not_computed_yet(tmp_path):
    data = ThumbEmbedder()(pictures(tmp_path / "in", {f"{n}.jpg": jpeg(n) for n in range(6)}))
    found = values(HierarchicalClusters((3,), 1, work_dir=tmp_path / "work")(data), "cluster_1")
    assert set(found) == {0, 1, 2}


def test_few_or_no_vectors(tmp_path):
    few = write_embeddings(tmp_path / "few", [np.ones(4), -np.ones(4), None], 2)
    found = table(HierarchicalClusters((9, 3), 2, work_dir=tmp_path / "work")(few))
    assert found["cluster_1"].to_pylist() in ([0, 1, None], [1, 0, None])
    none = write_embeddings(tmp_path / "none", [None, None], 1)
    found = table(HierarchicalClusters((9, 3), work_dir=tmp_path / "work")(none))
    for name in ("cluster_1", "cluster_2", "centroid_distance"):
        assert found[name].to_pylist() == [None, None]


def test_centroids_that_are_gone_are_told(dataset, tmp_path):
    result = stage(tmp_path / "work", 0)(dataset)
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(DatasetError, match="Run HierarchicalClusters again"):
        table(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (10, 20)}, r"levels=\(10, 20\) should fall"),
        ({"levels": ()}, r"levels=\(\) should be 'auto', or how many"),
        ({"levels": "many"}, "levels='many' should be 'auto'"),
        ({"levels": (3.5,)}, r"levels=\(3.5,\) should be"),
        ({"resampling_steps": -1}, "resampling_steps=-1 should be an integer of at least 0"),
    ],
)
def test_what_cannot_be(dataset, options, message):
    with pytest.raises(ConfigError, match=message):
        HierarchicalClusters(**options)(dataset)
    with pytest.raises(ColumnNotFoundError, match="image_embedding"):
        HierarchicalClusters(embedding_column="image_embeddin")(dataset)
