"""The commands filter and select, by what was chosen elsewhere and by stages that choose."""

from __future__ import annotations

import json

import pandas as pd

from tests.dataset.opened import open_dataset, rows_of
from tests.dedup.make_embeddings import write_embeddings
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


def test_select_tells_what_it_selected_and_lists_it(tmp_path, run):
    scores = [None if n % 11 == 0 else n % 17 / 17 for n in range(120)]
    clusters = [0 if n < 80 else 1 + n % 4 for n in range(120)]
    columns = {"clip_score": scores, "cluster_1": clusters}
    write_embeddings(tmp_path / "ds", [None] * 120, 50, **columns)
    told = run(
        *("select", tmp_path / "ds", "--where", "cluster_1 == 0", "--top", "clip_score=0.3"),
        *("--output", tmp_path / "meta", "--selection", tmp_path / "chosen.parquet"),
    )
    rows = rows_of(open_dataset(tmp_path / "meta"))
    n_selected = sum(row["selected"] for row in rows)
    assert 0 < n_selected < 0.3 * 120
    assert all(row["cluster_1"] == 0 for row in rows if row["selected"])
    assert len(pd.read_parquet(tmp_path / "chosen.parquet")) == n_selected
    assert "mean clip_score" in told
    high = sum(row["clip_score_selected"] for row in rows)
    assert f"80 where, {high} clip_score\n" in told
    twice = ["--top", "clip_score=0.3", "--top", "clip_score=0.9"]
    assert "clip_score more than once" in run("select", tmp_path / "ds", *twice, code=2)
    assert "a random choice is a strong baseline" in told
    assert "rows in sidecars" in told
    assert "should be COLUMN=NUMBER" in run("select", tmp_path / "ds", "--top", "clip", code=2)


def test_a_selection_lists_what_is_told_whatever_was_drawn_before(tmp_path, run):
    columns = {"score": [n / 40 for n in range(40)], "cluster_1": [n % 4 for n in range(40)]}
    columns["cluster_size"] = list(range(40))
    write_embeddings(tmp_path / "ds", [None] * 40, 15, **columns)
    chosen = tmp_path / "chosen.parquet"
    run("select", tmp_path / "ds", "--soft-cap", "score=20", "--selection", chosen)
    assert pd.read_parquet(chosen).multiplicity.sum() == 20
    words = ("--balanced", 24, "--selection", chosen, "--json")
    told = json.loads(run("select", tmp_path / "ds", *words))
    assert told["selected"] == told["listed"] == 24
    assert list(pd.read_parquet(chosen).columns) == ["key", "shard"]
    rows = [row for row in rows_of(open_dataset(tmp_path / "ds")) if row["selected"]]
    # A column that is called like one of clusters is none.
    assert [sum(row["cluster_1"] == number for row in rows) for number in range(4)] == [6] * 4


def test_nothing_that_stays_is_told(tmp_path, run):
    make_dataset(tmp_path / "ds", [2, 2])
    where = ("--where", "width > 99999", "--output")
    run("select", tmp_path / "ds", *where, tmp_path / "marked")
    assert "nothing is selected of 4 rows." in run.stderr
    run("filter", tmp_path / "ds", *where, tmp_path / "out")
    assert "nothing is kept of 4 rows" in run.stderr
