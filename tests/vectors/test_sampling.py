from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.vectors.sampling import random_score

# Arrow strings hold whatever UTF-8 can: everything but lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(st.lists(TEXT, min_size=1, max_size=20), st.integers(-5, 2**40))
@settings(max_examples=100)
def test_random_scores_depend_on_key_and_seed_alone(keys, seed):
    scores = random_score(pa.chunked_array([keys[:3], keys[3:]], pa.string()), seed)
    assert scores.dtype == np.float64
    assert ((scores >= 0) & (scores < 1)).all()
    for key, score in zip(keys, scores, strict=True):
        assert random_score(pa.array([key], pa.string()), seed)[0] == score


def test_random_scores_are_spread_and_differ_by_seed():
    keys = pa.array([f"{number:09d}" for number in range(20_000)])
    scores, of_another_seed = random_score(keys, 0), random_score(keys, 1)
    assert len(np.unique(scores)) == len(keys)
    # Three standard deviations of a mean of 20,000 uniform numbers.
    assert abs(scores.mean() - 0.5) < 3 * math.sqrt(1 / 12 / len(keys))
    assert abs(np.corrcoef(scores, of_another_seed)[0, 1]) < 0.03
