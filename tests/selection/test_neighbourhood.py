"""Uniqueness and Typicality: equal to all cosines in float64, however rows lie."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import Typicality, Uniqueness
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.vectors.sampling import random_score
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.make_embedders import rows

N, K = 130, 4


@pytest.fixture(scope="module")
def vectors() -> list:
    """Clustered vectors of any length; three copies of one, a zero one, and some missing."""
    chance = np.random.default_rng(0)
    vectors = list(planted(N) * chance.uniform(0.1, 9, (N, 1)))
    vectors[50] = vectors[70] = 3 * vectors[10]
    vectors[11] = np.zeros(32)
    vectors[4] = vectors[99] = None
    return vectors


@pytest.fixture(scope="module")
def expected(vectors):
    """Cosines of each row to the others, falling, by key; and the same among those of a sample."""
    usable = [n for n, vector in enumerate(vectors) if vector is not None and np.any(vector)]
    unit = np.array([vectors[n] for n in usable], dtype=np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, np.nan)
    keys = [f"{n:06d}" for n in usable]

    def among(chosen: np.ndarray) -> dict[str, np.ndarray]:
        falling = -np.sort(-cosines[:, chosen], axis=1)
        return dict(zip(keys, falling, strict=True))

    sampled = np.sort(np.argsort(random_score(pa.array(keys), 3))[:40])
    return among(np.arange(len(keys))), among(sampled)


def columns(dataset) -> dict[str, tuple]:
    return {row["key"]: (row["uniqueness"], row["typicality"]) for row in rows(dataset)}


def check(got: dict[str, tuple], expected: dict[str, np.ndarray]) -> None:
    assert len(got) == N
    for key, (uniqueness, typicality) in got.items():
        if key not in expected:
            assert (uniqueness, typicality) == (None, None)
            continue
        nearest = expected[key]
        assert uniqueness == pytest.approx(1 - nearest[0], abs=2e-6)
        assert typicality == pytest.approx(np.nanmean(nearest[:K]), abs=2e-6)


def test_equal_to_brute_force_in_any_partitioning(vectors, expected, tmp_path, backend):
    results = []
    for per_shard in (130, 37):
        ds = write_embeddings(tmp_path / f"{per_shard}", vectors, per_shard, backend)
        ds = Typicality(K, work_dir=tmp_path / "work")(Uniqueness(work_dir=tmp_path / "work")(ds))
        results.append(columns(ds))
    check(results[0], expected[0])
    assert results[0] == results[1]
    assert results[0]["000010"][0] == results[0]["000050"][0] == results[0]["000070"][0] == 0
    outliers = ds.metadata.nlargest(3, "uniqueness").compute()
    top = sorted((-value[0], key) for key, value in results[0].items() if value[0] is not None)
    assert set(outliers["key"].to_numpy().tolist()) == {key for _, key in top[:3]}


def test_against_a_sample_that_goes_by_keys(vectors, expected, tmp_path, client):
    results = []
    for per_shard in (50, 20):
        ds = write_embeddings(tmp_path / f"{per_shard}", vectors, per_shard)
        options = {"against": 40, "random_state": 3, "work_dir": tmp_path / "work"}
        for stage in (Uniqueness(**options), Typicality(K, **options)):
            ds = stage(ds)
        results.append(columns(ds))
    check(results[0], expected[1])
    assert results[0] == results[1]


def test_fewer_others_than_asked_for(tmp_path):
    ds = write_embeddings(tmp_path / "two", [[1, 0], None, [0.6, 0.8]])
    got = rows(Typicality(prefix="own_", work_dir=tmp_path / "work")(ds))
    assert [row["own_typicality"] for row in got] == [pytest.approx(0.6), None, pytest.approx(0.6)]
    alone = write_embeddings(tmp_path / "one", [[1, 0]])
    assert [row["uniqueness"] for row in rows(Uniqueness(work_dir=tmp_path / "w")(alone))] == [None]


@pytest.mark.parametrize("options", [{"k": 0}, {"against": 0}, {"random_state": -1}, {"k": 1.5}])
def test_unusable_parameters(tmp_path, options):
    ds = write_embeddings(tmp_path / "ds", [[1, 0]])
    with pytest.raises(ConfigError, match=next(iter(options))):
        Uniqueness(**options)(ds)
    with pytest.raises(ColumnNotFoundError, match="text_embedding"):
        Uniqueness(embedding_column="text_embedding")(ds)


def test_saved_once(tmp_path):
    ds = write_embeddings(tmp_path / "ds", planted(20), 10)
    saved = Uniqueness(work_dir=tmp_path / "work")(ds).save_metadata(tmp_path / "meta")
    assert saved.provenance["uniqueness"]["stage"] == "Uniqueness"
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "meta").glob("*.parquet")}
    Uniqueness(work_dir=tmp_path / "elsewhere")(ds).save_metadata(tmp_path / "meta")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    Uniqueness(2, work_dir=tmp_path / "work")(ds).save_metadata(tmp_path / "meta")
    assert {path: path.stat().st_mtime_ns for path in times} != times


def test_another_prefix_is_another_column(vectors, tmp_path):
    ds = write_embeddings(tmp_path / "ds", vectors, 50)
    for prefix in ("a_", "b_"):
        saved = Uniqueness(prefix=prefix)(ds).save_metadata(tmp_path / "out", progress=False)
        assert saved.metadata[f"{prefix}uniqueness"].count().compute() == N - 3
