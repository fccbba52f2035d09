"""What of a frame's expression decides about files, resuming and fingerprints."""

from __future__ import annotations

import os
import subprocess
import sys

import pandas as pd
import pytest

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.fingerprints import Lineage, fingerprint
from tests.make_data import make_dataset


@pytest.fixture
def frame(tmp_path):
    make_dataset(tmp_path)
    return ImageTextPairDataset.from_webdataset(tmp_path).metadata


def merge_with_pandas(df):
    return df.merge(pd.DataFrame({"width": [32, 33], "label": ["a", "b"]}), on="width", how="left")


def assigned(df):
    df = df.copy()
    df["twice"] = df.score * 2
    df["flag"] = df.twice > df.score
    return df[df.flag]


@pytest.mark.parametrize(
    ("change", "aligned", "independent"),
    [
        (lambda df: df, True, True),
        (lambda df: df[df.score > 3], True, True),
        (assigned, True, True),
        (lambda df: df.map_partitions(lambda part: part), True, True),
        (lambda df: df[["key", "shard"]], True, True),
        (lambda df: df.query("width > 5 and caption == caption"), True, True),
        (lambda df: df.assign(x=df.caption.str.len()), True, True),
        (lambda df: df[df.score > df.score.quantile(0.5)], True, False),
        (lambda df: df.assign(z=(df.score - df.score.mean()) / df.score.std()), True, False),
        (lambda df: df.sort_values("score"), False, False),
        (lambda df: df.repartition(npartitions=2), False, False),
        (lambda df: df.repartition(npartitions=7), False, False),
        (lambda df: df.shuffle("key"), False, False),
        (lambda df: df.drop_duplicates("url"), False, False),
        (lambda df: df.partitions[1:], False, False),
        (lambda df: df.partitions[[2, 1, 0]], False, False),
        (lambda df: df.merge(df[["key", "score"]], on="key"), False, False),
    ],
)
def test_alignment(frame, change, aligned, independent):
    lineage = Lineage(change(frame))
    assert (lineage.aligned, lineage.independent) == (aligned, independent)


def test_a_merge_with_a_small_table_keeps_the_partitions_rows(frame):
    lineage = Lineage(merge_with_pandas(frame))
    assert lineage.aligned == lineage.independent


CHANGES = [
    lambda df: df,
    lambda df: df[df.score > 3],
    lambda df: df[df.score > 4],
    lambda df: df[df.score >= 3],
    lambda df: df[df.width > 3],
    lambda df: df.assign(x=1),
    lambda df: df.assign(x=2),
    lambda df: df.assign(y=1),
    lambda df: df.map_partitions(lambda part: part.head(1)),
    lambda df: df.map_partitions(lambda part: part.head(2)),
    lambda df: df.sort_values("score"),
    lambda df: df.sort_values("score", ascending=False),
    lambda df: df.query("score > 3"),
    lambda df: df.query("score > 4"),
    merge_with_pandas,
]


def test_tokens_tell_expressions_apart_and_repeat(frame):
    tokens = [Lineage(change(frame)).token for change in CHANGES]
    assert len(set(tokens)) == len(tokens)
    assert [Lineage(change(frame)).token for change in CHANGES] == tokens


def test_tokens_are_the_same_in_another_process(frame, tmp_path):
    code = """
import sys
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.fingerprints import Lineage
from tests.dataset.test_fingerprints import CHANGES
LIMIT = {"a": 1, "b": 2}
NAMES = {"x", "y", "z", "caption", "url"}
df = ImageTextPairDataset.from_webdataset(sys.argv[1]).metadata
for change in CHANGES:
    print(Lineage(change(df)).token)
print(Lineage(df.map_partitions(lambda part: part[[c for c in part if c not in NAMES]])).token)
print(Lineage(df.map_partitions(lambda part: part.head(LIMIT["a"]))).token)
"""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0])) == len(outputs[0])
    assert outputs[0][: len(CHANGES)] == [Lineage(change(frame)).token for change in CHANGES]


def test_tokens_do_not_depend_on_place_or_number_of_shards(frame, tmp_path):
    make_dataset(tmp_path / "more", sizes=[4, 4, 4, 4, 4])
    other = ImageTextPairDataset.from_webdataset(tmp_path / "more").metadata
    for change in CHANGES:
        if Lineage(change(frame)).independent:
            assert Lineage(change(frame)).token == Lineage(change(other)).token


LIMIT = 3


def test_functions_are_told_by_what_they_do_and_not_by_where_they_stand(frame):
    def token(source: str, **names: object) -> str:
        scope = {"LIMIT": 3, **names}
        exec(compile(source, names.get("file", "a.py"), "exec"), scope)
        return Lineage(frame.map_partitions(scope["f"], meta=frame._meta)).token

    source = "def f(part, n=2):\n    def g(x): return x[:LIMIT]\n    return g(part)[:n]"
    first = token(source)
    assert token("\n\n# a comment\n" + source, file="/tmp/ipykernel_77/1.py") == first
    assert token(source.replace("n=2", "n=3")) != first
    assert token(source, LIMIT=4) != first
    assert token(source.replace("[:LIMIT]", "[LIMIT:]")) != first
    assert token(source.replace("[:LIMIT]", "[:-LIMIT]")) != first
    helper = "def h(x): return x[:LIMIT]\ndef f(part): return h(part)"
    assert token(helper) != token(helper.replace("[:L", "[L"))
    assert token(helper, LIMIT=9) != token(helper)
    loop = "def f(part, n=3): return part if n == 0 else f(part, n - 1)"
    assert token(loop) == token(loop)


def test_closures_count(frame):
    def make(limit):
        return lambda part: part.head(limit)

    tokens = [Lineage(frame.map_partitions(make(limit))).token for limit in (1, 2, 1)]
    assert tokens[0] == tokens[2] != tokens[1]


def test_fingerprint_is_a_plain_hash():
    assert fingerprint("a", 1, None, [1, "b"]) == fingerprint("a", 1, None, [1, "b"])
    assert fingerprint("a", "b") != fingerprint("ab")
    assert len(fingerprint()) == 64
