"""ConceptBalance: which pairs are kept, by the exact truth over all captions."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError, NotFoundError
from nemo_image_curate.selection.concepts import ConceptBalance
from nemo_image_curate.vectors.sampling import random_score
from tests.make_data import digests, write_sidecar
from tests.make_embedders import rows
from tests.selection.captioned import (
    concepts_of,
    counts_of,
    dataset,
    flickr_captions,
    keep_probability,
    zipf_captions,
)
from tests.shared import needs_shared

CAPTIONS = zipf_captions(1000)
WORDS = [f"w{number}" for number in range(150)]
USEFUL = 8


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three shards: one of a few rows, one with nulls and captions of no concept."""
    folder = tmp_path_factory.mktemp("concepts")
    odd = [None, "", "nothing of it", None]
    return dataset(folder / "in", CAPTIONS[:7], [*CAPTIONS[7:400], *odd], CAPTIONS[400:])


@pytest.fixture(scope="module")
def counts():
    return counts_of(CAPTIONS, WORDS)


def hashes(told: list[dict], seed: int = 0) -> np.ndarray:
    return random_score(pa.array([row["key"] for row in told]), seed)


def test_probabilities_are_metaclips(shards, counts, tmp_path, backend):
    ds = ImageTextPairDataset.from_webdataset(shards.path, backend=backend)
    told = rows(ConceptBalance(WORDS, USEFUL, work_dir=tmp_path)(ds))
    assert len(told) == len(CAPTIONS) + 4
    for row, chance in zip(told, hashes(told), strict=True):
        if row["caption"] is None:
            assert [row["concepts"], row["keep_probability"]] == [None, None]
            assert row["selected"] is False
            continue
        concepts = concepts_of(row["caption"], WORDS)
        assert list(row["concepts"]) == concepts
        expected = keep_probability(concepts, counts, USEFUL)
        assert row["keep_probability"] == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert row["selected"] is bool(chance < row["keep_probability"])


def test_as_many_are_kept_as_expected_and_the_tail_is_whole(shards, counts, tmp_path):
    for seed in range(5):
        stage = ConceptBalance(WORDS, USEFUL, random_state=seed, work_dir=tmp_path)
        told = [row for row in rows(stage(shards)) if row["caption"] is not None]
        chances = np.array([row["keep_probability"] for row in told])
        kept = sum(row["selected"] for row in told)
        assert 0.2 * len(told) < kept < 0.8 * len(told)
        assert abs(kept - chances.sum()) < 3 * math.sqrt((chances * (1 - chances)).sum())
        left = Counter(name for row in told if row["selected"] for name in row["concepts"])
        tail = [word for word in WORDS if counts[word] <= USEFUL]
        assert 50 < len(tail) < 150
        assert [left[word] for word in tail] == [counts[word] for word in tail]


def test_the_cap_lets_in_the_lowest_hashes_of_each_query(shards, counts, tmp_path):
    told = rows(ConceptBalance(WORDS, USEFUL, "cap", work_dir=tmp_path)(shards))
    scores = hashes(told)
    let_in = set()
    for word in WORDS:
        own = [place for place, row in enumerate(told) if word in (row["concepts"] or ())]
        assert len(own) == counts[word]
        let_in |= set(sorted(own, key=lambda place: scores[place])[:USEFUL])
    assert [place for place, row in enumerate(told) if row["selected"]] == sorted(let_in)
    assert len(let_in) < 0.8 * len(told)
    for row in told:
        if row["concepts"]:
            expected = max(min(1, USEFUL / counts[word]) for word in row["concepts"])
            assert row["keep_probability"] == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["probability", "cap"])
def test_the_same_for_any_partitioning_and_number_of_workers(shards, tmp_path, rule, request):
    def run(name: str) -> dict[str, str]:
        stage = ConceptBalance(WORDS, USEFUL, rule, work_dir=tmp_path / f"{name}-work")
        stage(shards).save_metadata(tmp_path / name)
        return digests(tmp_path / name)

    alone = run("alone")
    other = ConceptBalance(WORDS, USEFUL, rule, work_dir=tmp_path / "other")
    cut = other(shards.replace(shards.metadata.repartition(npartitions=1)))
    told = {
        row["key"]: row for row in rows(ImageTextPairDataset.from_webdataset(tmp_path / "alone"))
    }
    assert {row["key"]: row for row in rows(cut)} == told
    request.getfixturevalue("client")
    assert run("two") == alone


def test_rows_that_match_nothing_may_stay(shards, tmp_path):
    for rule in ("probability", "cap"):
        stage = ConceptBalance(["w149", "absent"], rule=rule, unmatched=0.25, work_dir=tmp_path)
        told = [row for row in rows(stage(shards)) if row["caption"] is not None]
        unmatched = [row for row in told if not len(row["concepts"])]
        assert len(unmatched) > 900
        assert {row["keep_probability"] for row in unmatched} == {0.25}
        kept = sum(row["selected"] for row in unmatched) / len(unmatched)
        assert 0.2 < kept < 0.3
        assert all(row["selected"] for row in told if len(row["concepts"]))


