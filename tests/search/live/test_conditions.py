from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.expressions.evaluate import matching_rows
from nemo_image_curate.search.live.base import LiveStore
from nemo_image_curate.search.live.chroma_conditions import chroma_condition
from nemo_image_curate.search.live.milvus_conditions import milvus_condition
from nemo_image_curate.search.live.store import open_store
from tests.make_data import jpeg
from tests.search.make_search import WordEmbedder

ROWS: list[dict[str, Any]] = [
    {"width": 100, "score": 0.5, "source": "a", "good": True, "count": 0},
    {"width": 200, "score": 1.5, "source": "b", "good": False, "count": 1, "share": 1.0},
    {"width": 300, "source": "it's", "good": True, "count": 2, "share": 0.0},
    {"score": 2, "source": 'say "hi"', "with space": 7},
    {},
    {"width": -5, "score": -0.25, "source": "", "with space": 8},
]


@pytest.fixture(scope="module", params=["live", "live.db"])
def store(request, tmp_path_factory) -> Iterator[LiveStore]:
    """A store of Chroma's, and one of Milvus'."""
    place = tmp_path_factory.mktemp("store") / request.param
    store = open_store(str(place), WordEmbedder())
    keys = [f"k{number}" for number in range(len(ROWS))]
    images = [jpeg(number) for number in range(len(ROWS))]
    assert store.add_images(keys, images, metadata=ROWS) == [None] * len(ROWS)
    yield store
    store.close()


def kept(store: LiveStore, where: str) -> list[int]:
    (hits,) = store.images.nearest(np.ones((1, 48), np.float32), 100, where)
    return sorted(int(hit.key[1:]) for hit in hits)


def truth(where: str) -> list[int]:
    names = ["key", "width", "score", "source", "good", "with space", "count", "share"]
    rows = [{"key": f"k{number}", **row} for number, row in enumerate(ROWS)]
    columns = {name: [row.get(name) for row in rows] for name in names}
    return np.flatnonzero(matching_rows(pa.table(columns), where)).tolist()


@pytest.mark.parametrize(
    "where",
    [
        "width > 100",
        "width >= 100 and score < 1",
        "200 < width",
        "100 <= width < 300",
        "width == 200.0",
        "width != 200",
        "count == 1.5",
        "count != 1.5",
        "count < 1.5",
        "count >= 1.5",
        "count > 0.5",
        "count <= 0.5",
        "count in [0.5, 2]",
        "count not in [0.5, 2]",
        "width > -5.5 and width < -4.5",
        "score == 1.5",
        "score != 1.5",
        "score >= 1.5 or score <= -0.25",
        "score < 1.5",
        "width == -5",
        "score == 2",
        "score <= 1.5 or source == 'b'",
        "(width > 150) & (source != 'b') | (score < 0)",
        "source in ['a', 'b', 'c']",
        "source not in ['a', 'b']",
        "source in ('a',)",
        "width in [100, 200.0]",
        "source.isin(['a'])",
        "width in []",
        "width not in []",
        "width.between(100, 200)",
        "good",
        "good == False",
        "good != True",
        "good == 1",
        "good == 0.0",
        "1 == good",
        "good != 1",
        "good != 2",
        "good in [0]",
        "good not in [0]",
        "good.isin([1])",
        "count == 1",
        "count == True",
        "count != True",
        "count != 0",
        "count in [False]",
        "count not in [True]",
        "count in [0, 2]",
        "share == 1",
        "share == True",
        "share != 1.0",
        "share in [False]",
        "`with space` > 7",
        'source == "it\'s"',
        "source == 'say \"hi\"'",
        "source == ''",
        "key == 'k3'",
        "key in ['k1', 'k4'] and width > 0",
    ],
)
def test_a_condition_means_what_it_means_to_a_frame(store, where):
    assert kept(store, where) == truth(where)


NUMBERS = st.sampled_from([-5, -0.25, 0.5, 2, 100, 200, 300])
COMPARISONS = st.builds(
    "{} {} {}".format,
    st.sampled_from(["width", "score"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    NUMBERS,
) | st.builds("source {} {!r}".format, st.sampled_from(["==", "!="]), st.sampled_from(["a", "b"]))
EXPRESSIONS = st.recursive(
    COMPARISONS,
    lambda some: st.builds("({} {} {})".format, some, st.sampled_from(["and", "or"]), some),
    max_leaves=5,
)


@settings(max_examples=50)
@given(EXPRESSIONS)
def test_any_expression_means_what_it_means_to_a_frame(store, where):
    assert kept(store, where) == truth(where)


@pytest.mark.parametrize(
    ("where", "part"),
    [
        ("not good", "not good"),
        ("width + 1 > 5", "width + 1"),
        ("source.str.contains('a')", "source.str.contains"),
        ("source > 'a'", "'a'"),
        ("width < score", "score"),
        ("width == None", "None"),
        ("__import__('os')", "__import__"),
        ("width == [1]", "[1]"),
        ("source in 'abc'", "'abc'"),
        ("width is 5", "5"),
        ("width > 9223372036854775808", "9223372036854775808, which is too large"),
        ("width > 1e999", "too large"),
        ("good > False", "False, which is no number"),
        ("True <= good", "True, which is no number"),
        ("good.between(False, 1)", "no number"),
        ("_row == 'a'", "_row, which is no column"),
        ("`_sha256` == 'a'", "`_sha256`, which is no column"),
        ("`#document` == 'a'", "`#document`, which is no column"),
        ("`$and` in [1]", "`$and`, which is no column"),
        ("_quoted0_ == 1", "_quoted0_, which is no column"),
        ("source == 'a`b`c'", "backtick"),
        ("width.between(1, 2, 3)", "between"),
        ("source.isin(values=['a'])", "isin"),
        ("`with space` + 1 == 2", "`with space` + 1"),
        ("width >", None),
        ("", None),
        ("(" * 500, None),
        ("width == \0", None),
    ],
)
def test_what_a_live_store_cannot_evaluate_is_named(where, part):
    for translate in (chroma_condition, milvus_condition):
        with pytest.raises(ConfigError) as caught:
            translate(where)
        assert part is None or part in str(caught.value)
