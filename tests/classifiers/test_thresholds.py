"""Thresholds by examples against trying every one, and what they promise for other rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_image_curate.classifiers.thresholds import best_threshold, read_shown, thresholds_of
from nemo_image_curate.errors import DatasetError

# Few different values, so that there are ties.
EXAMPLES = st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=30)


def outcome(scores: np.ndarray, shows: np.ndarray, threshold: float) -> tuple[float, float, int]:
    """Precision, F1 and the number of rows over a threshold."""
    over = scores >= threshold
    hits = (over & shows).sum()
    return hits / max(1, over.sum()), 2 * hits / max(1, over.sum() + shows.sum()), int(over.sum())


@given(EXAMPLES)
def test_no_other_threshold_has_a_higher_f1(examples):
    scores = np.array([score for score, _ in examples], dtype=np.float32)
    shows = np.array([one for _, one in examples], dtype=bool)
    chosen = best_threshold(scores, shows)
    if not shows.any():
        assert chosen is None
        return
    best = max(outcome(scores, shows, score)[1] for score in scores)
    assert outcome(scores, shows, chosen)[1] == pytest.approx(best)
    # It parts two scores as far from both as can be.
    below, over = scores[scores < chosen], scores[scores >= chosen]
    if len(below):
        assert chosen == pytest.approx((below.max() + over.min()) / 2)


@given(EXAMPLES, st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_the_lowest_threshold_that_reaches_a_precision(examples, precision):
    scores = np.array([score for score, _ in examples], dtype=np.float32)
    shows = np.array([one for _, one in examples], dtype=bool)
    reached = [
        count
        for score in set(scores.tolist())
        for reaches, _, count in [outcome(scores, shows, score)]
        if reaches >= precision
    ]
    chosen = best_threshold(scores, shows, precision)
    if not reached:
        assert chosen is None
    else:
        assert outcome(scores, shows, chosen)[0] >= precision
        assert outcome(scores, shows, chosen)[2] == max(reached)


def test_what_is_told_is_of_examples_that_did_not_choose():
    chance = np.random.default_rng(0)
    shows = chance.random(400) < 0.2
    scores = chance.normal(size=(400, 3)) * [0.7, 1, 1]
    scores[:, 0] += shows
    shown = [frozenset({"dog", "cat"} if one else {"cat"}) for one in shows]
    chosen = thresholds_of(scores, ["dog", "cat", "cow"], shown, None, seed=0)
    dog = chosen["dog"]
    assert dog.examples == shows.sum()
    new = chance.random(20_000) < 0.2
    precision, f1, _ = outcome(new + 0.7 * chance.normal(size=len(new)), new, dog.threshold)
    assert dog.precision == pytest.approx(precision, abs=0.12)
    assert dog.f1 == pytest.approx(f1, abs=0.08)
    # What all show has the lowest score for a threshold; what none shows has none.
    assert chosen["cat"].threshold == scores[:, 1].min()
    assert (chosen["cow"].threshold, chosen["cow"].examples) == (None, 0)
    strict = thresholds_of(scores, ["dog", "cat", "cow"], shown, 0.95, seed=0)["dog"]
    assert strict.threshold > dog.threshold
    assert strict.recall < dog.recall


def test_one_example_chooses_and_proves_nothing():
    shown = [frozenset({"dog"}), frozenset(), frozenset()]
    (dog,) = thresholds_of(np.array([[3.0], [2], [1]]), ["dog"], shown, None, seed=0).values()
    assert (dog.threshold, dog.examples, dog.precision) == (2.5, 1, None)


def test_labels_that_the_classifier_does_not_have_are_refused():
    with pytest.raises(DatasetError, match=r"examples show Dog, puppy, none of the labels dog"):
        thresholds_of(np.zeros((1, 1)), ["dog"], [frozenset({"Dog", "puppy"})], None, seed=0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("dog", {"dog"}),
        (" dog | red car ", {"dog", "red car"}),
        ("", set()),
        (["dog", "cat"], {"dog", "cat"}),
        ([], set()),
        (np.array(["dog"], dtype=object), {"dog"}),
        (None, None),
        (pd.NA, None),
        (float("nan"), None),
    ],
)
def test_what_a_sample_shows(value, shown):
    assert read_shown(value) == shown


def test_other_values_are_refused():
    for value in (True, 3, ["dog", 3]):
        with pytest.raises(DatasetError, match="should be a list of the labels"):
            read_shown(value)