def test_what_is_recorded(shards, tmp_path):
    (tmp_path / "q.txt").write_text("w1\n\nw2 \nw1\n")
    saved = ConceptBalance(tmp_path / "q.txt", 7, "cap", prefix="c_", work_dir=tmp_path)(
        shards
    ).save_metadata(tmp_path / "out")
    record = saved.provenance["c_selected"]
    expected = {"stage": "ConceptBalance", "per_query": 7, "rule": "cap", "n_queries": 2}
    assert expected.items() <= record.items()
    assert "queries" not in record
    listed = ConceptBalance(["w1", "w2"], 7, "cap").record()
    assert listed["queries_sha256"] == record["queries_sha256"]
    assert {"c_concepts", "c_keep_probability", "c_selected"} <= set(saved.metadata.columns)


def test_other_captions_are_counted_anew(tmp_path):
    ds = dataset(tmp_path / "in", ["a b", "a"], ["b", "c"])
    stage = ConceptBalance(["a", "b", "c"], 1, work_dir=tmp_path / "work")

    def chances(ds: ImageTextPairDataset) -> list[float]:
        return [row["keep_probability"] for row in rows(stage(ds))]

    assert chances(ds) == [0.75, 0.5, 0.5, 1]
    # Done already.
    assert chances(ds) == [0.75, 0.5, 0.5, 1]
    keys = ["001-00000", "001-00001"]
    write_sidecar(tmp_path / "in" / "001.parquet", {"key": keys, "caption": ["a", "a b"]})
    assert chances(ImageTextPairDataset.from_webdataset(tmp_path / "in")) == [
        0.625,
        0.25,
        0.25,
        0.625,
    ]


def test_no_captions_at_all(tmp_path):
    ds = dataset(tmp_path / "in", [None, None])
    for row in rows(ConceptBalance(["a"], work_dir=tmp_path)(ds)):
        assert [row["concepts"], row["keep_probability"], row["selected"]] == [None, None, False]


def test_lost_counts_are_told(tmp_path):
    ds = dataset(tmp_path / "in", ["a b", "a"])
    out = ConceptBalance(["a"], work_dir=tmp_path / "work")(ds)
    (tmp_path / "work").rename(tmp_path / "away")
    with pytest.raises(DatasetError, match="holds no counts of queries"):
        out.metadata.compute()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rule": "both"}, ConfigError, "rule='both' should be one of 'probability', 'cap'"),
        ({"per_query": 0}, ConfigError, "per_query=0 should be an integer of at least 1"),
        ({"per_query": math.nan}, ConfigError, "per_query=nan should be an integer"),
        ({"per_query": "20"}, ConfigError, "per_query='20' should be an integer"),
        ({"random_state": "x"}, ConfigError, "random_state='x' should be an integer"),
        ({"unmatched": "all"}, ConfigError, "unmatched='all' should be a number"),
        ({"unmatched": 2}, ConfigError, "unmatched=2 should be a probability"),
        ({"queries": []}, ConfigError, "there are no queries"),
        ({"queries": "absent.txt"}, NotFoundError, "absent.txt"),
        ({"caption_column": "text"}, ColumnNotFoundError, "no column 'text'"),
        ({"caption_column": "number"}, ConfigError, "holds int64, not texts"),
    ],
)
def test_what_cannot_be(tmp_path, options, error, message):
    ds = dataset(tmp_path / "in", ["a dog"])
    ds.metadata = ds.metadata.assign(number=1)
    with pytest.raises(error, match=message):
        ConceptBalance(**{"queries": ["dog"], "work_dir": tmp_path, **options})(ds)


@needs_shared
def test_words_of_real_captions(tmp_path):
    captions = flickr_captions()
    words = sorted({word for caption in captions for word in caption.split()})
    ds = dataset(tmp_path / "in", captions[:4000], captions[4000:])
    told = rows(ConceptBalance(words, 50, work_dir=tmp_path / "work")(ds))
    chances = np.array([row["keep_probability"] for row in told])
    kept = sum(row["selected"] for row in told)
    assert len(told) == 7500
    assert abs(kept - chances.sum()) < 3 * math.sqrt((chances * (1 - chances)).sum())
    counts = Counter(name for row in told for name in row["concepts"])
    left = Counter(name for row in told if row["selected"] for name in row["concepts"])
    tail = [name for name, count in counts.items() if count <= 50]
    assert len(tail) > 3000
    assert all(left[name] == counts[name] for name in tail)
    # Every word of a text that is spaced already, but where punctuation is inside one.
    simple = [word for word in words if word.isalnum()]
    split = Counter(word for caption in captions for word in set(caption.split()))
    assert [counts[word] for word in simple] == [split[word] for word in simple]
