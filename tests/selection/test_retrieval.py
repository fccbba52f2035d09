"""Retrieve: the rows nearest to seeds are those of all cosines, however the pool lies."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from nemo_image_curate import ImageTextPairDataset, Retrieve, retrieve
from nemo_image_curate.errors import (
    ColumnNotFoundError,
    ConfigError,
    DatasetError,
    EncoderMismatchError,
)
from nemo_image_curate.selection import hits
from nemo_image_curate.tables import serialised
from nemo_image_curate.vectors.nearest import GRAIN
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.make_embedders import rows

N, SEEDS = 150, 12
NAMES = ("retrieved_by", "retrieved_by_shard", "retrieved_rank", "retrieved_similarity")


@pytest.fixture(scope="module")
def pool() -> list:
    vectors = list(planted(N, seed=1))
    # Equally near to any seed: the first keys count.
    vectors[90] = vectors[30] = vectors[120]
    vectors[7], vectors[8] = None, np.zeros(32)
    return vectors


@pytest.fixture(scope="module")
def seeds(pool) -> np.ndarray:
    chance = np.random.default_rng(2)
    near = np.array([pool[n] for n in (120, 31, 32, 140)])
    return np.concatenate([near + 0.05 * chance.standard_normal(near.shape), planted(8, seed=3)])


@pytest.fixture(autouse=True)
def small_waves(monkeypatch):
    monkeypatch.setattr(hits, "_FIRST_WAVE", 1)
    monkeypatch.setattr(hits, "_GROWTH", 2)
    monkeypatch.setattr(hits, "_WAITING", 3)


def unit(vectors) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def expected(pool, seeds, k, allowed=None, least=-2.0, itself=None) -> dict[str, tuple]:
    """Which seed ranks a row best, from all cosines."""
    usable = [
        n
        for n, vector in enumerate(pool)
        if vector is not None and np.any(vector) and (allowed is None or allowed[n])
    ]
    of_rows = dict(zip(usable, unit([pool[n] for n in usable]), strict=True))
    best: dict[str, tuple] = {}
    for seed, query in enumerate(unit(seeds)):
        cosines = {n: round(float(query @ row) / GRAIN) * GRAIN for n, row in of_rows.items()}
        order = sorted(cosines, key=lambda n: (-cosines[n], n))
        order = [n for n in order if cosines[n] >= least and (itself is None or n != itself[seed])]
        for rank, n in enumerate(order[:k], 1):
            key = f"{n:06d}"
            if key not in best or rank < best[key][1]:
                best[key] = (seed, rank, cosines[n])
    return best


def check(dataset, best: dict[str, tuple], name_of=str) -> None:
    got = rows(dataset)
    assert len(got) == N
    for row in got:
        seed, rank, similarity = best.get(row["key"], (None, None, None))
        assert row["retrieved_by"] == (None if seed is None else name_of(seed))
        assert row["retrieved_rank"] == rank
        assert row["retrieved_similarity"] == pytest.approx(similarity, abs=2e-6)


def test_equal_to_brute_force_in_any_partitioning(pool, seeds, tmp_path, backend):
    results = []
    for per_shard in (150, 60, 20):
        ds = write_embeddings(tmp_path / f"{per_shard}", pool, per_shard, backend)
        found = Retrieve(seeds, 4, work_dir=tmp_path / "work")(ds)
        check(found, expected(pool, seeds, 4))
        results.append([[row[name] for name in NAMES] for row in rows(found)])
    spread = ds.replace(ds.metadata.sort_values("key", ascending=False))
    check(Retrieve(seeds, 4, work_dir=tmp_path / "work")(spread), expected(pool, seeds, 4))
    assert results[0] == results[1] == results[2]
    count = sum(row[0] is not None for row in results[0])
    # Some rows are near to several seeds, and count once.
    assert SEEDS < count < 4 * SEEDS


def test_only_rows_for_which_an_expression_is_true(pool, seeds, tmp_path, client):
    scores = [None if n % 10 == 0 else n % 3 for n in range(N)]
    ds = write_embeddings(tmp_path / "ds", pool, 40, score=scores)
    found = retrieve(*(ds, seeds, 3, "score > 0"), least_similarity=0.5, work_dir=tmp_path / "work")
    allowed = [bool(score) for score in scores]
    best = expected(pool, seeds, 3, allowed, 0.5)
    check(found, best)
    assert len(best) < len(expected(pool, seeds, 3, allowed))


def test_seeds_that_are_rows_of_the_pool(pool, tmp_path):
    ds = write_embeddings(tmp_path / "ds", pool, 40)
    few = ds.filter("key < '000012'")
    found = Retrieve(few, 2, work_dir=tmp_path / "work")(ds)
    usable = [n for n in range(12) if n not in (7, 8)]
    best = expected(pool, [pool[n] for n in usable], 2, itself=usable)
    check(found, best, lambda seed: f"{usable[seed]:06d}")
    shards = {row["retrieved_by_shard"] for row in rows(found)}
    assert shards == {"00000.tar", None}
    # Another dataset of the same keys is not the same.
    other = write_embeddings(tmp_path / "other", pool[:12], 40)
    found = Retrieve(tmp_path / "other", 1, work_dir=tmp_path / "work")(ds)
    check(found, expected(pool, [pool[n] for n in usable], 1), lambda seed: f"{usable[seed]:06d}")
    assert len(other) == 12


def test_a_finished_search_is_read(pool, seeds, tmp_path):
    ds = write_embeddings(tmp_path / "ds", pool, 30)
    stage = Retrieve(seeds, work_dir=tmp_path / "work")
    stage(ds)
    (result,) = (tmp_path / "work").rglob("retrieved-*.parquet")
    time = result.stat().st_mtime_ns
    stage(ds)
    assert result.stat().st_mtime_ns == time


def test_a_search_that_failed_goes_on_where_it_was(pool, seeds, tmp_path):
    write_embeddings(tmp_path / "ds", [*pool[:120], *np.eye(30, 5)], 30)
    stage = Retrieve(seeds, work_dir=tmp_path / "work")
    with pytest.raises(DatasetError, match=r"embeddings of 5 values .* seeds of 32"):
        stage(ImageTextPairDataset.from_webdataset(tmp_path / "ds"))
    files = list((tmp_path / "work").rglob("hits-*.arrow"))
    assert len(files) == 4
    write_embeddings(tmp_path / "mended", pool, 30)
    shutil.copy(tmp_path / "mended" / "00004.parquet", tmp_path / "ds")
    # What these say is not searched for again.
    for file in files:
        file.write_bytes(serialised(hits._HIT.empty_table()))
    found = stage(ImageTextPairDataset.from_webdataset(tmp_path / "ds"))
    assert {row["shard"] for row in rows(found) if row["retrieved_by"]} == {"00004.tar"}
    assert list((tmp_path / "work").rglob("hits-*.arrow")) == []


def test_what_cannot_be(pool, tmp_path):
    ds = write_embeddings(tmp_path / "ds", pool, 150)
    options = {"work_dir": tmp_path / "work"}
    with pytest.raises(ConfigError, match="k=0"):
        Retrieve(np.eye(32), 0, **options)(ds)
    with pytest.raises(ConfigError, match="least_similarity=2"):
        Retrieve(np.eye(32), least_similarity=2, **options)(ds)
    with pytest.raises(ColumnNotFoundError, match="scor"):
        Retrieve(np.eye(32), where="scor > 1", **options)(ds)
    with pytest.raises(ConfigError, match="no vector of the target"):
        Retrieve(np.zeros((2, 32)), **options)(ds)
    with pytest.raises(DatasetError, match=r"embeddings of 32 values .* seeds of 5"):
        Retrieve(np.eye(5), **options)(ds)


def test_seeds_that_are_rows_of_the_pool_with_columns_elsewhere(pool, tmp_path):
    ds = write_embeddings(tmp_path / "ds", pool, 40)
    ds.save_metadata(tmp_path / "meta")
    found = Retrieve(tmp_path / "meta", np.int64(2), work_dir=tmp_path / "work")(ds)
    usable = [n for n, vector in enumerate(pool) if vector is not None and np.any(vector)]
    best = expected(pool, [pool[n] for n in usable], 2, itself=usable)
    check(found, best, lambda seed: f"{usable[seed]:06d}")


def test_seeds_of_another_encoder(pool, tmp_path):
    ds = write_embeddings(tmp_path / "ds", pool, 150)
    seeds = write_embeddings(tmp_path / "seeds", pool[:3], 40)
    seeds.provenance["image_embedding"] = {"encoder": "someone/else"}
    with pytest.raises(EncoderMismatchError, match=r"Retrieve .*'someone/else'.*check_encoder"):
        Retrieve(seeds, work_dir=tmp_path / "work")(ds)
    assert Retrieve(seeds, check_encoder=False, work_dir=tmp_path / "work")(ds)
    with pytest.raises(ConfigError, match="seeds is list; it should be a dataset"):
        Retrieve([[1.0] * 32], work_dir=tmp_path / "work")(ds)
