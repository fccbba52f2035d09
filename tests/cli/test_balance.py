"""The command balance: with given and with built queries."""

from __future__ import annotations

import json

import pytest

from nemo_image_curate import ImageTextPairDataset
from tests.make_embedders import rows
from tests.selection.captioned import counts_of, dataset, keep_probability, zipf_captions

CAPTIONS = zipf_captions(200, 40)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balance") / "in"
    dataset(folder, CAPTIONS[:120], [*CAPTIONS[120:], None])
    return folder


def test_balance_by_a_file(run, shards, tmp_path):
    words = [f"w{number}" for number in range(40)]
    (tmp_path / "q.json").write_text(json.dumps(words))
    given = ["--queries", tmp_path / "q.json", "--per-query", 4, "--work-dir", tmp_path / "w"]
    told = json.loads(run("balance", shards, *given, "--output", tmp_path / "o", "--json"))
    made = rows(ImageTextPairDataset.from_webdataset(tmp_path / "o"))
    counts = counts_of(CAPTIONS, words)
    expected = [keep_probability(row["concepts"], counts, 4) for row in made[:-1]]
    assert [row["keep_probability"] for row in made[:-1]] == pytest.approx(expected)
    assert told["queries"] == 40
    assert told["samples"] == 201
    assert told["selected"] == sum(row["selected"] for row in made)
    assert told["expected"] == pytest.approx(sum(expected))
    assert told["concepts"] == told["selected_concepts"] == sum(map(bool, counts.values()))
    assert told["without_caption"] == 1
    assert told["random_concepts"] < told["selected_concepts"]
    compared = told["comparison"]
    assert compared["selected"]["samples"] == compared["random"]["samples"] == told["selected"]
    assert compared["selected"]["concepts"] == told["selected_concepts"]
    assert compared["selected"]["concepts"] > compared["random"]["concepts"]


def test_balance_by_what_it_builds(run, shards, tmp_path):
    built = "--wordnet none --min-count 20 --rule cap --per-query 5 --prefix c_".split()
    out = ["--build-queries", tmp_path / "q.txt", "--output", tmp_path / "o"]
    shown = run("balance", shards, *built, *out)
    counts = counts_of(CAPTIONS, [f"w{number}" for number in range(40)])
    listed = (tmp_path / "q.txt").read_text().split("\n")
    assert {"w0", "w1"} <= set(listed) <= {*counts, ""} | {name for name in listed if " " in name}
    assert "expected in as many random rows" in shown
    made = rows(ImageTextPairDataset.from_webdataset(tmp_path / "o"))
    assert 5 < sum(row["c_selected"] for row in made) <= 5 * len(listed)


def test_balance_says_what_is_wrong(run, shards, tmp_path):
    assert "either --queries FILE or --build-queries" in run("balance", shards, code=2)
    assert "does not exist" in run("balance", shards, "--queries", tmp_path / "absent", code=1)
