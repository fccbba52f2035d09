from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.search.query import Query, direction


def unit(*values: float) -> np.ndarray:
    return (np.array(values) / np.linalg.norm(values)).astype(np.float32)


def test_direction_is_the_normalised_weighted_sum():
    found = direction([(1.0, unit(1, 0, 0)), (2.0, unit(0, 1, 0)), (-0.5, unit(0, 0, 1))])
    np.testing.assert_allclose(found, unit(1, 2, -0.5), atol=1e-7)
    assert found.dtype == np.float32


@given(
    st.lists(
        st.tuples(
            st.floats(1e-3, 1e3),
            st.lists(st.floats(0.1, 1), min_size=3, max_size=3).map(lambda v: unit(*v)),
        ),
        min_size=1,
        max_size=4,
    ),
    st.floats(1e-3, 1e3),
)
def test_only_the_proportion_of_weights_matters(parts, factor):
    found = direction(parts)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    scaled = direction([(weight * factor, vector) for weight, vector in parts])
    np.testing.assert_allclose(scaled, found, atol=1e-6)


def test_weights_of_zero_and_parts_that_cancel_are_refused():
    with pytest.raises(ConfigError, match="all weights"):
        direction([(0.0, unit(1, 0)), (0.0, unit(0, 1))])
    vector = unit(*np.random.default_rng(0).standard_normal(512))
    with pytest.raises(ConfigError, match="cancel"):
        direction([(1.0, vector), (-1.0, vector)])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "needs a text"),
        ({"negative_text": "dog"}, "negative_text alone"),
        ({"text": "dog", "k": 0}, "k=0"),
        ({"text": "dog", "k": -3}, "k=-3"),
        ({"text": "dog", "k": 2.5}, r"k=2\.5"),
        ({"text": "dog", "k": True}, "k=True"),
        ({"text": "dog", "text_weight": -1.0}, "text_weight=-1"),
        ({"text": "dog", "negative_weight": float("nan")}, "negative_weight=nan"),
        ({"image": b"", "image_weight": float("inf")}, "image_weight=inf"),
        ({"text": "dog", "collapse": 0.0}, "collapse=0"),
        ({"text": "dog", "collapse": 1.5}, r"collapse=1\.5"),
        ({"text": "dog", "text_weight": "a"}, "text_weight='a'"),
        ({"text": "dog", "image_weight": True}, "image_weight=True"),
        ({"text": "dog", "text_weight": None}, "text_weight=None"),
        ({"text": "dog", "text_weight": 10**400}, "text_weight=1000"),
        ({"text": "dog", "collapse": "x"}, "collapse='x'"),
        ({"text": "dog", "collapse": True}, "collapse=True"),
        ({"text": "dog", "where": 5}, "where=5"),
        ({"text": ["1"]}, r"text=\['1'\]"),
        ({"like": 7}, "like=7"),
        ({"text": "dog", "negative_text": b"a"}, "negative_text=b'a'"),
        ({"text": "dog", "over": "videos"}, "over='videos'"),
        ({"image": b"", "fuse_captions": True}, "needs a text"),
    ],
)
def test_what_no_searcher_could_answer_is_refused(options, problem):
    with pytest.raises(ConfigError, match=problem):
        Query(**options).check()
