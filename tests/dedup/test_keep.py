"""Keep order: ties, nulls, NaN, any key."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.dedup.columns import keep_score
from nemo_image_curate.dedup.keep import check_keep, ranks
from nemo_image_curate.errors import ConfigError

# Arrow strings hold whatever UTF-8 can: everything but lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
AWKWARD = ["", " ", "a", "A", "ä", "a\u0308", "\0", "a\0b", "画像", "🐈", "\u202e", "00", "0", "١"]


def chunked(keys: list[str]) -> pa.ChunkedArray:
    """Keys in chunks, as they come from partitions."""
    third = len(keys) // 3
    return pa.chunked_array([keys[:third], keys[third:]], pa.string())


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(AWKWARD) | TEXT, st.sampled_from([0.0, -0.0, 1.5, math.nan])),
        max_size=20,
    )
)
def test_highest_first_then_by_key_then_by_row(rows):
    keys, scores = [key for key, _ in rows], [score for _, score in rows]
    expected = sorted(
        range(len(rows)),
        key=lambda row: (
            math.isnan(scores[row]),
            0 if math.isnan(scores[row]) else -scores[row],
            keys[row].encode(),
            row,
        ),
    )
    found = ranks(chunked(keys), np.array(scores, dtype=np.float64))
    assert found.dtype == np.int64
    assert np.argsort(found).tolist() == expected


def test_without_a_score_rows_keep_their_order():
    assert ranks(chunked(["b", "a", "c"]), None).tolist() == [0, 1, 2]
    assert ranks(chunked([]), None).tolist() == []
    assert ranks(chunked([]), np.empty(0)).tolist() == []


def test_infinite_scores():
    score = np.array([-np.inf, np.nan, np.inf, 0.0])
    assert ranks(chunked(list("abcd")), score).tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([3, None, 7], pa.int64(), [1, 2, 0]),
        ([3.5, None, math.nan], pa.float32(), [0, 1, 2]),
        ([True, False, None], pa.bool_(), [0, 1, 2]),
        ([2, 200, 100], pa.uint8(), [2, 0, 1]),
    ],
)
def test_the_best_by_columns_of_any_number_type(values, kind, expected):
    keys = chunked(list("abc"))
    table = pa.table({"key": keys, "x": pa.array(values, kind)})
    assert ranks(keys, keep_score("best", "x", 0, table, keys)).tolist() == expected


def test_a_column_that_is_no_number():
    keys = chunked(["a", "b"])
    table = pa.table({"x": ["large", "small"]})
    with pytest.raises(ConfigError, match="by='x' should be a column of numbers"):
        keep_score("best", "x", 0, table, keys)


@pytest.mark.parametrize(
    ("keep", "by", "message"),
    [
        ("last", None, "keep='last' should be one of 'first', 'random', 'best'"),
        ("best", None, "keep='best' needs by=COLUMN"),
        ("first", "score", "by='score' goes with keep='best', not with keep='first'"),
        ("hard", None, "keep='hard' should be one of 'first', 'random', 'best'"),
    ],
)
def test_policies_that_cannot_be(keep, by, message):
    with pytest.raises(ConfigError, match=message):
        check_keep(keep, by, ("first", "random", "best"))
