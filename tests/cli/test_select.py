"""The commands filter and select, by what was chosen elsewhere and by stages that choose."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from tests.dataset.opened import open_dataset, rows_of
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.make_data import make_dataset


def test_filter_writes_what_a_file_lists_as_often(tmp_path, run):
    made = make_dataset(tmp_path / "tars", sizes=[4, 5, 3])
    dataset = open_dataset(made.root)
    dataset.metadata["multiplicity"] = dataset.metadata.width - 31
    dataset.filter("width < 35").to_selection(tmp_path / "chosen")
    told = json.loads(
        run(
            *("filter", made.root, "--selection", tmp_path / "chosen"),
            *("--output", tmp_path / "a", "--json"),
        )
    )
    counts = {name: told[name] for name in ("samples", "kept", "rejected", "written")}
    assert counts == {"samples": 12, "kept": 9, "rejected": 3, "written": 18}
    assert told["not_in_dataset"] == 0
    widths = [row["width"] for row in rows_of(open_dataset(tmp_path / "a"))]
    assert widths == 3 * [32, 33, 33, 34, 34, 34]
    dataset.save_metadata(tmp_path / "meta")
    run(
        *("filter", tmp_path / "meta", "--multiplicity", "multiplicity", "--where", "width < 34"),
        *("--output", tmp_path / "b", "--json"),
    )
    assert len(open_dataset(tmp_path / "b")) == 9
    assert "say what stays" in run("filter", made.root, "--output", tmp_path / "c", code=2)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Embeddings in clusters, with scores, and clusters that are known."""
    folder = tmp_path_factory.mktemp("scored")
    vectors = planted(120, dim=8, centres=5)
    scores = [None if n % 11 == 0 else n % 17 / 17 for n in range(120)]
    clusters = [0 if n < 80 else 1 + n % 4 for n in range(120)]
    columns = {"clip_score": scores, "cluster_1": clusters}
    write_embeddings(folder / "ds", vectors, 50, **columns)
    write_embeddings(folder / "seeds", vectors[[3, 60]] + 0.01, 50)
    return folder


def chosen(folder: Path) -> list[dict]:
    return rows_of(open_dataset(folder))


def test_select_by_all_criteria_and_lists_what_it_selected(scored, tmp_path, run):
    told = run(
        *("select", scored / "ds", "--where", "cluster_1 == 0", "--top", "clip_score=0.3"),
        *("--output", tmp_path / "meta", "--selection", tmp_path / "chosen.parquet"),
    )
    rows = chosen(tmp_path / "meta")
    scores = sorted(row["clip_score"] for row in rows if row["clip_score"] is not None)
    bound = scores[-int(len(scores) * 0.3)]
    expected = [(row["clip_score"] or 0) >= bound and row["cluster_1"] == 0 for row in rows]
    assert [row["selected"] for row in rows] == expected
    assert 0 < sum(expected) < 0.3 * 120
    listed = pd.read_parquet(tmp_path / "chosen.parquet")
    assert len(listed) == sum(expected)
    assert "mean clip_score" in told
    assert "a random choice is a strong baseline" in told
    assert "rows in sidecars" in told


def test_select_draws_of_what_is_left(scored, tmp_path, run):
    words = ["--where", "clip_score > 0.2", "--work-dir", tmp_path / "work", "--json"]
    told = json.loads(
        run("select", scored / "ds", "--balanced", 20, *words, "--output", tmp_path / "even")
    )
    rows = [row for row in chosen(tmp_path / "even") if row["selected"]]
    assert told["selected"] == len(rows) == 20
    assert all(row["clip_score"] > 0.2 for row in rows)
    assert set(Counter(row["cluster_1"] for row in rows).values()) == {4}
    evenness = told["comparison"]
    assert evenness["selected"]["evenness"] == pytest.approx(1)
    assert evenness["random"]["evenness"] < 0.95
    assert evenness["random"]["samples"] == 20

    told = json.loads(
        run(
            *("select", scored / "ds", "--soft-cap", "clip_score=150", *words),
            *("--output", tmp_path / "drawn", "--selection", tmp_path / "drawn.parquet"),
        )
    )
    rows = chosen(tmp_path / "drawn")
    assert sum(row["multiplicity"] for row in rows) == told["selected"] == 150
    assert all((row["multiplicity"] > 0) == row["selected"] for row in rows)
    assert all((row["clip_score"] or 0) > 0.2 for row in rows if row["selected"])
    assert pd.read_parquet(tmp_path / "drawn.parquet").multiplicity.sum() == 150
    assert not any(name.startswith("__") for name in rows[0])


def test_select_by_other_datasets_and_by_budget(scored, tmp_path, run):
    words = ["--work-dir", tmp_path / "work", "--json"]
    run(
        *("select", scored / "ds", "--retrieve", scored / "seeds", "-k", 5, *words),
        *("--target", scored / "seeds", "--top-target", 0.1, "--output", tmp_path / "near"),
    )
    rows = chosen(tmp_path / "near")
    top = sorted((row["target_similarity"] for row in rows), reverse=True)[:12]
    for row in rows:
        is_retrieved = row["retrieved_rank"] is not None
        assert row["selected"] == (is_retrieved and row["target_similarity"] >= top[-1])
    assert 5 <= sum(row["selected"] for row in rows) <= 10
    told = json.loads(
        run("select", scored / "ds", "--budget", 0.25, *words, "--output", tmp_path / "budget")
    )
    assert told["selected"] == 30


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say which rows to select"),
        (["--balanced", "5", "--budget", "0.5"], "give one of balanced, budget and soft_cap"),
        (["--top", "clip_score"], "should be COLUMN=NUMBER"),
        (["--soft-cap", "clip_score=1.5"], "should be a number of draws"),
        (["--recipe", "best"], "recipe='best' should be one of datacomp-basic"),
        (["--top", "clip_scor=0.3"], "Did you mean 'clip_score'"),
    ],
)
def test_select_refuses_what_cannot_be(scored, run, words, message):
    assert message in run("select", scored / "ds", *words, code=2)
