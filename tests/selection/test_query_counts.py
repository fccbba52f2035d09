"""Counts of queries and thresholds of caps, over many partitions, once or twice, or stopped."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.errors import CurateError
from nemo_image_curate.selection import query_counts
from nemo_image_curate.selection.matching import MatcherFiles
from nemo_image_curate.selection.query_counts import QueryCounts
from nemo_image_curate.vectors.sampling import random_score
from tests.selection.captioned import counts_of, dataset, zipf_captions

WORDS = [f"w{number}" for number in range(40)]
CAPTIONS = zipf_captions(300, 40)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    pieces = [CAPTIONS[start : start + 30] for start in range(0, 300, 30)]
    return dataset(tmp_path_factory.mktemp("counts") / "in", *pieces)


def counting(folder, cap=None, seed=0, queries=WORDS) -> QueryCounts:
    folder.mkdir(exist_ok=True)
    files = MatcherFiles.write(folder, queries, False, False)
    return QueryCounts(files, folder, "caption", "key", cap, seed)


def test_counts(shards, tmp_path):
    counts, thresholds = np.load(counting(tmp_path).compute(shards, len(WORDS), False))
    assert counts.tolist() == list(counts_of(CAPTIONS, WORDS).values())
    assert np.isinf(thresholds).all()
    assert {path.name for path in (tmp_path / "counts").iterdir()} >= {"digests.json"}
    assert not list((tmp_path / "counts").glob("matches-*"))


def expected_thresholds(ds: ImageTextPairDataset, cap: int, seed: int) -> list[float]:
    frame = ds.metadata.compute()
    scores = random_score(pa.array(frame["key"]), seed)
    highest = []
    for word in WORDS:
        own = np.sort(scores[[f" {word} " in f" {caption} " for caption in frame["caption"]]])
        if len(own) <= cap:
            highest.append(np.inf)
            continue
        low = own[:cap]
        # Equal hashes come in together or not at all.
        low = low[low < own[cap]]
        highest.append(low[-1] if len(low) else -1)
    return highest


@pytest.mark.parametrize("cap", [1, 5, 40, 1000])
def test_thresholds(shards, tmp_path, monkeypatch, cap):
    # So few that tasks take several queries or one.
    monkeypatch.setattr(query_counts, "_SORTED", 100)
    _, thresholds = np.load(counting(tmp_path, cap, 3).compute(shards, len(WORDS), False))
    assert thresholds.tolist() == expected_thresholds(shards, cap, 3)


@pytest.mark.parametrize("part", [slice(0, 2), slice(-1, None)])
def test_keys_that_occur_many_times(shards, tmp_path, part):
    # One key, and ten, for all rows: their hashes are nothing like even.
    frame = shards.metadata
    same = shards.replace(frame.assign(key=frame["key"].str[part]))
    _, thresholds = np.load(counting(tmp_path, 20).compute(same, len(WORDS), False))
    assert thresholds.tolist() == expected_thresholds(same, 20, 0)


def test_finished_work_is_not_done_again(shards, tmp_path):
    first = counting(tmp_path).compute(shards, len(WORDS), False)
    changed = first.stat().st_mtime_ns
    assert counting(tmp_path).compute(shards, len(WORDS), False) == first
    assert first.stat().st_mtime_ns == changed
    assert not list(first.parent.glob("matches-*"))


def test_a_run_that_failed_goes_on_with_what_is_missing(tmp_path):
    ds = dataset(tmp_path / "in", ["w1"], ["w1 w2"], ["w2"])
    broken = tmp_path / "in" / "001.parquet"
    broken.rename(tmp_path / "away")
    with pytest.raises(CurateError):
        counting(tmp_path).compute(ds, len(WORDS), False)
    (tmp_path / "away").rename(broken)
    first, _ = sorted((tmp_path / "counts").glob("matches-*"))
    # Put for what was found in the first run; seen in the second one when that is taken over.
    nothing = pa.table({"query": pa.array([], pa.int32()), "count": pa.array([], pa.int32())})
    with pa.ipc.new_file(str(first), nothing.schema) as writer:
        writer.write_table(nothing)
    counts, _ = np.load(counting(tmp_path).compute(ds, len(WORDS), False))
    assert counts[:4].tolist() == [0, 1, 2, 0]
