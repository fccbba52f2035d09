"""Criteria: what several selectors leave together, and samples of that."""

from __future__ import annotations

from collections import Counter

import pytest

from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.selection.criteria import Criteria
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.make_embedders import rows

VECTORS = planted(120, dim=8, centres=5)
SCORES = [None if n % 11 == 0 else n % 17 / 17 for n in range(120)]
CLUSTERS = [0 if n < 80 else 1 + n % 4 for n in range(120)]


@pytest.fixture
def ds(tmp_path, backend):
    columns = {"clip_score": SCORES, "cluster_1": CLUSTERS}
    return write_embeddings(tmp_path / "ds", VECTORS, 50, backend, **columns)


@pytest.fixture
def seeds(tmp_path) -> str:
    write_embeddings(tmp_path / "seeds", VECTORS[[3, 60]] + 0.01, 50)
    return str(tmp_path / "seeds")


def test_rows_that_fulfil_everything(ds, tmp_path):
    saved = Criteria("cluster_1 == 0", {"clip_score": 0.3})(ds).save_metadata(tmp_path / "meta")
    scores = sorted(score for score in SCORES if score is not None)
    bound = scores[-int(len(scores) * 0.3)]
    for row, score, cluster in zip(rows(saved), SCORES, CLUSTERS, strict=True):
        assert row["clip_score_selected"] == ((score or 0) >= bound)
        assert row["where_selected"] == (cluster == 0)
        assert row["selected"] == (row["clip_score_selected"] and row["where_selected"])
    assert 0 < sum(row["selected"] for row in rows(saved)) < 0.3 * 120
    record = saved.provenance["selected"]
    assert (record["stage"], record["top"]) == ("Criteria", {"clip_score": 0.3})


def test_an_even_sample_of_what_is_left(ds, tmp_path):
    options = {"where": "clip_score > 0.2", "work_dir": tmp_path / "work"}
    got = rows(Criteria(balanced=20, **options)(ds))
    selected = [row for row in got if row["selected"]]
    assert len(got) == 120
    assert all(row["clip_score"] > 0.2 for row in selected)
    assert Counter(row["cluster_1"] for row in selected) == dict.fromkeys(range(5), 4)
    assert not any(name.startswith("__") for name in got[0])


def test_draws_of_what_is_left(ds, tmp_path):
    options = {"where": "clip_score > 0.2", "work_dir": tmp_path / "work"}
    got = rows(Criteria(soft_cap=("clip_score", 150), **options)(ds))
    assert sum(row["multiplicity"] for row in got) == 150
    for row in got:
        assert row["selected"] == (row["multiplicity"] > 0)
        assert (row["clip_score"] or 0) > 0.2 or not row["selected"]


def test_by_other_datasets(ds, seeds, tmp_path):
    criteria = Criteria(target=seeds, top_target=0.1, seeds=seeds, k=5, work_dir=tmp_path / "work")
    got = rows(criteria(ds))
    top = sorted((row["target_similarity"] for row in got), reverse=True)[:12]
    for row in got:
        is_retrieved = row["retrieved_rank"] is not None
        assert row["selected"] == (is_retrieved and row["target_similarity"] >= top[-1])
    assert 5 <= sum(row["selected"] for row in got) <= 10


def test_by_budget_over_clusters_that_are_made(ds, tmp_path):
    plain = ds.select(["image_embedding", "clip_score"])
    got = rows(Criteria(budget=0.25, work_dir=tmp_path / "work")(plain))
    assert sum(bool(row["selected"]) for row in got) == 30
    assert got[0]["cluster_1"] is not None


@pytest.mark.parametrize(
    ("criteria", "error", "message"),
    [
        ({}, ConfigError, "say which rows to select"),
        ({"balanced": 5, "budget": 0.5}, ConfigError, "give one of balanced, budget and soft_cap"),
        ({"recipe": "best"}, ConfigError, "recipe='best' should be one of datacomp-basic"),
        ({"top": {"clip_scor": 0.3}}, ColumnNotFoundError, "Did you mean 'clip_score'"),
        ({"where": "a > 0", "top": {"where": 0.3}}, ConfigError, "called like another criterion"),
        ({"soft_cap": ("clip_scor", 3)}, ColumnNotFoundError, "Did you mean 'clip_score'"),
    ],
)
def test_what_cannot_be(tmp_path, criteria, error, message):
    columns = {"clip_score": SCORES, "cluster_1": CLUSTERS}
    ds = write_embeddings(tmp_path / "ds", VECTORS, 60, **columns)
    with pytest.raises(error, match=message):
        Criteria(**criteria)(ds)
