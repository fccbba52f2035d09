"""Keep order: ties, nulls, NaN, any key."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.dedup.keep import check_keep, keep_scores, keep_sorted, sort_table
from nemo_image_curate.errors import ConfigError

# Arrow strings hold whatever UTF-8 can: everything but lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
AWKWARD = ["", " ", "a", "A", "ä", "a\u0308", "\0", "a\0b", "画像", "🐈", "\u202e", "00", "0", "١"]


def keep_order(
    keep: str, by: str | list[str] | None, table: pa.Table, homes: np.ndarray | None = None
):
    """The rows, the first one first."""
    scores = keep_scores(keep, by, 0, table, "key", homes)
    return keep_sorted(sort_table(scores, table["key"], np.arange(len(table)))).tolist()


def by_score(keys: list[str], scores: list[float] | np.ndarray) -> list[int]:
    table = pa.table({"key": chunked(keys), "x": pa.array(scores, pa.float64())})
    return keep_order("best", "x", table)


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
    assert by_score(keys, scores) == expected


VALUES = st.sampled_from([None, 0.0, -0.0, 1.0, 2.0, math.nan, math.inf, -math.inf])


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), VALUES, VALUES, VALUES), max_size=20),
    st.lists(st.sampled_from(["x", "-x", "y", "-y", "z", "-z"]), min_size=1, max_size=3).filter(
        lambda by: len({term.strip("-") for term in by}) == len(by)
    ),
)
def test_several_columns_one_after_the_other(rows, by):
    kinds = {"key": pa.string(), "x": pa.float64(), "y": pa.float32(), "z": pa.float64()}
    table = pa.table(
        {
            name: pa.array([row[place] for row in rows], kind)
            for place, (name, kind) in enumerate(kinds.items())
        }
    )

    def place(row: int):
        values = dict(zip(kinds, rows[row], strict=True))
        places = []
        for term in by:
            value = values[term.strip("-")]
            is_missing = value is None or math.isnan(value)
            sign = 1 if term.startswith("-") else -1
            places.append((is_missing, 0 if is_missing else sign * value))
        return (*places, values["key"], row)

    assert keep_order("best", by, table) == sorted(range(len(rows)), key=place)


def test_infinite_scores():
    assert by_score(list("abcd"), [-np.inf, np.nan, np.inf, 0.0]) == [2, 3, 0, 1]


@pytest.mark.parametrize(("keep", "order"), [("easy", [2, 0, 1, 3]), ("hard", [1, 0, 2, 3])])
def test_embeddings_by_their_distance_from_the_centroid(keep, order):
    table = pa.table({"key": list("abcd")})
    assert keep_order(keep, None, table, np.float32([0.5, 0.1, 0.9, np.nan])) == order


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([3, None, 7], pa.int64(), [2, 0, 1]),
        ([3.5, None, math.nan], pa.float32(), [0, 1, 2]),
        ([True, False, None], pa.bool_(), [0, 1, 2]),
        ([2, 200, 100], pa.uint8(), [1, 2, 0]),
    ],
)
def test_the_best_by_columns_of_any_number_type(values, kind, expected):
    keys = chunked(list("abc"))
    table = pa.table({"key": keys, "x": pa.array(values, kind)})
    assert keep_order("best", "x", table) == expected


def test_a_column_that_is_no_number():
    table = pa.table({"key": ["a", "b"], "x": ["large", "small"]})
    with pytest.raises(ConfigError, match="by='x' should be a column of numbers"):
        keep_order("best", "x", table)


@pytest.mark.parametrize(
    ("keep", "by", "message"),
    [
        ("last", None, "keep='last' should be one of 'first', 'random', 'best'"),
        ("best", None, "keep='best' needs by=COLUMN"),
        ("first", "score", "by='score' goes with keep='best', not with keep='first'"),
        ("random", ["x"], r"by=\['x'\] goes with keep='best'"),
        ("best", [], r"by=\[\] should be a column, or a list of columns"),
        ("best", "", "by='' should be a column, or a list of columns"),
        ("best", ["x", 3], r"by=\['x', 3\] should be a column, or a list of columns"),
        ("best", 3, "by=3 should be a column, or a list of columns"),
        ("best", ["x", "-x"], r"by=\['x', '-x'\] should name each column once"),
        ("best", ["-"], r"by=\['-'\] should name each column once"),
        ("hard", None, "keep='hard' should be one of 'first', 'random', 'best'"),
    ],
)
def test_policies_that_cannot_be(keep, by, message):
    with pytest.raises(ConfigError, match=message):
        check_keep(keep, by, ("first", "random", "best"))
