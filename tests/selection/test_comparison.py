"""compare_with_random: its numbers are those of plain sums over the rows."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest

from nemo_image_curate import compare_with_random
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.selection import comparison
from tests.dedup.make_embeddings import write_embeddings

N = 90


@pytest.fixture(scope="module")
def columns() -> dict[str, list]:
    chance = np.random.default_rng(0)
    scores = [None if n % 13 == 0 else float(value) for n, value in enumerate(chance.random(N))]
    return {
        # Each comes in several shards.
        "key": [str(n % 30) for n in range(N)],
        "score": scores,
        "empty": [None] * N,
        "width": chance.integers(100, 200, N).tolist(),
        "cluster": [None if n == 5 else int(n**1.2) % 7 for n in range(N)],
        "concepts": [None if n == 4 else [f"c{n % 11}", f"c{n % 3}"][: n % 3] for n in range(N)],
        "selected": [None if n == 9 else (scores[n] or 0) > 0.6 for n in range(N)],
        "multiplicity": [None if n == 9 else n % 4 for n in range(N)],
    }


def plain(columns: dict, weights: list[int]) -> dict:
    """What so many of each row have."""
    kept = [n for n, weight in enumerate(weights) for _ in range(weight)]
    scores = [columns["score"][n] for n in kept if columns["score"][n] is not None]
    clusters = Counter(columns["cluster"][n] for n in kept) - Counter({None: N})
    shares = [count / sum(clusters.values()) for count in clusters.values()]
    return {
        "samples": len(kept),
        "mean": sum(scores) / len(scores),
        "clusters": len(clusters),
        "evenness": -sum(share * math.log(share) for share in shares) / math.log(7),
        "concepts": len({c for n in kept for c in columns["concepts"][n] or []}),
    }


def of(sample) -> dict:
    facts = {"samples": sample.samples, "mean": sample.means["score"]}
    names = ("clusters", "evenness", "concepts")
    return facts | {name: getattr(sample, name) for name in names}


def test_a_choice_beside_a_random_one_and_all(columns, tmp_path, backend, monkeypatch):
    monkeypatch.setattr(comparison, "_WAVE", 2)
    options = {key: columns[key] for key in columns if key != "empty"}
    results = []
    for per_shard in (10, 10, 30):
        ds = write_embeddings(
            tmp_path / str(len(results)), [None] * N, per_shard, backend, **options
        )
        ds.metadata["empty"] = ds.metadata.score * np.nan
        if len(results) == 1:
            # The same rows, elsewhere.
            ds = ds.replace(ds.metadata.sort_values("width").repartition(npartitions=2))
        results.append(compare_with_random(ds))
    result = results[0]
    weights = [int(bool(one)) for one in columns["selected"]]
    assert of(result.selected) == pytest.approx(plain(columns, weights))
    assert of(result.all) == pytest.approx(plain(columns, [1] * N))
    assert result.random.samples == result.selected.samples == sum(weights)
    assert result.kept == pytest.approx(sum(weights) / N)
    assert set(result.all.means) == {"score", "empty"}
    assert result.all.means["empty"] is None
    assert of(results[1].random) == pytest.approx(of(result.random))
    assert results[2].all.means["score"] == pytest.approx(result.all.means["score"])
    # A random choice is like all, and this one is not.
    assert abs(result.random.means["score"] - result.all.means["score"]) < 0.15
    assert result.selected.means["score"] - result.all.means["score"] > 0.25


def test_rows_that_are_taken_several_times(columns, tmp_path, client):
    ds = write_embeddings(tmp_path / "ds", [None] * N, 20, **columns)
    result = compare_with_random(
        ds, columns=["score", "width"], multiplicity="multiplicity", seed=1
    )
    weights = [one or 0 for one in columns["multiplicity"]]
    assert of(result.selected) == pytest.approx(plain(columns, weights))
    # More than there are rows: each once, and some of them twice.
    assert result.random.samples == sum(weights) > N
    assert result.random.clusters == result.all.clusters == 7
    other = compare_with_random(ds, columns=["score"], multiplicity="multiplicity", seed=2)
    assert other.random.means["score"] != result.random.means["score"]
    assert other.selected.means["score"] == result.selected.means["score"]


def test_what_is_printed(columns, tmp_path):
    ds = write_embeddings(tmp_path / "ds", [None] * N, 30, **columns)
    result = compare_with_random(ds)
    text = str(result)
    heads = [line[:24].strip() for line in text.splitlines()[1:7]]
    assert heads == [
        *("samples", "mean score", "evenness of cluster", "clusters in cluster"),
        *("concepts", "38.9% kept; random: by a"),
    ]
    assert "Below about 30 % kept" in text
    both = compare_with_random(ds, columns=["score", "width"])
    lines = [line.split() for line in str(both).splitlines()[2:4]]
    for name, line in zip(("score", "width"), lines, strict=True):
        samples = (both.selected, both.random, both.all)
        assert line == ["mean", name, *(f"{one.means[name]:.4g}" for one in samples)]
    assert json.loads(json.dumps(result.to_dict()))["random"]["samples"] == 35
    none = compare_with_random(ds.filter("key == 'none'"))
    assert (none.all.samples, none.kept, none.selected.evenness) == (0, 0.0, None)
    assert "none" in str(none)
    plain_ds = ds.select(["selected"])
    assert str(compare_with_random(plain_ds)).count("\n") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selected": "score"}, "'score' is double, not bool; give multiplicity="),
        ({"multiplicity": "selected"}, "'selected' is bool, not numbers"),
        ({"columns": ["key"]}, "'key' is string, not numbers"),
        ({"concepts": "score"}, "'score' is double, not lists"),
    ],
)
def test_columns_of_other_kinds(columns, tmp_path, options, message):
    ds = write_embeddings(tmp_path / "ds", [None] * N, 30, **columns)
    with pytest.raises(ConfigError, match=message):
        compare_with_random(ds, **options)
    with pytest.raises(ColumnNotFoundError):
        compare_with_random(ds, "chosen")
